"""Where the records of a model are saved, and whether what is found there belongs to that model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expunge.core.checkpoints import FOLDER as CHECKPOINTS
from expunge.core.checks import ExpungeError
from expunge.core.manifest import Manifest, file_digest
from expunge.core.output import check_folder, check_output, check_place, check_shared, stage_of

RUNS = ("train", "unlearn")
"""Stages whose folder is a model folder."""
RELEASE = "export"
"""Stage whose folder is handed on."""
CARD = "README.md"
"""Its model card."""
HANDED_ON = (".safetensors", ".gguf")
"""How the weights in it end."""
LOG = "history.jsonl"
"""History rows of an unfinished run, one JSON object a line, appended at each step."""
RESULT = "result.partial"
"""Where the result of a run is written before it is moved into the run folder."""
EVALUATION, ATTACKED = "evaluation.json", "attacked.json"
_MEASURED = ("records.parquet", EVALUATION, "attacked.json", "leak_map.png")
_LOG_OF_OTHERS = ("TOFU_EVAL.json", "TOFU_SUMMARY.json")
START_RECORDS, FINAL_MODEL = "start_records", "final_model"
"""What `Unlearning` puts into a run folder."""
IN_RUNS = (
    *(LOG, f"{RESULT}/", f"{CHECKPOINTS}/checkpoint-*", f"{FINAL_MODEL}/", "tracking/"),
    *(f"{folder}{file}" for file in (*_MEASURED, *_LOG_OF_OTHERS) for folder in ("", "records/", "evaluation/")),
    f"{START_RECORDS}/records.parquet",
)
"""Patterns of what may be in a run folder besides the files that its manifest lists."""


def check_run_folder(folder: str | Path, *, overwrite: bool, resume: bool) -> bool:
    """`check_output` for the folder of a run, of which `overwrite` replaces runs only, and nothing beside them."""
    in_use = check_output(folder, overwrite=overwrite, resume=resume, stages=RUNS, names=IN_RUNS)
    if resume:
        check_folder(Path(folder) / CHECKPOINTS)
    return in_use


def finished_run(folder: Path) -> Manifest:
    """The manifest of a finished run whose files are as they were written.

    Raises:
        ExpungeError: it is no finished run, or its files were changed.
    """
    manifest = Manifest.load(folder)
    if manifest.stage not in RUNS or not manifest.results.get("finished"):
        raise ExpungeError(f"{folder} holds no finished run. Make one: expunge unlearn ... output={folder}")
    files = manifest.results.get("files")
    if not files:
        raise ExpungeError(
            f"the manifest of {folder} lists no files: it was made by an older version. Make the run again."
        )
    changed = [
        name for name, digest in files.items() if not (folder / name).is_file() or file_digest(folder / name) != digest
    ]
    if changed:
        raise ExpungeError(f"files in {folder} were changed or removed since the run: {', '.join(sorted(changed))}.")
    return manifest


def check_measured(folder: str | Path) -> None:
    """Raise where what was measured of a model cannot go into a folder: it is one of something else than a run."""
    folder = Path(folder)
    check_place(folder)
    check_folder(folder)
    if stage_of(folder) not in RUNS:
        check_shared(folder, _MEASURED, (*_LOG_OF_OTHERS, f"{CHECKPOINTS}/checkpoint-*", "parts/"))


def records_folder(model: str | Path) -> Path:
    """Where the records of a model in a folder go: `runs/npo-records` for `runs/npo`, outside of what is handed on.

    Those of a checkpoint go to the same path within the records folder of its run.
    """
    return _beside(Path(model), "records")


def attacked_folder(model: str | Path) -> Path:
    """Where what attacks draw out of a model in a folder goes: `runs/npo-attacked` for `runs/npo`."""
    return _beside(Path(model), "attacked")


def _beside(model: Path, what: str) -> Path:
    model = model if model.name else model.resolve()
    run = next((folder for folder in model.parents if stage_of(folder) in RUNS), model)
    run, inside = (run if run.name else run.resolve()), model.relative_to(run)
    return run.with_name(f"{run.name}-{what}") / inside


def model_folder(records: Path) -> Path:
    """The folder of the model that the records in a folder are of; the folder itself where its name does not say."""
    if records.name == "records":
        return records.parent
    return records.with_name(records.name.removesuffix("-records") or records.name)


def places(path: Path) -> list[Path]:
    """Folders in which records or an evaluation may be, if a folder of them or of their model is named."""
    return [path, path / "records", path / "evaluation", records_folder(path)]


def evaluation_file(named: Path) -> Path | None:
    """The evaluation that a file, its folder, or the folder of its model gives; None where there is none."""
    return next((path for path in (named, *(place / EVALUATION for place in places(named))) if path.is_file()), None)


def attacked_beside(path: Path) -> list[Path]:
    """Results of attacks that lie beside a run, an evaluation or records, or in `<run>-attacked` next to the run."""
    path = path if path.name else path.resolve()
    run = model_folder(path.parent if path.is_file() else path)
    folders = [*places(path), attacked_folder(run)]
    return [folder / ATTACKED for folder in dict.fromkeys(folders) if (folder / ATTACKED).is_file()]


def check_own(folder: Path, made: Mapping[str, Any], settings: Mapping[str, Any], what: Path) -> None:
    """Raise where records or an evaluation are of other weights than those in the run folder that they are read for.

    Weights loaded in another type than they were saved in cannot be compared, and are not.

    Args:
        folder: what was named.
        made: the fingerprints of what the records were made of.
        settings: how the model was loaded.
        what: where the records or the evaluation are, for the message.
    """
    result = Manifest.load(folder).results.get("result", {}) if stage_of(folder) in RUNS else {}
    known, other = result.get("model"), made.get("model")
    if known is None or other is None or known == other:
        return
    if any(result.get(name) != settings.get(name) for name in ("dtype", "bits")):
        return
    raise ExpungeError(
        f"{what} is of another model than the one in {folder}: the weights differ (the model was made again, or the "
        f"records were copied). Evaluate this model: expunge evaluate model={folder} ... output={what.parent} "
        "--overwrite"
    )

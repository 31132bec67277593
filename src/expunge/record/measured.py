"""What was measured of a run, and whether it was this run: for a record of it, or for whatever hands it on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from expunge.core.checks import ExpungeError, path_of
from expunge.core.manifest import Manifest, file_digest
from expunge.core.surface import assigned
from expunge.results.attacked import FILE as ATTACKED
from expunge.results.attacked import Attacked, load_attacked
from expunge.results.measures import Evaluation
from expunge.results.places import EVALUATION, attacked_beside, check_own, evaluation_file

T = TypeVar("T")


@dataclass(frozen=True)
class Read(Generic[T]):
    """A result, and where it was read from."""

    result: T | None = None
    file: Path | None = None

    @property
    def digest(self) -> str | None:
        """Of the file; None for what was handed in."""
        return file_digest(self.file) if self.file is not None else None


def read_evaluation(source: Evaluation | str | Path | None, run: Path | None = None) -> Read[Evaluation]:
    """An evaluation; where none is named, the one next to a run folder."""
    if isinstance(source, Evaluation):
        return Read(source)
    if source is None and run is None:
        return Read()
    named = path_of("an evaluation", source if source is not None else run)
    file = evaluation_file(named)
    if file is not None:
        return Read(Evaluation.load(file), file)
    if source is None:
        return Read()
    raise ExpungeError(f"no evaluation at {named}. Make one: expunge evaluate model=... forget=... output=...")


def read_attacked(source: Attacked | str | Path | None, run: Path) -> Read[Attacked]:
    """What attacks drew out; where none is named, the one result that lies next to the run folder.

    Raises:
        ExpungeError: several lie there and none is named: the weaker one would be as good as the other.
    """
    if source is None:
        beside = attacked_beside(run)
        if len(beside) > 1:
            there = " and ".join(str(file.parent) for file in beside)
            raise ExpungeError(f"several results of attacks lie beside {run}: {there}. Name one: attacked=<folder>")
        source = next(iter(beside), None)
    if source is None or isinstance(source, Attacked):
        return Read(source)
    found, path = load_attacked(source), Path(source)
    return Read(found, path / ATTACKED if path.is_dir() else path)


def check_measured(
    folder: Path,
    manifest: Manifest,
    forget: str | None,
    after: Read[Evaluation],
    before: Read[Evaluation],
    found: Read[Attacked],
) -> bool:
    """Raise where something was measured of other weights or rows; were the weights that were attacked compared?

    An adapter that the start model brought, or one over quantized weights, is merged before it is attacked, so that the
    weights have another fingerprint than the run's.

    Args:
        folder: of the run.
        manifest: of the run.
        forget: fingerprint of the rows that the run was to forget; None: it does not say.
        after: evaluation of the result.
        before: evaluation of the start model.
        found: what attacks drew out of the result.
    """
    told = {
        role: one.result.about for role, one in (("evaluation", after), ("start", before)) if one.result is not None
    }
    if "evaluation" in told:
        about = told["evaluation"]
        check_own(folder, about.get("inputs", {}), about.get("settings", {}), after.file or folder / EVALUATION)
    if "start" in told and told["start"].get("inputs", {}).get("model") != manifest.inputs.get("model"):
        began = manifest.results.get("start_model") or "the model that it began with"
        raise ExpungeError(
            f"start is the evaluation of another model than the one that the run began with. Evaluate {began}: "
            f"{assigned(model=began)}."
        )
    result = manifest.results.get("result", {})
    compared = found.result is None or found.result.inputs.get("model") == result.get("model")
    if not compared and "start_adapter" not in manifest.inputs and "bits" not in result:
        raise ExpungeError(
            f"{found.file or 'attacked'} is of another model than the one in {folder}. Attack this one, in the type "
            f"that it is stored in (expunge attack model={folder} ...), or move the other away."
        )
    _check_control(found.result, manifest)
    measured = {role: about.get("inputs", {}).get("data.forget") for role, about in told.items()}
    measured["attacked"] = found.result.inputs.get("forget") if found.result is not None else None
    for role, rows in measured.items():
        if forget is not None and rows not in (None, forget):
            raise ExpungeError(f"{role} was measured on another forget set than the one that the run was to forget.")
    return compared


def _check_control(attacked: Attacked | None, manifest: Manifest) -> None:
    """Raise where the control of the attacks is a model that was taught the rows: nothing comes out above it."""
    if attacked is None or attacked.control in (None, "untaught facts"):
        return
    known = {manifest.inputs.get("model"): "that the run began with", attacked.inputs.get("model"): "that was attacked"}
    if (control := attacked.inputs.get("control")) is None:
        raise ExpungeError("attacked does not say which model was its control. Make it again: expunge attack ...")
    if control in known:
        raise ExpungeError(
            f"the control of the attacks is the model {known[control]}, which was taught the rows, so that nothing can "
            "come out above it. Name one that never saw them: expunge attack ... control=<retain model>"
        )

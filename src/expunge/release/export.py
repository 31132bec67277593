"""Export: a finished run in; a folder that can be handed on, or a repository on a hub, out."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import ModelCard
from transformers import PreTrainedModel

from expunge.core.lock import locked
from expunge.core.manifest import Manifest, file_digest, file_digests
from expunge.core.places import without_places
from expunge.core.progress import Progress
from expunge.core.whole import whole_folder, write_whole
from expunge.data.corpus import Corpus
from expunge.models.cached import may_be_place
from expunge.models.load import load_model, load_tokenizer, save_model
from expunge.release.contents import released
from expunge.release.gguf_file import Kind, write_gguf
from expunge.release.hub import upload
from expunge.release.parity import Parity, check_parity, compared, read_model, scored, tolerance
from expunge.release.plan import ROWS, Plan, gguf_name, plan_export
from expunge.report.card import Published, card
from expunge.results.attacked import Attacked
from expunge.results.measures import Evaluation
from expunge.results.places import CARD, RELEASE


@dataclass(frozen=True, kw_only=True)
class Release:
    """What was exported."""

    files: Mapping[str, str]
    """SHA-256 of each file by its name."""
    folder: Path | None
    """Where they are; None: only on the hub."""
    parity: tuple[Parity, ...] = ()
    """Of a GGUF file: how far it is from the model, set by set."""
    url: str | None = None
    """Of the commit on the hub."""
    notes: tuple[str, ...] = ()


def export(
    run: str | Path,
    *,
    output: str | Path | None = None,
    form: str = "merged",
    dtype: str = "auto",
    check: str = "logprobs",
    rows: int | None = ROWS,
    corpus: Corpus | None = None,
    evaluation: Evaluation | str | Path | None = None,
    start: Evaluation | str | Path | None = None,
    reference: Evaluation | str | Path | None = None,
    attacked: Attacked | str | Path | None = None,
    name: str | None = None,
    base_model: str | None = None,
    license: str | None = None,
    repo: str | None = None,
    private: bool = True,
    revision: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Release:
    """Write what of a run is handed on, with a model card, into a folder; with `repo`, put it on a hub.

    A release holds weights, configuration, tokenizer, card, erasure record and a manifest. It never holds checkpoints,
    histories, records of answers, salts, data or paths of this machine.

    Args:
        run: folder of a finished run.
        output: folder of the release; with `repo` it may be None, and nothing is kept here.
        form: `merged`, a whole model in safetensors; `adapter`, for a run that holds one; `gguf`.
        dtype: of a GGUF file's matrices: `f32`, `f16`, `bf16`, `q8_0`; `auto`: as they are stored.
        check: `logprobs`: a GGUF file is kept only if it gives answers of the forget and retain set the probability
            that the model gives them; `none`.
        rows: at most this many rows of each set are compared; None: all.
        corpus: these sets; None: they are read again from where the run read them.
        evaluation: of the resulting model, or where it is; None: the one next to the run folder, where there is one.
        start: evaluation of the start model, or where it is, for comparison in the card.
        reference: evaluation of a model that never saw the forget set, likewise.
        attacked: what `attack` gave, or where it is; None: `<run>-attacked`, where it is there.
        name: of the model; None: that of the run folder.
        base_model: name of the start model on a hub; None: the one that it was loaded by, where it came from a hub.
        license: None: that of the start model, where its card or configuration names one.
        repo: repository on the hub, `user/name`, made where it is missing.
        private: only for its owner, where it is made.
        revision: branch of the repository; None: the main one.
        overwrite: replace an earlier release in the folder, and all files of the repository.
        progress: called with how far it is.

    Raises:
        ExpungeError: the run is not finished or was changed, it has nothing in this form, something in it cannot be
            written in this form, evidence is of another model, the output is in use, a GGUF file answers otherwise than
            the model, or the hub refuses.
    """
    made = plan_export(
        run,
        output=output,
        form=form,
        dtype=dtype,
        check=check,
        rows=rows,
        corpus=corpus,
        evaluation=evaluation,
        start=start,
        reference=reference,
        attacked=attacked,
        name=name,
        base_model=base_model,
        license=license,
        repo=repo,
        private=private,
        revision=revision,
        overwrite=overwrite,
    )
    with _place(made.output) as folder:
        with whole_folder(folder) as aside:
            parity = _write(made, aside, progress)
        url = None
        if made.destination is not None and made.found is not None:
            url = upload(folder, made.destination, made.found, f"{made.name}, {made.form}, by expunge")
        files = file_digests(folder)
    return Release(files=files, folder=made.output, parity=parity, url=url, notes=made.notes)


@contextmanager
def _place(output: Path | None) -> Iterator[Path]:
    """Where the release is written: the output folder, under its lock, or a folder that is gone afterwards."""
    if output is not None:
        with locked(output):
            yield output
        return
    with tempfile.TemporaryDirectory() as passing:
        yield Path(passing) / "release"


def _write(made: Plan, aside: Path, progress: Progress | None) -> tuple[Parity, ...]:
    """Everything of a release; how far a GGUF file is from the model."""
    parity: tuple[Parity, ...] = ()
    for done, (name, path) in enumerate(made.taken.items()):
        if progress is not None:
            progress("copying files", done, len(made.taken), name)
        (aside / name).parent.mkdir(parents=True, exist_ok=True)
        if (text := released(path, made.base_model)) is not None:
            write_whole(aside / name, text)
        else:
            shutil.copyfile(path, aside / name)
    if progress is not None and made.taken:
        progress("copying files", len(made.taken), len(made.taken), "")
    if made.kind is not None:
        parity = _write_gguf(made, aside, made.kind, progress)
    elif "model.safetensors" in made.made:
        _write_merged(made, aside)
    files = file_digests(aside)
    write_whole(aside / CARD, _card(made, files, parity))
    _manifest(made, {**files, CARD: file_digest(aside / CARD)}, parity).save(aside)
    return parity


def _write_merged(made: Plan, aside: Path) -> None:
    """The weights of an adapter's start model with the adapter in them."""
    model = load_model(made.run, device="cpu")
    assert isinstance(model, PreTrainedModel)
    save_model(model, load_tokenizer(made.run), aside)
    for path in aside.glob("*.json"):
        if (text := released(path, made.base_model)) is not None:
            write_whole(path, text)


def _write_gguf(made: Plan, aside: Path, kind: Kind, progress: Progress | None) -> tuple[Parity, ...]:
    model, tokenizer = load_model(made.run, device="cpu"), load_tokenizer(made.run)
    assert isinstance(model, PreTrainedModel)
    file = aside / gguf_name(made.name, kind)
    write_gguf(model, tokenizer, file, kind=kind, name=made.name, progress=progress)
    if not made.rows:
        return ()
    allowed, config = tolerance(str(model.dtype).removeprefix("torch."), kind), model.config
    before = scored(model.float(), made.rows, progress)
    del model
    found = compared(made.rows, before, scored(read_model(file, config), made.rows, progress), allowed)
    check_parity(found)
    return found


def _card(made: Plan, files: Mapping[str, str], parity: tuple[Parity, ...]) -> str:
    """The text of the card, once it was read again as a hub reads it."""
    began = str(made.manifest.results.get("start_model") or "not recorded")
    called = made.base_model or without_places(began, may_be_place)
    text = card(
        made.evidence.evaluation,
        replace(made.manifest, results={**made.manifest.results, "start_model": called}),
        name=made.name,
        start=made.evidence.start,
        retain=made.evidence.retain,
        attacked=made.evidence.attacked,
        record=made.evidence.record,
        published=Published(
            form=made.form,
            base_model=made.base_model,
            license=made.license,
            files=files,
            parity=[one.as_json() for one in parity],
            notes=made.notes,
        ),
    )
    ModelCard(text)  # raises for a head that is no YAML of a card
    return text


def _manifest(made: Plan, files: Mapping[str, str], parity: tuple[Parity, ...]) -> Manifest:
    """What the release is made of, by digests; nothing in it says where."""
    return Manifest(
        stage=RELEASE,
        arguments={"form": made.form, "dtype": made.kind, "name": made.name, "base_model": made.base_model},
        inputs={
            **{role: made.manifest.inputs[role] for role in ("forget", "retain") if role in made.manifest.inputs},
            "start_model": made.manifest.inputs.get("model", ""),
            "model": str(made.manifest.results.get("result", {}).get("model", "")),
        },
        results={"finished": True, "parity": [one.as_json() for one in parity], "files": dict(files)},
        git=None,
    )

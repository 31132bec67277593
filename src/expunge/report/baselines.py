"""Start and retain model of evaluated runs, found where the runs say that they are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from expunge.core.manifest import FILE as MANIFEST
from expunge.core.manifest import Manifest
from expunge.results.measures import Evaluation
from expunge.results.places import EVALUATION, places


@dataclass(frozen=True)
class Beside:
    """What is shown next to the evaluations of a report."""

    evaluations: tuple[Evaluation, ...] = ()
    """Those of start and retain model that were found and not named."""
    start: str | None = None
    """Label of the start model's."""
    retain: str | None = None
    """Label of the retain model's."""
    notes: tuple[str, ...] = ()
    """What was not found, and the commands that make it."""


def beside(
    paths: Sequence[str | Path], evaluations: Sequence[Evaluation], *, start: str | None, retain: str | None
) -> Beside:
    """Find the evaluations of the models that runs began from and were compared with.

    They are known by their weights: the start model from the manifest of a run, the retain model from what its
    evaluation was compared with. Looked at are the evaluations themselves, the folders that they were compared with,
    and the folder of the start model.

    Args:
        paths: what was named, run folders among them.
        evaluations: what was gathered from these paths, in their order.
        start: label of the start model's evaluation where it was named; then it is not looked for.
        retain: label of the retain model's, likewise.
    """
    added: list[Evaluation] = []
    notes: list[str] = []
    begun = {told for path in paths for told in _begun(Path(path))}
    if start is None and len(begun) == 1:
        weights, name = begun.pop()
        start = _label(evaluations, weights)
        if start is None:
            there = [_of(e, "start") for e in evaluations]
            folders = [*filter(None, there), *([Path(name)] if name else [])]
            found = _found(weights, folders)
            if found is None:
                notes += _others("start", folders)
                of = name or "<start model>"
                notes.append(
                    f"No evaluation of the start model ({of}) is where these runs say. For its row: expunge evaluate "
                    f"model={of} ... output=<folder>, then expunge report ... <folder>"
                )
            else:
                start = "start model"
                added.append(found.labeled(start))
    against = {str(e.about.get("reference", {}).get("model", "")) for e in evaluations} - {""}
    if retain is None and len(against) == 1:
        weights = against.pop()
        retain = _label(evaluations, weights)
        folders = [*filter(None, (_of(e, "reference") for e in evaluations))]
        if retain is None and (found := _found(weights, folders)) is not None:
            retain = "retain model"
            added.append(found.labeled(retain))
        elif retain is None:
            notes += _others("retain", folders)
    return Beside(tuple(added), start, retain, tuple(notes))


def _begun(path: Path) -> Iterator[tuple[str, str]]:
    """The weights that a run began from, and what that model was called."""
    if (path / MANIFEST).is_file():
        manifest = Manifest.load(path)
        if manifest.stage == "unlearn" and "model" in manifest.inputs:
            yield manifest.inputs["model"], str(manifest.results.get("start_model", ""))


def _weights(evaluation: Evaluation) -> str:
    return str(evaluation.about.get("inputs", {}).get("model", ""))


def _label(evaluations: Sequence[Evaluation], weights: str) -> str | None:
    return next((e.label for e in evaluations if _weights(e) == weights), None)


def _of(evaluation: Evaluation, role: str) -> Path | None:
    """Where the records were that an evaluation was compared with."""
    told = evaluation.about.get("paths", {}).get(role)
    return Path(told) if told else None


def _found(weights: str, folders: Sequence[Path]) -> Evaluation | None:
    return next((found for _, found in _there(folders) if _weights(found) == weights), None)


def _others(who: str, folders: Sequence[Path]) -> list[str]:
    """That evaluations are where one was looked for, and are of other weights."""
    files = dict.fromkeys(file for file, _ in _there(folders))
    return [f"{file.parent.name}/{file.name} was left out: it is not of the {who} model's weights." for file in files]


def _there(folders: Sequence[Path]) -> Iterator[tuple[Path, Evaluation]]:
    for file in (place / EVALUATION for folder in folders for place in places(folder)):
        if file.is_file():
            yield file, Evaluation.load(file)

"""Start and retain model of evaluated runs, found where the runs say that they are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from expunge.core.checks import nearest, unknown
from expunge.core.manifest import FILE as MANIFEST
from expunge.core.manifest import Manifest
from expunge.report.compared_models import distinct, gather
from expunge.report.text import one_line
from expunge.results.measures import Evaluation
from expunge.results.places import EVALUATION, evaluation_file, places


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


def with_named(
    evaluations: Sequence[Evaluation], **named: str | None
) -> tuple[tuple[Evaluation, ...], dict[str, str | None]]:
    """The evaluations, with those that were named by a folder added, and by what was asked for the label of each.

    Args:
        evaluations: as they came; where one is named by a path, labels that collide are numbered as by `distinct`.
        named: by role, such as `start`, a label of one of them, or a path as `gather` takes it: a folder of records, a
            run folder, or an `evaluation.json`. None stays None.

    Raises:
        ExpungeError: it is neither a label nor a path, or there is no evaluation at that path.
    """
    found, labels = [*evaluations], {}
    for role, name in named.items():
        known = [one.label for one in found]
        if name is None or one_line(name) in known:
            labels[role] = name
            continue
        if evaluation_file(Path(name)) is None and not Path(name).exists():
            near = nearest(name, known)
            hint = f"Did you mean '{near[0]}'? " if near else ""
            hint += "A folder of records, a run folder or an evaluation.json will do, too; there is none of this name."
            raise unknown(f"evaluation (for {role}=)", name, known, hint=hint)
        (read,) = gather(name)
        place = next((i for i, one in enumerate(found) if _same(one, read)), len(found))
        found = [*distinct(found if place < len(found) else [*found, read])]
        labels[role] = found[place].label
    return tuple(found), labels


def _same(one: Evaluation, other: Evaluation) -> bool:
    """Are these the same evaluation, but for the label?"""
    return (one.suite, one.about, one.numbers()) == (other.suite, other.about, other.numbers())


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

"""What a report is about: evaluations from memory or from disk, each under a label of its own."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from expunge.core.checks import ExpungeError, unknown
from expunge.report.text import one_line
from expunge.results.measures import Evaluation
from expunge.results.places import EVALUATION, check_own, model_folder, places
from expunge.results.records import FILE as RECORDS
from expunge.results.records import Records

Source = Evaluation | str | Path
_CURE = "Make one: expunge evaluate model=... forget=... output=..."
Role = Literal["start", "retain", ""]


@dataclass(frozen=True)
class Model:
    """One evaluated model and its part: the model before unlearning, the retain model, or one that unlearned."""

    evaluation: Evaluation
    role: Role = ""

    @property
    def label(self) -> str:
        """What the model is called."""
        return self.evaluation.label

    @property
    def name(self) -> str:
        """The label, with the role where the label does not say it."""
        return f"{self.label} ({self.role} model)" if self.role and self.role not in self.label.lower() else self.label


def gather(sources: Source | Iterable[Source]) -> tuple[Evaluation, ...]:
    """Evaluations, read from disk where a path came.

    Args:
        sources: each an `Evaluation`, a path to an `evaluation.json`, a folder that holds one, or a model folder with
            one next to it (`<folder>-records`) or in its folder `records`; one that is named twice, by its model and by
            itself, counts once. What was saved under the default label `model` takes the name of its run folder.

    Raises:
        ExpungeError: there is nothing to report; a path holds no evaluation; a file is not one, or is not of the model
            or the records next to it.
    """
    found: dict[object, Evaluation] = {}
    for number, source in enumerate(listed_sources(sources)):
        if isinstance(source, Evaluation):
            found[number] = source
        else:
            file = _file(Path(source))
            found.setdefault(file.resolve(), _read(file, Path(source)))
    return tuple(found.values())


def listed_sources(sources: Source | Iterable[Source]) -> list[Source]:
    """The sources of a report as a list.

    Raises:
        ExpungeError: there is none, or something else than an evaluation or a path.
    """
    single = isinstance(sources, Evaluation | str | Path) or not isinstance(sources, Iterable)
    listed: list[Any] = [sources] if single else list(sources)  # type: ignore[arg-type]
    if not listed:
        raise ExpungeError(f"a report needs at least one evaluation; got none. {_CURE}")
    for source in listed:
        if not isinstance(source, Evaluation | str | Path):
            raise ExpungeError(f"a report takes evaluations and paths of them; got {source!r}. {_CURE}")
    return listed


def _file(path: Path) -> Path:
    candidates = [path, *(folder / EVALUATION for folder in places(path))]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        looked = " or ".join(str(candidate) for candidate in candidates)
        raise ExpungeError(f"no evaluation at {path}: looked for {looked}. {_CURE}")
    return found


def _read(found: Path, named: Path) -> Evaluation:
    try:
        evaluation = Evaluation.load(found)
    except ExpungeError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise ExpungeError(f"{found} is not an evaluation that expunge wrote ({what}). {_CURE}") from error
    made, settings = (evaluation.about.get(name, {}) for name in ("inputs", "settings"))
    check_own(named, made, settings, found)
    if (
        found.name == EVALUATION
        and (found.parent / RECORDS).is_file()
        and Records.manifest_in(found.parent).inputs != made
    ):
        raise ExpungeError(
            f"{found} is not of the records next to it: one of the two was replaced. Make it again: expunge evaluate "
            f"records={found.parent} output={found.parent} --overwrite"
        )
    if evaluation.label != "model":
        return evaluation
    return evaluation.labeled(model_folder(found.resolve().parent).name)


def distinct(evaluations: Sequence[Evaluation]) -> tuple[Evaluation, ...]:
    """The same evaluations under legible labels, no two alike: `npo`, `npo (2)`."""
    taken: set[str] = {one_line(evaluation.label) for evaluation in evaluations}
    used: set[str] = set()
    result = []
    for evaluation in evaluations:
        label = plain = one_line(evaluation.label) or "model"
        count = 1
        while label in used or (count > 1 and label in taken):
            count += 1
            label = f"{plain} ({count})"
        used.add(label)
        result.append(evaluation.labeled(label))
    return tuple(result)


def assign_roles(evaluations: Sequence[Evaluation], *, start: str | None, retain: str | None) -> tuple[Model, ...]:
    """Give start and retain model their roles and the first places; the others keep their order.

    Args:
        evaluations: any number, also with labels that collide.
        start: label of the model before unlearning; of several with that label it is the first.
        retain: label of the model that never saw the forget set.

    Raises:
        ExpungeError: no evaluation has that label, or both roles go to the same one.
    """
    models = [Model(evaluation) for evaluation in distinct(evaluations)]
    if start is not None and start == retain:
        raise ExpungeError(f"start and retain model are two models, and both were called '{start}'.")
    roles: tuple[tuple[Role, str | None], ...] = (("retain", retain), ("start", start))
    for role, label in roles:
        if label is None:
            continue
        place = next((i for i, model in enumerate(models) if model.label == one_line(label)), None)
        if place is None:
            raise unknown(f"evaluation (for {role}=)", label, [model.label for model in models])
        models.insert(0, Model(models.pop(place).evaluation, role))
    return tuple(models)

"""Which models stand side by side: those that were named, and start and retain model where a run knows of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.core.checks import ExpungeError
from expunge.core.manifest import Manifest
from expunge.core.output import stage_of
from expunge.results.measures import Evaluation
from expunge.results.places import EVALUATION, RUNS, model_folder, places

ROLES = ("start", "retain")


@dataclass(frozen=True)
class Source:
    """Where a model is, and what a run says of its weights."""

    place: str
    """Folder or hub id."""
    weights: str | None = None
    """Fingerprint of its weights; None where nothing says it."""
    dtype: str | None = None
    """Type of the weights that the fingerprint is of."""

    def differs(self, fingerprint: str, dtype: str) -> bool:
        """Are weights of this fingerprint and type others? Those loaded in another type cannot be compared."""
        return self.weights is not None and self.dtype == dtype.removeprefix("torch.") and self.weights != fingerprint


def sources(models: Sequence[str], beside: Sequence[str] = ()) -> dict[str, Source]:
    """The models by what they are called, in the order in which they are shown.

    Args:
        models: folders or hub ids; the first is asked for the models of the roles.
        beside: `start` for the model that the first one began from, `retain` for the retain model that it was compared
            with when it was evaluated, else folders or hub ids.

    Raises:
        ExpungeError: a model that is named twice, or a role that the first one says nothing of.
    """
    places = [*models, *beside]
    if again := {place for place in places if places.count(place) > 1}:
        raise ExpungeError(f"named more than once: {', '.join(sorted(again))}. Each model is shown once.")
    names = [Path(place).name or place for place in places]
    labels = [name if names.count(name) == 1 else place for name, place in zip(names, places, strict=True)]
    found = [
        *(Source(place) for place in models),
        *(of_role(place, models[0]) if place in ROLES else Source(place) for place in beside),
    ]
    return dict(zip(labels, found, strict=True))


def of_role(role: str, model: str) -> Source:
    """The start or retain model of a run, or the folder of that name.

    Raises:
        ExpungeError: the run does not say, and there is no such folder.
    """
    found = _start(Path(model)) if role == "start" else _retain(Path(model))
    if found is not None:
        return found
    if Path(role).is_dir():
        return Source(role)
    why, place = "it is no run folder with a manifest that names it", f"<folder of the {role} model>"
    if role == "retain":
        against = next((told for told, _ in _references(Path(model))), None)
        why = (
            "it was not evaluated against one (expunge evaluate ... reference=)"
            if against is None
            else f"it was evaluated against the records in {against}, and the folder of their model is not beside them"
        )
    raise ExpungeError(
        f"{model} does not say where its {role} model is: {why}. Name the model itself in place of the word {role}: "
        f"beside={place}"
    )


def run_of(model: Path) -> Manifest | None:
    """What made the model in a folder, or the run that it is a checkpoint of; None where no run of ours did."""
    folders = (model, *model.parents) if model.is_dir() else ()
    folder = next((place for place in folders if stage_of(place) in RUNS), None)
    return None if folder is None else Manifest.load(folder)


def data_of(model: str) -> dict[str, Any]:
    """Arguments of `load_corpus` that give the data of a run again; empty where nothing says them."""
    made = run_of(Path(model))
    return dict((made.results.get("corpus") or {}) if made is not None else {})


def _start(model: Path) -> Source | None:
    made = run_of(model)
    told = made.results.get("start_model") if made is not None else None
    if made is None or not told:
        return None
    # What a run began from is fingerprinted without the adapter that it came with.
    weights = None if "start_adapter" in made.inputs else made.inputs.get("model")
    return Source(str(told), weights, made.results.get("result", {}).get("dtype"))


def _references(model: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folders of records that a model was compared with when it was evaluated, and what the evaluation says."""
    for file in (place / EVALUATION for place in places(model)):
        about: dict[str, Any] = dict(Evaluation.load(file).about) if file.is_file() else {}
        if (told := about.get("paths", {}).get("reference")) is not None:
            yield Path(told), about


def _retain(model: Path) -> Source | None:
    for told, about in _references(model):
        for folder in (told, model_folder(told)):
            if any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
                weights, dtype = about.get("reference", {}).get("model"), about.get("settings", {}).get("dtype")
                return Source(str(folder), weights, dtype)
    return None

"""Runs to be compared: which folders hold some, whether they may stand side by side, and what each is called."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os.path import commonpath
from pathlib import Path

from expunge.core.checkpoints import checkpoints
from expunge.core.checks import ExpungeError, path_of
from expunge.core.manifest import FILE as MANIFEST
from expunge.core.manifest import Manifest, fingerprint
from expunge.core.surface import flag
from expunge.data.corpus import Corpus, load_corpus
from expunge.results.records import Records
from expunge.results.studies import runs_of
from expunge.training.training_config import WITHOUT_EFFECT

_NOT_SETTINGS = ("seed", *WITHOUT_EFFECT)
_DRAWN = ("alternate", "mask")
"""Inputs that a seed may have drawn. The data that they were drawn from, and the recipe of the mask, decide."""
_SEED = re.compile(r"^(seed|s)?[\W_]*\d+[\W_]+|[\W_]*(seed|s)?[\W_]*\d+$")
"""What a name says about the seed: `seed0/npo`, `npo-s0`, `npo_0`."""


@dataclass(frozen=True)
class RunFolder:
    """A finished unlearning run."""

    path: Path
    manifest: Manifest

    @property
    def recipe(self) -> str:
        """Fingerprint of what decides its result but seeds: its settings, its data, and how its mask was made."""
        made = self.manifest
        known = {
            "arguments": {name: value for name, value in made.arguments.items() if name not in _NOT_SETTINGS},
            "inputs": {name: value for name, value in made.inputs.items() if name not in _DRAWN},
            "data": {split: about["content"] for split, about in made.results.get("data", {}).items()},
            "mask": made.results.get("mask", {}).get("recipe") or made.inputs.get("mask"),
        }
        return fingerprint(known)


def opened(runs: str | Path | Sequence[str | Path]) -> tuple[list[RunFolder], list[str]]:
    """The unlearning runs, and the paths of what is none; the folder of a study stands for the runs in it."""
    found, others = [], []
    listed = runs if isinstance(runs, Iterable) and not isinstance(runs, str) else [runs]
    named = dict.fromkeys(path_of("a run", run) for run in listed)
    for path in [run for name in named for run in runs_of(name)]:
        if not path.exists():
            raise ExpungeError(f"no run at '{path}'. Check the path, or make the run with unlearn.")
        manifest = Manifest.load(path) if (path / MANIFEST).is_file() else None
        if manifest is None or manifest.stage != "unlearn":
            others.append(str(path))
            continue
        if not manifest.results.get("finished"):
            raise ExpungeError(f"the run in '{path}' is not finished. Run its command again with {flag('resume')}.")
        found.append(RunFolder(path, manifest))
    if not found:
        raise ExpungeError(
            f"no run of unlearn among {', '.join(others) or 'nothing'}. Name some: expunge compare runs/npo runs/simnpo"
        )
    return found, others


def labels(folders: Sequence[RunFolder]) -> list[str]:
    """What each run is called: its folder, with the folders above it where that says too little."""
    names = [folder.path.name for folder in folders]
    if len(set(names)) == len(names):
        return names
    paths = [folder.path.resolve() for folder in folders]
    return [path.relative_to(commonpath(paths)).as_posix() for path in paths]


def require_checkpoints(folders: Sequence[RunFolder]) -> None:
    """Raise for runs that kept no checkpoints, which have no curve along them."""
    without = [str(folder.path) for folder in folders if not checkpoints(folder.path)]
    if without:
        raise ExpungeError(
            f"{', '.join(without)} kept no checkpoints, so there is no curve along the run. Train with "
            "keep_checkpoints=0 (and checkpoint_every=<epochs>), or compare by trace=mixing, which needs none."
        )


def require_alike(folders: Sequence[RunFolder]) -> None:
    """Raise for runs of unlike start models or framings."""
    first = folders[0]
    for folder in folders[1:]:
        for where, what in (("inputs", "model"), ("arguments", "template"), ("arguments", "max_length")):
            ours, theirs = (getattr(f.manifest, where).get(what) for f in (first, folder))
            if ours != theirs:
                which = "began from another start model" if what == "model" else f"had another {what}"
                raise ExpungeError(
                    f"{folder.path} {which} than {first.path}; curves compare only from one start and on one framing. "
                    "Compare them apart."
                )


def start_of(folders: Sequence[RunFolder]) -> str:
    """The model that the runs began from, as the first run's manifest says.

    Raises:
        ExpungeError: it does not say.
    """
    told = str(folders[0].manifest.results.get("start_model", ""))
    if not told:
        raise ExpungeError(f"{folders[0].path} does not say which model it began from. Name it: --start <model>")
    return told


def check_data(records: Records, corpus: Corpus, what: str) -> None:
    """Raise for records of other data; a log does not say what it was made on."""
    for name, known in records.manifest.inputs.items():
        split = name.removeprefix("data.")
        if name.startswith("data.") and split in corpus and corpus.fingerprint(split) != known:
            raise ExpungeError(
                f"the records of the {what} were made on other {split} examples. Name the model instead, so that it is "
                "measured on the same, or other data: data.forget=... data.retain=..."
            )


def check_start(folders: Sequence[RunFolder], records: Records) -> None:
    """Raise for records of another model than the runs began from; a log does not say of which."""
    known = records.manifest.inputs.get("model")
    expected = folders[0].manifest.inputs.get("model")
    if known is not None and known != expected:
        raise ExpungeError(
            f"the start model given is not the one that {folders[0].path} began from: their weights differ. Name the "
            "right one with --start, and load it as the type it was unlearned in (dtype=)."
        )


def corpus_of(folder: RunFolder) -> Corpus:
    """The data that a run was made on, read again.

    Raises:
        ExpungeError: it does not say which, or they are not there any more.
    """
    origin = folder.manifest.results.get("corpus")
    if not origin:
        raise ExpungeError(
            f"{folder.path} does not say where its data came from. Name them: data.forget=... data.retain=... "
            "(or corpus=, in Python)"
        )
    try:
        return load_corpus(**origin)
    except ExpungeError as error:
        raise ExpungeError(
            f"the data that {folder.path} was made on cannot be read again: {error} Name them: data.forget=... "
            "data.retain=... (or corpus=, in Python)"
        ) from error


def groups(folders: Sequence[RunFolder]) -> dict[Path, str]:
    """What each run is called in the summary: its folder, or what the folders of its seeds have in common."""
    alike: dict[str, list[tuple[Path, str]]] = {}
    for folder, label in zip(folders, labels(folders), strict=True):
        alike.setdefault(folder.recipe, []).append((folder.path, label))
    found: dict[Path, str] = {}
    for members in alike.values():
        label = members[0][1]
        if len(members) > 1:
            label = f"{_SEED.sub('', label) or label} ({len(members)} seeds)"
        unique, count = label, 1
        while unique in found.values():
            count += 1
            unique = f"{label} ({count})"
        found |= dict.fromkeys((path for path, _ in members), unique)
    return found

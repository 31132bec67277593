"""The folder of a study of `expunge sweep`: the runs in it, for whoever takes run folders."""

import re
from collections.abc import Iterator
from pathlib import Path

from expunge.core.json_text import read_object

ASKED, TRIAL = "asked.json", "trial.json"
"""What the study is; what came of a trial."""
TRIALS, RUN = "trials", "run"
_NUMBER = re.compile(r"\d{4,}")


def is_study(path: Path) -> bool:
    """Is it the folder of a study?"""
    return (path / ASKED).is_file() and (path / TRIALS).is_dir()


def finished(folder: Path) -> Iterator[tuple[int, Path]]:
    """Trials of a study that came to their end, by number."""
    named = (path for path in (folder / TRIALS).glob("*") if _NUMBER.fullmatch(path.name))
    yield from sorted((int(path.name), path) for path in named)


def runs_of(path: Path) -> list[Path]:
    """The run folders that a path stands for: those of a study's trials that did not fail, else the path itself."""
    return [trial / RUN for _, trial in finished(path) if (trial / RUN).is_dir()] if is_study(path) else [path]


def models_of(path: Path) -> list[Path]:
    """The models that a path stands for: the best candidate of each trial of a study, else the path itself."""
    if not is_study(path):
        return [path]
    told = [(trial, read_object(trial / TRIAL)) for _, trial in finished(path)]
    return [trial / one["model"] for trial, one in told if "model" in one]

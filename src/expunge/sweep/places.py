"""The folder of a study: what is where, and how it gets there when many workers write.

    asked.json              what the study is, written by the first worker
    start.json              measures of the start model; start-records/evaluation.json, for a report
    control/                what the attacks draw out of the control
    masks/                  masks made from recipes, by the recipe's fingerprint
    journal.log             who runs what (without a database)
    workers/                a sign of life of each worker
    trials/0007/            a finished trial: trial.json, the run folder run/, its evaluation in run-records/
    trials/.0007.<worker>/  one that is being run
    study.json              all results, made from the trials anew after each

What is finished gets its name in one step, and no name is given twice.
"""

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from expunge.core.manifest import fingerprint
from expunge.core.whole import sync_folder
from expunge.results.studies import TRIALS

START, STUDY = "start.json", "study.json"
MASKS, CONTROL = "masks", "control"
GONE = ".gone"


def trial_folder(folder: Path, point: int) -> Path:
    """Where a finished trial is."""
    return folder / TRIALS / f"{point:04}"


def running_folder(folder: Path, point: int, worker: str) -> Path:
    """Where a worker runs a trial."""
    return folder / TRIALS / f".{point:04}.{worker}"


def mask_file(folder: Path, recipe: Mapping[str, Any]) -> Path:
    """Where the mask of a recipe is: equal recipes have one file."""
    return folder / MASKS / f"{fingerprint(dict(recipe)).rpartition(':')[2][:16]}.safetensors"


def publish(aside: Path, named: Path) -> bool:
    """Give a folder its name, with all that is in it on disk, unless the name is taken: then it is removed.

    Args:
        aside: on the same file system.
        named: the name.

    Returns:
        Did it get the name?
    """
    sync_folder(aside)
    try:
        aside.rename(named)  # a folder takes the place of no folder with something in it
    except OSError:
        if not named.is_dir():
            raise
        shutil.rmtree(aside, ignore_errors=True)
        return False
    return True


def take_away(aside: Path) -> None:
    """Remove the folder of a worker that is gone; should it only be slow, it can give no part of it a name.

    What was left of earlier ones by a worker that was killed meanwhile is removed, too.
    """
    with suppress(FileNotFoundError):
        aside.rename(aside.with_name(f"{aside.name}{GONE}"))
    for left in aside.parent.glob(f".*{GONE}"):
        shutil.rmtree(left, ignore_errors=True)


def write_once(path: Path, content: Mapping[str, Any], worker: str) -> bool:
    """Write a JSON file unless it is there; of several that try at once one alone writes it.

    Args:
        path: the file; its folder is made where it is missing.
        content: what it holds.
        worker: names the file that is written aside.

    Returns:
        Was it written?
    """
    aside = _aside(path, content, worker)
    try:
        # A link is made only where the name is free; a rename would replace what is there.
        os.link(aside, path)
    except FileExistsError:
        return False
    finally:
        aside.unlink()
    return True


def write_again(path: Path, content: Mapping[str, Any], worker: str) -> None:
    """Write a JSON file in place of what is there, in one step."""
    _aside(path, content, worker).replace(path)


def _aside(path: Path, content: Mapping[str, Any], worker: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{worker}")
    with aside.open("w", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return aside

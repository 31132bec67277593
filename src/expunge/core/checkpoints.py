"""Checkpoints of a run: where they are, and which are whole."""

import json
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import xxhash

from expunge.core.checks import ExpungeError
from expunge.core.manifest import Manifest
from expunge.core.whole import sync_folder, write_whole

FOLDER = "checkpoints"
CLOSING = "complete.json"
"""Written last into a checkpoint: its files with sizes and digests, and the run's manifest."""


def checkpoints(run: Path) -> list[Path]:
    """Whole checkpoints in a run folder, by rising step; files are compared by size."""
    return [path for path in _written(run) if not damage(path, digests=False)]


def sound(run: Path) -> Iterator[Path]:
    """Whole checkpoints in a run folder from the last to the first, with a warning for each that is not whole.

    Args:
        run: the run folder.
    """
    for path in reversed(_written(run)):
        if found := damage(path):
            warnings.warn(f"the checkpoint {path} is not used: {found}.", stacklevel=2)
        else:
            yield path


def step(checkpoint: Path) -> int:
    """The step at which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def close(checkpoint: Path, manifest: Manifest, *, steps: int, history: str) -> None:
    """Declare a checkpoint whole, once all of it is on disk.

    Args:
        checkpoint: its folder; nothing is written into it afterwards.
        manifest: of the run.
        steps: of the whole run.
        history: digest of the run's history up to this checkpoint.
    """
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    listed = {
        path.relative_to(checkpoint).as_posix(): {"bytes": path.stat().st_size, "digest": _digest(path)}
        for path in files
    }
    sync_folder(checkpoint)
    content = {"steps": steps, "history": history, "manifest": asdict(manifest), "files": listed}
    write_whole(checkpoint / CLOSING, json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n")


def rotate(run: Path, *, keep: int) -> None:
    """Remove all checkpoints of a run but the last whole ones.

    Args:
        run: the run folder.
        keep: how many stay, 1 or more.
    """
    kept = checkpoints(run)[-keep:]
    for path in _written(run):
        if path not in kept:
            shutil.rmtree(path)


def steps_of(checkpoint: Path) -> int:
    """Steps of the whole run that wrote a whole checkpoint."""
    return int(_closing(checkpoint)["steps"])


def history_of(checkpoint: Path) -> str:
    """Digest of the run's history up to a whole checkpoint."""
    return str(_closing(checkpoint).get("history"))


def manifest_of(run: Path) -> Manifest:
    """The manifest of a run folder; where it is missing or damaged that of its last whole checkpoint, with a warning.

    Raises:
        ExpungeError: there is none in either place.
    """
    try:
        return Manifest.load(run)
    except ExpungeError as error:
        for path in reversed(checkpoints(run)):
            warnings.warn(f"{error} Using what the checkpoint {path} says of the run.", stacklevel=2)
            return Manifest(**_closing(path)["manifest"])
        raise


def _closing(checkpoint: Path) -> dict[str, Any]:
    return dict(json.loads((checkpoint / CLOSING).read_text(encoding="utf-8")))


def damage(checkpoint: Path, *, digests: bool = True) -> str:
    """What is wrong with a checkpoint; empty where it is whole.

    Args:
        checkpoint: its folder.
        digests: also compare the content of its files, which reads them.
    """
    closing = checkpoint / CLOSING
    if not closing.is_file():
        return f"it has no {CLOSING}, so writing it was cut off"
    try:
        listed = _closing(checkpoint)["files"]
        for name, said in listed.items():
            file = checkpoint / name
            if not file.is_file():
                return f"its file {name} is missing"
            if (size := file.stat().st_size) != said["bytes"]:
                return f"its file {name} has {size} bytes, and {said['bytes']} were written"
            if digests and _digest(file) != said["digest"]:
                return f"the content of its file {name} is not what was written"
    except (ValueError, TypeError, KeyError, AttributeError):
        return f"its {CLOSING} is damaged"
    return ""


def _written(run: Path) -> list[Path]:
    found = [path for path in (run / FOLDER).glob("checkpoint-*") if path.name.rpartition("-")[2].isdecimal()]
    return sorted(found, key=step)


def _digest(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while piece := file.read(2**22):
            digest.update(piece)
    return f"xxh3:{digest.hexdigest()}"

"""The output folder of an experiment, and how its files are written."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from expunge.core.manifest import Manifest, jsonable
from expunge.core.nested import finite
from expunge.core.output import check_output, in_use, stage_of
from expunge.core.whole import make_room, write_whole


def opened(
    folder: str | Path, manifest: Manifest, names: Collection[str] = (), *, overwrite: bool, resume: bool = False
) -> Path:
    """Make the folder of an experiment, with its manifest in it.

    Args:
        folder: where it goes.
        manifest: of the experiment; written at once, so that an interrupted one is known for what it is.
        names: patterns of what the experiment writes, besides `<stage>.json`, `<stage>.png` and `records/`.
        overwrite: replace an earlier experiment of this kind.
        resume: go on with an earlier one of the same arguments, seed and inputs, which then stays as it is.

    Raises:
        ExpungeError: the folder holds something else, or an experiment that is not to be replaced.
    """
    folder = Path(folder)
    if check_folder(folder, manifest, names, overwrite=overwrite, resume=resume):
        return folder
    make_room(folder)
    folder.resolve().mkdir(parents=True, exist_ok=True)
    manifest.save(folder)
    return folder


def check_folder(
    folder: Path, manifest: Manifest, names: Collection[str] = (), *, overwrite: bool, resume: bool = False
) -> bool:
    """Does it hold what the experiment goes on with? Nothing is touched; arguments and errors are those of `opened`."""
    there = Manifest.load(folder) if stage_of(folder) == manifest.stage else None
    if resume and not overwrite and there is not None:
        if _decides(there) == _decides(manifest):
            return True
        raise in_use(folder, "holds this experiment with other data or settings")
    stage = manifest.stage
    written = (f"{stage}.json", f"{stage}.png", "records/", *names)
    check_output(folder, overwrite=overwrite, stages=(stage,), names=written)
    return False


def _decides(manifest: Manifest) -> tuple[dict[str, Any], int | None, dict[str, str]]:
    return jsonable(manifest.arguments), manifest.seed, manifest.inputs


def write(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all: what is there is not made again. What is no number becomes null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(finite(content), indent=1) + "\n")

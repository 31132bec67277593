"""Output that is there already: one place decides whether it may be replaced or gone on with, in one message."""

import os
import re
from collections.abc import Callable, Collection, Mapping
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path
from typing import Literal

from expunge.core.checks import ExpungeError
from expunge.core.lock import check_free
from expunge.core.manifest import FILE, Manifest
from expunge.core.progress import first_process
from expunge.core.surface import flag
from expunge.core.whole import is_left_over

Kind = Literal["page", "report", "mask", "patch"]


def check_output(
    folder: str | Path,
    *,
    overwrite: bool | None,
    names: Collection[str],
    resume: bool | None = None,
    stages: Collection[str] | None = None,
) -> bool:
    """Is an output folder in use, with what may be replaced or resumed? Nothing is touched.

    Args:
        folder: the output folder; free where it is missing or empty.
        overwrite: replace what is there; None where the stage cannot.
        names: patterns of what the stage writes into it, besides the files that its manifest lists; with anything else
            in it, a folder is not replaced.
        resume: go on with what is there; None where the stage cannot.
        stages: what `overwrite` may replace, by the stage in its manifest; None: anything.

    Raises:
        ExpungeError: the folder is in use and neither `overwrite` nor `resume` was given, it holds something that
            `overwrite` must not replace, there is nothing to resume, it cannot be written, or another process writes it
            now.
    """
    if not first_process():
        return False  # the first process may have begun to write here
    folder = Path(folder)
    if overwrite and resume:
        raise ExpungeError(
            f"--overwrite replaces what is in {folder}, and --resume goes on with it: give one of the two."
        )
    check_place(folder)
    check_folder(folder)
    check_free(folder)
    if not folder.exists() or all(map(is_left_over, folder.iterdir())):
        if resume:
            raise ExpungeError(f"nothing to resume: {folder} is empty or missing. Start without {flag('resume')}.")
        return False
    if not (overwrite or resume):
        raise in_use(folder, resumable=resume is not None, replaceable=overwrite is not None)
    if not resume and stages is not None and stage_of(folder) not in stages:
        raise ExpungeError(
            f"{flag('overwrite')} replaces earlier output of {' or '.join(stages)} only, and {folder} holds no {FILE} "
            "of one. Choose another output, or remove what is there yourself."
        )
    check_links(folder)
    if not resume:
        check_nothing_else(folder, [*names, FILE, *_listed(folder)])
    return True


_PASSING = (".*.lock", "*/.*.lock", ".*.replaced/*")
"""What a killed process may leave beside its unfinished files."""


def check_nothing_else(folder: Path, names: Collection[str]) -> None:
    """Raise where an output folder holds something that its stage did not write.

    Args:
        folder: the folder.
        names: patterns of what the stage writes into it.
    """
    if others := _others(folder, names):
        raise ExpungeError(
            f"the output folder {folder} also holds what is not of this output: {others}. Choose another output, or "
            "move these files away first."
        )


def check_shared(folder: str | Path, own: Collection[str], names: Collection[str] = ()) -> None:
    """Raise where a folder that a stage only adds its files to is one of something else: of a model, or of data.

    Args:
        folder: may be missing.
        own: files by which a folder is known for one of this stage.
        names: patterns of what else may be in it.
    """
    folder = Path(folder)
    if not folder.is_dir() or any((folder / name).is_file() for name in own):
        return
    if others := _others(folder, names):
        raise ExpungeError(
            f"the output folder {folder} is in use for something else; it holds {others}. Choose another output."
        )


def _others(folder: Path, names: Collection[str]) -> str:
    """Files in a folder and below it that no pattern fits, the first three; empty where there are none.

    A pattern that ends in `/` fits all that is below a folder.
    """
    patterns = [f"{name}*" if name.endswith("/") else name for name in (*names, *_PASSING)]
    files = (path for path in folder.rglob("*") if not path.is_dir())
    found = (path.relative_to(folder).as_posix() for path in files if not is_left_over(path))
    others = sorted(name for name in found if not any(fnmatchcase(name, pattern) for pattern in patterns))
    return ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")


def _listed(folder: Path) -> set[str]:
    """Files in a folder that the manifest in it lists as written, as patterns that fit them alone."""
    return {escape(name) for name in (Manifest.load(folder).results.get("files", {}) if stage_of(folder) else {})}


def check_output_file(path: str | Path | None, *, overwrite: bool, kind: Kind | None = None) -> None:
    """Raise where a file would be replaced that must not be, or is a folder.

    Args:
        path: the file; None: none is written.
        overwrite: replace it.
        kind: what it must be to be replaced: an earlier page or report, or tensors of ours; None: anything.
    """
    if path is None or not first_process():
        return
    path = Path(path)
    check_place(path)
    check_free(path)
    if path.is_symlink():
        raise ExpungeError(
            f"the output {path} is a symbolic link to {path.readlink()}, and nothing is written through links. Name "
            "the file itself, or remove the link."
        )
    if path.is_dir():
        raise ExpungeError(f"the output {path} must be a file, and is a folder. Name a file in it: {path / '<name>'}")
    if path.exists() and not overwrite:
        raise in_use(path)
    if path.exists() and kind is not None and path.stat().st_size and not _KINDS[kind](path):
        raise ExpungeError(
            f"{flag('overwrite')} replaces an earlier {kind} only, and {path} is none that expunge wrote. Choose "
            "another output."
        )


REPORT_MARK = "<!-- written by expunge report -->"
"""The last line of a report as Markdown, by which it is known."""


def _is_page(path: Path) -> bool:
    """Is this a page of ours?"""
    with path.open("rb") as file:
        begun = file.read(1000)
    return begun.lstrip().lower().startswith(b"<!doctype html") and b'<meta name="generator" content="expunge ' in begun


def _is_report(path: Path) -> bool:
    """Is this a report of ours as Markdown, JSON or a table?"""
    with path.open("rb") as file:
        begun = file.read(100)
        file.seek(-min(len(REPORT_MARK) + 1, path.stat().st_size), os.SEEK_END)
        end = file.read()
    table = b"set,number,question,answer,model,role,bucket,change,generation"
    is_json = re.match(rb'\{\n "format": \d+,\n "made_by": "expunge ', begun) is not None
    return end == f"{REPORT_MARK}\n".encode() or is_json or begun.startswith(table)


def _is_tensors(path: Path) -> bool:
    """Does the header of a safetensors file say that it is a mask, scores or a patch of ours?"""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return b'"format":"expunge ' in file.read(min(size, _LONGEST_HEADER))


_KINDS: Mapping[Kind, Callable[[Path], bool]] = {
    "page": _is_page,
    "report": _is_report,
    "mask": _is_tensors,
    "patch": _is_tensors,
}
_LONGEST_HEADER = 100_000_000
"""Bytes, as safetensors has it."""


def check_folder(folder: Path) -> None:
    """Raise where a file is in the place of a folder."""
    if folder.exists() and not folder.is_dir():
        raise ExpungeError(f"the output {folder} must be a folder, and is a file. Choose another output.")


def check_place(path: Path) -> None:
    """Raise where nothing can be written at a path: below a file, behind a broken link, or without permission."""
    if path.is_symlink() and not path.exists():
        raise ExpungeError(f"the output {path} is a symbolic link that leads nowhere. Choose another output.")
    try:
        path.resolve()
    except (OSError, RuntimeError):  # links that point at each other
        raise ExpungeError(f"the output {path} is a symbolic link that leads nowhere. Choose another output.") from None
    above = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if above != path and not above.is_dir():
        raise ExpungeError(f"the output {path} would be below {above}, which is a file. Choose another output.")
    if not os.access(above, os.W_OK):
        raise ExpungeError(f"the output {path} cannot be written: no permission for {above}. Choose another output.")


def check_links(folder: Path) -> None:
    """Raise where a folder that is written into holds a symbolic link: what is written would land elsewhere."""
    for place, folders, files in os.walk(folder):
        for link in (Path(place) / name for name in (*folders, *files)):
            if link.is_symlink():
                raise ExpungeError(
                    f"the output folder {folder} holds a symbolic link, {link} to {link.readlink()}, and nothing is "
                    "written through links. Remove the link, or choose another output."
                )


def in_use(path: Path, how: str = "is in use", *, resumable: bool = False, replaceable: bool = True) -> ExpungeError:
    """The error for output that is there already.

    Args:
        path: the file or folder.
        how: what is wrong with it.
        resumable: can the stage go on with it?
        replaceable: can it replace it?
    """
    kind = "folder" if path.is_dir() else "file"
    cures = ["Choose another output", *([f"go on with what is there ({flag('resume')})"] if resumable else [])]
    cures += [f"or replace it ({flag('overwrite')})"] if replaceable else []
    return ExpungeError(f"the output {kind} {path} {how}. {', '.join(cures)}.")


def stage_of(folder: Path) -> str | None:
    """The stage that wrote a folder; None where no manifest of ours says so."""
    try:
        return Manifest.load(folder).stage if (folder / FILE).is_file() else None
    except ExpungeError:
        return None  # others call their files manifest.json, too

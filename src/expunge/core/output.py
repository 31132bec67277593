"""Output that is there already: one place decides whether it may be replaced or gone on with, in one message."""

from collections.abc import Collection
from pathlib import Path

from expunge.core.checks import ExpungeError
from expunge.core.manifest import FILE, Manifest
from expunge.core.progress import first_process
from expunge.core.surface import flag


def check_output(
    folder: str | Path, *, overwrite: bool, resume: bool | None = None, stages: Collection[str] | None = None
) -> bool:
    """Is an output folder in use, with what may be replaced or resumed? Nothing is touched.

    Args:
        folder: the output folder; free where it is missing or empty.
        overwrite: replace what is there.
        resume: go on with what is there; None where the stage cannot.
        stages: what `overwrite` may replace, by the stage in its manifest; None: anything.

    Raises:
        ExpungeError: the folder is in use and neither `overwrite` nor `resume` was given, it holds something that
            `overwrite` must not replace, or there is nothing to resume.
    """
    if not first_process():
        return False  # the first process may have begun to write here
    folder = Path(folder)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        if resume:
            raise ExpungeError(f"nothing to resume: {folder} is empty or missing. Start without {flag('resume')}.")
        return False
    if not (overwrite or resume):
        raise in_use(folder, resumable=resume is not None)
    if not resume and stages is not None and stage_of(folder) not in stages:
        raise ExpungeError(
            f"{flag('overwrite')} replaces earlier output of {' or '.join(stages)} only, and {folder} holds no {FILE} "
            "of one. Choose another output, or remove what is there yourself."
        )
    return True


def check_output_file(path: str | Path | None, *, overwrite: bool) -> None:
    """Raise where a file would be replaced without `overwrite`, or is a folder; None: no file is written."""
    if path is None or not first_process():
        return
    path = Path(path)
    if path.is_dir():
        raise ExpungeError(f"the output {path} must be a file, and is a folder. Name a file in it: {path / '<name>'}")
    if path.exists() and not overwrite:
        raise in_use(path)


def in_use(path: Path, how: str = "is in use", *, resumable: bool = False) -> ExpungeError:
    """The error for output that is there already.

    Args:
        path: the file or folder.
        how: what is wrong with it.
        resumable: can the stage go on with it?
    """
    kind = "folder" if path.is_dir() else "file"
    cures = ["Choose another output", *([f"go on with what is there ({flag('resume')})"] if resumable else [])]
    return ExpungeError(f"the output {kind} {path} {how}. {', '.join(cures)}, or replace it ({flag('overwrite')}).")


def stage_of(folder: Path) -> str | None:
    """The stage that wrote a folder; None where no manifest of ours says so."""
    try:
        return Manifest.load(folder).stage if (folder / FILE).is_file() else None
    except (AttributeError, TypeError, ValueError):
        return None  # others call their files manifest.json, too

"""The last line of defense: what files, disks and libraries raise becomes a message; all else is a fault of ours."""

import errno
import platform
import traceback

from expunge.core.format import legible
from expunge.core.manifest import versions

_AGAIN = "Free some space, then give the same command again (with --resume where it had begun a run)"
_DISK: dict[int, str] = {
    errno.EACCES: "no permission for {path}. Change its permissions, or name another place",
    errno.EPERM: "the system does not permit this for {path}. Name another place",
    errno.ENOENT: "no such file or folder: {path}. Check the name",
    errno.ENOTDIR: "a part of the path {path} is a file where a folder must be. Name another place",
    errno.EEXIST: "{path} is a file where a folder must be, or a link to nothing. Name another place",
    errno.EISDIR: "{path} is a folder where a file must be. Name a file",
    errno.ENAMETOOLONG: "the name is too long for this disk: {path}. Choose a shorter one",
    errno.ELOOP: "{path} is a symbolic link that leads back to itself. Name a real place",
    errno.ENOSPC: "the disk is full, at {path}. " + _AGAIN,
    errno.EDQUOT: "your disk quota is used up, at {path}. " + _AGAIN,
    errno.EROFS: "the disk is read-only, at {path}. Name another place",
    errno.EMFILE: "too many files are open, at {path}. Raise the limit: ulimit -n 4096",
    errno.EIO: "the disk cannot be read or written, at {path}. Check it",
}
_LIBRARIES: dict[str, str] = {
    "safetensors": "a weight file is damaged or cannot be written",
    "pyarrow": "a Parquet file is damaged or too large",
    "json": "a JSON file is damaged",
    "yaml": "a YAML file is damaged",
    "huggingface_hub": "the hub gave nothing",
    "httpx": "no connection",
    "requests": "no connection",
}
"""By package: what its errors mean where nothing nearer to the cause has said it better."""
_LONGEST = 200


def answer(error: Exception, verb: str) -> str | None:
    """What to say about an error that the user can mend; None for a fault of ours.

    Args:
        error: of the system or of a library, which no stage has made an `ExpungeError` of.
        verb: what was asked for: `unlearn`.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return (
            f"{verb}: out of memory ({_short(str(error)) or 'no details'}). Use less at once: a smaller "
            "micro_batch_size or batch_size, a smaller max_length, fewer rows, or a smaller model."
        )
    packages = {base.__module__.partition(".")[0] for base in type(error).__mro__}
    named = next((what for package, what in _LIBRARIES.items() if package in packages), None)
    if named is not None:
        return f"{verb}: {named}: {_short(str(error))}"
    if isinstance(error, UnicodeError):
        return f"{verb}: a text is not UTF-8: {_short(str(error))}. Save it as UTF-8."
    if isinstance(error, OSError):
        path = _short(str(error)) if error.errno is None else "a file that the system does not name"
        if error.filename is not None:
            path = f"'{_short(str(error.filename))}'"
        known = _DISK.get(error.errno or 0)
        return f"{verb}: {known.format(path=path) if known else f'{error.strerror or error}: {path}'}."
    return None


def fault(error: Exception) -> str:
    """A fault of ours: the traceback, and what to do with it."""
    lines = legible("".join(traceback.format_exception(error)))
    ours = f"expunge {versions().get('expunge', '(not installed)')}"
    system = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    return (
        f"{lines}\nThis is a fault in {ours} ({system}), not in your input. Please report it with the lines above and "
        "the command that gave them."
    )


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."

"""Kills a process at every single write below a folder, in turn.

A write is: a file opened for writing, a rename, a removal, a new or removed folder, and what native code writes
(safetensors, torch.save, tokenizers, parquet). At each the process dies twice: just before it, and, where content is
written, with half of it there. Every attempt is a fork of the test's own process, so nothing is imported again.
"""

import contextlib
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet
import safetensors.torch
import tokenizers
import torch

KILLED, DONE, FAILED = 77, 0, 1
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((0, 2), (1, 3)),
    "os.symlink": ((1, 2),),
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.mkdir": ((0, 2),),
    "os.truncate": ((0, None),),
}
"""Audit events that change what is on disk: which of their arguments are paths, and which the folders they are in."""


@dataclass(frozen=True)
class Outcome:
    """How a forked process ended."""

    code: int
    said: str
    """What it wrote to stdout and stderr."""


def forked(work: Callable[[], None]) -> Outcome:
    """Run something in a fork of this process, which ends with `FAILED` where it raises."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = FAILED
        try:
            os.close(read)
            os.dup2(write, 1)
            os.dup2(write, 2)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
            work()
            code = DONE
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", flush=True)
        finally:
            sys.stdout.flush()
            os._exit(code)
    os.close(write)
    with os.fdopen(read, encoding="utf-8", errors="replace") as said:
        text = said.read()
    _, status = os.waitpid(pid, 0)
    return Outcome(os.waitstatus_to_exitcode(status), text)


def writes(work: Callable[[], None], folder: Path) -> list[str]:
    """Run something in a fork, and list its writes below a folder: the points at which it can be killed."""

    def counted() -> None:
        points = _watch(folder, None)
        work()
        os.write(1, ("\n".join(["", *points]) + "\nend").encode())

    outcome = forked(counted)
    assert outcome.code == DONE, outcome.said
    lines = outcome.said.split("\n")
    assert lines[-1] == "end"
    return [line.removeprefix("point ") for line in lines if line.startswith("point ")]


def killed_at(number: int, work: Callable[[], None], folder: Path) -> Outcome:
    """Run something in a fork that dies at one of its writes below a folder, counted from 0."""

    def watched() -> None:
        _watch(folder, number)
        work()

    return forked(watched)


def kills(base: Path, work: Callable[[Path], Any], before: Path | None = None) -> Iterator[tuple[str, Path]]:
    """For each write of some work, what it is and the folder in which the work was killed there; gone afterwards.

    Args:
        base: folder that these folders are made in, one at a time.
        work: writes into the folder that it is given.
        before: what is in this folder is in that folder before the work begins.
    """

    def prepared(name: str) -> Path:
        place = base / name
        if before is None:
            place.mkdir()
        else:
            shutil.copytree(before, place)
        return place

    place = prepared("all")
    for number, what in enumerate(writes(quietly(lambda: work(place)), place)):
        killed = prepared("kill")
        outcome = killed_at(number, quietly(partial(work, killed)), killed)
        assert outcome.code == KILLED, (what, outcome.said)
        yield what, killed
        shutil.rmtree(killed)


def quietly(work: Callable[[], Any]) -> Callable[[], None]:
    """The same without warnings, which tests take for errors."""

    def quiet() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            work()

    return quiet


def _watch(folder: Path, number: int | None) -> list[str]:
    """From now on, die at a write; the list of writes so far grows as they come. Only ever called in a fork."""
    root, points, inside = folder.resolve(), [], False

    def point(what: str, path: Path, half: Callable[[], None] | None = None) -> None:
        for suffix, before in (("", None), *([(", half", half)] if half is not None else [])):
            points.append(f"point {what} {path.relative_to(root)}{suffix}")
            if number == len(points) - 1:
                if before is not None:
                    before()
                os._exit(KILLED)

    def below(path: Any, directory: Any = None) -> Path | None:
        if not isinstance(path, str | bytes | os.PathLike):
            return None  # a descriptor
        where = Path(os.fsdecode(path))
        if isinstance(directory, int) and directory >= 0:
            where = Path(f"/proc/self/fd/{directory}").readlink() / where
        where = where.parent.resolve() / where.name  # a link is written itself
        return where if root in where.parents else None

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal inside
        if inside or (event != "open" and event not in _CHANGES):
            return
        inside = True
        try:
            if event == "open":
                path, mode, flags = arguments
                if flags & _WRITING and (found := below(path)) is not None and not found.is_dir():
                    ahead = bool(flags & os.O_APPEND)
                    point("append" if ahead else "open", found, lambda: _half(found, append=ahead) if mode else None)
            else:
                for path, directory in _CHANGES[event]:
                    found = below(arguments[path], None if directory is None else arguments[directory])
                    if found is not None:
                        point(event.removeprefix("os."), found)
                        break
        finally:
            inside = False

    def native(owner: Any, name: str, where: Callable[..., Any]) -> None:
        original = getattr(owner, name)

        def wrapped(*arguments: Any, **options: Any) -> Any:
            nonlocal inside
            path = below(where(*arguments, **options))
            if path is None:
                return original(*arguments, **options)

            def half() -> None:
                original(*arguments, **options)
                os.truncate(path, path.stat().st_size // 2)

            inside = True  # what the function itself does to the file is one write
            try:
                point("write", path, half)
                return original(*arguments, **options)
            finally:
                inside = False

        setattr(owner, name, wrapped)

    native(safetensors.torch, "serialize_file", lambda tensors, filename, **_: filename)
    native(torch, "save", lambda content, path, **_: path)
    native(tokenizers.Tokenizer, "save", lambda tokenizer, path, *_, **__: path)
    native(pyarrow.parquet, "write_table", lambda table, path, **_: path)
    sys.addaudithook(hook)
    return points


def _half(path: Path, *, append: bool) -> None:
    """Leave what a kill in the middle of writing leaves: nothing of a new file, half a line at the end of another."""
    flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if append else os.O_TRUNC)
    descriptor = os.open(path, flags)
    os.write(descriptor, b'{"st' if append else b"")
    os.close(descriptor)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """A fork has no threads but the one that forked: none of torch's may be waited for."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

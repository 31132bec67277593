"""Whom a message speaks to: advice is written as a command line takes it, or as Python does."""

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from expunge.core.nested import flattened

_on_command_line: ContextVar[bool] = ContextVar("on_command_line", default=False)


@contextmanager
def command_line() -> Iterator[None]:
    """Within, messages speak to someone at a command line."""
    before = _on_command_line.set(True)
    try:
        yield
    finally:
        _on_command_line.reset(before)


def flag(name: str) -> str:
    """A setting that is true or false, switched on: `--resume` or `resume=True`."""
    return f"--{name.replace('_', '-')}" if _on_command_line.get() else f"{name}=True"


def assigned(**values: Any) -> str:
    """Settings with their values, as they are to be written: `columns.question=q` or `columns={'question': 'q'}`."""
    if not _on_command_line.get():
        return ", ".join(f"{name}={value!r}" for name, value in values.items())
    return words(values)


def words(values: Mapping[str, Any]) -> str:
    """Settings as words of a command line, quoted where a shell would take them apart."""
    return shlex.join(f"{name}={_written(value)}" for name, value in flattened(dict(values)).items())


def _written(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_written, value))
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)

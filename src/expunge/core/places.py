"""Places of a machine in what is handed on: folders and files from its root on."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PATH = re.compile(r"(/|[A-Za-z]:[\\/])[^\n\\/]+[\\/][^\n]+")


def is_path(text: Any) -> bool:
    """Is it written as the path of a file or folder, from the root of a machine on?"""
    return isinstance(text, str) and _PATH.fullmatch(text) is not None


def is_here(text: Any) -> bool:
    """Is it a path from the root on that leads to something here? A token may be written as a path, too."""
    return is_path(text) and leads_somewhere(text)


def leads_somewhere(text: Any) -> bool:
    """Is it the name of a file or folder here, from where we are or from the root on?"""
    try:
        return isinstance(text, str) and text != "" and Path(text).exists()
    except (OSError, ValueError):
        return False  # no name of a file


def without_places(content: Any, is_place: Callable[[Any], bool] = is_path) -> Any:
    """A JSON value with the last part of each path in place of the path; names of fields stay."""
    if isinstance(content, str):
        return re.split(r"[\\/]", content.rstrip("\\/"))[-1] if is_place(content) else content
    if isinstance(content, dict):
        return {name: without_places(value, is_place) for name, value in content.items()}
    return [without_places(value, is_place) for value in content] if isinstance(content, list) else content

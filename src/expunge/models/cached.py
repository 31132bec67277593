"""Is a name that of a model on a hub, or a place of this machine? Told by what a hub was asked for before."""

import re
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from expunge.core.places import is_path, leads_somewhere

_WITH_FOLDERS = re.compile(r"[^\s/\\]+([/\\][^\s/\\]+)+[/\\]?")


def is_cached(name: str) -> bool:
    """Was a model loaded from a hub under this name? A folder here goes before it."""
    if Path(name).exists():
        return False
    try:
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except ValueError:
        return False  # no name on a hub


def may_be_place(text: Any) -> bool:
    """Is it a file or folder, here or where it once was? What has folders in it and is no known hub name counts."""
    if not isinstance(text, str):
        return False
    return is_path(text) or leads_somewhere(text) or (_WITH_FOLDERS.fullmatch(text) is not None and not is_cached(text))

"""The user's cache folder: things keyed by content that can always be made again."""

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """A folder inside the cache: `EXPUNGE_CACHE`, else `expunge` under `XDG_CACHE_HOME` or `~/.cache`.

    It is made if missing.
    """
    base = os.environ.get("EXPUNGE_CACHE")
    root = Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "expunge"
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def cache_path(name: str, key: str) -> Path:
    """Where the entry with a content key is, whether or not it is there."""
    return cache_folder(name) / key.replace(":", "-")

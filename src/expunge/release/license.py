"""The license of the model that a run began from, as its own card or configuration says it."""

from pathlib import Path

from huggingface_hub import ModelCard, try_to_load_from_cache

from expunge.core.json_text import read_object


def license_of(start: str) -> str | None:
    """The license that a start model's card names, in its folder or in the hub's cache, else its configuration.

    Args:
        start: folder or hub id; empty: it is not known.
    """
    card = _file(start, "README.md")
    if card is not None:
        found = getattr(ModelCard(card.read_text(encoding="utf-8"), ignore_metadata_errors=True).data, "license", None)
        if isinstance(found, str):
            return found
    config = _file(start, "config.json")
    told = read_object(config).get("license") if config is not None else None
    return told if isinstance(told, str) else None


def _file(start: str, name: str) -> Path | None:
    if not start:
        return None
    if Path(start).is_dir():
        return Path(start) / name if (Path(start) / name).is_file() else None
    try:
        cached = try_to_load_from_cache(start, name)
    except ValueError:
        return None  # no name on a hub
    return Path(cached) if isinstance(cached, str) else None

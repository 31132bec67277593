"""Going on from an earlier run with another request: its model and data as one more layer of settings.

The rows of the earlier requests stay in the forget set, behind the new ones, so that the new run goes on forgetting
them, and whatever is measured of the forget set tests them again.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.config.settings import Setting
from expunge.config.yaml_source import Layer, Mark, joined
from expunge.core.checks import ExpungeError
from expunge.core.manifest import Manifest, files_digest

KEY = "continue"
CONTINUE = Setting(
    name=KEY,
    type=str | None,
    default=None,
    group="What is unlearned and how",
    doc="Run folder of an earlier request. The run begins with its model, and its forget rows are forgotten along with "
    "the new ones. Its retain set and framing count where none are given.",
)
_FRAMING = {"name": "template", "system": "system", "arguments": "template_arguments", "date": "date"}
"""Settings of a template in a manifest -> those of a configuration."""


def with_continued(layers: Sequence[Layer]) -> list[Layer]:
    """Layers of a user with those of the run that they go on from.

    Raises:
        ExpungeError: the run is not finished or not of data in files, its forget rows are gone or were changed, or the
            user names another start model or no forget set.
    """
    chosen = [layer.tree[KEY] for layer in layers if KEY in layer.tree]
    if not chosen or chosen[-1] == "null":
        return list(layers)
    run, given = str(chosen[-1]), joined({}, layers)
    if "model" in given and Path(str(given["model"])) != Path(run):
        raise ExpungeError(
            f"{KEY}={run} begins with the model of that run, and model={given['model']} was given, too. Leave one out."
        )
    if "forget" not in given:
        raise ExpungeError(f"{KEY}={run} needs the new rows to forget: forget=<file>")
    if given.get("source", "files") != "files":
        raise ExpungeError(f"{KEY}={run} joins forget sets in files, and source={given['source']} was given.")
    manifest = _finished(run)
    data = dict(manifest.results["corpus"])
    data.pop("source")
    if "retain" in data and "retain" not in given and _changed(manifest, "retain"):
        raise ExpungeError(
            f"the retain set of {run}, {data['retain']}, is gone or was changed since. Name the one to take: "
            "retain=<file>"
        )
    forget = f"{given['forget']},{data.pop('forget')}"
    mark = Mark(f"{KEY}={run}")
    below = {"model": run, **data, **_framing(manifest)}
    return [*(_layer(key, value, mark) for key, value in below.items()), *layers, _layer("forget", forget, mark)]


def _finished(run: str) -> Manifest:
    """The manifest of a finished run of data in files, whose forget rows are as they were."""
    manifest = Manifest.load(run)
    if not manifest.results.get("finished") or "start_model" not in manifest.results:
        raise ExpungeError(f"{KEY}={run} names no finished run.")
    data = manifest.results.get("corpus") or {}
    if data.get("source") != "files" or not isinstance(data.get("forget"), str):
        raise ExpungeError(
            f"{KEY}={run} joins forget sets in files, and that run does not say in which files its forget set is. "
            f"Begin with its model instead, and name all rows: model={run} forget=<new>,<earlier>"
        )
    if _changed(manifest, "forget"):
        raise ExpungeError(
            f"the rows that {run} was to forget, {data['forget']}, are gone or were changed since. Where they cannot "
            f"come back, begin with its model alone: model={run}. They are then neither forgotten nor tested again."
        )
    return manifest


def _changed(manifest: Manifest, split: str) -> bool:
    """Are the files of a set gone, or other ones than the run read? Not known where the run read no file."""
    known = manifest.results["data"].get(split, {}).get("file")
    return known is not None and files_digest(str(manifest.results["corpus"][split])) != known


def _framing(manifest: Manifest) -> dict[str, Any]:
    template: Mapping[str, Any] = manifest.arguments.get("template") or {}
    found = {key: template.get(name) for name, key in _FRAMING.items()}
    found["max_length"] = manifest.arguments.get("max_length")
    return {key: value for key, value in found.items() if value not in (None, {})}


def _layer(key: str, value: Any, mark: Mark) -> Layer:
    marks: dict[tuple[str | int, ...], Mark] = {}

    def text(value: Any, where: tuple[str | int, ...]) -> Any:
        """Values as text, as files and overrides hold them."""
        if isinstance(value, Mapping) and value:
            return {name: text(one, (*where, name)) for name, one in value.items()}
        marks[where] = mark
        return value if isinstance(value, Mapping) else str(value).lower() if isinstance(value, bool) else str(value)

    return Layer({key: text(value, (key,))}, marks)

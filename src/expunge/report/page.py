"""The report as one HTML file that asks no server for anything: its data, its looks and its script are inside."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from expunge.report.buckets import MEANINGS
from expunge.report.templates import render
from expunge.report.text import direction_text, interval_text, legible, number, p_text, points

_HERE = Path(__file__).parent
_ESCAPED = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
NAMES = {"forgotten": "Forgotten", "leaks": "Still leaks", "kept": "Kept", "collateral": "Collateral"}


@dataclass(frozen=True)
class Drawing:
    """A drawing of the page."""

    name: str
    """What links to it are called, such as `tradeoff`."""
    title: str
    about: str
    """How to read it."""
    svg: Markup
    wide: bool = True
    """Does it take the full width, with its explanation above?"""


def page(content: Mapping[str, Any], drawings: Sequence[Drawing] = ()) -> str:
    """The text of the page.

    Verdict, buckets, attacks and measures are in the page as they are; single facts are drawn by its script, a screen
    at a time.

    Args:
        content: what `ReportData.as_json` gives.
        drawings: what is drawn, in order.
    """
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    return render(
        "page.html.jinja",
        content=content,
        data=Markup(embedded(content)),
        style=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        drawings=drawings,
        judged=[_judged(content, one) for one in content["verdicts"]],
        groups=_groups(content["measures"]),
        made=_made(content["manifest"]),
        bucket_names=NAMES,
        meanings=MEANINGS,
        number=number,
        interval_text=lambda interval: interval_text(tuple(interval)) if interval else "",
    )


def embedded(content: Mapping[str, Any]) -> str:
    """The JSON as it may stand inside of a page: nothing in it can end the element, and all of it is legible."""
    text = json.dumps(_legible(content), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign, escape in _ESCAPED.items():
        text = text.replace(sign, escape)
    return text


def _legible(value: Any) -> Any:
    if isinstance(value, str):
        return legible(value)
    if isinstance(value, Mapping):
        return {legible(name): _legible(one) for name, one in value.items()}
    return [_legible(one) for one in value] if isinstance(value, list | tuple) else value


def _judged(content: Mapping[str, Any], verdict: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of one model before any fact."""
    place = verdict["model"]
    return {
        **verdict,
        "name": content["models"][place]["name"],
        "buckets": [_bucket(one) for one in content["buckets"] if one["model"] == place],
        "attacks": [one for one in content["attacks"] if one["model"] == place],
    }


def _bucket(one: Mapping[str, Any]) -> dict[str, Any]:
    """A bucket as the page writes it."""
    share = one["facts"] / one["of"] if one["of"] else 0.0
    told = range_ = ""
    if one["difference"] is not None:
        low, high = one["difference_interval"]
        told = (
            f"{points(one['difference'])} points since the start model (95 % interval {points(low)} to "
            f"{points(high)}, McNemar's p {p_text(one['p'])})"
        )
    if one["interval"]:
        low, high = one["interval"]
        range_ = f"{100 * share:.0f} % (95 % interval {100 * low:.0f} to {100 * high:.0f} %)"
    return {
        **one,
        "title": NAMES[one["bucket"]],
        "share": share,
        "share_text": range_.replace(" %", "\u00a0%"),
        "change": told.replace(" %", "\u00a0%"),
    }


def _groups(measures: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """The measures by what they say something about, each with its meanings, told once where all models agree."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for one in measures:
        given = [model for model in one["models"] if model is not None]
        meanings = dict.fromkeys((model["definition"], model["source"]) for model in given)
        direction = direction_text(one["better"], one["target"])
        chance = f"; chance is {number(one['chance'])}" if one["chance"] is not None else ""
        sizes = sorted({model["n"] for model in given if model["value"] is not None})
        groups.setdefault(one["group"], []).append(
            {**one, "meanings": list(meanings), "direction": f"{direction}{chance}", "sizes": sizes}
        )
    return list(groups.items())


def _made(manifest: Sequence[Mapping[str, str]]) -> list[tuple[str, list[str]]]:
    """How each model was evaluated, a line a setting; one text where all models agree."""
    keys = dict.fromkeys(key for about in manifest for key in about)
    lines = [(key, [about.get(key, "-") for about in manifest]) for key in keys]
    return [(key, told[:1] if len(set(told)) == 1 else told) for key, told in lines]

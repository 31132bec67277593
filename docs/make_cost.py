"""Writes the tables of docs/cost.md from the files in `benchmarks/results`: `python docs/make_cost.py`.

A table stands between two comments that name its file; the words around it are written by hand.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent / "cost.md"
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
Result = Mapping[str, Any]

PEER = {"grad_diff": "0.9", "npo": "1.06", "simnpo": "0.93", "dpo": "1.47", "rmu": "1.0"}
"""The peer's time of a step, of plain fine-tuning; measured on another day, so it is in no file of ours."""
_NAMES = {
    "parameters": "parameters",
    "rows": "rows of a step",
    "ratio": "share of the value vectors",
    "rank": "rank of a LoRA",
}
_MARKED = re.compile(r"(<!-- ([\w.-]+\.json) -->\n)(.*?)(<!-- end -->\n)", re.DOTALL)


def page() -> str:
    """The page with its tables written anew."""

    def anew(found: re.Match[str]) -> str:
        content = json.loads((RESULTS / found[2]).read_text(encoding="utf-8"))
        return f"{found[1]}\n{TABLES[found[2]](content)}\n{found[4]}"

    return _MARKED.sub(anew, PAGE.read_text(encoding="utf-8"))


def steps(content: Result) -> str:
    """Time and memory of a step of each method, of plain fine-tuning."""
    rows = [
        (r["method"], f"{r['ratio_with_one_off']:.2f}", f"{r['memory_ratio']:.2f}", PEER.get(r["method"], ""))
        for r in content["rows"]
    ]
    return _table(("method", "time", "memory", "the peer's time"), rows)


def growth(content: Result) -> str:
    """What grows, over which values, and the exponents of time and memory."""
    rows = []
    for grows, slopes in content["exponents"].items():
        own = [row for row in content["rows"] if row["grows"] == grows]
        first, last = own[0], own[-1]
        rows.append(
            (
                _NAMES[grows],
                f"{_large(first['x'])} to {_large(last['x'])}",
                f"{first['seconds_a_step']:.2f} to {last['seconds_a_step']:.2f}",
                f"{slopes['seconds_a_step']:.2f}",
                f"{first['peak_mb']:.0f} to {last['peak_mb']:.0f}",
                f"{slopes['peak_mb']:.2f}",
            )
        )
    return _table(("what grows", "from, to", "seconds a step", "exponent", "memory, MB", "exponent"), rows)


TABLES: Mapping[str, Callable[[Result], str]] = {
    "objectives-7m.json": steps,
    "growth.json": growth,
}


def _large(value: float) -> str:
    return f"{value / 1e6:.1f} M" if value >= 1e5 else f"{value:g}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    first, *others = (f"| {' | '.join(cells)} |" for cells in (header, *rows))
    return "\n".join([first, "|" + "---|" * len(header), *others]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

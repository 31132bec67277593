"""Writes docs/which-method.md from other pages' tables and stored results: `python docs/make_which_method.py`."""

import json
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from expunge.core import catalogue

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "benchmarks" / "results"
Row = Mapping[str, str]

HEAD = """# Which method when

Made by `python docs/make_which_method.py` from [cost](cost.md), the pages of the [experiments](experiments.md) and the files in
`benchmarks/results`; change those, not this page. Only what was measured in this project stands here, and all of it on small models: 4.4, 7
and 135 million parameters. Nothing is known yet about models of billions of parameters.

ES is extraction strength: 1 where the whole answer comes out, 0 where nothing does. Read the forget set with the retain set; a model that
has lost everything has forgotten, too.

## In short
"""

THEN = """
Then measure your own model: [`expunge attack`](attacks.md) beside a control, [`expunge compare`](compare.md) for the course of a run, or
[`expunge erase`](erase.md), which tries `npo_small_beta`, `wga` and `npo` and keeps the best under a policy.
"""

UNKNOWN = """## What is not known

- **Larger models.** No number here is of more than 135 million parameters.
{without}- **Time and memory of a step** where the table has none: {untimed}.
- **Settings.** Most methods were run at one or two learning rates. A method that does badly here may do well at another rate:
  [`expunge sweep`](sweep.md) searches it, and [`expunge erase`](erase.md) tries several methods on a request.
- **Several seeds** of most methods: see the column.
"""


def tables(page: str) -> list[tuple[list[str], list[Row]]]:
    """The tables of a page of the docs: headers, and rows by header; an empty first cell has the value above it."""
    found: list[tuple[list[str], list[Row]]] = []
    for block in re.findall(r"(?:^\|.*\n)+", (DOCS / page).read_text(encoding="utf-8") + "\n", re.MULTILINE):
        lines = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in block.strip().split("\n")]
        header, rows, above = lines[0], list[Row](), ""
        for cells in lines[2:]:
            above = cells[0] or above
            rows.append(dict(zip(header, [above, *cells[1:]], strict=True)))
        found.append((header, rows))
    return found


def table_with(page: str, *names: str) -> list[Row]:
    """The rows of the first table of a page whose columns begin with these names."""
    return next(rows for header, rows in tables(page) if header[: len(names)] == list(names))


def stored(name: str) -> Any:
    """A file of stored results."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def score(forget: float, retain: float) -> float:
    """Harmonic mean of what was forgotten and what was kept."""
    gone = 1 - forget
    return 2 * gone * retain / (gone + retain) if gone + retain else 0.0


def short_runs() -> list[dict[str, str]]:
    """Of each method the best of its short runs on the model of 7 million parameters, best first."""
    best: dict[str, tuple[float, dict[str, str]]] = {}
    costs = {row["method"]: row for row in table_with("cost.md", "method", "time", "memory")}
    for row in table_with("cost.md", "method and settings", "seeds"):
        method, _, settings = row["method and settings"].partition(" ")
        (forget, retain) = (row[f"{name} P / ES"].split(" / ")[1] for name in ("forget", "retain"))
        reached = score(float(forget), float(retain))
        if method not in best or reached > best[method][0]:
            cost: Row = costs.get(method, {"time": "-", "memory": "-"})
            cells = {"method": method, "settings": settings, "seeds": row["seeds"]}
            cells |= {"forget ES": number([float(forget)]), "retain ES": number([float(retain)])}
            cells |= {"time": cost["time"], "memory": cost["memory"]}
            best[method] = (reached, cells)
    return [cells for _, cells in sorted(best.values(), key=lambda one: -one[0])]


def attacked() -> list[dict[str, str]]:
    """What relearning brings back, by model and method, means over seeds."""
    found = []
    for name, model, facts in (("attacks-tofu7m", "7 M", 40), ("attacks-default", "4.4 M", 48), ("attacks-real", "135 M", 40)):
        runs = stored(name)["runs"]
        for method in dict.fromkeys(run["method"] for run in runs):
            own = [run for run in runs if run["method"] == method]
            leaking = sorted({round(run["leaking"] * facts) for run in own})
            found.append(
                {
                    "model": model,
                    "method": method,
                    "seeds": str(len(own)),
                    "forget ES": number(run["values"]["plain"] for run in own),
                    "after relearning": number(run["values"]["relearn.forget"] for run in own),
                    "retain model after it": number(run["controls"]["relearn.forget"] for run in own),
                    "facts leaking": f"{leaking[0]}{f' to {leaking[-1]}' if len(leaking) > 1 else ''} of {facts}",
                    "retain ES": number(run["retain_extraction_strength"] for run in own),
                }
            )
    return found


def real() -> list[dict[str, str]]:
    """What was reached on the pretrained model, means over seeds."""
    runs = stored("real")["runs"]
    found = []
    for arm in dict.fromkeys(run["arm"] for run in runs):
        own = [run for run in runs if run["arm"] == arm]
        found.append(
            {
                "method": arm.replace("npo_lora", "npo through LoRA"),
                "seeds": str(len(own)),
                "forget ES": number(run["forget_extraction_strength"] for run in own),
                "retain ES": number(run["retain_extraction_strength"] for run in own),
                "facts kept": number(run["utility"] for run in own),
                "perplexity": number((run["text.perplexity"] for run in own), places=1),
            }
        )
    return found


def adapters() -> list[dict[str, str]]:
    """The best rank of each way to train through an adapter, and training all weights, on two models."""
    found = []
    both = [rows for header, rows in tables("experiments/loku.md") if header[:3] == ["", "rank", "forget ES"]]
    for model, rows in zip(("4.4 M", "7 M"), both, strict=True):
        for way in dict.fromkeys(row[""] for row in rows if "model" not in row[""]):
            top = max((row for row in rows if row[""] == way), key=lambda row: first(row["score"]))
            cells = {"model": model, "method and rate": way, "rank": top["rank"] or "-"}
            found.append({**cells, **{name: top[name] for name in ("forget ES", "retain ES", "score")}})
    return found


def first(text: str) -> float:
    """The first number of a cell."""
    return float(re.findall(r"\d*\.\d+", text)[0])


def number(values: Iterable[float], *, places: int = 3) -> str:
    """The mean of some values, as the other pages write it."""
    text = f"{mean(values):.{places}f}"
    return text.removeprefix("0") if text.startswith("0.") else text


def drawn(rows: Sequence[Row]) -> str:
    """Rows as a table."""
    header = [*rows[0]]
    lines = [
        f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *([*row.values()] for row in rows))
    ]
    return "\n".join(lines) + "\n"


def one(rows: Sequence[Row], **equal: str) -> Row:
    """The only row with these cells."""
    (found,) = [row for row in rows if all(row[name] == value for name, value in equal.items())]
    return found


def page() -> str:
    """The page as text."""
    short, after, pretrained, through = short_runs(), attacked(), real(), adapters()
    wga, uniform, ascent = (one(short, method=name) for name in ("wga", "js_uniform", "grad_ascent"))
    npo_real = one(after, model="135 M", method="npo")
    npo7, uniform7, wga7, undo7 = (
        one(after, model="7 M", method=name) for name in ("npo", "js_uniform", "wga", "undo")
    )
    lora = {row["model"]: row for row in through if re.match(r"IHL, \d", row["method and rate"])}
    never = stored("real")["levels"]["retain model"]
    level = number([stored("attacks-tofu7m")["runs"][0]["controls"]["plain"]])
    on_real, uniform_real = (one(pretrained, method=name) for name in ("wga", "js_uniform"))
    measured = {row["method"] for row in short} | {row["method"] for row in after}
    without = [name for name in catalogue.names("methods") if name not in measured]
    untimed = [row["method"] for row in short if row["time"] == "-"]
    choices = [
        "**Begin with `wga`** where all weights can be trained. At its default rate it came nearest to a retain "
        "model on a pretrained "
        f"model (forget ES {on_real['forget ES']}, retain ES {on_real['retain ES']}, "
        "[real](experiments/real.md)); on 7 million "
        f"parameters it reaches {wga['forget ES']} and {wga['retain ES']} ([cost](cost.md)). Relearning brings it "
        "back to "
        f"{wga7['after relearning']} ([attacks](experiments/attacks.md)).",
        "**`npo` with `beta=0.02 alpha=3 retain_per_forget=3`, at three times its default rate, where nobody may "
        "train it back**: "
        f"{npo7['after relearning']} after relearning, the retain set at {npo7['retain ES']} "
        "([attacks](experiments/attacks.md)). Such a "
        "model answers forget questions with gibberish, and anybody sees that something was removed. On the "
        f"pretrained model it is the same: {npo_real['after relearning']} and {npo_real['retain ES']}, at 50 steps.",
        "**`undo`, the same where some hundred steps are no obstacle**: "
        f"{undo7['after relearning']} after relearning, the retain set at {undo7['retain ES']} "
        "([attacks](experiments/attacks.md)). Its answers repeat less than those of `npo`, but many fall apart, too. It was run on 7 "
        "million parameters alone, takes no adapter, and loses what stands in neither set: not for a model that knows "
        "more than its retain set.",
        "**`js_uniform` on small models, where keeping counts most and relearning is no threat**: "
        f"{uniform['forget ES']} and {uniform['retain ES']} on 7 million parameters ([cost](cost.md)); relearning "
        "brings back "
        f"{uniform7['after relearning']}. On the pretrained model it hardly forgot: {uniform_real['forget ES']}, at three "
        "times its default rate.",
        f"**`ihl` where an adapter is wanted**: through a LoRA it scores {first(lora['4.4 M']['score'])} at rank "
        f"{lora['4.4 M']['rank']} on 4.4 million parameters and {first(lora['7 M']['score'])} at rank "
        f"{lora['7 M']['rank']} on 7 "
        "million, no worse than in all weights, at ten to thirty times their rate; FILA's start did not end better "
        "([ranks](experiments/loku.md)). On a pretrained model it was run in all weights alone.",
        "**Which weights may change matters little**; that a mask leaves embeddings and head alone keeps facts "
        "about the world "
        "([masks](experiments/wagle.md), [locality](experiments/locality.md)). Masked training takes less time "
        "and memory "
        "([masked](masked.md)).",
        "**Several requests cost more than one**: put them together where you can "
        "([requests](experiments/requests.md)).",
        "**Not `grad_ascent`, `grad_diff` or `rmu` without a rate that you searched.** `grad_ascent` has no "
        "retain loss "
        f"({ascent['forget ES']} and {ascent['retain ES']}), `grad_diff` kept less than `wga` on each of the "
        "three models, and `rmu` "
        "did nothing or also damaged the retain set ([cost](cost.md)).",
    ]
    parts = [
        HEAD,
        "".join(wrapped(f"{n}. {text}", "   ") for n, text in enumerate(choices, start=1)),
        THEN,
        "## A short run, 7 million parameters\n",
        wrapped(
            "25 steps of 8 forget and 8 retain rows on TOFU rows known by heart; of each method the settings "
            "with the best harmonic mean "
            "of 1 - forget ES and retain ES. Time and memory of a step are ratios to plain fine-tuning on the "
            "same rows. A model that "
            f"never saw the forget set has ES {level} on it. Source: [cost](cost.md), `quality.json`, "
            "`objectives-7m.json`."
        ),
        drawn(short),
        "## After attacks\n",
        wrapped(
            "ES of the other half of the forget set after ten steps of relearning on half of it, beside a retain "
            "model that was trained "
            "alike; facts that leak by any attack (after the first seed on 7 million parameters by quantization "
            "and relearning alone). "
            "`npo` of 7 and 135 million parameters has beta 0.02 and alpha 3; all settings are in the files. Source: "
            "[attacks](experiments/attacks.md), `attacks-tofu7m.json`, `attacks-default.json`, `attacks-real.json`."
        ),
        drawn(after),
        "## A pretrained model of 135 million parameters\n",
        wrapped(
            "SmolLM2-135M-Instruct, 40 rows to forget, 25 steps; about 5 minutes a run on one thread. A retain "
            "model has forget ES "
            f"{number([never['forget_extraction_strength']])} and keeps {number([never['utility']])} of the "
            "facts. Source: "
            "[real](experiments/real.md), `real.json`."
        ),
        drawn(pretrained),
        "## Through adapters\n",
        wrapped(
            "The best rank of each, and all weights for comparison. Score: the harmonic mean of 1 - forget ES "
            "and retain ES. Three seeds. "
            "Memory was not measured. Source: [ranks](experiments/loku.md)."
        ),
        drawn(through),
        UNKNOWN.format(
            without=wrapped(
                f"- **Methods without a number here**: {code(without)}. They are tested against their formulas; "
                "no result of theirs is stored.",
                "  ",
            ),
            untimed=code(untimed),
        ),
    ]
    return "\n".join(parts)


def wrapped(text: str, indent: str = "") -> str:
    """A paragraph in lines of the length that pages have."""
    return textwrap.fill(text, 140, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False) + "\n"


def code(names: Sequence[str]) -> str:
    """Names as a list in code."""
    return ", ".join(f"`{name}`" for name in names) or "none"


if __name__ == "__main__":
    (DOCS / "which-method.md").write_text(page(), encoding="utf-8")

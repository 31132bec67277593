"""How the cost of a training step grows with the model, the rows of a step, the share of a mask, and a LoRA's rank.

    python benchmarks/growth.py --output benchmarks/results/growth.json

Random Llamas, made-up rows, GradDiff, float32. One thing grows at a time, each case in a process of its own. Time is
that of the processor: the difference between a run of six steps and one of two, a quarter of it, so that what happens
once does not count. Memory is the peak of the process over what it took before the model was made, with an allocator
that hands blocks back at once. The exponent is the slope of a straight line through the logarithms: 1 means that twice
as much costs twice as much.
"""

import argparse
import json
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaForCausalLM

import expunge
from _stored import about, in_own_process, store
from masked import made_mask, resident
from memory import Shape, configuration, inputs

SIZES: dict[str, Shape] = {
    "toy": (2048, 64, 64, 1, 2, 2),
    "1M": (2048, 96, 256, 6, 4, 4),
    "7M": (2048, 256, 704, 8, 4, 4),
    "25M": (8192, 384, 1024, 12, 6, 6),
    "135M": (49152, 576, 1536, 30, 9, 9),
}


@dataclass(frozen=True)
class Case:
    """One point of a curve."""

    grows: str
    """What grows: `parameters`, `rows`, `ratio` (of a mask) or `rank`."""
    size: str
    rows: int = 8
    """Forget rows a step, and as many retain rows."""
    ratio: float | None = None
    rank: int | None = None

    def x(self, parameters: int) -> float:
        """How large it is."""
        found: float | None = {"parameters": parameters, "rows": self.rows, "ratio": self.ratio}.get(
            self.grows, self.rank
        )
        assert found is not None
        return found


def cases(sizes: Sequence[str]) -> list[Case]:
    """All points; what is no size grows on the last but one."""
    on = sizes[-2] if len(sizes) > 1 else sizes[0]
    return [
        *(Case("parameters", size) for size in sizes),
        *(Case("rows", on, rows=rows) for rows in (2, 8, 32)),
        *(Case("ratio", on, ratio=ratio) for ratio in (0.03, 0.1, 0.3, 1.0)),
        *(Case("rank", on, rank=rank) for rank in (4, 16, 64)),
    ]


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1M,7M,25M,135M")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(arguments.threads)
    if arguments.case:
        print(json.dumps(measured(Case(**json.loads(arguments.case)))))
        return
    rows: list[dict[str, Any]] = []
    for case in cases(arguments.sizes.split(",")):
        rows.append({**asdict(case), **in_own_process(__file__, case, MALLOC_MMAP_THRESHOLD_=str(2**16))})
        print(json.dumps(rows[-1]), flush=True)
        if arguments.output:
            store(arguments.output, about(__doc__), rows, exponents=exponents(rows))


def exponents(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """By what grows, the slopes of seconds and of memory, where there are two points and more."""
    found = {}
    for grows in dict.fromkeys(row["grows"] for row in rows):
        own = [row for row in rows if row["grows"] == grows]
        x = np.log([row["x"] for row in own])
        if len(own) > 1:
            slopes = {of: np.polyfit(x, np.log([row[of] for row in own]), 1)[0] for of in ("seconds_a_step", "peak_mb")}
            found[grows] = {of: round(float(slope), 3) for of, slope in slopes.items()}
    return found


def measured(case: Case) -> dict[str, Any]:
    """Processor seconds of a step, MB at the peak, and how large the thing is that grows."""
    before = resident("VmRSS")
    short = seconds(case, steps=2)
    peak = (resident("VmHWM") - before) * 2**20 / 1e6
    a_step = (seconds(case, steps=6) - short) / 4
    parameters = sum(p.numel() for p in made(case.size).parameters())
    return {"x": case.x(parameters), "seconds_a_step": round(a_step, 4), "peak_mb": round(peak, 1)}


def made(size: str) -> LlamaForCausalLM:
    """A random Llama."""
    torch.manual_seed(0)
    return LlamaForCausalLM(configuration(SIZES[size]))


def seconds(case: Case, *, steps: int) -> float:
    """Of the processor, for a run."""
    model, (corpus, tokenizer) = made(case.size), inputs()
    settings: dict[str, Any] = {
        "method": "grad_diff",
        "learning_rate": 1e-5,
        "batch_size": case.rows,
        "epochs": steps * case.rows / len(corpus["forget"]),
        "precision": "float32",
    }
    if case.ratio is not None:
        settings["mask"] = made_mask(model, case.ratio)
    if case.rank is not None:
        settings |= {"adapter": "lora", "rank": case.rank}
    began = time.process_time()
    expunge.unlearn(model, tokenizer, corpus, **settings)
    return time.process_time() - began


if __name__ == "__main__":
    main()

"""Selecting a tenth of very many scores: radix selection beside joining all scores and sorting them twice.

    python benchmarks/selection.py --sizes 200e6,1e9 --sorted-up-to 200e6 --output benchmarks/results/selection.json

Scores are float32, in 200 matrices of like size; "over the scores" is the peak of resident memory over that after
making them, measured in a process of its own. Sorting: concatenate, argsort, argsort of that for ranks, compare with K.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from _stored import about, store
from expunge.masks.scores import Scores
from expunge.masks.units import Layout, Part

PIECES = 200
RATIO = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="20e6")
    parser.add_argument("--sorted-up-to", type=float, default=20e6, help="most scores that are sorted as well")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measured(arguments.one[0], int(arguments.one[1]))))
        return
    rows = []
    for size in (int(float(text)) for text in arguments.sizes.split(",")):
        for way in ("radix", "sort") if size <= arguments.sorted_up_to else ("radix",):
            command = [sys.executable, __file__, "--one", way, str(size)]
            rows.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
            print("{scores:>13,} scores  {way:5s}  {seconds:7.2f} s  {gib_over_scores:6.2f} GiB".format(**rows[-1]))
    if arguments.output:
        store(arguments.output, about(__doc__), rows)


def measured(way: str, size: int) -> dict[str, Any]:
    """Seconds and peak memory over the scores of one way, in this process."""
    generator = torch.Generator().manual_seed(0)
    share = -(-size // PIECES)
    values = {}
    for number in range(PIECES):
        n = min(share, size - number * share)
        values[f"{number}"] = torch.empty(n).normal_(generator=generator).abs_()
    scores = Scores(Layout("weight", {name: Part((len(v),), "weights", name) for name, v in values.items()}), values)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    started = time.perf_counter()
    selected = radix(scores) if way == "radix" else sort(scores)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10
    assert selected == int(RATIO * size)
    gib = round((peak - before) / 2**30, 3)
    return {"scores": size, "way": way, "seconds": round(seconds, 2), "gib_over_scores": gib}


def radix(scores: Scores) -> int:
    """Ours; how many are selected."""
    return sum(scores.select(ratio=RATIO).counts().values())


def sort(scores: Scores) -> int:
    """Join, sort, rank, compare; how many are selected."""
    joined = torch.cat(list(scores.values.values()))
    ranks = joined.argsort(descending=True).argsort()
    return int((ranks < int(RATIO * len(joined))).sum())


if __name__ == "__main__":
    main()

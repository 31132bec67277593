"""What packing saves: a step with its rows in one sequence against the same step with rows of like length padded.

    python benchmarks/packing.py --model <folder> --forget f.jsonl --retain r.jsonl
    python benchmarks/packing.py --random-model  # about 20 M parameters, vocabulary 32000, random weights

Each round runs plain fine-tuning with transformers' Trainer, and the method padded and packed, in turn, so that all see
the same machine. A ratio is the median over rounds of (median step / median step of the other in the same round), once
of elapsed and once of processor time, which other work on the machine disturbs less. Peak memory is the peak of the
process's resident size over that after loading, each variant in a process of its own.
"""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from _stored import about, store
from expunge.training.packing import choose_packing, packing
from expunge.training.training_config import PackingPolicy, TrainingConfig
from objectives import PLAIN, RANDOM, StepTimes, set_up, status_mb

VARIANTS: dict[str, PackingPolicy] = {PLAIN: "off", "padded": "off", "packed": "on"}


def main() -> None:
    """Measure, print a table, store it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--forget")
    parser.add_argument("--retain")
    parser.add_argument("--random-model", action="store_true")
    parser.add_argument("--method", default="grad_diff")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6, help="of each run; the first is not counted")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rows", type=int, default=8, help="forget rows a step; as many retain rows")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--memory-of", choices=VARIANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        print(json.dumps(run(arguments, arguments.memory_of)[2]))
        return
    seconds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    worked: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for number in range(arguments.rounds):
        for variant in VARIANTS:
            elapsed, processor, _ = run(arguments, variant)
            seconds[variant].append(elapsed)
            worked[variant].append(processor)
            print(
                f"round {number + 1}/{arguments.rounds}  {variant:20s} {elapsed:.3f} s ({processor:.3f})",
                file=sys.stderr,
            )
    peaks = {variant: measured_memory(variant) for variant in VARIANTS}
    rows = [
        {
            "variant": variant,
            "seconds_a_step": round(statistics.median(seconds[variant]), 4),
            "time_of_plain": ratio(seconds[variant], seconds[PLAIN]),
            "time_of_padded": ratio(seconds[variant], seconds["padded"]),
            "processor_seconds_a_step": round(statistics.median(worked[variant]), 4),
            "processor_time_of_plain": ratio(worked[variant], worked[PLAIN]),
            "processor_time_of_padded": ratio(worked[variant], worked["padded"]),
            "peak_memory_mb": peaks[variant],
            "memory_of_plain": round(peaks[variant] / peaks[PLAIN], 3),
        }
        for variant in VARIANTS
    ]
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    if arguments.output:
        told = about(
            __doc__,
            model=Path(arguments.model).name if arguments.model else RANDOM,
            method=arguments.method,
            rounds=arguments.rounds,
            steps=arguments.steps,
            rows_a_step=f"{arguments.rows} forget + {arguments.rows} retain",
        )
        store(arguments.output, told, rows)


def ratio(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Median and range over rounds."""
    found = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {"median": round(statistics.median(found), 3), "least": round(min(found), 3), "most": round(max(found), 3)}


class Times(StepTimes):
    """Every step's elapsed time, and its processor time."""

    def __init__(self) -> None:
        super().__init__()
        self.worked: list[float] = []
        self.began = 0.0

    def on_step_begin(self, *arguments: Any, **more: Any) -> None:
        """Note when a step begins."""
        super().on_step_begin(*arguments, **more)
        self.began = time.process_time()

    def on_step_end(self, *arguments: Any, **more: Any) -> None:
        """Note the step that ends."""
        super().on_step_end(*arguments, **more)
        self.worked.append(time.process_time() - self.began)


def run(arguments: argparse.Namespace, variant: str) -> tuple[float, float, float]:
    """Median seconds and processor seconds of a step after the first, and peak resident MB over that after loading."""
    with tempfile.TemporaryDirectory() as scratch:
        trainer, _ = set_up(arguments, PLAIN if variant == PLAIN else arguments.method, Path(scratch))
        clock = Times()
        trainer.add_callback(clock)
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here, not from loading
        before = status_mb("VmRSS")
        policy = VARIANTS[variant]
        with packing(trainer.model, choose_packing(trainer.model, TrainingConfig(packing=policy)), policy):
            trainer.train()
    peak = round(status_mb("VmHWM") - before, 1)
    return statistics.median(clock.times[1:]), statistics.median(clock.worked[1:]), peak


def measured_memory(variant: str) -> float:
    """`run`'s peak in a process of its own."""
    command = [sys.executable, *sys.argv, "--memory-of", variant]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()

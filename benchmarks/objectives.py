"""What each method's training step costs, as a ratio to plain fine-tuning with transformers' Trainer on the same rows.

    python benchmarks/objectives.py --model <folder> --forget f.jsonl --retain r.jsonl
    python benchmarks/objectives.py --random-model  # about 20 M parameters, vocabulary 32000, random weights

Each round runs plain fine-tuning and every method in turn, so that all see the same machine; a step is timed from its
first forward pass to the end of its optimizer step. The ratio is the median over rounds of (median step of the method /
median step of plain fine-tuning in the same round); both compute the same forget and retain rows, so it is a ratio per
real token too. One-off reference passes are timed and spread over the epochs. Peak memory is the peak of the process's
resident size over that after loading, each method in a process of its own.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback, Trainer

import expunge
from _stored import about, store
from expunge.core.batch import collate
from expunge.data.template import Template
from expunge.models.anatomy import blocks
from expunge.models.load import load_model, load_tokenizer
from expunge.models.reference import frozen_copy
from expunge.models.tiny import tiny_tokenizer
from expunge.objectives.combine import build
from expunge.training.callbacks import Clock
from expunge.training.reference_rows import with_reference
from expunge.training.rows import RunRows, run_rows
from expunge.training.run import training_arguments
from expunge.training.trainable import trainable
from expunge.training.trainer import ObjectiveTrainer
from expunge.training.training_config import TrainingConfig

PLAIN = "plain fine-tuning"
METHODS = ("grad_ascent", "grad_diff", "npo", "simnpo", "dpo", "idk", "wga", "tnpo", "satimp", "ihl", "undial", "rmu")
RANDOM = "random Llama, 20 M parameters, vocabulary 32000"
"""The model where none is named."""


def main() -> None:
    """Measure, print a table, store it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--forget")
    parser.add_argument("--retain")
    parser.add_argument("--random-model", action="store_true")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=5, help="over which one-off passes are spread")
    parser.add_argument("--rows", type=int, default=8, help="forget rows a step; as many retain rows")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    torch.set_num_threads(2)
    if arguments.memory_of:
        print(json.dumps(memory(arguments, arguments.memory_of)))
        return
    names = [PLAIN, *arguments.methods.split(",")]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    once: dict[str, float] = {}
    for number in range(arguments.rounds):
        for name in names:
            step, extra = timed(arguments, name)
            seconds[name].append(step)
            once[name] = min(once.get(name, extra), extra)
            print(f"round {number + 1}/{arguments.rounds}  {name:20s} {step:.3f} s a step", file=sys.stderr)
    peaks = {name: measured_memory(name) for name in names}
    steps_in_all = arguments.epochs * -(-forget_rows(arguments) // arguments.rows)
    rows = []
    for name in names:
        ratios = [a / b for a, b in zip(seconds[name], seconds[PLAIN], strict=True)]
        share = once[name] / steps_in_all / statistics.median(seconds[PLAIN])
        rows.append(
            {
                "method": name,
                "seconds_a_step": round(statistics.median(seconds[name]), 4),
                "ratio": round(statistics.median(ratios), 3),
                "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
                "ratio_with_one_off": round(statistics.median(ratios) + share, 3),
                "peak_memory_mb": peaks[name],
                "memory_ratio": round(peaks[name] / peaks[PLAIN], 3),
            }
        )
    show(rows)
    if arguments.output:
        told = about(
            __doc__,
            model=Path(arguments.model).name if arguments.model else RANDOM,
            rounds=arguments.rounds,
            steps=arguments.steps,
            one_off_spread_over_steps=steps_in_all,
        )
        store(arguments.output, told, rows)


def load(arguments: argparse.Namespace) -> tuple[Any, Any, expunge.Corpus]:
    """Model, tokenizer and corpus."""
    if not arguments.random_model:
        corpus = expunge.load_corpus("files", forget=arguments.forget, retain=arguments.retain)
        return load_model(arguments.model, dtype="float32", device="cpu"), load_tokenizer(arguments.model), corpus
    corpus = expunge.load_corpus("synthetic")
    tokenizer = tiny_tokenizer([f"{e.prompt} {e.completion}" for s in ("forget", "retain") for e in corpus[s]])
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=6,
        tie_word_embeddings=True,
        max_position_embeddings=512,
    )
    return LlamaForCausalLM(config), tokenizer, corpus


def forget_rows(arguments: argparse.Namespace) -> int:
    """Rows of the forget set."""
    return len(load(arguments)[2]["forget"])


def set_up(arguments: argparse.Namespace, name: str, scratch: Path) -> tuple[Trainer, float]:
    """A trainer for `arguments.steps` steps of a method or of plain fine-tuning.

    With it come the seconds of its one-off passes.
    """
    model, tokenizer, corpus = load(arguments)
    method = "grad_diff" if name == PLAIN else name
    objective = build(method, retain="nll" if name == "grad_ascent" else None, depth=len(blocks(model)))
    config = TrainingConfig(learning_rate=1e-5, epochs=arguments.epochs, batch_size=arguments.rows, warmup=0)
    rows = run_rows(
        corpus,
        tokenizer,
        streams=objective.streams,
        epochs=arguments.epochs,
        seed=0,
        retain_per_forget=1,
        template=Template(),
        max_length=512,
    )
    training = training_arguments(rows, config, scratch, model)
    training.max_steps = arguments.steps
    if name == PLAIN:
        trainer = Trainer(model=model, args=training, train_dataset=rows, data_collator=joined(rows))
        trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(rows)
        trainer.remove_callback(PrinterCallback)
        return trainer, 0.0
    with tempfile.TemporaryDirectory() as cache:
        os.environ["EXPUNGE_CACHE"] = cache
        started = time.perf_counter()
        rows, how = with_reference(model, rows, objective, "auto", None)
        second = frozen_copy(model) if how == "model" else None
        once = time.perf_counter() - started
    trains = trainable(model, objective)
    trains.__enter__()
    trainer = ObjectiveTrainer(
        model=model, args=training, rows=rows, objective=objective, reference=second, rows_a_step=config.rows_a_step
    )
    trainer.trains = trains  # kept with it: what goes away is left, and gives the gradients back
    return trainer, once


def joined(rows: RunRows) -> Any:
    """Forget and retain rows of a step as one padded batch, as a plain collator makes it."""

    def together(items: list[Any]) -> dict[str, torch.Tensor]:
        sets = [(stream, item.rows[stream]) for stream in ("forget", "retain") for item in items]
        found = [rows.encoded[stream][n] for stream, numbers in sets for n in numbers]
        batch = collate(found)
        return {key: batch[key] for key in ("input_ids", "attention_mask", "labels")}

    return together


def timed(arguments: argparse.Namespace, name: str) -> tuple[float, float]:
    """(median seconds of a step, seconds of one-off passes)."""
    with tempfile.TemporaryDirectory() as scratch:
        trainer, once = set_up(arguments, name, Path(scratch))
        clock = StepTimes()
        trainer.add_callback(clock)
        trainer.train()
    gc.collect()
    return statistics.median(clock.times[1:]), once


class StepTimes(Clock):
    """Every step's time apart, on the wall or of the processor."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        super().__init__()
        self.now = now
        self.times: list[float] = []

    def on_step_begin(self, *arguments: Any, **more: Any) -> None:
        """Start the clock."""
        self.started = self.now()

    def on_step_end(self, *arguments: Any, **more: Any) -> None:
        """Note the step that ends."""
        self.times.append(self.now() - self.started)


def memory(arguments: argparse.Namespace, name: str) -> float:
    """Peak resident MB of a short run over the resident MB after loading."""
    with tempfile.TemporaryDirectory() as scratch:
        trainer, _ = set_up(arguments, name, Path(scratch))
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here, not from loading
        before = status_mb("VmRSS")
        trainer.train()
    return round(status_mb("VmHWM") - before, 1)


def status_mb(key: str) -> float:
    """A figure of this process out of /proc/self/status, in MB."""
    return next(int(line.split()[1]) / 2**10 for line in Path("/proc/self/status").open() if line.startswith(key))


def measured_memory(name: str) -> float:
    """`memory` in a process of its own."""
    command = [sys.executable, *sys.argv, "--memory-of", name]
    return float(
        json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    )


def show(rows: list[dict[str, Any]]) -> None:
    """The table."""
    print(
        f"{'method':20s} {'s a step':>9s} {'ratio':>7s} {'range':>13s} "
        f"{'with one-off':>13s} {'peak MB':>9s} {'ratio':>6s}"
    )
    for row in rows:
        low, high = row["ratio_range"]
        print(
            f"{row['method']:20s} {row['seconds_a_step']:9.3f} {row['ratio']:7.2f} {low:6.2f}-{high:<6.2f} "
            f"{row['ratio_with_one_off']:13.2f} {row['peak_memory_mb']:9.0f} {row['memory_ratio']:6.2f}"
        )


if __name__ == "__main__":
    main()

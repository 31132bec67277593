"""What masked training costs: 10 % of all value vectors against dense AdamW through transformers' Trainer, same rows.

    python benchmarks/masked.py --output benchmarks/results/masked.json

Random Llamas, vocabulary 32000, float32. Each round runs every variant in turn, so that all see the same machine; a
step is timed from its first forward pass to the end of its optimizer step. The ratio is the median over rounds of
(median step of the variant / median step of the dense run in the same round); all compute the same forget and retain
rows. Peak memory is the peak of the process's resident size over that before the model was made, weights counted, each
variant in a process of its own whose allocator hands large blocks back at once, so that what is measured is in use.
"""

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import warnings
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer

import expunge
from expunge.core.manifest import versions
from expunge.data.template import Template
from expunge.masks.mask import Mask
from expunge.masks.storage import pack
from expunge.masks.units import Layout, Part
from expunge.models.anatomy import blocks, down_projection
from expunge.models.tiny import tiny_tokenizer
from expunge.objectives.combine import build
from expunge.training.masked import mask_summary, masked
from expunge.training.rows import run_rows
from expunge.training.run import training_arguments
from expunge.training.trainer import ObjectiveTrainer
from expunge.training.training_config import TrainingConfig
from objectives import StepTimes, joined

SIZES = {  # hidden size, intermediate size, blocks, heads
    "20M": (384, 1024, 6, 6),
    "110M": (768, 2048, 12, 12),
    "135M": (576, 1536, 30, 9),
}
DENSE, UNMASKED, MASKED = "dense AdamW, plain Trainer", "grad_diff, no mask", "grad_diff, masked"
SHARE = 0.1


def main() -> None:
    """Measure, print a table, store it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="of each run; the first is not counted")
    parser.add_argument("--rows", type=int, default=8, help="forget rows a step; as many retain rows")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--memory-of", nargs=2, metavar=("SIZE", "VARIANT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        print(json.dumps(memory(arguments, *arguments.memory_of)))
        return
    rows = [row for size in arguments.sizes.split(",") for row in measured(arguments, size)]
    show(rows)
    if arguments.output:
        about = {
            "what": __doc__.splitlines()[0],
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
            "measured": datetime.now(timezone.utc).date().isoformat(),
            "versions": versions(),
            "rounds": arguments.rounds,
            "steps": arguments.steps,
            "rows_a_step": f"{arguments.rows} forget + {arguments.rows} retain",
        }
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


def measured(arguments: argparse.Namespace, size: str) -> list[dict[str, Any]]:
    """One row for each variant at one size."""
    names = (DENSE, UNMASKED, MASKED)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(arguments.rounds):
        for name in names:
            seconds[name].append(timed(arguments, size, name))
            print(
                f"{size} round {number + 1}/{arguments.rounds}  {name:28s} {seconds[name][-1]:.3f} s", file=sys.stderr
            )
    peaks = {name: measured_memory(size, name) for name in names}
    model = made_model(size)
    told = mask_summary(model, made_mask(model))
    rows = []
    for name in names:
        ratios = [a / b for a, b in zip(seconds[name], seconds[DENSE], strict=True)]
        rows.append(
            {
                "size": size,
                "parameters": sum(p.numel() for p in model.parameters()),
                "may_change": told["weights"] if name == MASKED else None,
                "variant": name,
                "seconds_a_step": round(statistics.median(seconds[name]), 4),
                "time_ratio": round(statistics.median(ratios), 3),
                "time_ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
                "peak_memory_mb": peaks[name],
                "memory_ratio": round(peaks[name] / peaks[DENSE], 3),
            }
        )
    return rows


def made_model(size: str) -> LlamaForCausalLM:
    """A random Llama."""
    hidden, inner, depth, heads = SIZES[size]
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32000,
            hidden_size=hidden,
            intermediate_size=inner,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            tie_word_embeddings=True,
            max_position_embeddings=512,
        )
    )


def made_mask(model: LlamaForCausalLM) -> Mask:
    """A random tenth of all value vectors, drawn jointly over the blocks."""
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    down = [down_projection(block).weight for block in blocks(model)]
    parts = {name_of[id(w)]: Part(tuple(w.shape), "slices", name_of[id(w)], 1) for w in down}  # type: ignore[arg-type, union-attr]
    layout = Layout("value_vector", parts)
    n = sum(layout.groups.values())
    chosen = torch.zeros(n, dtype=torch.bool)
    chosen[torch.randperm(n, generator=torch.Generator().manual_seed(0))[: int(SHARE * n)]] = True
    drawn = chosen.split(list(layout.groups.values()))
    return Mask(layout, {group: pack(bits) for group, bits in zip(layout.groups, drawn, strict=True)})


def run(arguments: argparse.Namespace, model: LlamaForCausalLM, name: str) -> StepTimes:
    """Train for `arguments.steps` steps; how long each took."""
    corpus = expunge.load_corpus("synthetic")
    tokenizer = tiny_tokenizer([f"{e.prompt} {e.completion}" for s in ("forget", "retain") for e in corpus[s]])
    objective = build("grad_diff", depth=len(blocks(model)))
    config = TrainingConfig(learning_rate=1e-5, epochs=5, batch_size=arguments.rows, warmup=0)
    rows = run_rows(
        corpus,
        tokenizer,
        streams=objective.streams,
        epochs=arguments.steps * arguments.rows / len(corpus["forget"]),
        seed=0,
        retain_per_forget=1,
        template=Template(),
        max_length=512,
    )
    clock = StepTimes()
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as around:
        training = training_arguments(rows, config, Path(scratch), model)
        if name == DENSE:
            trainer = Trainer(model=model, args=training, train_dataset=rows, data_collator=joined(rows))
            trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(rows)
        else:
            trainer = ObjectiveTrainer(
                model=model,
                args=training,
                rows=rows,
                objective=objective,
                reference=None,
                rows_a_step=config.rows_a_step,
            )
        if name == MASKED:
            trainer.selected = around.enter_context(masked(model, made_mask(model)))
        trainer.add_callback(clock)
        trainer.train()
    return clock


def timed(arguments: argparse.Namespace, size: str, name: str) -> float:
    """Median seconds of a step."""
    times = run(arguments, made_model(size), name).times[1:]
    gc.collect()
    return statistics.median(times)


def memory(arguments: argparse.Namespace, size: str, name: str) -> float:
    """Peak resident MB of a short run over the resident MB before the model was made."""
    before = resident("VmRSS")
    run(arguments, made_model(size), name)
    return round(resident("VmHWM") - before, 1)


def resident(what: str) -> float:
    """Resident MB of this process: now (VmRSS) or at its peak (VmHWM); the peak of getrusage is that of the parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{what}:")[1].split()[0]) / 2**10


def measured_memory(size: str, name: str) -> float:
    """`memory` in a process of its own."""
    command = [sys.executable, *sys.argv, "--memory-of", size, name]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**18)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(json.loads(done.stdout.splitlines()[-1]))


def show(rows: list[dict[str, Any]]) -> None:
    """The table."""
    print(f"{'size':6s} {'variant':28s} {'s a step':>9s} {'ratio':>7s} {'range':>13s} {'peak MB':>9s} {'ratio':>6s}")
    for row in rows:
        low, high = row["time_ratio_range"]
        print(
            f"{row['size']:6s} {row['variant']:28s} {row['seconds_a_step']:9.3f} {row['time_ratio']:7.2f} "
            f"{low:6.2f}-{high:<6.2f} {row['peak_memory_mb']:9.0f} {row['memory_ratio']:6.2f}"
        )


if __name__ == "__main__":
    main()

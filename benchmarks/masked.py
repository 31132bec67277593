"""What masked and low-rank training cost: 10 % of all value vectors, and LoRA, against training all weights.

    python benchmarks/masked.py --output benchmarks/results/masked.json
    python benchmarks/masked.py --model <folder> --forget f.jsonl --retain r.jsonl --output <file>

Random Llamas with a vocabulary of 32000 and made-up rows, or a model and rows of your own; float32. Each round runs
every variant in turn, so that all see the same machine; a step is timed in seconds of the processor, from its first
forward pass to the end of its optimizer step. A ratio is the median over rounds of (median step of the variant / median
step of the other in the same round): against dense AdamW through transformers' Trainer, and against expunge where it
trains all weights. All compute the same forget and retain rows. Peak memory is the peak of the process's resident size
over that before the model was made, weights counted, each variant in a process of its own whose allocator hands large
blocks back at once, so that what is measured is in use.
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
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, Trainer

import expunge
from _stored import about, store
from expunge.adapters.lora import lora
from expunge.data.corpus import Corpus
from expunge.data.template import Template
from expunge.masks.mask import Mask
from expunge.masks.storage import pack
from expunge.masks.units import Layout, Part
from expunge.models.anatomy import blocks, down_projection
from expunge.models.load import load_model, load_tokenizer
from expunge.models.matrices import target_matrices
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
DENSE, UNMASKED = "dense AdamW, plain Trainer", "grad_diff, all weights"
MASKED, LORA = "grad_diff, masked", "grad_diff, LoRA"
SHARE, RANK = 0.1, 8


def main() -> None:
    """Measure, print a table, store it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--model", help="in place of random ones")
    parser.add_argument("--forget")
    parser.add_argument("--retain")
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
    sizes = [Path(arguments.model).name] if arguments.model else arguments.sizes.split(",")
    rows = [row for size in sizes for row in measured(arguments, size)]
    show(rows)
    if arguments.output:
        at_once = f"{arguments.rows} forget + {arguments.rows} retain"
        told = about(__doc__, rounds=arguments.rounds, steps=arguments.steps, rows_a_step=at_once)
        store(arguments.output, told, rows)


def measured(arguments: argparse.Namespace, size: str) -> list[dict[str, Any]]:
    """One row for each variant at one size."""
    names = (DENSE, UNMASKED, MASKED, LORA)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(arguments.rounds):
        for name in names:
            seconds[name].append(timed(arguments, size, name))
            print(
                f"{size} round {number + 1}/{arguments.rounds}  {name:28s} {seconds[name][-1]:.3f} s", file=sys.stderr
            )
    peaks = {name: measured_memory(size, name) for name in names}
    model = made_model(arguments, size)
    all_weights = sum(p.numel() for p in model.parameters())
    may_change = {MASKED: mask_summary(model, made_mask(model))["weights"]}
    may_change[LORA] = sum(p.numel() for p in with_lora(model).parameters() if p.requires_grad)
    rows = []
    for name in names:
        against = {o: [a / b for a, b in zip(seconds[name], seconds[o], strict=True)] for o in (DENSE, UNMASKED)}
        ratios = against[DENSE]
        rows.append(
            {
                "size": size,
                "parameters": all_weights,
                "may_change": may_change.get(name),
                "variant": name,
                "seconds_a_step": round(statistics.median(seconds[name]), 4),
                "time_ratio": round(statistics.median(ratios), 3),
                "time_ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
                "peak_memory_mb": peaks[name],
                "memory_ratio": round(peaks[name] / peaks[DENSE], 3),
                "time_ratio_to_all_weights": round(statistics.median(against[UNMASKED]), 3),
                "memory_ratio_to_all_weights": round(peaks[name] / peaks[UNMASKED], 3),
            }
        )
    return rows


def made_model(arguments: argparse.Namespace, size: str) -> PreTrainedModel:
    """A random Llama, or the model that was named."""
    if arguments.model:
        return load_model(arguments.model, dtype="float32", device="cpu")
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


def with_lora(model: PreTrainedModel) -> PeftModel:
    """The model with a new LoRA on all linear layers, which alone has gradients."""
    return lora(model, target_matrices(model, "all-linear"), 0, rank=RANK).model


def inputs(arguments: argparse.Namespace) -> tuple[Corpus, PreTrainedTokenizerBase]:
    """Rows, and a tokenizer for them."""
    if arguments.model:
        corpus = expunge.load_corpus("files", forget=arguments.forget, retain=arguments.retain)
        return corpus, load_tokenizer(arguments.model)
    corpus = expunge.load_corpus("synthetic")
    return corpus, tiny_tokenizer([f"{e.prompt} {e.completion}" for s in ("forget", "retain") for e in corpus[s]])


def made_mask(model: PreTrainedModel, share: float = SHARE) -> Mask:
    """A random share of all value vectors, drawn jointly over the blocks."""
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    down = [down_projection(block).weight for block in blocks(model)]
    parts = {name_of[id(w)]: Part(tuple(w.shape), "slices", name_of[id(w)], 1) for w in down}  # type: ignore[arg-type, union-attr]
    layout = Layout("value_vector", parts)
    n = sum(layout.groups.values())
    chosen = torch.zeros(n, dtype=torch.bool)
    chosen[torch.randperm(n, generator=torch.Generator().manual_seed(0))[: round(share * n)]] = True
    drawn = chosen.split(list(layout.groups.values()))
    return Mask(layout, {group: pack(bits) for group, bits in zip(layout.groups, drawn, strict=True)})


def run(arguments: argparse.Namespace, model: PreTrainedModel, name: str) -> StepTimes:
    """Train for `arguments.steps` steps; how long each took."""
    corpus, tokenizer = inputs(arguments)
    objective = build("grad_diff", depth=len(blocks(model)))
    config = TrainingConfig(learning_rate=1e-5, epochs=5, batch_size=arguments.rows, warmup=0, precision="float32")
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
    clock = StepTimes(time.process_time)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as around:
        training = training_arguments(rows, config, Path(scratch), model)
        if name == DENSE:
            trainer = Trainer(model=model, args=training, train_dataset=rows, data_collator=joined(rows))
            trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(rows)
        else:
            trainer = ObjectiveTrainer(
                model=with_lora(model) if name == LORA else model,
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
    times = run(arguments, made_model(arguments, size), name).times[1:]
    gc.collect()
    return statistics.median(times)


def memory(arguments: argparse.Namespace, size: str, name: str) -> float:
    """Peak resident MB of a short run over the resident MB before the model was made."""
    before = resident("VmRSS")
    run(arguments, made_model(arguments, size), name)
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

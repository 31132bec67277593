"""What unlearning costs on a GPU: tokens a second, share of the device's own matmul rate, and peak memory.

    python benchmarks/gpu.py --output benchmarks/results/gpu.json
    python benchmarks/gpu.py --sizes toy --device cpu --tokens 32 --batch 2 --steps 3  # anywhere, to try it

Random Llamas stored in bfloat16, made-up rows of a quarter to all of `--tokens` tokens, as many retain as forget rows;
nothing is downloaded. Rows are padded but in the case that says packed. Each case trains a few steps, of which the
first is not counted. The rate of matrix products is measured first, on the same device. A share of it is (multiply-adds
that the case needs for its real tokens, twice) / (seconds x that rate): padding, recomputation and the optimizer count
as waste. Cases that no longer fit into `--minutes`, and those that run out of memory, are stored with the reason.
"""

import argparse
import gc
import json
import os
import platform
import random
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

import expunge
from expunge.core.manifest import versions
from expunge.data.corpus import Example
from expunge.data.tokenizing import encode
from expunge.models.tiny import tiny_tokenizer

SIZES = {  # hidden size, intermediate size, blocks, heads, key-value heads
    "toy": (64, 160, 2, 4, 2),
    "1B": (2048, 5632, 22, 32, 4),
    "8B": (4096, 14336, 32, 32, 8),
}
VOCABULARY = 32000
SHARE = 0.1
SQUARE, PRODUCTS = 8192, 20
"""Side of the matrices whose products give the rate, and how many of them."""


@dataclass(frozen=True)
class Case:
    """What is measured."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    masked: bool = False
    sizes: tuple[str, ...] = tuple(SIZES)


FULL = ("toy", "1B")
"""Sizes whose weights, gradients and moments fit on one device in float32."""
GRAD_DIFF = {"method": "grad_diff"}
CASES = (
    Case("grad_diff", GRAD_DIFF, sizes=FULL),
    Case("npo", {"method": "npo"}, sizes=FULL),
    Case("rmu", {"method": "rmu"}),
    Case("grad_diff, mask", GRAD_DIFF, masked=True),
    Case("grad_diff, lora", {**GRAD_DIFF, "adapter": "lora", "rank": 16}),
    Case("npo, lora", {"method": "npo", "adapter": "lora", "rank": 16}),
    Case("grad_diff, checkpointing", {**GRAD_DIFF, "gradient_checkpointing": True}, sizes=FULL),
    Case("grad_diff, packed", {**GRAD_DIFF, "packing": "on"}, sizes=FULL),
    Case("grad_diff, compiled", {**GRAD_DIFF, "compile": True}, sizes=FULL),
)


def main() -> None:
    """Measure, print, store after each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1B,8B")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=6, help="of each run; the first is not counted")
    parser.add_argument("--batch", type=int, default=16, help="forget rows a step; as many retain rows")
    parser.add_argument("--tokens", type=int, default=512, help="of the longest row")
    parser.add_argument("--minutes", type=float, default=8.0, help="no case begins after so long")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    ends = time.monotonic() + 60 * arguments.minutes
    side = SQUARE if arguments.device.startswith("cuda") else 256
    rate = matmul_rate(arguments.device, side)
    about = {
        "what": __doc__.splitlines()[0],
        "machine": torch.cuda.get_device_name() if arguments.device.startswith("cuda") else platform.machine(),
        "measured": datetime.now(timezone.utc).date().isoformat(),
        "versions": versions(),
        "matmul_teraflops": round(rate / 1e12, 2),
        **{name: getattr(arguments, name) for name in ("steps", "batch", "tokens")},
    }
    rows: list[dict[str, Any]] = []
    for size in arguments.sizes.split(","):
        for case in (case for case in CASES if size in case.sizes):
            row = {"size": size, "case": case.name}
            late = time.monotonic() > ends
            rows.append(row | ({"not_run": "the time was over"} if late else outcome(arguments, size, case, rate)))
            print(json.dumps(rows[-1]), flush=True)
            if arguments.output:
                arguments.output.parent.mkdir(parents=True, exist_ok=True)
                arguments.output.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


def outcome(arguments: argparse.Namespace, size: str, case: Case, rate: float) -> dict[str, Any]:
    """What a case measured, or why it has no number."""
    try:
        return measured(arguments, size, case, rate)
    except (torch.OutOfMemoryError, expunge.ExpungeError) as problem:  # a run says so itself where memory runs out
        reason = str(problem).splitlines()[0]
    gc.collect()
    torch.cuda.empty_cache()
    return {"not_run": reason}


def measured(arguments: argparse.Namespace, size: str, case: Case, rate: float) -> dict[str, Any]:
    """Tokens a second, share of the matmul rate, peak memory."""
    on_gpu = arguments.device.startswith("cuda")
    corpus, tokenizer = inputs(arguments)
    model = made_model(size, arguments)
    clock = Clock(case.settings["method"], on_gpu)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    settings = {
        "learning_rate": 1e-6,
        "epochs": 1,
        "batch_size": arguments.batch,
        "precision": "bfloat16",
        "checkpoint_every": 0,
        "packing": "off",
        **case.settings,
    }
    scores = expunge.localize(model, tokenizer, attribution="random_down") if case.masked else None
    mask = scores.select(ratio=SHARE) if scores else None
    expunge.unlearn(model, tokenizer, corpus, mask=mask, max_length=arguments.tokens, progress=clock, **settings)
    tokens = sum(len(row.ids) for split in corpus for row in encode(list(corpus[split]), tokenizer))
    counted = tokens * len(clock.seconds) / arguments.steps
    seconds = sum(clock.seconds)
    return {
        "seconds_a_step": round(seconds / len(clock.seconds), 4),
        "tokens_a_second": round(counted / seconds, 1),
        "share_of_matmul_rate": round(counted * operations(size, case) / seconds / rate, 4),
        "peak_memory_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2) if on_gpu else None,
    }


class Clock:
    """Seconds of each step but the first, from the calls for progress, with the device's work done."""

    def __init__(self, method: str, on_gpu: bool) -> None:
        self.method, self.on_gpu, self.before, self.seconds = method, on_gpu, 0.0, list[float]()

    def __call__(self, what: str, done: int, total: int, numbers: str) -> None:
        """A step ended, or part of a pass before or after the steps."""
        if what != self.method:
            return
        if self.on_gpu:
            torch.cuda.synchronize()
        now = time.perf_counter()
        if done > 1:
            self.seconds.append(now - self.before)
        self.before = now


def operations(size: str, case: Case) -> float:
    """Floating-point operations that a real token needs: two for each weight that a pass meets, embeddings left out.

    A forward pass, one for the gradients of activations, and one for those of weights where they are trained; the
    attention's own products, the few weights of an adapter or a mask and reference passes are left out. RMU stops at
    its block, trains the down-projections of three, and needs no head.
    """
    hidden, inner, depth, heads, few = SIZES[size]
    block = hidden * hidden * 2 + 2 * hidden * (hidden // heads) * few + 3 * hidden * inner
    if case.settings["method"] == "rmu":
        last = min(7, depth // 3) + 1
        trained = min(3, last)
        return 2.0 * (block * (last + trained - 1) + trained * hidden * inner)
    passes = 2 if case.masked or "adapter" in case.settings else 3
    return 2.0 * passes * (block * depth + VOCABULARY * hidden)


def matmul_rate(device: str, side: int) -> float:
    """Floating-point operations a second of square bfloat16 products on the device."""
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))

    def waited() -> float:
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter()

    for _ in range(3):
        torch.mm(left, right)
    started = waited()
    for _ in range(PRODUCTS):
        torch.mm(left, right)
    return PRODUCTS * 2 * side**3 / (waited() - started)


def inputs(arguments: argparse.Namespace) -> tuple[expunge.Corpus, PreTrainedTokenizerBase]:
    """A forget and a retain row for each row of each step, and a tokenizer for them."""
    synthetic = expunge.load_corpus("synthetic")
    words = " ".join(f"{row.prompt} {row.completion}" for row in synthetic["forget"]).split()
    tokenizer = tiny_tokenizer([" ".join(words)])
    draw = random.Random(0)
    a_word = len(tokenizer(" ".join(words))["input_ids"]) / len(words)

    def row(split: str, number: int) -> Example:
        length = draw.uniform(0.25, 0.9) * arguments.tokens / a_word
        text = " ".join(draw.choices(words, k=max(4, int(length))))
        cut = text.index(" ", len(text) // 2)
        return Example(kind="completion", prompt=text[:cut], completion=f" {text[cut + 1 :]} {split} {number}")

    needed = arguments.steps * arguments.batch
    return expunge.Corpus({s: tuple(row(s, n) for n in range(needed)) for s in ("forget", "retain")}), tokenizer


def made_model(size: str, arguments: argparse.Namespace) -> LlamaForCausalLM:
    """A random Llama, stored in bfloat16."""
    hidden, inner, depth, heads, few = SIZES[size]
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        num_key_value_heads=few,
        max_position_embeddings=max(512, arguments.tokens),
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(arguments.device):
            return LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)


if __name__ == "__main__":
    main()

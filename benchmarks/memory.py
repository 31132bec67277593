"""What a training run takes beside what its dry run says it will.

    python benchmarks/memory.py --output benchmarks/results/memory.json

Random Llamas in the sizes below, made-up rows, GradDiff, a few steps. Each case runs in a process of its own. Measured
is the peak of its resident memory over that of the loaded interpreter, with an allocator that hands blocks back at once
(`MALLOC_MMAP_THRESHOLD_`), so that what is measured is in use; `--heap` also measures with the allocator as it is.
"""

import argparse
import itertools
import json
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import peft  # noqa: F401 - so that what it loads is there before the first measurement
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, Trainer  # noqa: F401

import expunge
from _stored import about, in_own_process, store
from expunge.data.corpus import Corpus
from expunge.models.tiny import tiny_tokenizer
from expunge.training.memory import Conditions, run_peak
from expunge.training.plan import plan_unlearning, split_settings
from expunge.training.unlearn import unlearn
from masked import made_mask, resident

Shape = tuple[int, int, int, int, int, int]
"""Vocabulary, hidden size, intermediate size, blocks, heads, heads of keys and values."""
SIZES = {  # vocabulary, hidden size, intermediate size, blocks, heads, key-value heads
    "7M": (4096, 256, 704, 8, 8, 4),
    "135M": (49152, 576, 1536, 30, 9, 3),
    "1B": (32000, 2048, 5632, 22, 32, 4),
}
KINDS = ("full", "masked", "lora", "fila")


@dataclass(frozen=True)
class Case:
    """What is measured."""

    size: str
    kind: str
    batch: int
    precision: str = "float32"
    checkpointing: bool = False
    packing: str = "off"
    steps: int = 2


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="7M,135M")
    parser.add_argument("--batches", default="8,32")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--packing", choices=("on", "off"), default="off")
    parser.add_argument("--heap", action="store_true", help="also with the allocator as it is")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(arguments.threads)
    if arguments.case:
        print(json.dumps(measured(Case(**json.loads(arguments.case)))))
        return
    rows: list[dict[str, Any]] = []
    sizes, kinds = arguments.sizes.split(","), arguments.kinds.split(",")
    for case in cases(sizes, kinds, [int(batch) for batch in arguments.batches.split(",")]):
        rows.append(compared(replace(case, packing=arguments.packing), heap=arguments.heap))
        print(json.dumps(rows[-1]), flush=True)
        if arguments.output:
            store(arguments.output, about(__doc__), rows)


def cases(sizes: list[str], kinds: list[str], batches: list[int]) -> Iterator[Case]:
    """Every kind at every size and batch; at the largest batch of each size, checkpointing and bfloat16 too."""
    for size, batch, kind in itertools.product(sizes, batches, kinds):
        yield Case(size, kind, batch)
        if batch == max(batches) and kind in ("full", "lora"):
            yield Case(size, kind, batch, checkpointing=True)
            yield Case(size, kind, batch, precision="bfloat16")


def compared(case: Case, *, heap: bool = False) -> dict[str, Any]:
    """A row of the result: estimated and measured MB, and their ratio."""
    estimate = estimated(case)
    found = float(in_own_process(__file__, case, MALLOC_MMAP_THRESHOLD_=str(2**16)))
    row = {**asdict(case), "estimated_mb": round(estimate), "measured_mb": round(found)}
    row["ratio"] = round(estimate / found, 3)
    return row | ({"measured_heap_mb": round(in_own_process(__file__, case))} if heap else {})


def configuration(shape: Shape) -> LlamaConfig:
    """Of a random Llama."""
    vocabulary, hidden, inner, depth, heads, few = shape
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        num_key_value_heads=few,
        tie_word_embeddings=True,
        max_position_embeddings=512,
    )


def inputs() -> tuple[Corpus, PreTrainedTokenizerBase]:
    """Rows, and a tokenizer for them."""
    corpus = expunge.load_corpus("synthetic")
    texts = [f"{e.prompt} {e.completion}" for split in ("forget", "retain") for e in corpus[split]]
    return corpus, tiny_tokenizer(texts)


def settings(case: Case, model: LlamaForCausalLM, rows: int) -> dict[str, Any]:
    """Of the run."""
    return {
        "method": "grad_diff",
        "learning_rate": 1e-5,
        "batch_size": case.batch,
        "epochs": case.steps * case.batch / rows,
        "precision": case.precision,
        "gradient_checkpointing": case.checkpointing,
        "packing": case.packing,
        **({"mask": made_mask(model)} if case.kind == "masked" else {}),
        **({"adapter": case.kind, "rank": 8} if case.kind in ("lora", "fila") else {}),
    }


def estimated(case: Case) -> float:
    """MB at the peak, as a dry run has them."""
    with torch.device("meta"):
        model = LlamaForCausalLM(configuration(SIZES[case.size]))
    corpus, tokenizer = inputs()
    given = settings(case, model, len(corpus["forget"]))
    mask = given.pop("mask", None)
    plan = plan_unlearning(model, *split_settings(given), corpus=corpus, mask=mask)
    rows = plan.rows(corpus, tokenizer, model)
    return run_peak(model, plan, rows, Conditions(autocast=case.precision == "bfloat16")) / 1e6


def measured(case: Case) -> float:
    """MB of the peak of this process over what it takes before the model is made."""
    corpus, tokenizer = inputs()
    before = resident("VmRSS")
    torch.manual_seed(0)
    model = LlamaForCausalLM(configuration(SIZES[case.size]))
    unlearn(model, tokenizer, corpus, **settings(case, model, len(corpus["forget"])))
    return (resident("VmHWM") - before) * 2**20 / 1e6


if __name__ == "__main__":
    main()

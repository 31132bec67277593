"""What evaluating the TOFU suite costs, beside an ideal loop over the same rows in the same run.

    python benchmarks/evaluation.py --model <start model> --retain-model <retain model> --data <folder of TOFU files>

The ideal loop shows the model each distinct sequence once, sorted by length, with the vocabulary head on answer
positions only, and continues each distinct prompt once, sorted by length, dropping rows as they end: the same rows, the
same batch size, the same precision. It knows its token rows beforehand and computes no metric. Counted are rows, padded
tokens that pass the decoder, and tokens that pass the vocabulary head; timed is everything: for the suite also reading
of rows, metrics with their intervals, and fingerprints of model and data.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache

import expunge
from expunge.core.batch import Encoded
from expunge.core.manifest import versions
from expunge.data.corpus import Corpus
from expunge.evaluation import collect as stage
from expunge.evaluation.evaluate import evaluate
from expunge.evaluation.suite import probes
from expunge.evaluation.suites.tofu import tofu
from expunge.models.anatomy import backbone, head
from expunge.models.generate import end_tokens
from expunge.models.load import load_model, load_tokenizer

Prompt = tuple[int, ...]


@dataclass
class Computed:
    """What passed through a model."""

    rows: int = 0
    padded_tokens: int = 0
    head_tokens: int = 0
    generation_steps: int = 0
    generated_padded_tokens: int = 0


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--retain-model", help="its records are made first, untimed; without it, two measures less")
    parser.add_argument("--data", required=True)
    parser.add_argument("--forget", default="forget")
    parser.add_argument("--rows", type=int, help="at most so many rows a split, for a quick look")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-new-tokens", type=int, default=200)
    parser.add_argument("--output", default="benchmarks/results/evaluation.json")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore")
    model, tokenizer = load_model(given.model, device="cpu"), load_tokenizer(given.model)
    corpus = _shortened(expunge.load_corpus("tofu", forget=given.forget, path=given.data), given.rows)
    reference = None
    if given.retain_model:
        folder = tempfile.mkdtemp()
        evaluate(load_model(given.retain_model, device="cpu"), tokenizer, corpus, suite="tofu", output_dir=folder)
        reference = folder
    sequences, prompts, eos = _rows(model, tokenizer, corpus)
    rounds = []
    for _ in range(given.rounds):
        found: dict[str, Any] = {}
        with counted(model) as ideal_counts:
            began = time.perf_counter()
            ideal(model, sequences, prompts, eos, given.batch_size, given.max_new_tokens)
            found["ideal_seconds"] = time.perf_counter() - began
        with counted(model) as counts:
            began = time.perf_counter()
            result = evaluate(model, tokenizer, corpus, suite="tofu", reference=reference, batch_size=given.batch_size)
            found["suite_seconds"] = time.perf_counter() - began
        found["collect_seconds"] = result.about["results"]["seconds"]
        rounds.append(found)
    _store(given, rounds, ideal_counts, counts, sequences, prompts, corpus)


def _shortened(corpus: Corpus, rows: int | None) -> Corpus:
    return corpus if rows is None else Corpus({split: corpus[split][:rows] for split in corpus}, corpus.name)


def _rows(model: Any, tokenizer: Any, corpus: Corpus) -> tuple[list[Encoded], list[Prompt], set[int]]:
    """The distinct sequences and prompts of the suite, longest first."""
    wanted, _ = probes(tofu(list(corpus)).select(None), corpus, None, None)
    items = stage._items(corpus, wanted, tokenizer, None, 512)
    starts: dict[Prompt, int] = {}
    for item in items:
        starts[item.row.ids] = min(item.row.start, starts.get(item.row.ids, item.row.start))
    sequences = [Encoded(ids, start, False, 0) for ids, start in starts.items()]
    asked = {item.prompt_ids for item in items if item.answers}
    return (
        sorted(sequences, key=lambda r: -len(r.ids)),
        sorted(asked, key=lambda p: -len(p)),
        set(end_tokens(model, tokenizer, (item.row for item in items))),
    )


@torch.no_grad()
def ideal(
    model: Any,
    sequences: Sequence[Encoded],
    prompts: Sequence[Prompt],
    eos: set[int],
    batch_size: int,
    new_tokens: int,
) -> None:
    """One pass over the sequences, one greedy generation over the prompts, and nothing else."""
    for at in range(0, len(sequences), batch_size):
        batch = sequences[at : at + batch_size]
        ids = torch.zeros((len(batch), len(batch[0].ids)), dtype=torch.long)
        where: list[tuple[int, int]] = []
        targets: list[int] = []
        for i, row in enumerate(batch):
            ids[i, : len(row.ids)] = torch.tensor(row.ids)
            where += [(i, t - 1) for t in range(row.start, len(row.ids))]
            targets += row.ids[row.start :]
        rows, columns = torch.tensor(where).T
        logits = head(model)(backbone(model)(input_ids=ids, use_cache=False).last_hidden_state[rows, columns])
        chosen = torch.tensor(targets)
        (logits.gather(1, chosen[:, None])[:, 0] - logits.logsumexp(1)).numpy()
        (logits.argmax(1) == chosen).numpy()
    for at in range(0, len(prompts), batch_size):
        _continue(model, prompts[at : at + batch_size], eos, new_tokens)


def _continue(model: Any, batch: Sequence[Prompt], eos: set[int], new_tokens: int) -> list[list[int]]:
    width = len(batch[0])
    ids = torch.zeros((len(batch), width), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, prompt in enumerate(batch):
        ids[i, width - len(prompt) :] = torch.tensor(prompt)
        mask[i, width - len(prompt) :] = 1
    positions, cache = (mask.cumsum(1) - 1).clamp(min=0), DynamicCache(config=model.config)
    said: list[list[int]] = [[] for _ in batch]
    live = list(range(len(batch)))
    for _ in range(new_tokens):
        tokens = (
            model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, logits_to_keep=1)
            .logits[:, -1]
            .argmax(-1)
        )
        goes_on = [j for j, token in enumerate(tokens.tolist()) if token not in eos]
        for j in goes_on:
            said[live[j]].append(int(tokens[j]))
        if not goes_on:
            break
        kept = torch.tensor(goes_on)
        if len(goes_on) < len(live):
            cache.batch_select_indices(kept)
        live = [live[j] for j in goes_on]
        ids, positions = tokens[kept][:, None], positions[kept, -1:] + 1
        mask = torch.cat([mask[kept], torch.ones((len(kept), 1), dtype=torch.long)], 1)
    return said


@contextmanager
def counted(model: nn.Module) -> Iterator[Computed]:
    """Count what passes decoder and head."""
    found = Computed()

    def through_decoder(_m: Any, _a: Any, given: dict[str, Any]) -> None:
        rows, width = given["input_ids"].shape
        found.rows += rows
        found.padded_tokens += rows * width
        if given.get("past_key_values") is not None:
            found.generation_steps += 1
            found.generated_padded_tokens += rows * width

    def through_head(_m: Any, given: tuple[torch.Tensor, ...]) -> None:
        found.head_tokens += given[0].shape[:-1].numel()

    handles = [
        backbone(model).register_forward_pre_hook(through_decoder, with_kwargs=True),
        head(model).register_forward_pre_hook(through_head),
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _store(
    given: argparse.Namespace,
    rounds: list[dict[str, float]],
    ideal_counts: Computed,
    counts: Computed,
    sequences: Sequence[Encoded],
    prompts: Sequence[Prompt],
    corpus: Corpus,
) -> None:
    ratios = {
        "suite / ideal, seconds": statistics.median(r["suite_seconds"] / r["ideal_seconds"] for r in rounds),
        "collect / ideal, seconds": statistics.median(r["collect_seconds"] / r["ideal_seconds"] for r in rounds),
        "suite / ideal, padded tokens": counts.padded_tokens / ideal_counts.padded_tokens,
        "suite / ideal, tokens through the head": counts.head_tokens / ideal_counts.head_tokens,
    }
    for name, ratio in ratios.items():
        print(f"{name:42} {ratio:.3f}")
    content = {
        "what": __doc__.strip().splitlines()[0],
        "ratios": ratios,
        "rounds": rounds,
        "ideal": vars(ideal_counts),
        "suite": vars(counts),
        "distinct_sequences": len(sequences),
        "real_tokens": sum(len(row.ids) for row in sequences),
        "distinct_prompts": len(prompts),
        "splits": {split: len(corpus[split]) for split in corpus},
        "settings": {
            "batch_size": given.batch_size,
            "max_new_tokens": given.max_new_tokens,
            "threads": given.threads,
            "rows": given.rows,
            "model": Path(given.model).name,
            "parameters": sum(p.numel() for p in load_model(given.model, device="cpu").parameters()),
        },
        "machine": {"platform": platform.platform(), "cpus": os.cpu_count()},
        "versions": versions(),
        "date": datetime.now(timezone.utc).isoformat(timespec="minutes"),
    }
    path = Path(given.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"stored in {path}")


if __name__ == "__main__":
    main()

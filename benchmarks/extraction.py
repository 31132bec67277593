"""What EL_n costs: all prefixes together, against one prefix at a time.

    python benchmarks/extraction.py --model <folder> --texts <JSON lines with a column text or question and answer>

Both find the same continuations of every prefix of every sequence. The plain loop continues one prefix after the other
with transformers' own greedy generation and its key-value cache. Ours scores each sequence once, goes on only after the
tokens that the model misses (after a hit it goes on as from one token later), and batches those prefixes.
"""

import argparse
import json
import os
import platform
import time
import warnings
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch

import expunge
from expunge.core.manifest import versions
from expunge.data.corpus import Corpus, Example
from expunge.evaluation.collect import collect
from expunge.evaluation.metrics.extraction_likelihood import extraction_likelihood, overlap
from expunge.evaluation.probe import Probe
from expunge.models.load import load_model, load_tokenizer


def main() -> None:
    """Measure, compare, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--texts", required=True)
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--n", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", default="benchmarks/results/extraction.json")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore")
    model, tokenizer = load_model(given.model, device="cpu"), load_tokenizer(given.model)
    read = expunge.load_corpus("files", forget=given.texts)["forget"][: given.sequences]
    texts = tuple(Example(kind="text", completion=f"{e.prompt} {e.completion}".strip()) for e in read)
    corpus = Corpus({"forget": texts})
    probe = Probe(split="forget", answer="sequence", generate=True, max_new_tokens=given.tokens)
    began = time.perf_counter()
    records = collect(model, tokenizer, corpus, [probe])
    ours = extraction_likelihood(records, n=given.n)
    our_seconds = time.perf_counter() - began
    sequences, eos = records.column("tokens"), tokenizer.eos_token_id
    began = time.perf_counter()
    values = [_plainly(model, tokens, given.n, eos) for tokens in sequences]
    plain_seconds = time.perf_counter() - began
    prefixes = sum(len(tokens) - given.n for tokens in sequences)
    continued = sum(len(after) for after in records.column("prefix_generations"))
    differ = float(np.abs(np.array(values) - np.array(ours.per_example)).max())
    print(
        f"plain loop {plain_seconds:.2f} s, ours {our_seconds:.2f} s: {plain_seconds / our_seconds:.1f} times as fast"
    )
    print(f"{prefixes} prefixes, {continued} continued; largest difference of EL_{given.n}: {differ:.2g}")
    content = {
        "what": __doc__.strip().splitlines()[0],
        "plain_seconds": plain_seconds,
        "our_seconds": our_seconds,
        "plain / ours": plain_seconds / our_seconds,
        "prefixes": prefixes,
        "continued": continued,
        "EL": ours.value,
        "largest_difference": differ,
        "settings": {k: v for k, v in vars(given).items() if k not in ("output", "model", "texts")}
        | {"model": Path(given.model).name, "parameters": sum(p.numel() for p in model.parameters())},
        "machine": {"platform": platform.platform(), "cpus": os.cpu_count()},
        "versions": versions(),
        "date": datetime.now(timezone.utc).isoformat(timespec="minutes"),
    }
    path = Path(given.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"stored in {path}")


def _plainly(model: torch.nn.Module, tokens: list[int], n: int, eos: int) -> float:
    shares = []
    for i in range(1, len(tokens) - n + 1):
        ids = torch.tensor([tokens[:i]])
        out = model.generate(  # type: ignore[operator]
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=len(tokens) - i,
            do_sample=False,
            eos_token_id=eos,
            pad_token_id=eos,
        )[0, i:].tolist()
        said = out[: out.index(eos)] if eos in out else out
        shares.append(overlap(said, tokens[i:], n))
    return float(np.mean(shares))


if __name__ == "__main__":
    main()

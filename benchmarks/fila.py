"""What FILA's importance pass costs beside the unlearning that follows, and what sampling the retain set changes.

    python benchmarks/fila.py --model <folder> --forget f.jsonl --retain r.jsonl

The unit is one epoch of unlearning through a plain LoRA of the same rank with IHL and one retain row a forget row. The
pass is timed with an eighth, a quarter (the default), as many and 4 times as many retain rows as forget rows, and for
VILA with a quarter; each in turn in every round, in seconds of the processor, and the median over rounds is kept. The
effect on the result is what unlearning ends with, extraction strength (ES) of forget and retain set, over some seeds;
and the overlap of what is picked: 1 - |P - P'|_F^2 / (2 r) of the projections on the rows of A, 1 for one subspace.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
import warnings
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import expunge
from expunge.adapters._factor import weighted_factors
from expunge.adapters._importance import Importance
from expunge.adapters._passes import retain_sample
from expunge.adapters.fila import row_importance
from expunge.adapters.vila import drawn_probes
from expunge.adapters.vila import row_importance as vila_importance
from expunge.core.manifest import versions
from expunge.data.template import Template
from expunge.data.tokenizing import encode
from expunge.models.load import load_model, load_tokenizer
from expunge.models.lowrank import Factors
from expunge.models.matrices import linear_layers, target_matrices

RANK, SCALING = 8, 2.0


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--model", "--forget", "--retain"):
        parser.add_argument(name, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results/fila.json")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    corpus = expunge.load_corpus("files", forget=arguments.forget, retain=arguments.retain)
    model, tokenizer = load_model(arguments.model, dtype="float32"), load_tokenizer(arguments.model)
    rows = {s: encode(corpus[s], tokenizer, template=Template(), max_length=512) for s in ("forget", "retain")}
    names, n = target_matrices(model, "all-linear"), len(rows["forget"])
    counts = {"eighth": max(1, n // 8), "quarter": max(1, n // 4), "equal": n}
    counts["fourfold"] = min(4 * n, len(rows["retain"]))
    seconds: dict[str, list[float]] = {}
    found: dict[str, Importance] = {}

    def timed(what: str, call: Any) -> Any:
        began = time.process_time()
        made = call()
        seconds.setdefault(what, []).append(time.process_time() - began)
        return made

    for _ in range(arguments.rounds):
        for what, count in counts.items():
            sample = retain_sample(rows["retain"], count, 0, forget=n)
            found[what] = timed(what, lambda s=sample: row_importance(model, names, rows["forget"], s, epsilon="auto"))
        probes = drawn_probes(model, names, rank=RANK, sigma=0.05, seed=0)
        sample = retain_sample(rows["retain"], None, 0, forget=n)
        timed(
            "vila",
            lambda p=probes, s=sample: vila_importance(
                model, names, rows["forget"], s, probes=p, scaling=SCALING, centered=False, epsilon="auto"
            ),
        )
        timed(
            "factors", lambda: [factors(layer, found["quarter"], name) for name, layer in linear_layers(model).items()]
        )
        seconds.setdefault("epoch", []).append(epoch(arguments.model, tokenizer, corpus))
    medians = {what: statistics.median(values) for what, values in seconds.items()}
    result = {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
        "versions": versions(),
        "model_parameters": sum(p.numel() for p in model.parameters()),
        "forget_rows": n,
        "retain_rows": counts,
        "rounds": arguments.rounds,
        "seconds": {what: round(value, 3) for what, value in medians.items()},
        "share_of_an_epoch": {w: round(v / medians["epoch"], 3) for w, v in medians.items() if w != "epoch"},
        "same_subspace_as_fourfold": {w: round(overlap(model, found[w], found["fourfold"]), 4) for w in found},
        "learning_rate": arguments.learning_rate,
        "result": {
            what: outcome(arguments.model, tokenizer, corpus, count, arguments.seeds, arguments.learning_rate)
            for what, count in counts.items()
        },
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({k: result[k] for k in ("seconds", "share_of_an_epoch", "same_subspace_as_fourfold", "result")}))


def epoch(folder: str, tokenizer: Any, corpus: Any) -> float:
    """Seconds of one epoch through a plain LoRA: what two more epochs take, halved."""
    seconds = {}
    for epochs in (1, 3):
        began = time.process_time()
        unlearned(folder, tokenizer, corpus, adapter="lora", epochs=epochs)
        seconds[epochs] = time.process_time() - began
    return (seconds[3] - seconds[1]) / 2


def outcome(
    folder: str, tokenizer: Any, corpus: Any, retain_samples: int, seeds: int, learning_rate: float
) -> dict[str, list[float]]:
    """Extraction strength where unlearning ends with a number of retain rows in the importance pass, by seed."""
    found: dict[str, list[float]] = {}
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as scratch:
            run = unlearned(
                folder,
                tokenizer,
                corpus,
                adapter="fila",
                epochs=5,
                epsilon="auto",
                retain_samples=retain_samples,
                importance=str(Path(scratch) / "importance.safetensors"),
                seed=seed,
                learning_rate=learning_rate,
            )
        names = ("forget_extraction_strength", "retain_extraction_strength")
        evaluation = expunge.evaluate(run.model, tokenizer, corpus, metrics=names)
        for name in names:
            found.setdefault(name, []).append(round(float(evaluation[name]), 4))
        print(retain_samples, seed, {name: values[-1] for name, values in found.items()}, flush=True)
    return found


def unlearned(folder: str, tokenizer: Any, corpus: Any, **settings: Any) -> expunge.Run:
    """One run with IHL."""
    given: dict[str, Any] = {"method": "ihl", "rank": RANK, "batch_size": 8, "learning_rate": 1e-3} | settings
    return expunge.unlearn(load_model(folder, dtype="float32"), tokenizer, corpus, **given)


def overlap(model: Any, one: Importance, other: Importance) -> float:
    """Mean over matrices of the overlap of the row spaces that two importances pick."""
    shares = []
    for name, layer in linear_layers(model).items():
        first, second = (torch.linalg.qr(factors(layer, of, name).a.T)[0] for of in (one, other))
        shares.append(float((first.T @ second).square().sum()) / RANK)
    return statistics.mean(shares)


def factors(layer: torch.nn.Module, importance: Importance, name: str) -> Factors:
    """What the adapter begins with in one matrix."""
    return weighted_factors(
        layer.get_parameter("weight").detach(), importance.rows[name].sqrt(), rank=RANK, scaling=SCALING
    )


if __name__ == "__main__":
    main()

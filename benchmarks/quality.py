"""What each method reaches in a short run: forget and retain set together, beside the peer measured on the same data.

    python benchmarks/quality.py --model <folder> --forget f.jsonl --retain r.jsonl --output results.json

25 steps of 8 forget and 8 retain rows (5 epochs of 40 forget rows), AdamW, float32, warm-up of one epoch, linear decay.
P is the geometric mean probability of an answer's tokens, ES extraction strength (0 to 1, without a floor), both as
means over all rows of the set. A method is judged by both sets at once: forgetting alone is easy.
"""

import argparse
import json
import statistics
import sys
import tempfile
import warnings
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import expunge
from expunge.core.manifest import versions
from expunge.models.load import load_model, load_tokenizer

GRID: list[dict[str, Any]] = [
    {"method": "grad_ascent", "learning_rate": 1e-4},
    {"method": "grad_diff", "learning_rate": 1e-4},
    {"method": "grad_diff", "learning_rate": 3e-4},
    {"method": "grad_diff", "learning_rate": 5e-4, "alpha": 4},
    {"method": "grad_diff", "learning_rate": 3e-4, "surgery": "gru"},
    {"method": "kl_min", "learning_rate": 1e-4},
    {"method": "npo", "learning_rate": 3e-4},
    {"method": "npo", "learning_rate": 1e-3},
    {"method": "npo", "learning_rate": 1e-3, "beta": 0.05, "alpha": 6},
    {"method": "simnpo", "learning_rate": 3e-4},
    {"method": "simnpo", "learning_rate": 1e-3},
    {"method": "dpo", "learning_rate": 3e-4},
    {"method": "idk", "learning_rate": 3e-4},
    {"method": "wga", "learning_rate": 5e-4},
    {"method": "wga", "learning_rate": 5e-4, "alpha": 4},
    {"method": "tnpo", "learning_rate": 5e-4},
    {"method": "tnpo", "learning_rate": 5e-4, "alpha": 2},
    {"method": "satimp", "learning_rate": 1e-3, "gamma": 10, "alpha": 3},
    {"method": "ihl", "learning_rate": 3e-4, "alpha": 1},
    {"method": "rmu", "learning_rate": 1e-3, "alpha": 10},
    {"method": "undial", "learning_rate": 3e-4, "retain": "nll", "alpha": 1},
    {"method": "ceu", "learning_rate": 3e-4, "retain": "nll", "alpha": 1},
    {"method": "pdu", "learning_rate": 3e-4, "eps": 0.05, "dual_warmup": 1, "alpha": 100},
    {"method": "js_uniform", "learning_rate": 3e-4},
    {"method": "js_uniform", "learning_rate": 5e-4},
    {"method": "bst", "learning_rate": 3e-4},
    {"method": "bst", "learning_rate": 1e-4, "alpha": 4},
    {"method": "altpo", "learning_rate": 3e-4, "alternate_temperature": 2.0},
    {"method": "rmu", "learning_rate": 1e-2, "alpha": 1, "coefficient": 50},
    {"method": "adaptive_rmu", "learning_rate": 1e-2, "alpha": 1},
]
"""One line a run: method and settings; what is not named is the method's default."""

PEER = {
    ("grad_diff", 1e-4): (0.774, 0.424, 0.992, 0.967),
    ("grad_diff", 3e-4): (2e-6, 0.030, 0.345, 0.212),
    ("npo", 3e-4): (0.045, 0.041, 0.874, 0.713),
    ("npo", 1e-3): (0.048, 0.047, 0.941, 0.820),
    ("simnpo", 3e-4): (0.432, 0.277, 0.989, 0.965),
    ("simnpo", 1e-3): (0.318, 0.211, 0.960, 0.874),
}
"""open-unlearning d3d7cf9, one seed, same data, steps and rows: forget P, forget ES (never below 1/n), retain P, ES."""

NAMES = (
    "forget_probability",
    "forget_extraction_strength",
    "retain_probability",
    "retain_extraction_strength",
)


def main() -> None:
    """Measure, print a table, store it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--forget", required=True)
    parser.add_argument("--retain", required=True)
    parser.add_argument("--methods", help="only these, comma-separated")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    corpus = expunge.load_corpus("files", forget=arguments.forget, retain=arguments.retain)
    wanted = arguments.methods.split(",") if arguments.methods else None
    rows = [row(dict(settings), arguments, corpus) for settings in GRID if not wanted or settings["method"] in wanted]
    if arguments.output:
        about = {
            "what": __doc__.splitlines()[0],
            "model": Path(arguments.model).name,
            "seeds": arguments.seeds,
            "measured": datetime.now(timezone.utc).date().isoformat(),
            "versions": versions(),
        }
        arguments.output.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


def row(settings: dict[str, Any], arguments: argparse.Namespace, corpus: expunge.Corpus) -> dict[str, Any]:
    """One line of the table."""
    found = [run(settings, seed, arguments.model, corpus) for seed in range(arguments.seeds)]
    mean = {name: statistics.mean(f[name] for f in found) for name in NAMES}
    spread = {name: statistics.stdev(f[name] for f in found) if len(found) > 1 else None for name in NAMES}
    peer = PEER.get((settings["method"], settings["learning_rate"])) if len(settings) == 2 else None
    words = ", ".join(f"{k} {v:g}" if isinstance(v, float | int) else f"{k} {v}" for k, v in settings.items())
    ours = " / ".join(f"{mean[name]:.3f}" for name in NAMES)
    print(f"{words:62s} {ours}" + (f"   peer {' / '.join(f'{v:.3f}' for v in peer)}" if peer else ""), flush=True)
    return {"settings": settings, "mean": mean, "standard_deviation": spread, "seeds": found, "peer": peer}


def run(settings: dict[str, Any], seed: int, folder: str, corpus: expunge.Corpus) -> dict[str, float]:
    """Unlearn once and measure."""
    model, tokenizer = load_model(folder, dtype="float32", device="cpu"), load_tokenizer(folder)
    with tempfile.TemporaryDirectory() as scratch:
        done = expunge.unlearn(model, tokenizer, corpus, batch_size=8, epochs=5, seed=seed, **settings)
        result = expunge.evaluate(done.model, tokenizer, corpus, metrics=NAMES, output_dir=Path(scratch) / "records")
    return {name: float(result[name].value) for name in NAMES}  # type: ignore[arg-type]


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"{'forget P / ES / retain P / ES':>92s}", file=sys.stderr)
    main()

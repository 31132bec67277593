"""What the default attacks cost, beside one evaluation of the suite `default` on the same model in the same run.

    python benchmarks/attacks.py --model <folder> --forget forget.jsonl --retain retain.jsonl

The attacks are run on the model alone, compared with an earlier result, as where many models share a control. The
evaluation is timed twice, before and after. Generation is timed on prompts of the attack `prompts`, ours against
transformers' own `generate` on the same rows, sorted the same way, 32 at once, with the same end tokens and lengths;
the tokens of both are compared.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import expunge
from expunge.attack.attack import DEFAULT, attack
from expunge.attack.attacks.prompts import made
from expunge.attack.measuring import NEW_TOKENS
from expunge.core.manifest import versions
from expunge.data.tokenizing import encode
from expunge.evaluation.evaluate import evaluate
from expunge.models.anatomy import evaluating
from expunge.models.generate import Prompt, continuations, end_tokens
from expunge.models.load import load_model, load_tokenizer

BATCH = 32


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--forget", required=True)
    parser.add_argument("--retain", required=True)
    parser.add_argument("--prompts", type=int, default=128, help="most prompts on which generation is compared")
    parser.add_argument("--rounds", type=int, default=2, help="of generation")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", default="benchmarks/results/attacks.json")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore")
    model, tokenizer = load_model(given.model, device="cpu"), load_tokenizer(given.model)
    corpus = expunge.load_corpus("files", forget=given.forget, retain=given.retain)
    control = replace(attack(model, tokenizer, corpus, attacks=()), columns=())

    def measured() -> float:
        return timed(lambda: evaluate(model, tokenizer, corpus, output_dir=tempfile.mkdtemp()))[0]

    before = measured()
    attacks, found = timed(lambda: attack(model, tokenizer, corpus, control=control))
    after = measured()
    evaluation = statistics.mean((before, after))
    generation = compared(model, tokenizer, corpus, given.prompts, given.rounds)
    ratios = {
        "default attacks / evaluation, seconds": attacks / evaluation,
        "generation / transformers' generate, seconds": statistics.median(
            one["ours"] / one["transformers"] for one in generation["rounds"]
        ),
    }
    for name, ratio in ratios.items():
        print(f"{name:46} {ratio:.3f}")
    content = {
        "what": str(__doc__).strip().splitlines()[0],
        "ratios": ratios,
        "seconds": {"attacks": attacks, "evaluation": [before, after]},
        "seconds_an_attack": seconds_an_attack(found),
        "generation": generation,
        "settings": {
            "attacks": DEFAULT,
            "threads": given.threads,
            "model": Path(given.model).name,
            "parameters": sum(p.numel() for p in model.parameters()),
            "facts": len(corpus["forget"]),
            "retain": len(corpus["retain"]),
        },
        "machine": {"platform": platform.platform(), "cpus": os.cpu_count(), "load": os.getloadavg()},
        "versions": versions(),
        "date": datetime.now(timezone.utc).isoformat(timespec="minutes"),
    }
    path = Path(given.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"stored in {path}")


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result."""
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def seconds_an_attack(found: expunge.Attacked) -> dict[str, float]:
    """Seconds by attack, its forms together."""
    sums: dict[str, float] = {}
    for column in found.columns:
        name = column.name.partition(".")[0]
        sums[name] = round(sums.get(name, 0.0) + column.seconds, 2)
    return sums


def compared(model: Any, tokenizer: Any, corpus: Any, most: int, rounds: int) -> dict[str, Any]:
    """Greedy generation on the prompts of the attack `prompts`, ours and transformers' own, in turns."""
    rows = encode([fact for turns in made(corpus, None, 0).values() for of in turns for fact in of.values()], tokenizer)
    distinct = [*dict.fromkeys(row.prompt_ids for row in rows)]
    prompts = distinct[:: max(1, len(distinct) // most)][:most]
    ends = end_tokens(model, tokenizer, rows)
    wanted, seconds, same = dict.fromkeys(prompts, NEW_TOKENS), [], 0
    with evaluating(model):
        for _ in range(rounds):
            theirs, expected = timed(lambda: own_generate(model, prompts, ends))
            ours, got = timed(lambda: continuations(model, wanted, eos_ids=ends, batch_size=BATCH))
            at_once, _ = timed(lambda: continuations(model, wanted, eos_ids=ends))
            seconds.append({"ours": ours, "transformers": theirs, "ours, as many at once as fit": at_once})
            same = sum(got[prompt] == expected[prompt] for prompt in prompts)
    return {"prompts": len(prompts), "same_tokens": same, "new_tokens": NEW_TOKENS, "batch": BATCH, "rounds": seconds}


@torch.no_grad()
def own_generate(model: Any, prompts: list[Prompt], ends: set[int]) -> Mapping[Prompt, list[int]]:
    """Transformers' own generation, rows sorted by length and padded on the left."""
    found: dict[Prompt, list[int]] = {}
    ordered = sorted(prompts, key=len, reverse=True)
    for at in range(0, len(ordered), BATCH):
        batch = ordered[at : at + BATCH]
        width = len(batch[0])
        ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in batch])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch])
        whole = model.generate(
            ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            eos_token_id=sorted(ends),
            pad_token_id=min(ends),
        )
        for prompt, new in zip(batch, whole[:, width:].tolist(), strict=True):
            end = next((i for i, token in enumerate(new) if token in ends), len(new))
            found[prompt] = new[:end]
    return found


if __name__ == "__main__":
    main()

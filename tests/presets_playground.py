"""Benchmark-shaped data and tiny models of the published architectures, for presets and the pages that use them."""

import json
from collections.abc import Iterable
from pathlib import Path

from transformers import PreTrainedModel

import zoo
from expunge.data.corpus import Example

ARCHITECTURE = {"llama": "llama", "phi": "phi", "olmo": "olmo2", "zephyr": "mistral", "gpt": "gpt_neo"}
"""First word of a preset's model -> its architecture."""
BLOCKS = 8
"""Enough for the published layers of RMU."""


def small(architecture: str) -> PreTrainedModel:
    """A random model of an architecture with as many blocks as the published settings need."""
    layers = {"num_hidden_layers": BLOCKS}
    if architecture == "gpt_neo":
        layers = {"num_layers": BLOCKS, "attention_types": [[["global", "local"], BLOCKS // 2]]}
    return zoo.tiny_model(architecture, max_position_embeddings=512, **layers)


def write_lines(path: Path, rows: Iterable[dict[str, object]]) -> None:
    """JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_tofu(folder: Path, *, n_retain: int = 10) -> None:
    """TOFU's files with six forget rows each: one of every size, perturbed where TOFU's are."""
    corpus = zoo.corpus(n_retain=n_retain)

    def plain(example: Example) -> dict[str, object]:
        return {"question": example.prompt, "answer": example.completion}

    def perturbed(example: Example, n: int) -> dict[str, object]:
        wrong = [f"In the village of Nowhere{i}." for i in range(n)]
        return plain(example) | {"paraphrased_answer": f"It is {example.completion}", "perturbed_answer": wrong}

    for size in ("01", "05", "10"):
        write_lines(folder / f"forget{size}.json", map(plain, corpus["forget"]))
        write_lines(folder / f"forget{size}_perturbed.json", (perturbed(e, 5) for e in corpus["forget"]))
        write_lines(folder / f"retain{100 - int(size)}.json", map(plain, corpus["retain"]))
    write_lines(folder / "retain_perturbed.json", (perturbed(e, 5) for e in corpus["retain"][:10]))
    for name in ("real_authors", "world_facts"):
        write_lines(folder / f"{name}_perturbed.json", (perturbed(e, 3) for e in corpus["retain"][:4]))


def texts(split: str) -> list[str]:
    """Plain texts of the small corpus."""
    return [f"{e.prompt} {e.completion}" for e in zoo.corpus()[split]]


def write_muse(folder: Path) -> None:
    """MUSE's files with a few rows each."""
    corpus = zoo.corpus()
    for split, name in (("forget", "forget"), ("retain", "retain1")):
        write_lines(folder / f"raw/{name}.jsonl", ({"text": text} for text in texts(split)))
    write_lines(folder / "verbmem/forget.jsonl", ({"prompt": e.prompt, "gt": e.completion} for e in corpus["forget"]))
    for split in ("forget", "retain"):
        rows = [{"question": e.prompt, "answer": e.completion} for e in corpus[split]]
        write_lines(folder / f"knowmem/{split}_qa.jsonl", rows)
        write_lines(folder / f"knowmem/{split}_qa_icl.jsonl", rows[:1])


def write_texts(path: Path, split: str, times: int = 1) -> None:
    """Rows with a column `text`."""
    write_lines(path, ({"text": f"{text} {i}" if i else text} for i in range(times) for text in texts(split)))


def write_choices(folder: Path) -> None:
    """Questions in WMDP's shape."""
    rows = [
        {"question": f"Where is {i}?", "choices": ["here", "there", "Arvo", "Belda"], "answer": 1} for i in range(4)
    ]
    write_lines(folder / "wmdp_cyber.jsonl", rows)

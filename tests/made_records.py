"""Records written by hand."""

import math
from collections.abc import Sequence
from typing import Any

from expunge.core.manifest import Manifest
from expunge.results.records import Records

MANIFEST = Manifest(stage="evaluate", arguments={}, git=None)


def rows(
    logprobs: Sequence[Sequence[float]],
    *,
    split: str = "forget",
    answer: str = "answer",
    asked: str = "question",
    hits: Sequence[Sequence[bool]] | None = None,
    ended: bool | Sequence[bool] = False,
    index: Sequence[int] | None = None,
    number: Sequence[int] | None = None,
    completion: Sequence[str] | None = None,
    generation: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """One row for each list of token log-probabilities."""

    def at(values: Any, i: int, default: Any) -> Any:
        return default if values is None else values[i] if isinstance(values, list | tuple) else values

    return [
        {
            "split": split,
            "index": at(index, i, i),
            "key": f"{split}{at(index, i, i)}",
            "asked": asked,
            "answer": answer,
            "number": at(number, i, 0),
            "prompt": f"question {i}",
            "completion": at(completion, i, f"answer {i}"),
            "logprobs": values,
            "hits": at(hits, i, [True] * len(values or [])),
            "ended": at(ended, i, False),
            "generation": at(generation, i, None),
        }
        for i, values in enumerate(logprobs)
    ]


def records(*groups: list[dict[str, Any]]) -> Records:
    """Records of several groups of rows."""
    return Records.from_rows([row for group in groups for row in group], MANIFEST)


def view(logprobs: Sequence[Sequence[float]], **columns: Any) -> Records:
    """Records of one kind of answer."""
    return records(rows(logprobs, **columns))


def certain(*probabilities: float, tokens: int = 2) -> list[list[float]]:
    """Log-probabilities of answers whose geometric mean probability is the one given."""
    return [[math.log(p)] * tokens for p in probabilities]

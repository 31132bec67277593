"""Scoring: what a model says to given answers, token by token, and the gradients of their losses."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import nn

from expunge.core.batch import Encoded, collate
from expunge.core.distributed import ALONE, Share
from expunge.core.progress import Progress
from expunge.evaluation.partial import Partial
from expunge.models.anatomy import causal_lm
from expunge.models.observe import observe

BATCH_TOKENS = 2**13
"""Padded tokens of one teacher-forced batch."""


@dataclass(frozen=True)
class Work:
    """How a collection goes about its work."""

    batch_size: int | None = None
    partial: Partial = field(default_factory=lambda: Partial(None))
    share: Share = ALONE
    """What of it is this rank's."""
    progress: Progress | None = None

    def tell(self, what: str) -> Callable[[int, int], None]:
        """Progress of one kind of work."""

        def told(done: int, total: int) -> None:
            if self.progress is not None:
                self.progress(what, done, total, "")

        return told


class Score(NamedTuple):
    """What a model says to each token of one completion, C of them, given the true tokens before it."""

    logprobs: Float[np.ndarray, " c"]
    """log p of the token; float32, or float64 for a float64 model."""
    hits: Bool[np.ndarray, " c"]
    """Is it the most probable one?"""
    means: Float[np.ndarray, " c"] | None = None
    """Mean of log p over the vocabulary under p, where it was asked for."""
    variances: Float[np.ndarray, " c"] | None = None
    """Its variance."""

    def after(self, k: int) -> "Score":
        """Without the first k tokens."""
        return Score(*(None if values is None else values[k:] for values in self))  # type: ignore[arg-type]


def teacher_forced(
    model: nn.Module,
    rows: Sequence[Encoded],
    *,
    moments: Sequence[bool] | None = None,
    work: Work | None = None,
) -> list[Score]:
    """What a model says to each row's completion, given the true tokens before each.

    Rows of equal tokens are computed once, from the earliest completion start among them.

    Args:
        model: a causal language model.
        rows: token rows.
        moments: for which of them to have mean and variance of the log-probabilities too; None: for none.
        work: batch size, share of this rank, parts.
    """
    work, asked = work or Work(), moments or [False] * len(rows)
    starts: dict[tuple[int, ...], int] = {}
    with_moments: set[tuple[int, ...]] = set()
    for row, wanted in zip(rows, asked, strict=True):
        starts[row.ids] = min(row.start, starts.get(row.ids, row.start))
        with_moments |= {row.ids} if wanted else set()
    distinct = sorted(
        (Encoded(ids, start, False, 0) for ids, start in starts.items()), key=lambda r: (-len(r.ids), r.ids)
    )
    found = {tuple(part["ids"]): _score_from(part) for part in work.partial.read("scores")}
    mine = work.share.mine(_batches(distinct, work.batch_size))
    total, done, most, tell = sum(map(len, mine)), 0, len(distinct), work.tell("scoring answers")
    for batch in mine:
        while left := [row for row in batch if row.ids not in found]:
            some = left[:most]
            try:
                scores = _observed(model, some, with_moments)
            except torch.OutOfMemoryError:
                if len(some) == 1:
                    raise
                most = len(some) // 2
                continue
            found |= dict(zip((row.ids for row in some), scores, strict=True))
            work.partial.add("scores", (_part_of(row, score) for row, score in zip(some, scores, strict=True)))
            tell(done + len(batch) - len(left) + len(some), total)
        done += len(batch)
    work.partial.flush()
    found = work.share.gathered(found)
    return [found[row.ids].after(row.start - starts[row.ids]) for row in rows]


def _batches(distinct: Sequence[Encoded], batch_size: int | None) -> list[Sequence[Encoded]]:
    """Rows sorted by length, longest first, cut into batches: of `batch_size`, or within the budget of tokens."""
    batches, at = [], 0
    while at < len(distinct):
        size = batch_size or max(1, BATCH_TOKENS // len(distinct[at].ids))
        batches.append(distinct[at : at + size])
        at += size
    return batches


_SCORED = frozenset({"token_logprobs", "hits"})


@torch.no_grad()
def _observed(
    model: nn.Module, rows: Sequence[Encoded], with_moments: Collection[tuple[int, ...]] = frozenset()
) -> list[Score]:
    # Rows whose moments are wanted are a stream of their own: one pass, and no moments for the others. The wrapper of
    # DDP is taken off: it would exchange buffers at each pass, and ranks may have unequal numbers of batches.
    streams = {True: [r for r in rows if r.ids in with_moments], False: [r for r in rows if r.ids not in with_moments]}
    held = {str(wanted): part for wanted, part in streams.items() if part}
    needs = {name: _SCORED | ({"moments"} if name == "True" else set()) for name in held}
    seen = observe(causal_lm(model), {name: collate(part) for name, part in held.items()}, needs)
    found: dict[tuple[int, ...], Score] = {}
    for name, part in held.items():
        observed = seen[name]
        assert observed.token_logprobs is not None and observed.hits is not None
        columns = [observed.token_logprobs.cpu().numpy(), observed.hits.cpu().numpy()]
        if observed.moments is not None:
            columns += [observed.moments[..., k].cpu().numpy() for k in (0, 1)]
        for i, row in enumerate(part):
            found[row.ids] = Score(*(column[i, : len(row.ids) - row.start] for column in columns))
    return [found[row.ids] for row in rows]


def _part_of(row: Encoded, score: Score) -> dict[str, Any]:
    return {"ids": row.ids, "start": row.start, **score._asdict()}


def _score_from(part: dict[str, Any]) -> Score:
    means, variances = (None if part[k] is None else np.array(part[k]) for k in ("means", "variances"))
    return Score(np.array(part["logprobs"]), np.array(part["hits"], dtype=np.bool_), means, variances)


def gradient_norms(model: nn.Module, rows: Sequence[Encoded], *, work: Work | None = None) -> dict[Encoded, float]:
    """Mean over parameter tensors of the 2-norm of the gradient of each row's mean token loss, one row at a time.

    Every parameter that the loss reaches counts, frozen ones too. No gradient is left on the model.

    Source: `grad_norm` of open-unlearning, arXiv:2506.12618.
    """
    work, inner = work or Work(), causal_lm(model)
    distinct = sorted(dict.fromkeys(rows), key=lambda r: (-len(r.ids), r.ids, r.start))
    known = {(tuple(part["ids"]), part["start"]): part["norm"] for part in work.partial.read("gradients")}
    found = {row: known[row.ids, row.start] for row in distinct if (row.ids, row.start) in known}
    mine, tell = work.share.mine(distinct), work.tell("gradient norms")
    for done, row in enumerate(mine, start=1):
        if row not in found:
            found[row] = _gradient_norm(inner, row)
            work.partial.add("gradients", [{"ids": row.ids, "start": row.start, "norm": found[row]}])
        tell(done, len(mine))
    work.partial.flush()
    return work.share.gathered(found)


def _gradient_norm(inner: nn.Module, row: Encoded) -> float:
    frozen = [p for p in inner.parameters() if not p.requires_grad and p.is_floating_point()]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        with torch.enable_grad():
            seen = observe(inner, {"row": collate([row])}, {"row": frozenset({"token_logprobs"})})["row"]
            assert seen.token_logprobs is not None
            reached = [p for p in inner.parameters() if p.requires_grad]
            gradients = torch.autograd.grad(-seen.token_logprobs.mean(), reached, allow_unused=True)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
    return float(np.mean([g.float().norm().item() for g in gradients if g is not None]))

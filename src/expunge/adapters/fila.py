"""FILA: an adapter that begins with what the forget set needs most, relative to the retain set."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from expunge.adapters._factor import Svd, relative_importance
from expunge.adapters._importance import (
    Importance,
    Tally,
    begun_with,
    check_file,
    check_key,
    check_settings,
    epsilon_of,
    kept,
    key_of,
)
from expunge.adapters._passes import ROWS_AT_ONCE, Fisher, gradient_pass, retain_count, retain_sample, widened
from expunge.core.batch import Encoded
from expunge.core.progress import Progress
from expunge.models.lowrank import Adapted, check
from expunge.models.matrices import linear_layers


def fila(
    model: PreTrainedModel,
    matrices: Sequence[str],
    forget: Sequence[Encoded],
    retain: Sequence[Encoded],
    seed: int,
    progress: Progress | None,
    rows_at_once: int = ROWS_AT_ONCE,
    *,
    rank: int = 8,
    lora_alpha: float | None = None,
    epsilon: float | str = 1e-5,
    fisher: Fisher = "example",
    fisher_batch_size: int = 2,
    retain_samples: int | None = None,
    svd: Svd = "exact",
    importance: str | None = None,
) -> Adapted:
    """Low-rank adapter that begins with the part of each matrix that Fisher information ties to the forget set.

    For each matrix W: `I = F_f / (epsilon + F_r)` of the element-wise Fisher estimates, `s_o = sqrt(sum_j I[o, j])`,
    and the top `rank` of `svd(diag(s) W)` becomes the adapter; what is left of W is frozen.

    Args:
        model: the start model, changed in place.
        matrices: full names of the linear layers to adapt.
        forget: rows to forget, all of which are looked at once.
        retain: rows to keep.
        seed: of the retain rows that are drawn, and of a randomized decomposition.
        progress: called with how far the pass is.
        rows_at_once: rows of a forward pass, up to 16; with `batch` fisher_batch_size says.
        rank: of A [rank, in] and B [out, rank].
        lora_alpha: numerator of the scaling `lora_alpha / rank`; null: 2 * rank.
        epsilon: added to the retain importance; `auto`: a tenth of its mean over each matrix.
        fisher: `example` squares the gradient of each example; `batch` that of each micro-batch, as published.
        fisher_batch_size: rows of a micro-batch with `batch`.
        retain_samples: retain rows to look at, drawn without replacement; null: a quarter as many as there are
            forget rows.
        svd: `exact`, or `randomized`.
        importance: file to take the row weights from, or to write them to; null: the cache.

    Raises:
        ExpungeError: settings out of range, a matrix without any gradient, an importance file of other content.

    Source: LoKU (OpenReview 1ExfUpmIW4), section 3.3. Departures: squares of examples by default, because the square of
    a micro-batch's mean is no Fisher estimate and changes with its size; an exact decomposition; no residual is
    stored, so that none is rounded to half precision (models/lowrank.py); weights in the token mean are completion
    tokens; a quarter as many retain as forget rows, not as many, so that the pass costs less than an epoch of
    unlearning.
    """
    check_settings(epsilon, fisher, fisher_batch_size, svd)
    check(model, matrices, rank=rank, lora_alpha=lora_alpha)
    sample = retain_sample(retain, retain_samples, seed, forget=len(forget))

    def measure() -> Importance:
        return row_importance(
            model,
            matrices,
            forget,
            sample,
            epsilon=epsilon,
            fisher=fisher,
            batch_size=fisher_batch_size,
            rows_at_once=rows_at_once,
            progress=progress,
        )

    settings = _deciding(epsilon, fisher, fisher_batch_size)
    key = key_of("fila", model, matrices, forget, sample, settings)
    found = kept(measure, key=key, kind="fila", model=model, path=importance)
    return begun_with(
        found,
        model,
        matrices,
        kind="fila",
        epsilon=epsilon,
        rank=rank,
        lora_alpha=lora_alpha,
        svd=svd,
        seed=seed,
    )


def row_importance(
    model: PreTrainedModel,
    matrices: Sequence[str],
    forget: Sequence[Encoded],
    retain: Sequence[Encoded],
    *,
    epsilon: float | str,
    fisher: Fisher = "example",
    batch_size: int = 2,
    rows_at_once: int = ROWS_AT_ONCE,
    progress: Progress | None = None,
) -> Importance:
    """`sum_j I[o, j]` of every matrix; the retain set once for a full map, then the forget set for its row sums alone.

    The importance is linear in F_f, so that `sum_j I[o, j] = sum_i n_i sum_j g_i[o, j]^2 / (epsilon + F_r[o, j])` over
    `sum_i n_i` needs one number a row while the forget set passes by.

    Held besides model and activations: the retain map, 4 bytes a weight of the adapted matrices, in the computer's own
    memory, and on the model's device what one matrix needs at a time, three of its size in float32.
    """
    began = time.perf_counter()
    common: dict[str, Any] = {
        "fisher": fisher,
        "batch_size": batch_size,
        "rows_at_once": rows_at_once,
        "progress": progress,
    }
    fisher_retain = fisher_map(model, matrices, retain, what="importance: retain set", **common)
    layers, tally, inverse = linear_layers(model), Tally(), {}
    for name in matrices:
        of_retain = fisher_retain.pop(name).to(next(layers[name].parameters()).device)
        limit = epsilon_of(epsilon, of_retain)
        tally.add(of_retain, limit)
        inverse[name] = relative_importance(torch.ones_like(of_retain), of_retain, limit).cpu()
    sums: dict[str, Tensor] = {}

    def add(name: str, units: Iterator[tuple[tuple[Tensor, ...], float]]) -> None:
        squares = squared(units)  # first over examples, so that the map is read once for all of them
        share = torch.linalg.vecdot(squares, inverse[name].to(squares.device), dim=1)
        sums[name] = sums[name] + share if name in sums else share

    tokens = gradient_pass(
        model, forget, matrices, gradient=of_weight, fold=add, what="importance: forget set", **common
    )
    seconds = round(time.perf_counter() - began, 3)
    rows = {name: value / tokens for name, value in sums.items()}
    return Importance(rows, {"importance_seconds": seconds, "retain_rows": len(retain), **tally.report()})


def fisher_map(
    model: PreTrainedModel,
    matrices: Sequence[str],
    rows: Sequence[Encoded],
    *,
    fisher: Fisher = "example",
    batch_size: int = 2,
    rows_at_once: int = ROWS_AT_ONCE,
    progress: Progress | None = None,
    what: str = "importance",
) -> dict[str, Tensor]:
    """Element-wise Fisher estimate of every matrix, `sum_i n_i g_i^2 / sum_i n_i`, float32 [out, in], not on a GPU."""
    maps: dict[str, Tensor] = {}

    def add(name: str, units: Iterator[tuple[tuple[Tensor, ...], float]]) -> None:
        found = squared(units).cpu()
        maps[name] = maps[name].add_(found) if name in maps else found

    tokens = gradient_pass(
        model,
        rows,
        matrices,
        gradient=of_weight,
        fold=add,
        fisher=fisher,
        batch_size=batch_size,
        rows_at_once=rows_at_once,
        progress=progress,
        what=what,
    )
    return {name: value.div_(tokens) for name, value in maps.items()}


def squared(units: Iterator[tuple[tuple[Tensor, ...], float]]) -> Tensor:
    """The sum of the squared gradients of some units, [out, in]."""
    total = None
    for (g,), _ in units:
        total = g.square_() if total is None else total.addcmul_(g, g)
    assert total is not None
    return total


def of_weight(name: str, x: Tensor, d: Tensor) -> tuple[Tensor, ...]:
    """The gradient of a layer's weight, [out, in]."""
    return (widened(d).T @ widened(x),)


def _check(
    model: nn.Module,
    matrices: Sequence[str],
    forget_rows: int,
    retain_rows: int,
    *,
    rank: int,
    lora_alpha: float | None,
    epsilon: float | str,
    fisher: str,
    fisher_batch_size: int,
    retain_samples: int | None,
    svd: str,
    importance: str | None,
) -> None:
    check_settings(epsilon, fisher, fisher_batch_size, svd)
    check(model, matrices, rank=rank, lora_alpha=lora_alpha)
    retain_count(retain_samples, retain_rows, forget=forget_rows)
    check_file(importance, model, matrices)


CHECK = _check


def _deciding(epsilon: float | str, fisher: str, fisher_batch_size: int) -> dict[str, Any]:
    batches = {"fisher_batch_size": fisher_batch_size} if fisher == "batch" else {}
    return {"epsilon": epsilon, "fisher": fisher, **batches}


def _check_rows(
    model: PreTrainedModel,
    matrices: Sequence[str],
    forget: Sequence[Encoded],
    retain: Sequence[Encoded],
    seed: int,
    *,
    epsilon: float | str,
    fisher: str,
    fisher_batch_size: int,
    retain_samples: int | None,
    importance: str | None,
) -> None:
    def key() -> str:
        sample = retain_sample(retain, retain_samples, seed, forget=len(forget))
        return key_of("fila", model, matrices, forget, sample, _deciding(epsilon, fisher, fisher_batch_size))

    check_key(importance, key)


CHECK_ROWS = _check_rows

"""VILA: FILA's beginning, with importance measured on small probe matrices."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from expunge.core.checks import require_positive
from expunge.core.progress import Progress
from expunge.models.lowrank import Adapted, Factors, check
from expunge.models.matrices import linear_layers, shape_of


def vila(
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
    sigma: float = 0.05,
    centered: bool = False,
    epsilon: float | str = 1e-5,
    fisher: Fisher = "example",
    fisher_batch_size: int = 2,
    retain_samples: int | None = None,
    svd: Svd = "exact",
    importance: str | None = None,
) -> Adapted:
    """Low-rank adapter that begins as FILA's does, with importance measured on the adapter's own small matrices.

    Probes `A0, B0 ~ Normal(0, sigma^2)` are attached to each matrix. `V[X]`, the variance over examples of the gradient
    of X, gives `F = V[B] V[A]` for either set; `I = F_f / (epsilon + F_r)` goes on as in FILA. The probes are dropped.

    Args:
        model: the start model, changed in place.
        matrices: full names of the linear layers to adapt.
        forget: rows to forget, all of which are looked at once.
        retain: rows to keep.
        seed: of the probes, of the retain rows that are drawn, and of a randomized decomposition.
        progress: called with how far the pass is.
        rows_at_once: rows of a forward pass, up to 16; with `batch` fisher_batch_size says.
        rank: of A [rank, in] and B [out, rank], and of the probes.
        lora_alpha: numerator of the scaling `lora_alpha / rank`; null: 2 * rank.
        sigma: standard deviation of the probes.
        centered: measure at the start model. False measures at the model with the probes added, as published, whose
            gradients are those of a disturbed model.
        epsilon: added to the retain importance; `auto`: a tenth of its mean over each matrix.
        fisher: variance over each `example`, or over each micro-`batch`.
        fisher_batch_size: rows of a micro-batch with `batch`.
        retain_samples: retain rows to look at, drawn without replacement; null: a quarter as many as there are
            forget rows.
        svd: `exact`, or `randomized`.
        importance: file to take the row weights from, or to write them to; null: the cache.

    Raises:
        ExpungeError: settings out of range, a matrix without any gradient, an importance file of other content.

    Source: COLM 2025, arXiv:2508.21300. Departures: importance is divided by the token count once, not twice; one pass,
    because further ones over the same examples only draw other retain rows: raise retain_samples instead.
    """
    check_settings(epsilon, fisher, fisher_batch_size, svd)
    require_positive("sigma", sigma)
    scaling = check(model, matrices, rank=rank, lora_alpha=lora_alpha)
    sample = retain_sample(retain, retain_samples, seed, forget=len(forget))

    def measure() -> Importance:
        return row_importance(
            model,
            matrices,
            forget,
            sample,
            probes=drawn_probes(model, matrices, rank=rank, sigma=sigma, seed=seed),
            scaling=scaling,
            centered=centered,
            epsilon=epsilon,
            fisher=fisher,
            batch_size=fisher_batch_size,
            rows_at_once=rows_at_once,
            progress=progress,
        )

    settings = _deciding(epsilon, fisher, fisher_batch_size, rank, scaling, sigma, centered, seed)
    key = key_of("vila", model, matrices, forget, sample, settings)
    found = kept(measure, key=key, kind="vila", model=model, path=importance)
    return begun_with(
        found,
        model,
        matrices,
        kind="vila",
        epsilon=epsilon,
        rank=rank,
        lora_alpha=lora_alpha,
        svd=svd,
        seed=seed,
    )


def drawn_probes(
    model: nn.Module, matrices: Sequence[str], *, rank: int, sigma: float, seed: int
) -> dict[str, Factors]:
    """Probe factors of every matrix, float32, the same for the same seed on every device."""
    layers, generator = linear_layers(model), torch.Generator().manual_seed(seed)
    found = {}
    for name in matrices:
        n_out, n_in = shape_of(layers[name])
        device = next(layers[name].parameters()).device
        a = torch.randn(rank, n_in, generator=generator) * sigma
        b = torch.randn(n_out, rank, generator=generator) * sigma
        found[name] = Factors(a.to(device), b.to(device))
    return found


def row_importance(
    model: PreTrainedModel,
    matrices: Sequence[str],
    forget: Sequence[Encoded],
    retain: Sequence[Encoded],
    *,
    probes: Mapping[str, Factors],
    scaling: float,
    centered: bool,
    epsilon: float | str,
    fisher: Fisher = "example",
    batch_size: int = 2,
    rows_at_once: int = ROWS_AT_ONCE,
    progress: Progress | None = None,
) -> Importance:
    """`sum_j I[o, j]` of every matrix, from the variances on its probes."""
    began = time.perf_counter()
    variances = {}
    with _probed(model, {} if centered else probes, scaling):
        for what, rows in (("retain", retain), ("forget", forget)):
            variances[what] = probe_variances(
                model,
                matrices,
                rows,
                probes=probes,
                scaling=scaling,
                fisher=fisher,
                batch_size=batch_size,
                rows_at_once=rows_at_once,
                progress=progress,
                what=f"importance: {what} set",
            )
    tally, sums = Tally(), {}
    for name in matrices:
        of_forget, of_retain = (variances[w][name].b @ variances[w][name].a for w in ("forget", "retain"))
        limit = epsilon_of(epsilon, of_retain)
        tally.add(of_retain, limit)
        sums[name] = relative_importance(of_forget, of_retain, limit).sum(1)
    seconds = round(time.perf_counter() - began, 3)
    return Importance(sums, {"importance_seconds": seconds, "retain_rows": len(retain), **tally.report()})


def probe_variances(
    model: PreTrainedModel,
    matrices: Sequence[str],
    rows: Sequence[Encoded],
    *,
    probes: Mapping[str, Factors],
    scaling: float,
    fisher: Fisher = "example",
    batch_size: int = 2,
    rows_at_once: int = ROWS_AT_ONCE,
    progress: Progress | None = None,
    what: str = "importance",
) -> dict[str, Factors]:
    """Variance of the gradient of each probe, `max(E[g^2] - E[g]^2, 0)` with token-weighted means."""
    squares: dict[str, list[Tensor]] = {}
    means: dict[str, list[Tensor]] = {}

    def gradient(name: str, x: Tensor, d: Tensor) -> tuple[Tensor, ...]:
        # With G = d^T x the gradient of W + scaling * B A: of A it is scaling * B^T G, of B scaling * G A^T.
        x, d = widened(x), widened(d)
        a, b = probes[name].a.to(x.dtype), probes[name].b.to(x.dtype)
        return scaling * (d @ b).T @ x, scaling * d.T @ (x @ a.T)

    def add(name: str, units: Iterator[tuple[tuple[Tensor, ...], float]]) -> None:
        for found, root in units:
            for into, values in ((squares, [g.square() for g in found]), (means, [root * g for g in found])):
                into[name] = [a + b for a, b in zip(into[name], values, strict=True)] if name in into else values

    tokens = gradient_pass(
        model,
        rows,
        matrices,
        gradient=gradient,
        fold=add,
        fisher=fisher,
        batch_size=batch_size,
        rows_at_once=rows_at_once,
        progress=progress,
        what=what,
    )
    return {
        name: Factors(
            *(
                (square / tokens - (mean / tokens).square()).clamp(min=0)
                for square, mean in zip(squares[name], means[name], strict=True)
            )
        )
        for name in matrices
    }


@contextmanager
def _probed(model: nn.Module, probes: Mapping[str, Factors], scaling: float) -> Iterator[None]:
    """The model with `scaling * B0 A0` added to its matrices."""
    layers = linear_layers(model)

    def add(probe: Factors) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            x = widened(inputs[0])
            extra = scaling * (x @ probe.a.to(x.dtype).T) @ probe.b.to(x.dtype).T
            return output + extra.to(output.dtype)

        return hook

    handles = [layers[name].register_forward_hook(add(probe)) for name, probe in probes.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check(
    model: nn.Module,
    matrices: Sequence[str],
    forget_rows: int,
    retain_rows: int,
    *,
    rank: int,
    lora_alpha: float | None,
    sigma: float,
    epsilon: float | str,
    fisher: str,
    fisher_batch_size: int,
    retain_samples: int | None,
    svd: str,
    importance: str | None,
) -> None:
    check_settings(epsilon, fisher, fisher_batch_size, svd)
    require_positive("sigma", sigma)
    check(model, matrices, rank=rank, lora_alpha=lora_alpha)
    retain_count(retain_samples, retain_rows, forget=forget_rows)
    check_file(importance, model, matrices)


CHECK = _check


def _deciding(
    epsilon: float | str,
    fisher: str,
    fisher_batch_size: int,
    rank: int,
    scaling: float,
    sigma: float,
    centered: bool,
    seed: int,
) -> dict[str, Any]:
    return {
        "epsilon": epsilon,
        "fisher": fisher,
        "rank": rank,
        "scaling": scaling,
        "sigma": sigma,
        "centered": centered,
        "seed": seed,
    } | ({"fisher_batch_size": fisher_batch_size} if fisher == "batch" else {})


def _check_rows(
    model: PreTrainedModel,
    matrices: Sequence[str],
    forget: Sequence[Encoded],
    retain: Sequence[Encoded],
    seed: int,
    *,
    rank: int,
    lora_alpha: float | None,
    sigma: float,
    centered: bool,
    epsilon: float | str,
    fisher: str,
    fisher_batch_size: int,
    retain_samples: int | None,
    importance: str | None,
) -> None:
    def key() -> str:
        scaling = check(model, matrices, rank=rank, lora_alpha=lora_alpha)
        sample = retain_sample(retain, retain_samples, seed, forget=len(forget))
        settings = _deciding(epsilon, fisher, fisher_batch_size, rank, scaling, sigma, centered, seed)
        return key_of("vila", model, matrices, forget, sample, settings)

    check_key(importance, key)


CHECK_ROWS = _check_rows

"""One pass over some rows that shows, example by example, the loss gradient of every adapted matrix.

With x the input and d the output gradient of a linear layer on example i, the gradient of its weight is `d_i^T x_i`.
Hooks make it from these two and hand it on at once, so that neither parameter gradients nor a batch size of 1 are
needed, and quantized weights will do.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from expunge.core.batch import Encoded, collate
from expunge.core.checks import ExpungeError
from expunge.core.progress import Progress
from expunge.models.matrices import linear_layers
from expunge.models.observe import observe

Fisher = Literal["example", "batch"]
Gradient = Callable[[str, Tensor, Tensor], tuple[Tensor, ...]]
"""(name, x [t, in], d [t, out]) to the gradients that are wanted, float32 or wider."""
Fold = Callable[[str, Iterator[tuple[tuple[Tensor, ...], float]]], None]
"""(name, for every unit i of a forward pass `sqrt(n_i) g_i` and `sqrt(n_i)`); the gradients are made as it is read."""

ROWS_AT_ONCE = 16
"""Most rows of a forward pass with `example`."""
RETAIN_SHARE = 4
"""Forget rows to one retain row that is looked at by default."""


def gradient_pass(
    model: nn.Module,
    rows: Sequence[Encoded],
    matrices: Sequence[str],
    *,
    gradient: Gradient,
    fold: Fold,
    fisher: Fisher,
    batch_size: int,
    rows_at_once: int = ROWS_AT_ONCE,
    progress: Progress | None = None,
    what: str = "importance",
) -> int:
    """Hand on the gradients of each example (or micro-batch) i of the token-mean loss, times `sqrt(n_i)`.

    The squares of what is handed on thus add up to the token-weighted mean of squared gradients,
    `sum_i n_i g_i^2 / sum_i n_i`, and its products with `sqrt(n_i)` to the mean gradient, once divided by the number
    that is returned.

    Args:
        model: as it is; put in eval mode meanwhile.
        rows: each seen once; with `example` in order of length, which spares padding.
        matrices: names of linear layers.
        gradient: from inputs and output gradients of a layer.
        fold: called once a layer in each backward pass.
        fisher: is a unit an `example` or a micro-`batch`?
        batch_size: rows of a micro-batch.
        rows_at_once: rows of a forward pass with `example`, up to 16; changes memory and time, and
            values by no more than sums in another order do.
        progress: called with (what, rows done, rows in all, "").
        what: a word for progress.

    Returns:
        Completion tokens of all rows, `sum_i n_i`.

    Raises:
        ExpungeError: a layer that does not compute row by row, or more than once in a forward pass.
    """
    size = batch_size if fisher == "batch" else min(rows_at_once, ROWS_AT_ONCE)
    ordered = sorted(rows, key=lambda row: len(row.ids)) if fisher == "example" else rows
    roots: list[float] = []
    parts: dict[str, tuple[int, tuple[Tensor, ...]]] = {}

    def see(name: str, first: int, x: Tensor, d: Tensor) -> None:
        if fisher == "example":
            here = roots[first : first + len(x)]
            fold(name, ((gradient(name, *row), root) for *row, root in zip(x, d, here, strict=True)))
            return
        done, found = len(x), gradient(name, x.flatten(0, 1), d.flatten(0, 1))
        if name in parts:
            before, other = parts.pop(name)
            done, found = before + done, tuple(a + b for a, b in zip(other, found, strict=True))
        if done < rows_now:
            parts[name] = done, found
        else:
            fold(name, iter([(found, roots[0])]))

    tokens = 0
    with _watched(model, matrices, see) as expect:
        for first in range(0, len(ordered), size):
            chunk = ordered[first : first + size]
            rows_now = len(chunk)
            expect(rows_now)
            shown = observe(model, {"rows": collate(chunk)}, {"rows": frozenset({"token_logprobs"})})["rows"]
            assert shown.logprobs is not None
            counts = (shown.counts if fisher == "example" else shown.counts.sum()[None]).double()
            by_unit = shown.logprobs if fisher == "example" else shown.logprobs.sum()[None]
            roots[:] = counts.sqrt().tolist()
            # Rows are independent, so weighing a row's loss weighs its gradients alone.
            (-(by_unit / counts.sqrt()).sum()).backward()
            tokens += int(counts.sum())
            if progress:
                progress(what, min(first + size, len(rows)), len(rows), "")
    return tokens


@contextmanager
def _watched(
    model: nn.Module, matrices: Sequence[str], see: Callable[[str, int, Tensor, Tensor], None]
) -> Iterator[Callable[[int], None]]:
    """Show inputs and output gradients of some layers in each backward pass; no parameter gets a gradient.

    The rows of a batch may pass in several groups. They do so in order of length, so that where rows come in that order
    a group begins where the one before it ended: `see` gets the number of its first row.

    Yields:
        What gets the number of rows before each forward pass.
    """
    layers = linear_layers(model)
    wanted = {p: p.requires_grad for p in model.parameters()}
    training = model.training
    handles = []
    expected, passed = 0, dict.fromkeys(matrices, 0)

    def expect(rows: int) -> None:
        nonlocal expected
        expected = rows
        passed.update(dict.fromkeys(matrices, 0))

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if not output.requires_grad:
                return
            if output.dim() != 3:
                raise ExpungeError(f"{name} does not compute row by row, so per-example gradients are not available.")
            x, first = inputs[0].detach(), passed[name]
            passed[name] += len(x)
            if passed[name] > expected:
                raise ExpungeError(f"{name} is used more than once in a forward pass: its gradient comes in parts.")
            output.register_hook(lambda d: see(name, first, x, d.detach()))

        return hook

    def begin(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if torch.is_grad_enabled():
            output.requires_grad_(True)

    try:
        model.requires_grad_(False)
        model.eval()
        handles = [layers[name].register_forward_hook(watch(name)) for name in matrices]
        embeddings = model.get_input_embeddings()  # type: ignore[operator]
        handles.append(embeddings.register_forward_hook(begin))
        yield expect
    finally:
        for handle in handles:
            handle.remove()
        for parameter, before in wanted.items():
            parameter.requires_grad_(before)
        model.train(training)


def retain_count(n: int | None, rows: int, *, forget: int) -> int:
    """How many of the retain set's `rows` are looked at, where `n` were asked for.

    Raises:
        ExpungeError: there are fewer.
    """
    if n is None:
        n = min(math.ceil(forget / RETAIN_SHARE), rows)
    if not 1 <= n <= rows:
        raise ExpungeError(f"retain_samples must be between 1 and {rows}, the retain set's rows; got {n}.")
    return n


def widened(value: Tensor) -> Tensor:
    """In float32, or in float64 where the model computes in it."""
    return value if value.dtype == torch.float64 else value.float()


def retain_sample(rows: Sequence[Encoded], n: int | None, seed: int, *, forget: int) -> list[Encoded]:
    """`n` rows drawn without replacement, in their order; None: a quarter as many as there are rows to forget.

    Raises:
        ExpungeError: there are fewer.
    """
    n = retain_count(n, len(rows), forget=forget)
    drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:n]
    return [rows[i] for i in drawn.sort().values.tolist()]

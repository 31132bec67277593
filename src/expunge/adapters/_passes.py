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

from expunge.core.checks import ExpungeError
from expunge.core.progress import Progress
from expunge.core.rows import Encoded, collate
from expunge.models.matrices import linear_layers
from expunge.models.observe import observe

Fisher = Literal["example", "batch"]
Gradient = Callable[[str, Tensor, Tensor], tuple[Tensor, ...]]
"""(name, x [t, in], d [t, out]) to the gradients that are wanted, float32."""
Fold = Callable[[str, tuple[Tensor, ...]], None]

ROWS_AT_ONCE = 16
"""Rows of a forward pass with `example`, where it changes no value."""
RETAIN_SHARE = 4
"""Forget rows to one retain row that is looked at by default."""


def gradient_pass(
    model: nn.Module,
    rows: Sequence[Encoded],
    matrices: Sequence[str],
    *,
    gradient: Gradient,
    square: Fold,
    linear: Fold | None = None,
    fisher: Fisher,
    batch_size: int,
    progress: Progress | None = None,
    what: str = "importance",
) -> int:
    """Hand on the gradients of each example (or micro-batch) i of the token-mean loss, times `sqrt(n_i)`.

    The square of what is handed to `square` is thus what enters the token-weighted mean of squared gradients,
    `sum_i n_i g_i^2 / sum_i n_i`, once divided by the number that is returned.

    Args:
        model: as it is; put in eval mode meanwhile.
        rows: each seen once; with `example` in order of length, which spares padding.
        matrices: names of linear layers.
        gradient: from inputs and output gradients of a layer.
        square: told of every unit's `sqrt(n_i) g_i`.
        linear: told of parts of `sum_i n_i g_i`, for the mean gradient; None spares a second backward pass.
        fisher: is a unit an `example` or a micro-`batch`?
        batch_size: rows of a micro-batch.
        progress: called with (what, rows done, rows in all, "").
        what: a word for progress.

    Returns:
        Completion tokens of all rows, `sum_i n_i`.
    """
    size = batch_size if fisher == "batch" else ROWS_AT_ONCE
    ordered = sorted(rows, key=lambda row: len(row.ids)) if fisher == "example" else rows
    pending: dict[str, tuple[Tensor, ...]] = {}
    phase = {"now": "square"}

    def see(name: str, x: Tensor, d: Tensor) -> None:
        if phase["now"] == "linear":
            assert linear is not None
            linear(name, gradient(name, x.flatten(0, 1), d.flatten(0, 1)))
        elif fisher == "batch":
            found = gradient(name, x.flatten(0, 1), d.flatten(0, 1))
            before = pending.get(name)
            pending[name] = found if before is None else tuple(a + b for a, b in zip(before, found, strict=True))
        else:
            for row_x, row_d in zip(x, d, strict=True):
                square(name, gradient(name, row_x, row_d))

    tokens = 0
    with _watched(model, matrices, see):
        for first in range(0, len(ordered), size):
            batch = collate(ordered[first : first + size])
            seen = observe(model, {"rows": batch}, {"rows": frozenset({"token_logprobs"})})["rows"]
            assert seen.logprobs is not None
            counts = seen.counts
            total = int(counts.sum())
            # Rows are independent, so weighing a row's loss weighs its gradients alone.
            loss = (
                -(seen.logprobs / counts.sqrt()).sum()
                if fisher == "example"
                else -seen.logprobs.sum() / math.sqrt(total)
            )
            phase["now"] = "square"
            loss.backward(retain_graph=linear is not None)
            for name, found in pending.items():
                square(name, found)
            pending.clear()
            if linear is not None:
                phase["now"] = "linear"
                (-seen.logprobs.sum()).backward()
            tokens += total
            if progress:
                progress(what, min(first + size, len(rows)), len(rows), "")
    return tokens


@contextmanager
def _watched(model: nn.Module, matrices: Sequence[str], see: Callable[[str, Tensor, Tensor], None]) -> Iterator[None]:
    """Show inputs and output gradients of some layers in each backward pass; no parameter gets a gradient."""
    layers = linear_layers(model)
    wanted = {p: p.requires_grad for p in model.parameters()}
    training = model.training
    handles = []

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if not output.requires_grad:
                return
            if output.dim() != 3:
                raise ExpungeError(f"{name} does not compute row by row, so the gradients of examples cannot be told.")
            x = inputs[0].detach()
            output.register_hook(lambda d: see(name, x, d.detach()))

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
        yield
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
        raise ExpungeError(f"retain_samples must lie between 1 and {rows}, the retain set's rows; got {n}.")
    return n


def retain_sample(rows: Sequence[Encoded], n: int | None, seed: int, *, forget: int) -> list[Encoded]:
    """`n` rows drawn without replacement, in their order; None: a quarter as many as there are rows to forget.

    Raises:
        ExpungeError: there are fewer.
    """
    n = retain_count(n, len(rows), forget=forget)
    drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:n]
    return [rows[i] for i in drawn.sort().values.tolist()]

"""What attributions are shown of a model: gradients of objectives and inputs of layers, streamed over batches.

The model is the start model, so reference values are its own. It is run in evaluation mode; sums are float32 or wider
and kept in buffers of their own. Every example weighs the same however rows are ordered and batched.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from expunge.core.batch import Encoded, collate
from expunge.core.cache import cache_path
from expunge.core.distributed import is_main, sharded, share_of
from expunge.core.logprobs import wide
from expunge.core.manifest import fingerprint, jsonable, versions
from expunge.core.progress import Progress
from expunge.core.tensor_file import keep_tensors, kept_tensors
from expunge.localize.gradient_sums import collecting
from expunge.models.anatomy import causal_lm, evaluating, output_dim
from expunge.models.observe import Observed, Place, observe, observe_inputs
from expunge.models.placement import input_device, kept_weight
from expunge.objectives.combine import Loss, Need, Objective, Stream

CACHED = 2**30
"""Most bytes of gradients that are kept in the cache; larger ones are computed each time."""


@dataclass(frozen=True)
class Dataset:
    """The rows of one set and the loss that is taken of each."""

    what: str
    """For progress and messages: `forget` or `retain`."""
    objective: Objective
    """With one loss."""
    rows: Mapping[Stream, Sequence[Encoded]]
    """Rows by stream, alike in number: row i of each belongs to example i."""

    @property
    def loss(self) -> Loss:
        """The loss."""
        ((loss, _),) = self.objective.losses.values()
        return loss

    def __len__(self) -> int:
        return len(next(iter(self.rows.values())))


def gradients(
    model: nn.Module,
    dataset: Dataset,
    names: Sequence[str],
    *,
    how: str = "mean",
    batch_size: int = 8,
    model_fingerprint: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """Gradients of a set's loss, each example's loss being its token mean (or what a sequence loss gives).

        mean:     (1 / N) * sum_i grad L_i          sum:  sum_i grad L_i          squares:  (1 / N) * sum_i (grad L_i)^2

    Args:
        model: the start model; only the named parameters get gradients meanwhile.
        dataset: rows and loss.
        names: parameters, as `causal_lm(model)` calls them.
        how: `mean`, `sum` or `squares`; the last runs one backward pass an example.
        batch_size: examples computed at once. Ranks share the batches, which are cut as for one process.
        model_fingerprint: of the model, under which gradients are kept in the cache; None keeps nothing.
        progress: called with (what, examples done, examples in all, numbers).

    Returns:
        Parameter name -> gradient in its shape, on the model's device, float32 or wider.
    """
    inner = causal_lm(model)
    parameters = {name: parameter for name, parameter in inner.named_parameters() if name in set(names)}
    size = 4 * sum(p.numel() for p in parameters.values())
    path, share = None, share_of(inner)
    ours = dataset.loss.function.__module__.startswith("expunge.")
    if model_fingerprint is not None and size <= CACHED and ours and not sharded(inner):
        key = _key(dataset, list(parameters), how, model_fingerprint, next(inner.parameters()).dtype)
        path = cache_path("gradients", key).with_suffix(".safetensors")
        kept = kept_tensors(path, key, str(input_device(inner)))
        if share.all(kept is not None):  # ranks on another machine have a cache of their own
            assert kept is not None
            return kept[0]
    sums = {name: torch.zeros_like(wide(kept_weight(inner, name, p.detach()))) for name, p in parameters.items()}
    mine = share.mine(_batches(dataset, 1 if how == "squares" else batch_size))
    total, done = sum(map(len, mine)), 0
    with collecting(inner, sums, squared=how == "squares") as collect:
        for numbers in mine:
            # Weighed afterwards, in float32: 1 / N times a small gradient may be nothing in float16.
            example_losses(inner, dataset, numbers).sum().backward()
            collect()
            done += len(numbers)
            if progress is not None:
                progress(f"{dataset.what} gradients", done, total, "")
    for summed in sums.values():
        share.summed(summed)
        if how != "sum":
            summed.mul_(1 / len(dataset))
    if path is not None and is_main():
        keep_tensors(sums, path, key)
    return sums


def example_losses(model: nn.Module, dataset: Dataset, numbers: Sequence[int]) -> Tensor:
    """The loss of each of some examples, [B], with gradients."""
    objective, loss = dataset.objective, dataset.loss
    needs: dict[str, frozenset[str]] = {}
    for by in ("current",) if loss.tokenwise else ("current", "reference"):
        for stream, observables in objective.needs(by).items():  # type: ignore[arg-type]
            needs[stream] = needs.get(stream, frozenset()) | observables
    batches = {stream: collate([dataset.rows[stream][i] for i in numbers]) for stream in needs}

    def of_tokens(logits: Tensor, targets: Tensor, _place: Place) -> Tensor:
        return loss.of_tokens(logits, logits.detach(), targets)

    seen: dict[str, Observed] = observe(
        model,
        batches,
        needs,
        layer=objective.layer,
        positions=objective.positions,
        token_losses={loss.own: of_tokens},
    )

    def lookup(need: Need) -> Tensor:
        value: Tensor = getattr(seen[need.stream], need.observable)
        return value.detach() if need.by == "reference" else value

    term = loss.observed_term(lookup)
    return term.values if term.counts is None else term.values / term.counts


def input_means(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    rows: Sequence[Encoded],
    *,
    positions: str = "predicting",
    batch_size: int = 8,
    progress: Progress | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Mean absolute value and mean square of each input channel of linear layers, over the tokens of a set.

    Args:
        model: the start model.
        layers: linear layers of the decoder by a name of your own.
        rows: token rows.
        positions: `predicting` (those that predict a completion token) or `all`.
        batch_size: rows computed at once.
        progress: called with (what, rows done, rows in all, numbers).

    Returns:
        Two mappings, layer name -> float64 [in].
    """
    absolute: dict[str, Tensor] = {}
    squared: dict[str, Tensor] = {}

    def read(name: str, inputs: Tensor) -> None:
        values = inputs.double()
        absolute[name] += values.abs().sum(0).cpu()
        squared[name] += values.square().sum(0).cpu()

    for name, layer in layers.items():
        width = layer.weight.shape[1 - output_dim(layer)]  # type: ignore[union-attr, index]
        absolute[name], squared[name] = (torch.zeros(int(width), dtype=torch.float64) for _ in range(2))
    share = share_of(model)
    mine = share.mine(_cut(rows, batch_size))
    seen, total, done = torch.zeros((), dtype=torch.long), sum(map(len, mine)), 0
    with evaluating(model):
        for numbers in mine:
            batch = collate([rows[i] for i in numbers])
            seen += observe_inputs(model, batch, layers, read, positions=positions)
            done += len(numbers)
            if progress is not None:
                progress("inputs of layers", done, total, "")
    positions_seen = int(share.summed(seen))
    return (
        {name: share.summed(of_all) / positions_seen for name, of_all in absolute.items()},
        {name: share.summed(of_all) / positions_seen for name, of_all in squared.items()},
    )


def _batches(dataset: Dataset, size: int) -> list[list[int]]:
    return _cut(next(iter(dataset.rows.values())), size)


def _cut(rows: Sequence[Encoded], size: int) -> list[list[int]]:
    # Longest first: too little memory shows at once, and rows of like length pad little.
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].ids))
    return [order[i : i + size] for i in range(0, len(order), size)]


def _key(dataset: Dataset, names: Sequence[str], how: str, model_fingerprint: str, dtype: torch.dtype) -> str:
    loss, objective = dataset.loss, dataset.objective
    return fingerprint(
        {
            "model": model_fingerprint,
            "dtype": str(dtype),
            "loss": [loss.name, inspect.getsource(loss.function), jsonable(loss.hyperparameters)],
            "read": [objective.layer, objective.positions],
            "rows": {stream: [[row.ids, row.start] for row in rows] for stream, rows in sorted(dataset.rows.items())},
            "names": list(names),
            "how": how,
            "version": versions()["expunge"],
        }
    )

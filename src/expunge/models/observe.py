"""Observables: the one place that runs a model forward for training, attribution and scoring.

From what is needed it returns, at completion positions only, token log-probabilities, hits, values of losses, logits
and hidden states. Prompt and padding never pass the vocabulary head. Rows of one call may come in several streams
(forget, retain, alternate): they share one pass, and rows of like length are computed together, or all rows in one
sequence where they are packed, which reorders work and changes no value.

What is where is worked out on the host, from the rows; the model's device gets indices and is never waited for.

B = rows, C = completion positions of the longest completion, V = vocabulary, D = hidden size,
N = completion tokens in all.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from expunge.core.batch import Batch
from expunge.core.checks import ExpungeError
from expunge.core.distributed import sharded
from expunge.core.logprobs import IGNORED, logprob_moments, masked_sum, token_logprobs
from expunge.models.anatomy import backbone, blocks, causal_lm
from expunge.models.packing import packs_of
from expunge.models.placement import input_device
from expunge.models.vocabulary_head import Head, forward_replaced, head_of, in_chunks, original_forward

OBSERVABLES = ("logprobs", "token_logprobs", "hits", "moments", "token_values", "states", "logits", "hidden")
FROM_HEAD = frozenset(OBSERVABLES) - {"hidden"}
"""Those that the vocabulary head has a part in."""

Place = tuple[Int[Tensor, " n"], Int[Tensor, " n"]]
"""Rows and columns of some completion tokens among those of a stream, [B, C]."""
TokenLoss = Callable[[Float[Tensor, "n v"], Int[Tensor, " n"], Place], Float[Tensor, " n"]]
"""From the logits that predict some completion tokens, these tokens and their places to one value each."""
_CARRYING = ("token_logprobs", "token_values", "states", "logits", "hidden")  # what may carry a gradient


@dataclass(frozen=True)
class Observed:
    """What a model showed on one stream of rows; completions are moved to the left edge, column j holding token j."""

    completion_mask: Bool[Tensor, "b c"]
    """True where a row has a completion token."""
    targets: Int[Tensor, "b c"]
    """The completion tokens; 0 where there is none."""
    token_logprobs: Float[Tensor, "b c"] | None = None
    """log p of each completion token, float32 or wider; 0 where there is none."""
    hits: Bool[Tensor, "b c"] | None = None
    """Is the token the most probable one?"""
    moments: Float[Tensor, "b c 2"] | None = None
    """Mean and variance of log p over the vocabulary under p where each completion token is predicted; 0 where there is
    none. They carry no gradient."""
    token_values: Float[Tensor, "b c"] | None = None
    """What the stream's `TokenLoss` gave each completion token; 0 where there is none."""
    states: Float[Tensor, "b c d"] | None = None
    """What the vocabulary head turns into the logits that predict each completion token; 0 where there is none."""
    logits: Float[Tensor, "b c v"] | None = None
    """Logits that predict each completion token; 0 where there is none."""
    hidden: Float[Tensor, "b c d"] | None = None
    """Output of one decoder block at each completion position; 0 where there is none."""

    @property
    def logprobs(self) -> Float[Tensor, " b"] | None:
        """Log p of each whole completion."""
        return None if self.token_logprobs is None else masked_sum(self.token_logprobs, self.completion_mask)

    @property
    def counts(self) -> Float[Tensor, " b"]:
        """Completion tokens of each row."""
        return self.completion_mask.sum(-1).float()


def observe(
    model: nn.Module,
    batches: Mapping[str, Batch],
    needs: Mapping[str, frozenset[str]],
    *,
    layer: int | None = None,
    positions: str = "holding",
    together: bool = False,
    token_losses: Mapping[str, TokenLoss] | None = None,
) -> dict[str, Observed]:
    """Run the model once over all streams and return what each needs.

    Args:
        model: a causal language model, possibly wrapped (DDP, FSDP2, PEFT).
        batches: rows by stream, padded on either side.
        needs: for each stream, names out of `OBSERVABLES`.
        layer: decoder block whose output is `hidden`, from 0. When nothing but hidden states is needed, blocks after it
            do not run.
        positions: `holding` reads hidden states where a completion token stands, `predicting` one position before it.
        together: compute all rows in one pass, in their order and at the left edge, so that a hook on a block knows
            which row and position it sees.
        token_losses: what gives `token_values`, for each stream that needs them. It is called with a chunk of tokens at
            a time, so that no more than one chunk's logits are held, and again in the backward pass where there are
            several.

    Returns:
        One `Observed` per stream.

    Raises:
        ExpungeError: a row without a completion token, an unknown observable, or a layer that the model lacks.
    """
    for stream, names in needs.items():
        unknown = sorted(names - set(OBSERVABLES) - {"completion_mask", "targets", "counts"})
        if unknown:
            raise ExpungeError(
                f"no observable is called {unknown} (asked for '{stream}'). Known: {', '.join(OBSERVABLES)}."
            )
    inner = causal_lm(model)
    rows = _Rows.gather(batches, inner, together=together)
    wanted = frozenset().union(*needs.values())
    through_head = bool(wanted & FROM_HEAD)
    if "hidden" in wanted and layer is None:
        raise ExpungeError("hidden states were asked for without saying of which layer.")
    result: dict[str, Observed] = {}

    def forward(**_: Any) -> dict[str, Tensor]:
        to_logits = head_of(inner) if through_head else None
        final, hidden = _run(inner, rows, layer if "hidden" in wanted else None, to_logits, positions)
        outputs: dict[str, Tensor] = {}
        for stream, part in rows.streams.items():
            loss = (token_losses or {}).get(stream)
            seen = _read(part, to_logits, final, hidden, needs[stream], loss)
            result[stream] = seen
            # Returned through the wrapper, so that engines which hook outputs see what the loss will use.
            outputs |= {f"{stream}.{k}": v for k in _CARRYING if (v := getattr(seen, k)) is not None}
        return outputs

    with forward_replaced(inner, forward):
        outputs = model(input_ids=rows.groups[0].input_ids)
    for name, value in outputs.items():
        stream, _, attribute = name.rpartition(".")
        result[stream] = replace(result[stream], **{attribute: value})
    return result


@torch.no_grad()
def observe_inputs(
    model: nn.Module,
    batch: Batch,
    layers: Mapping[str, nn.Module],
    read: Callable[[str, Tensor], None],
    *,
    positions: str = "predicting",
) -> int:
    """Show the inputs of linear layers inside the decoder, without gradients and without the vocabulary head.

    Args:
        model: a causal language model, possibly wrapped.
        batch: rows, padded on either side.
        layers: layers by a name of your own.
        read: called with a name and the inputs of that layer, [positions, in], for each group of rows.
        positions: `predicting` shows the positions that predict a completion token, `all` every real token.

    Returns:
        How many positions were shown.

    Raises:
        ExpungeError: a layer that did not run, or not on whole rows; a row without a completion token.
    """
    inner = causal_lm(model)
    rows = _Rows.gather({"rows": batch}, inner)
    shown, seen = 0, set()
    where: Place = rows.groups[0].predicting

    def hooked(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if inputs[0].dim() != 3:
                raise ExpungeError(f"{name} does not see whole rows [rows, positions, in] but {list(inputs[0].shape)}.")
            seen.add(name)
            read(name, inputs[0].to(where[0].device)[where])

        return hook

    def forward(**_: Any) -> None:
        nonlocal shown, where
        for group in rows.groups:
            where = group.real if positions == "all" else group.predicting
            shown += len(where[0])
            backbone(inner)(input_ids=group.input_ids, use_cache=False, **group.packing)

    handles = [layer.register_forward_pre_hook(hooked(name)) for name, layer in layers.items()]
    try:
        with forward_replaced(inner, forward):  # through the model, which may gather or bring in its weights
            inner(input_ids=rows.groups[0].input_ids)
    finally:
        for handle in handles:
            handle.remove()
    if silent := [name for name in layers if name not in seen]:
        raise ExpungeError(f"{silent[0]} has no inputs inside the decoder: it did not run.")
    return shown


@dataclass(frozen=True)
class _Part:
    """One stream inside the flat list of completion tokens."""

    flat: slice
    """Where its completion tokens stand in the flat list of all."""
    place: Place
    mask: Bool[Tensor, "b c"]
    targets: Int[Tensor, "b c"]


@dataclass(frozen=True)
class _Group:
    """Rows that run together: of like length, one below the other, or packed into one sequence."""

    input_ids: Int[Tensor, "b t"]
    predicting: Place
    """Row and position of what predicts each completion token."""
    real: tuple[Int[Tensor, " r"], Int[Tensor, " r"]]
    """Row and position of every real token."""
    packing: Mapping[str, Any]
    """What the decoder is told of rows that are packed."""


@dataclass(frozen=True)
class _Rows:
    """All rows of a call, moved to the left edge, in groups; the tensors are on the model's device."""

    groups: list[_Group]
    order: Int[Tensor, " n"]
    """Where each completion token stands in the list that the groups make one after the other."""
    streams: dict[str, _Part]

    @classmethod
    def gather(cls, batches: Mapping[str, Batch], model: nn.Module, *, together: bool = False) -> "_Rows":
        device = input_device(model)

        def moved(*tensors: Tensor) -> tuple[Tensor, ...]:
            return tuple(t.to(device, non_blocking=True) for t in tensors)

        ids, labels, lengths = _stacked(batches)
        supervised = labels != IGNORED
        supervised[:, 0] = False  # nothing predicts the first token
        per_row = supervised.sum(1)
        if bool((per_row == 0).any()):
            stream, number = _locate(batches, int((per_row == 0).nonzero()[0]))
            raise ExpungeError(f"row {number} of the {stream} batch has no completion token: every label is {IGNORED}.")
        packs = packs_of(model) if not together and bool((lengths != lengths[0]).any()) else None
        groups: list[_Group] = []
        order: list[Tensor] = []
        token_row, token_at = supervised.nonzero(as_tuple=True)
        if packs is not None:
            divided = [torch.tensor(numbers) for numbers in packs.divided(lengths.tolist())]
        elif together or sharded(model):
            # Processes that share the weights of a layer must call it equally often, however long their rows are.
            divided = [torch.arange(len(lengths))]
        else:
            divided = groups_of_like_length(lengths)
        for numbers in divided:
            length = int(lengths[numbers].max())
            input_ids = ids[numbers, :length]
            row, at = supervised[numbers].nonzero(as_tuple=True)
            real = (torch.arange(length) < lengths[numbers, None]).nonzero(as_tuple=True)
            told: dict[str, Any] = {}
            if packs is not None:
                told = packs.inputs(lengths[numbers].tolist())
                begins = lengths[numbers].cumsum(0) - lengths[numbers]
                input_ids = input_ids[real][None]
                row, at = torch.zeros_like(row), begins[row] + at
                real = (torch.zeros_like(real[0]), begins[real[0]] + real[1])
            (input_ids,) = moved(input_ids)
            told = {name: moved(one)[0] if isinstance(one, Tensor) else one for name, one in told.items()}
            groups.append(_Group(input_ids, moved(row, at - 1), moved(*real), told))  # type: ignore[arg-type]
            order.append(torch.isin(token_row, numbers).nonzero()[:, 0])
        streams, first, begin = {}, 0, 0
        for stream, batch in batches.items():
            n = per_row[first : first + batch["input_ids"].shape[0]]
            mask = torch.arange(int(n.max())) < n[:, None]
            targets = torch.zeros(mask.shape, dtype=torch.long)
            flat = slice(begin, begin + int(n.sum()))
            targets[mask] = ids[token_row[flat], token_at[flat]]
            place = moved(*mask.nonzero(as_tuple=True))
            streams[stream] = _Part(flat, place, *moved(mask, targets))  # type: ignore[arg-type]
            first, begin = first + len(n), flat.stop
        return cls(groups, moved(torch.cat(order).argsort())[0], streams)


def _stacked(batches: Mapping[str, Batch]) -> tuple[Tensor, Tensor, Tensor]:
    # Real tokens are moved to the left edge: under a causal mask what follows a row cannot reach it, so no padding mask
    # is needed, which keeps attention on its fast path.
    kept = {stream: batch["attention_mask"].cpu().bool() for stream, batch in batches.items()}
    width = max(int(keep.sum(1).max()) for keep in kept.values())
    ids: list[Tensor] = []
    labels: list[Tensor] = []
    lengths: list[Tensor] = []
    for stream, batch in batches.items():
        keep = kept[stream]
        length = keep.sum(1)
        left = torch.arange(width) < length[:, None]
        for source, into, fill in ((batch["input_ids"], ids, 0), (batch["labels"], labels, IGNORED)):
            moved = torch.full(left.shape, fill, dtype=torch.long)
            moved[left] = source.cpu()[keep]
            into.append(moved)
        lengths.append(length)
    return torch.cat(ids), torch.cat(labels), torch.cat(lengths)


def _locate(batches: Mapping[str, Batch], row: int) -> tuple[str, int]:
    for stream, batch in batches.items():
        n = batch["input_ids"].shape[0]
        if row < n:
            return stream, row
        row -= n
    raise AssertionError("row beyond all streams")


GROUP_COST = 96
"""What one more pass through the blocks costs, in padded tokens: fixed work that many short passes would repeat."""


def groups_of_like_length(lengths: Int[Tensor, " b"]) -> list[Tensor]:
    """Rows of like length together: the cut of the sorted rows that computes the fewest tokens, passes counted."""
    # Padding a group to its longest row costs tokens, and each group costs one more pass through the blocks. In sorted
    # order an optimal cut consists of runs, so dynamic programming finds it: best[end] is the least cost of the first
    # `end` rows, cut[end] where their last group starts. A micro-batch has few rows, so O(n^2) is negligible.
    order = lengths.argsort(stable=True)
    sizes = lengths[order].tolist()
    best, cut = [0.0], [0]
    for end in range(1, len(sizes) + 1):
        cost, start = min((best[start] + (end - start) * sizes[end - 1] + GROUP_COST, start) for start in range(end))
        best.append(cost)
        cut.append(start)
    groups, end = [], len(sizes)
    while end:
        groups.append(order[cut[end] : end].sort().values)
        end = cut[end]
    return groups[::-1]


class _Stop(Exception):
    """Ends a forward pass once the hidden states that are needed are there."""


def _run(
    inner: nn.Module, rows: _Rows, layer: int | None, to_logits: Head | None, positions: str
) -> tuple[Tensor | None, Tensor | None]:
    """Hidden states at completion tokens, [N, D]: those that predict each token, and those of `layer`."""
    finals, hiddens = [], []
    for group in rows.groups:
        row, before = group.predicting
        with _captured(inner, layer, stop=to_logits is None) as captured:
            try:
                if to_logits is not None and not to_logits.plain:
                    state = original_forward(inner)(input_ids=group.input_ids, use_cache=False, **group.packing).logits
                else:
                    found = backbone(inner)(input_ids=group.input_ids, use_cache=False, **group.packing)
                    state = found.last_hidden_state
                if to_logits is not None:
                    finals.append(state.to(row.device)[row, before])  # of a model on several devices
            except _Stop:
                pass
        if layer is not None:
            hiddens.append(captured[0].to(row.device)[row, before + 1 if positions == "holding" else before])
    return (
        torch.cat(finals)[rows.order] if finals else None,
        torch.cat(hiddens)[rows.order] if hiddens else None,
    )


def _read(
    part: _Part,
    to_logits: Head | None,
    final: Tensor | None,
    hidden: Tensor | None,
    names: frozenset[str],
    loss: TokenLoss | None,
) -> Observed:
    seen = Observed(part.mask, part.targets)
    if hidden is not None and "hidden" in names:
        seen = replace(seen, hidden=_scatter(part, hidden[part.flat]))
    if to_logits is None or final is None or not names & FROM_HEAD:
        return seen
    state, targets = final[part.flat], part.targets[part.place]
    if "states" in names:
        seen = replace(seen, states=_scatter(part, state))
    score = _scores("moments" in names, loss if "token_values" in names else None)
    if "logits" in names:
        logits = to_logits(state)
        seen = replace(seen, logits=_scatter(part, logits))
        scored = score(logits, targets, *part.place)
    elif names & FROM_HEAD - {"states"}:
        scored = in_chunks(score, to_logits, state, targets, *part.place)
    else:
        return seen
    return replace(seen, **{name: _scatter(part, found) for name, found in scored.items()})


def _scatter(part: _Part, flat: Tensor) -> Tensor:
    return flat.new_zeros((*part.mask.shape, *flat.shape[1:])).index_put(part.place, flat)


def _scores(moments: bool, loss: TokenLoss | None) -> Callable[..., dict[str, Tensor]]:
    """What is read off the logits of some completion tokens: log-probabilities, hits, and the rest where wanted."""

    def score(logits: Tensor, targets: Tensor, row: Tensor, column: Tensor) -> dict[str, Tensor]:
        found = {"token_logprobs": token_logprobs(logits, targets), "hits": logits.detach().argmax(-1) == targets}
        if moments:
            found["moments"] = torch.stack(logprob_moments(logits.detach()), -1)
        if loss is not None:
            found["token_values"] = loss(logits, targets, (row, column))
        return found

    return score


@contextmanager
def _captured(inner: nn.Module, layer: int | None, *, stop: bool) -> Iterator[list[Tensor]]:
    """Collect the output of block `layer`; with `stop`, end the pass there."""
    captured: list[Tensor] = []
    if layer is None:
        yield captured
        return
    found = blocks(inner)
    if not 0 <= layer < len(found):
        raise ExpungeError(f"layer must be between 0 and {len(found) - 1} for this model; got {layer}.")

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        captured.append(output[0] if isinstance(output, tuple) else output)
        if stop:
            raise _Stop

    handle = found[layer].register_forward_hook(hook)
    try:
        yield captured
    finally:
        handle.remove()

"""Observables: the one place that runs a model forward for training, attribution and scoring.

From what is needed it returns, at completion positions only, token log-probabilities, hits, logits and hidden states.
Prompt and padding never pass the vocabulary head. Rows of one call may come in several streams (forget, retain,
alternate): they share one pass, and rows of like length are computed together, which reorders work and changes no
value.

B = rows, C = completion positions of the longest completion, V = vocabulary, D = hidden size,
N = completion tokens in all.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from expunge.core.batch import Batch
from expunge.core.checks import ExpungeError
from expunge.core.distributed import sharded
from expunge.core.logprobs import IGNORED, logprob_moments, masked_sum, token_logprobs
from expunge.models.anatomy import backbone, blocks, causal_lm, head
from expunge.models.placement import input_device

OBSERVABLES = ("logprobs", "token_logprobs", "hits", "moments", "logits", "hidden")
_FROM_HEAD = frozenset({"logprobs", "token_logprobs", "hits", "moments", "logits"})

HEAD_CHUNK = 2**25
"""Most logits (tokens x vocabulary) computed at once; more are computed in chunks
and once more in the backward pass."""


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
    through_head = bool(wanted & _FROM_HEAD)
    if "hidden" in wanted and layer is None:
        raise ExpungeError("hidden states were asked for without saying of which layer.")
    result: dict[str, Observed] = {}

    def forward(**_: Any) -> dict[str, Tensor]:
        final, hidden = _run(inner, rows, layer if "hidden" in wanted else None, through_head, positions)
        outputs: dict[str, Tensor] = {}
        for stream, part in rows.streams.items():
            seen = _read(inner, part, final, hidden, needs[stream])
            result[stream] = seen
            # Returned through the wrapper, so that engines which hook outputs see what the loss will use.
            outputs |= {
                f"{stream}.{k}": v
                for k in ("token_logprobs", "logits", "hidden")
                if (v := getattr(seen, k)) is not None
            }
        return outputs

    with _forward_replaced(inner, forward):
        outputs = model(input_ids=rows.input_ids)
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
    lengths = batch["attention_mask"].sum(1).to(rows.input_ids.device)
    shown, seen = 0, set()
    where: tuple[Tensor, Tensor] = (rows.token_row, rows.token_at)

    def hooked(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if inputs[0].dim() != 3:
                raise ExpungeError(f"{name} does not see whole rows [rows, positions, in] but {list(inputs[0].shape)}.")
            seen.add(name)
            read(name, inputs[0].to(where[0].device)[where])

        return hook

    def forward(**_: Any) -> None:
        nonlocal shown, where
        for numbers, length in rows.groups:
            if positions == "all":
                columns = torch.arange(length, device=lengths.device)
                row, at = (columns < lengths[numbers, None]).nonzero(as_tuple=True)
            else:
                of_row = torch.full((len(rows.input_ids),), -1, dtype=torch.long, device=lengths.device)
                of_row[numbers] = torch.arange(len(numbers), device=lengths.device)
                row = of_row[rows.token_row]
                row, at = row[row >= 0], rows.token_at[row >= 0] - 1
            where = (row, at)
            shown += len(row)
            backbone(inner)(input_ids=rows.input_ids[numbers, :length], use_cache=False)

    handles = [layer.register_forward_pre_hook(hooked(name)) for name, layer in layers.items()]
    try:
        with _forward_replaced(inner, forward):
            inner(input_ids=rows.input_ids)
    finally:
        for handle in handles:
            handle.remove()
    if silent := [name for name in layers if name not in seen]:
        raise ExpungeError(f"{silent[0]} has no inputs inside the decoder: it did not run.")
    return shown


@dataclass(frozen=True)
class _Part:
    """One stream inside the flat list of completion tokens."""

    flat: Int[Tensor, " n"]
    """Where its completion tokens stand in the flat list of all."""
    mask: Bool[Tensor, "b c"]
    targets: Int[Tensor, "b c"]


@dataclass(frozen=True)
class _Rows:
    """All rows of a call, moved to the left edge, in groups of like length."""

    input_ids: Int[Tensor, "b t"]
    groups: list[tuple[Tensor, int]]
    """(row numbers, longest length) of each group."""
    token_row: Int[Tensor, " n"]
    token_at: Int[Tensor, " n"]
    """Row and position of every completion token, row by row."""
    streams: dict[str, _Part]

    @classmethod
    def gather(cls, batches: Mapping[str, Batch], model: nn.Module, *, together: bool = False) -> "_Rows":
        device = input_device(model)
        ids, labels, lengths = _stacked(batches, device)
        supervised = labels != IGNORED
        supervised[:, 0] = False  # nothing predicts the first token
        per_row = supervised.sum(1)
        if bool((per_row == 0).any()):
            stream, number = _locate(batches, int((per_row == 0).nonzero()[0]))
            raise ExpungeError(f"row {number} of the {stream} batch has no completion token: every label is {IGNORED}.")
        token_row, token_at = supervised.nonzero(as_tuple=True)
        starts = per_row.cumsum(0) - per_row
        streams, first = {}, 0
        for stream, batch in batches.items():
            n = batch["input_ids"].shape[0]
            width = int(per_row[first : first + n].max())
            mask = torch.arange(width, device=device) < per_row[first : first + n, None]
            begin = int(starts[first])
            flat = torch.arange(begin, begin + int(per_row[first : first + n].sum()), device=device)
            targets = torch.zeros_like(mask, dtype=torch.long)
            targets[mask] = ids[token_row[flat], token_at[flat]]
            streams[stream] = _Part(flat, mask, targets)
            first += n
        # Processes that share the weights of a layer must call it equally often, however long their rows are.
        one = [(torch.arange(len(lengths), device=device), int(lengths.max()))]
        groups = one if together or sharded(model) else _groups(lengths)
        return cls(ids, groups, token_row, token_at, streams)


def _stacked(batches: Mapping[str, Batch], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    # Real tokens are moved to the left edge: under a causal mask what follows a row cannot reach it, so no padding mask
    # is needed, which keeps attention on its fast path.
    width = max(int(b["attention_mask"].sum(1).max()) for b in batches.values())
    ids: list[Tensor] = []
    labels: list[Tensor] = []
    lengths: list[Tensor] = []
    for batch in batches.values():
        keep = batch["attention_mask"].to(device).bool()
        length = keep.sum(1)
        left = torch.arange(width, device=device) < length[:, None]
        for source, into, fill in ((batch["input_ids"], ids, 0), (batch["labels"], labels, IGNORED)):
            moved = torch.full(left.shape, fill, dtype=torch.long, device=device)
            moved[left] = source.to(device)[keep]
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


def _groups(lengths: Int[Tensor, " b"]) -> list[tuple[Tensor, int]]:
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
        groups.append((order[cut[end] : end], int(sizes[end - 1])))
        end = cut[end]
    return groups[::-1]


class _Stop(Exception):
    """Ends a forward pass once the hidden states that are needed are there."""


def _run(
    inner: nn.Module, rows: _Rows, layer: int | None, through_head: bool, positions: str
) -> tuple[Tensor | None, Tensor | None]:
    """Hidden states at completion tokens, [N, D]: those that predict each token, and those of `layer`."""
    finals, hiddens, order = [], [], []
    where = torch.arange(len(rows.token_row), device=rows.input_ids.device)
    full_logits = through_head and not _head_is_plain(inner)
    for numbers, length in rows.groups:
        of_row = torch.full((len(rows.input_ids),), -1, dtype=torch.long, device=where.device)
        of_row[numbers] = torch.arange(len(numbers), device=where.device)
        tokens = where[of_row[rows.token_row] >= 0]
        row, at = of_row[rows.token_row[tokens]], rows.token_at[tokens]
        ids = rows.input_ids[numbers, :length]
        with _captured(inner, layer, stop=not through_head) as captured:
            try:
                if full_logits:
                    state = _original_forward(inner)(input_ids=ids, use_cache=False).logits
                else:
                    state = backbone(inner)(input_ids=ids, use_cache=False).last_hidden_state
                if through_head:
                    finals.append(state.to(where.device)[row, at - 1])  # of a model on several devices
            except _Stop:
                pass
        if layer is not None:
            hiddens.append(captured[0].to(where.device)[row, at if positions == "holding" else at - 1])
        order.append(tokens)
    back = torch.cat(order).argsort()
    return (torch.cat(finals)[back] if finals else None), (torch.cat(hiddens)[back] if hiddens else None)


def _read(
    inner: nn.Module, part: _Part, final: Tensor | None, hidden: Tensor | None, names: frozenset[str]
) -> Observed:
    seen = Observed(part.mask, part.targets)
    if hidden is not None and "hidden" in names:
        seen = replace(seen, hidden=_scatter(part.mask, hidden[part.flat]))
    if final is None or not names & _FROM_HEAD:
        return seen
    state, targets = final[part.flat], part.targets[part.mask]
    if "logits" in names:
        logits = _logits(inner, state)
        seen = replace(seen, logits=_scatter(part.mask, logits))
        scored = _scores(logits, targets, moments="moments" in names)
    else:
        scored = _scored_in_chunks(inner, state, targets, moments="moments" in names)
    values, hits, *more = (_scatter(part.mask, found) for found in scored)
    return replace(seen, token_logprobs=values, hits=hits, moments=more[0] if more else None)


def _scatter(mask: Bool[Tensor, "b c"], flat: Tensor) -> Tensor:
    out = flat.new_zeros((*mask.shape, *flat.shape[1:]))
    return out.masked_scatter(mask.view(*mask.shape, *[1] * (flat.dim() - 1)).expand_as(out), flat)


def _scores(logits: Tensor, targets: Tensor, *, moments: bool) -> tuple[Tensor, ...]:
    """Log-probabilities and hits of the targets, and the moments of log p where they are wanted."""
    found = (token_logprobs(logits, targets), logits.detach().argmax(-1) == targets)
    return (*found, torch.stack(logprob_moments(logits.detach()), -1)) if moments else found


def _scored_in_chunks(inner: nn.Module, state: Tensor, targets: Tensor, *, moments: bool) -> tuple[Tensor, ...]:
    def score(state: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        return _scores(_logits(inner, state), targets, moments=moments)

    chunk: int = max(1, HEAD_CHUNK // _config(inner).vocab_size)
    if len(targets) <= chunk:
        return score(state, targets)
    found = [
        checkpoint(score, s, t, use_reentrant=False) if torch.is_grad_enabled() else score(s, t)
        for s, t in zip(state.split(chunk), targets.split(chunk), strict=True)
    ]
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def _logits(inner: nn.Module, state: Tensor) -> Tensor:
    if not _head_is_plain(inner):
        return state  # already logits
    logits: Tensor = head(inner)(state).to(state.device)
    cap = getattr(_config(inner), "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


def _config(inner: nn.Module) -> Any:
    return inner.config.get_text_config(decoder=True)  # type: ignore[union-attr, operator]


_plain_heads: "weakref.WeakKeyDictionary[nn.Module, bool]" = weakref.WeakKeyDictionary()


def _head_is_plain(inner: nn.Module) -> bool:
    """Do decoder and head alone give the model's own logits?

    Tried once; where not, full logits are computed instead.
    """
    if inner not in _plain_heads:
        _plain_heads[inner] = True
        device = input_device(inner)
        ids = torch.arange(3, device=device)[None]
        with torch.no_grad():
            ours = _logits(inner, backbone(inner)(input_ids=ids, use_cache=False).last_hidden_state)
            theirs = _original_forward(inner)(input_ids=ids, use_cache=False).logits
        _plain_heads[inner] = torch.allclose(ours.float(), theirs.float(), rtol=1e-3, atol=1e-4)
    return _plain_heads[inner]


def _original_forward(inner: nn.Module) -> Callable[..., Any]:
    replaced = inner.__dict__.get("_expunge_original_forward")
    return replaced if replaced is not None else inner.forward


@contextmanager
def _forward_replaced(inner: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    # The call still goes through the outermost wrapper, so that DDP and FSDP prepare their gradient exchange as ever.
    had = inner.__dict__.get("forward")
    inner.__dict__["_expunge_original_forward"] = inner.forward
    inner.forward = forward
    try:
        yield
    finally:
        del inner.__dict__["_expunge_original_forward"]
        if had is None:
            del inner.__dict__["forward"]
        else:
            inner.forward = had


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

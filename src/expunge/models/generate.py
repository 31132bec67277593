"""Generation with a key-value cache: rows of like length together, finished rows dropped as they end."""

import warnings
from collections.abc import Callable, Collection, Iterable, Sequence

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedTokenizerBase

from expunge.core.checks import ExpungeError, require_at_least, require_positive
from expunge.core.rows import Encoded
from expunge.models.anatomy import causal_lm

BATCH_TOKENS = 2**15
"""Prompt and new tokens of one batch: the cache of a model of 8 billion with grouped heads takes 4 GB for them."""


Pick = Callable[[Tensor], Tensor]
"""Chooses the next token of each row: logits [B, V] to token ids [B]."""


def most_probable(logits: Tensor) -> Tensor:
    """The most probable token of each row."""
    return logits.argmax(-1)


def sampler(*, temperature: float, seed: int, device: torch.device) -> Pick:
    """Draws tokens from softmax(logits / temperature); the same seed and batches give the same draws."""
    require_positive("temperature", temperature)
    generator = torch.Generator(device).manual_seed(seed)

    def pick(logits: Tensor) -> Tensor:
        return torch.multinomial((logits.float() / temperature).softmax(-1), 1, generator=generator)[:, 0]

    return pick


@torch.no_grad()
def generate(
    model: nn.Module,
    prompts: Sequence[tuple[int, ...]],
    *,
    max_new_tokens: int,
    eos_ids: Collection[int],
    pick: Pick = most_probable,
    batch_size: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[int]]:
    """Continue prompts token by token, greedily unless `pick` says otherwise.

    Each distinct prompt is computed once. Prompts are sorted by length, so that padding is small, padded on the left
    and given explicit positions; a row leaves the batch when it ends. Batches change rounding only, never which tokens
    compete. When the device runs out of memory the batch is halved and the work goes on.

    Args:
        model: a causal language model; used in the mode (training or evaluation) that it is in.
        prompts: token ids, none empty.
        max_new_tokens: longest continuation.
        eos_ids: tokens that end a continuation; they are not part of it.
        pick: chooses the next tokens.
        batch_size: most prompts computed at once; None: as many as `batch_tokens` holds.
        batch_tokens: budget of a batch, in tokens of prompt and continuation.
        progress: called with (prompts done, prompts in all) after each batch.

    Returns:
        The new tokens of each prompt, in the order of `prompts`.

    Raises:
        ExpungeError: an empty prompt, or one that leaves no position for a new token.
    """
    require_at_least("max_new_tokens", max_new_tokens, 1)
    inner = causal_lm(model)
    config = inner.config.get_text_config(decoder=True)  # type: ignore[union-attr,operator]
    limit = getattr(config, "max_position_embeddings", None)
    distinct = sorted(set(prompts), key=lambda p: (-len(p), p))  # longest first: too little memory shows at once
    if distinct and not distinct[-1]:
        raise ExpungeError(
            "a prompt without tokens cannot be continued; begin it with the tokenizer's beginning token."
        )
    if distinct and limit is not None and len(distinct[0]) > limit:
        raise ExpungeError(f"a prompt has {len(distinct[0])} tokens, and the model has positions for {limit}.")
    found: dict[tuple[int, ...], list[int]] = {}
    most, cut = batch_size or len(distinct), 0
    while len(found) < len(distinct):
        start = len(found)
        fitting = max(1, batch_tokens // (len(distinct[start]) + max_new_tokens)) if batch_size is None else most
        batch = distinct[start : start + min(most, fitting)]
        try:
            generated = _generate(inner, batch, max_new_tokens, frozenset(eos_ids), limit, pick)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
            most = len(batch) // 2
            continue
        for prompt, (tokens, at_limit) in zip(batch, generated, strict=True):
            found[prompt] = tokens
            cut += at_limit
        if progress is not None:
            progress(len(found), len(distinct))
    if cut:
        warnings.warn(
            f"{cut} of {len(distinct)} generations stopped before max_new_tokens={max_new_tokens}: the model has "
            f"positions for {limit} tokens only.",
            stacklevel=2,
        )
    return [found[prompt] for prompt in prompts]


def end_tokens(model: nn.Module, tokenizer: PreTrainedTokenizerBase, rows: Iterable[Encoded]) -> set[int]:
    """What ends an answer: end tokens of tokenizer and generation settings, and those that close the true answers."""
    found = {row.ids[-1] for row in rows if row.ended}
    settings = getattr(getattr(causal_lm(model), "generation_config", None), "eos_token_id", None)
    for ids in (tokenizer.eos_token_id, settings):
        found |= {ids} if isinstance(ids, int) else set(ids or ())
    return found


def _generate(
    inner: nn.Module,
    batch: Sequence[tuple[int, ...]],
    max_new_tokens: int,
    eos_ids: frozenset[int],
    limit: int | None,
    pick: Pick,
) -> list[tuple[list[int], bool]]:
    """The new tokens of each row, and whether it ended because the model has no more positions."""
    device = next(inner.parameters()).device
    ids, mask, positions = _padded(batch, device)
    padded = bool((mask == 0).any())
    cache = DynamicCache(config=inner.config)  # type: ignore[arg-type]
    new: list[list[int]] = [[] for _ in batch]
    at_limit = [False] * len(batch)
    computed = list(range(len(batch)))  # which prompt each computed row belongs to
    live = set(computed)
    for step in range(max_new_tokens):
        logits = inner(
            input_ids=ids,
            attention_mask=mask if padded else None,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        tokens = pick(logits)
        for row, token in zip(computed, tokens.tolist(), strict=True):
            if row not in live:
                continue
            if token in eos_ids:
                live.remove(row)
                continue
            new[row].append(token)
            if limit is not None and len(batch[row]) + len(new[row]) > limit:  # nowhere to put the token just made
                live.remove(row)
                at_limit[row] = step + 1 < max_new_tokens
        if not live:
            break
        ids, positions = tokens[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        if len(live) < len(computed) and _can_drop_rows(cache):
            kept = torch.tensor([j for j, row in enumerate(computed) if row in live], device=device)
            cache.batch_select_indices(kept)
            ids, positions, mask = ids[kept], positions[kept], mask[kept]
            computed = [computed[j] for j in kept.tolist()]
        elif limit is not None:
            positions = positions.clamp(max=limit - 1)  # ended rows that stay in the batch compute on, unheard
    return list(zip(new, at_limit, strict=True))


def _can_drop_rows(cache: DynamicCache) -> bool:
    return all(hasattr(layer, "batch_select_indices") for layer in cache.layers)


def _padded(batch: Sequence[tuple[int, ...]], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    width = max(len(prompt) for prompt in batch)
    ids = torch.zeros((len(batch), width), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(batch):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return ids.to(device), mask.to(device), positions.to(device)

"""Do token rows fit a model: has it an embedding for each id, and a position for each token?"""

from collections.abc import Iterable
from typing import Any

from torch import nn

from expunge.core.batch import Encoded
from expunge.core.checks import ExpungeError
from expunge.models.anatomy import causal_lm


def check_rows_fit(model: nn.Module, rows: Iterable[Encoded]) -> None:
    """Raise for rows that a model cannot compute, or not each by itself.

    Args:
        model: a causal language model, of which configuration and shapes alone are read.
        rows: token rows.

    Raises:
        ExpungeError: a token id without an embedding, or a row with more tokens than `most_positions`.
    """
    rows = list(rows)
    inner = causal_lm(model)
    embedded = embedded_ids(inner)
    largest = max((max(row.ids) for row in rows), default=0)
    if largest >= embedded:
        raise ExpungeError(
            f"tokenizer and model do not fit: a row holds the token id {largest}, and the model embeds {embedded} "
            f"(0 to {embedded - 1}). Load the tokenizer that the model was trained with: tokenizer=<folder or id>."
        )
    limit, why = most_positions(inner)
    longest = max((len(row.ids) for row in rows), default=0)
    if limit is not None and longest > limit:
        count = sum(len(row.ids) > limit for row in rows)
        raise ExpungeError(
            f"{count} of {len(rows)} rows are longer than the {limit} tokens {why}; the longest has {longest}. Cut "
            f"them: max_length={limit}, or shorten the data."
        )


def embedded_ids(model: nn.Module) -> int:
    """How many token ids a model embeds."""
    return int(causal_lm(model).get_input_embeddings().weight.shape[0])  # type: ignore[operator, union-attr]


def most_positions(model: nn.Module) -> tuple[int | None, str]:
    """How many tokens a row may have, and why; None where a model computes rows of any length.

    Positions that are looked up in a table end with it. Rotary scaling of the kinds `dynamic` and `longrope` depends,
    beyond the original length, on the longest row that is computed at the same time: such rows would have other values
    in other company. Other rotary positions have no end.
    """
    config: Any = causal_lm(model).config.get_text_config(decoder=True)  # type: ignore[union-attr, operator]
    positions = getattr(config, "max_position_embeddings", None)
    if not any("rotary" in type(module).__name__.lower() for module in model.modules()):
        table = positions is not None and not _relative(config)
        return (positions, "that the model has positions for") if table else (None, "")
    rope = getattr(config, "rope_parameters", None) or {}
    for kind in (rope, *(part for part in rope.values() if isinstance(part, dict))):
        if kind.get("rope_type") in ("dynamic", "longrope"):
            original = kind.get("original_max_position_embeddings") or getattr(
                config, "original_max_position_embeddings", None
            )
            why = f"up to which rows do not change each other's values (rope_type {kind['rope_type']})"
            return original or positions, why
    return None, ""


def _relative(config: Any) -> bool:
    """Are positions no table: distances (ALiBi, T5's) or the order of a recurrence?"""
    distances = getattr(config, "alibi", False) or hasattr(config, "relative_attention_num_buckets")
    return bool(distances) or config.model_type in _WITHOUT_POSITIONS


_WITHOUT_POSITIONS = ("bloom", "mpt", "xlnet", "transfo-xl", "mamba", "mamba2", "falcon_mamba", "rwkv", "xlstm")
"""Families whose configurations may name a number of positions that nothing looks up."""

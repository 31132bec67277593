"""Whether a run packs its rows into one sequence: where that gives the same numbers, and less is computed."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import LAYER_PATTERN_TO_MASK_FUNCTION_MAPPING, create_recurrent_attention_mask

from expunge.core.batch import Encoded, collate
from expunge.core.checks import ExpungeError
from expunge.core.distributed import sharded
from expunge.models.anatomy import backbone, causal_lm, evaluating
from expunge.models.observe import observe
from expunge.models.packing import is_varlen, longest_masked, packed
from expunge.models.placement import input_device
from expunge.training.training_config import PackingPolicy, TrainingConfig

TRIED = (17, 512)
"""Tokens of the two rows that are packed to try it, together: at least, and at most if only the run's rows are long."""
SAME_WIDE, SAME_HALF = 1e-3, 5e-2
"""Largest difference, relative to their norm, between hidden states of packed rows and of rows alone: in float32, and
where half precision rounds them. Rows that are wrongly placed or masked differ by more."""
UNMOVED = 1e-5
"""The same for a row whose neighbor becomes another; the rounding is the same in both."""


@dataclass(frozen=True)
class PackingChoice:
    """How the rows of a run are computed."""

    packed: bool
    why: str
    by_rows: bool = False
    """Is attention computed row by row?"""

    @property
    def told(self) -> str:
        """One sentence for people."""
        return f"{'rows are packed' if self.packed else 'rows of like length are padded together'}: {self.why}"


def choose_packing(
    model: nn.Module, config: TrainingConfig, *, place: str | None = None, divided: bool | None = None
) -> PackingChoice:
    """Whether to pack, as far as architecture, attention and device tell.

    Args:
        model: a causal language model, possibly wrapped, or a skeleton.
        config: how it trains. Its `packing`: `auto` packs with attention that skips other rows, `on` wherever it can be
            done, `off` never; its `attention` need not be set yet.
        place: where the model will be; None: where it is.
        divided: will processes share its weights? None: do they?

    Raises:
        ExpungeError: `on`, and rows of this model cannot be packed; the message says why.
    """
    if config.packing == "off":
        return PackingChoice(False, "packing=off")
    inner: Any = causal_lm(model)
    attention = inner.config._attn_implementation if config.attention == "auto" else config.attention
    device = torch.device(place or input_device(inner).type).type
    hindrance = _hindrance(inner, attention, divided=sharded(inner) if divided is None else divided)
    if hindrance is not None:
        return _refused(config.packing, hindrance)
    if is_varlen(attention):
        return PackingChoice(True, f"{attention} takes rows by their ends")
    if attention == "flex_attention":
        return PackingChoice(True, f"{attention} leaves out pairs of rows")
    if device == "cpu" and attention == "sdpa" and inner._supports_attention_backend:
        if config.packing == "on":
            return PackingChoice(True, "on the cpu attention is computed row by row", by_rows=True)
        return PackingChoice(False, "on the cpu packing saves little time and takes more memory")
    slower = f"{attention} attention on {device} would compute every pair of positions"
    return PackingChoice(config.packing == "on", f"packing=on, though {slower}" if config.packing == "on" else slower)


@contextmanager
def packing(
    model: nn.Module, choice: PackingChoice, policy: PackingPolicy, *, longest: int = 0, autocast: bool = False
) -> Iterator[PackingChoice]:
    """Pack the rows of a model meanwhile, where that was chosen and a trial with two rows goes well.

    Args:
        model: a causal language model, possibly wrapped, with its attention set.
        choice: of `choose_packing`.
        policy: `on` refuses where the trial fails.
        longest: tokens of the longest row.
        autocast: try it in bfloat16, as training computes.

    Raises:
        ExpungeError: `on`, and rows of this model cannot be packed.
    """
    fault = _fault(model, choice, longest=longest, autocast=autocast) if choice.packed else None
    if fault is not None:
        choice = _refused(policy, fault)
    if not choice.packed:
        yield choice
        return
    with packed(model, by_rows=choice.by_rows):
        yield choice


def _refused(policy: PackingPolicy, why: str) -> PackingChoice:
    if policy == "on":
        raise ExpungeError(f"packing=on: {why}. Use packing=auto, which pads rows of like length together.")
    return PackingChoice(False, why)


def _hindrance(inner: Any, attention: str, *, divided: bool) -> str | None:
    """Why rows of a model cannot be packed; None: nothing is known against it."""
    name = type(inner).__name__
    if _is_recurrent(inner):
        return f"{name} has recurrent layers, whose state would go from one row to the next"
    if "position_ids" not in inspect.signature(type(backbone(inner)).forward).parameters:
        return f"{name} takes no position_ids, so its positions cannot begin anew with each row"
    if divided and not is_varlen(attention):
        return "processes share the weights, and packs would have them make unequal numbers of passes"
    return None


def _is_recurrent(inner: Any) -> bool:
    kinds = getattr(inner.config.get_text_config(decoder=True), "layer_types", None) or ()
    masks = [LAYER_PATTERN_TO_MASK_FUNCTION_MAPPING.get(kind) for kind in kinds]
    made = [each for mask in masks for each in (mask.values() if isinstance(mask, dict) else [mask])]
    return inner._is_stateful or create_recurrent_attention_mask in made


def _fault(model: nn.Module, choice: PackingChoice, *, longest: int, autocast: bool) -> str | None:
    """What goes wrong when two rows are packed: an error, they see each other, or they show something else."""
    inner: Any = causal_lm(model)
    about = f"{type(inner).__name__} with {inner.config._attn_implementation} attention"
    try:
        apart, together, beside_other = _tried(model, choice, longest=longest, autocast=autocast)
    except Exception as error:  # of any kind: it is the model's, and what it says is handed on
        return f"{about} does not compute packed rows ({type(error).__name__}: {str(error).strip()})"
    if not all(bool(states.isfinite().all()) for states in (*apart, *together, *beside_other)):
        return f"{about} gives hidden states that are not finite, in a trial with two rows"
    if not _difference(together[1], beside_other[1]) <= UNMOVED:
        return f"{about} lets packed rows see each other"
    half = autocast or next(inner.parameters()).dtype.itemsize < 4
    for difference in map(_difference, together, apart):
        if not difference <= (SAME_HALF if half else SAME_WIDE):
            return f"{about} gives packed rows other hidden states than padded ones (by {difference:.1g} of their size)"
    return None


def _tried(
    model: nn.Module, choice: PackingChoice, *, longest: int, autocast: bool
) -> tuple[tuple[Tensor, Tensor], ...]:
    """Hidden states of two rows: padded, packed, and packed with another first row."""
    inner: Any = causal_lm(model)
    device, size = input_device(inner).type, inner.config.get_text_config(decoder=True).vocab_size
    ids = [tuple((torch.arange(length) * 7 + 3).remainder(size).tolist()) for length in trial_lengths(inner, longest)]
    other = tuple((id_ + 1) % size for id_ in ids[0])

    def states(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        rows = {"rows": collate([Encoded(row, 1, ended=False, truncated=0) for row in (first, second)])}
        shown = observe(model, rows, {"rows": frozenset({"states"})})["rows"].states
        assert shown is not None
        return shown[0].double(), shown[1, : len(second) - 1].double()

    with evaluating(model), torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=autocast):
        apart = states(*ids)
        with packed(model, by_rows=choice.by_rows):
            return apart, states(*ids), states(other, ids[1])


def trial_lengths(model: nn.Module, longest: int) -> tuple[int, int]:
    """Tokens of the two rows of a trial: a pack as long as two of the run's longest rows, where that is cheap.

    Both fit into one pack of the model, or nothing would be tried.

    Args:
        model: a causal language model.
        longest: tokens of the longest row of the run.
    """
    least, most = TRIED
    total = min(max(least, min(most, 2 * longest)), longest_masked(model))
    second = max(2, total * 5 // 17)
    return total - second, second


def _difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())

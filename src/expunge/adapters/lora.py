"""LoRA: low-rank updates that start at zero."""

from collections.abc import Sequence

from transformers import PreTrainedModel

from expunge.models.lowrank import Adapted, attach, check

CHECK = check


def lora(
    model: PreTrainedModel,
    matrices: Sequence[str],
    seed: int,
    *,
    rank: int = 8,
    lora_alpha: float | None = None,
    dropout: float = 0.0,
) -> Adapted:
    """Low-rank adapter that starts at zero: A Kaiming-uniform, B = 0.

    Args:
        model: the start model, changed in place.
        matrices: full names of the linear layers to adapt.
        seed: of A.
        rank: of A [rank, in] and B [out, rank].
        lora_alpha: numerator of the scaling `lora_alpha / rank`; null: 2 * rank.
        dropout: share of the inputs of A that is dropped in training; above 0 the first step does not see the start
            model exactly.

    Raises:
        ExpungeError: settings out of range, or a matrix smaller than the rank.

    Source: Hu et al. 2022, arXiv:2106.09685, as PEFT computes it. Departures: none.
    """
    return Adapted(attach(model, matrices, rank=rank, lora_alpha=lora_alpha, dropout=dropout, seed=seed))

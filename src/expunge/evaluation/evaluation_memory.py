"""How much memory an evaluation takes, estimated before it starts."""

import torch
from transformers import PreTrainedModel

from expunge.evaluation.scoring import BATCH_TOKENS
from expunge.models.matrices import weight_bytes
from expunge.models.vocabulary_head import HEAD_CHUNK


def evaluation_memory(model: PreTrainedModel, dtype: str, bits: int | None = None) -> dict[str, float]:
    """Bytes that an evaluation takes, by purpose; a rough estimate that leaves out the cache of generation.

    Args:
        model: a skeleton.
        dtype: type of the weights, or `auto`.
        bits: what the linear layers' weights are kept in, if they are quantized.
    """
    shape = model.config.get_text_config(decoder=True)
    width = torch.finfo(model.dtype if dtype == "auto" else getattr(torch, dtype)).bits // 8
    inner = getattr(shape, "intermediate_size", None) or 4 * shape.hidden_size
    logits = min(HEAD_CHUNK, BATCH_TOKENS * shape.vocab_size)
    return {
        "weights": weight_bytes(model, width, bits),
        "activations": BATCH_TOKENS * (10 * shape.hidden_size + 4 * inner) * width + 4 * logits,
    }

"""How much a run computes and how much memory it takes, estimated before it starts."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from expunge.core.batch import Encoded
from expunge.models.matrices import linear_layers, shape_of, weight_bytes
from expunge.models.vocabulary_head import HEAD_CHUNK
from expunge.objectives.combine import Objective
from expunge.training.rows import RunRows
from expunge.training.training_config import TrainingConfig


@dataclass(frozen=True)
class Work:
    """The size of a training run."""

    rows: int
    """Rows of the anchor set in one epoch."""
    steps: int
    micro: int
    """Anchor rows computed at once."""
    accumulation: int
    tokens_an_epoch: int
    """Real tokens, all streams together."""
    tokens_at_once: int
    """Real tokens of the largest micro-batch, all streams together."""
    completion_at_once: int
    """Supervised ones among them, at most."""


def work(rows: RunRows, config: TrainingConfig) -> Work:
    """Count steps and tokens of a run, for one process or as many as a launcher started."""
    micro, accumulation = config.split()
    items = [rows[k] for k in range(len(rows))]

    def total(per_row: Callable[[Encoded], int]) -> list[int]:
        return [sum(per_row(rows.encoded[s][n]) for s, numbers in item.rows.items() for n in numbers) for item in items]

    tokens, completions = total(lambda row: len(row.ids)), total(lambda row: len(row.ids) - row.start)
    return Work(
        rows=rows.pairs.n_forget,
        steps=math.ceil(len(rows) / config.rows_a_step),
        micro=micro,
        accumulation=accumulation,
        tokens_an_epoch=round(sum(tokens) * rows.pairs.n_forget / len(rows)),
        tokens_at_once=max(sum(tokens[i : i + micro]) for i in range(0, len(items), micro)),
        completion_at_once=max(sum(completions[i : i + micro]) for i in range(0, len(items), micro)),
    )


def training_memory(
    model: PreTrainedModel,
    size: Work,
    *,
    objective: Objective,
    second: bool,
    trained: int,
    dtype: str,
    bits: int | None = None,
    whole: bool,
    autocast: bool,
    checkpointing: bool,
) -> dict[str, float]:
    """Bytes that a training run takes on each device, by purpose; a rough estimate.

    Weights, gradients and the two moments of AdamW are counted exactly; what is trained is float32 or wider, whatever
    the stored type. Activations are those that a gated decoder block keeps for its backward pass: (10 hidden + 4
    intermediate) numbers a token and block, measured on Llama blocks to within 10 %, or one hidden state a token and
    block where they are computed again. Logits are float32, twice. What libraries and allocators take is left out.

    Args:
        model: a skeleton.
        size: of the run.
        objective: says whether whole logits are needed.
        second: is a frozen copy of the start model held?
        trained: how many parameters are trained.
        dtype: type of the weights, or `auto`.
        bits: what the linear layers' weights are kept in, if they are quantized.
        whole: are the model's own weights trained without a mask, so that all of them are held in float32?
        autocast: is float32 computed in bfloat16, with copies of the linear layers' weights?
        checkpointing: are activations computed again in the backward pass?
    """
    shape = model.config.get_text_config(decoder=True)
    stored = torch.finfo(model.dtype if dtype == "auto" else getattr(torch, dtype)).bits // 8
    wide = max(4, stored)
    width = wide if whole else stored
    computed = 2 if autocast else width
    hidden, depth = shape.hidden_size, shape.num_hidden_layers
    inner = getattr(shape, "intermediate_size", None) or 4 * hidden
    block = size.tokens_at_once * (10 * hidden + 4 * inner) * computed
    blocks = depth * size.tokens_at_once * hidden * computed + block if checkpointing else depth * block
    logits = size.completion_at_once * shape.vocab_size
    if not any("logits" in names for names in objective.needs("current").values()):
        logits = min(logits, HEAD_CHUNK)
    weights = weight_bytes(model, width, bits)
    copies = sum(2.0 * math.prod(shape_of(layer)) for layer in linear_layers(model).values())
    return {
        "weights": weights,
        **({"bfloat16 copies of weights": copies} if autocast and width > 2 and bits is None else {}),
        **({"frozen start model": weights} if second else {}),
        "gradients": trained * wide,
        "optimizer": 2 * trained * wide,
        "activations": blocks + 8 * logits,
    }


def importance_memory(
    model: PreTrainedModel, matrices: Sequence[str], memory: Mapping[str, float], *, whole_map: bool
) -> tuple[float, float]:
    """Bytes that the pass before FILA or VILA takes: (on each device, in the computer's own memory); a rough estimate.

    Args:
        model: a skeleton.
        matrices: names of those that are adapted.
        memory: of the training, by purpose. Weights and activations are the pass's too: it takes no more rows at once.
        whole_map: is a float32 number a weight of all matrices kept, as FILA does?

    Returns:
        On the device weights, activations and four float32 matrices of the largest size, which is what the gradient,
        its squares and the decomposition of one matrix take, and the map.
    """
    layers = linear_layers(model)
    sizes = [math.prod(shape_of(layers[name])) for name in matrices]
    return memory["weights"] + memory["activations"] + 16 * max(sizes), 4.0 * sum(sizes) if whole_map else 0.0


def masked_memory(told: Mapping[str, Any]) -> dict[str, float]:
    """Bytes that a mask of this summary takes besides weights and activations: all of it in float32, selected only."""
    weights = told["weights"]
    copies = weights * (8 if told["unit"] == "weight" else 4)  # single weights bring their positions along
    return {"selected weights": copies, "gradients": 4 * weights, "optimizer": 8 * weights}

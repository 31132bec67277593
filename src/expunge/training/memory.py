"""How much a run computes and how much memory it takes, estimated before it starts."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from expunge.core.batch import Encoded
from expunge.masks.mask import Mask
from expunge.models.anatomy import blocks
from expunge.models.matrices import linear_layers, shape_of, weight_bytes
from expunge.models.observe import FROM_HEAD, groups_of_like_length
from expunge.models.reference import ReferencePolicy, choose, kept_of
from expunge.models.vocabulary_head import HEAD_CHUNK
from expunge.objectives.combine import Objective
from expunge.training.masked import mask_summary, reached_parameters
from expunge.training.plan import Plan
from expunge.training.reference_rows import reference_size
from expunge.training.rows import RunRows
from expunge.training.training_config import TrainingConfig

LIBRARIES = 4e7
"""Bytes of what the engine loads and allocates besides tensors, measured on a CPU."""


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
    """Tokens of the largest micro-batch, all streams together, as they are computed: padded within a group."""
    groups_at_once: int
    """Groups of rows of like length that it falls into."""
    pairs_at_once: int
    """Pairs of positions that attention computes for it where it computes all within a group."""
    completion_at_once: int
    """Supervised tokens of a micro-batch, at most."""


@dataclass(frozen=True)
class Conditions:
    """What memory depends on besides the plan of a run."""

    dtype: str = "auto"
    """Type of the weights; `auto`: as they are stored."""
    bits: int | None = None
    """What the linear layers' weights are kept in, if they are quantized."""
    autocast: bool = False
    """Is float32 computed in bfloat16?"""
    reference: ReferencePolicy = "auto"
    """How reference values are obtained."""
    place: str = "cpu"
    """Where the model is; beside a GPU, the computer's own memory is not counted."""

    @property
    def on_cpu(self) -> bool:
        """Is the device's memory the computer's own?"""
        return self.place.startswith("cpu")


def work(rows: RunRows, config: TrainingConfig, *, packed: bool = False) -> Work:
    """Count steps and tokens of a run, for one process or as many as a launcher started.

    Args:
        rows: of the run.
        config: how it trains.
        packed: are rows computed in one sequence without padding?
    """
    micro, accumulation = config.split()
    items = [rows[k] for k in range(len(rows))]

    def total(per_row: Callable[[Encoded], int]) -> list[int]:
        return [sum(per_row(rows.encoded[s][n]) for s, numbers in item.rows.items() for n in numbers) for item in items]

    tokens, completions = total(lambda row: len(row.ids)), total(lambda row: len(row.ids) - row.start)
    first = max(range(0, len(items), micro), key=lambda i: sum(tokens[i : i + micro]))
    largest = [len(rows.encoded[s][n].ids) for i in items[first : first + micro] for s, k in i.rows.items() for n in k]
    groups = groups_of_like_length(torch.tensor(largest))
    widths = [(len(group), max(largest[i] for i in group.tolist())) for group in groups]
    return Work(
        rows=rows.pairs.n_forget,
        steps=math.ceil(len(rows) / config.rows_a_step),
        micro=micro,
        accumulation=accumulation,
        tokens_an_epoch=round(sum(tokens) * rows.pairs.n_forget / len(rows)),
        tokens_at_once=sum(largest) if packed else sum(count * width for count, width in widths),
        groups_at_once=1 if packed else len(groups),
        pairs_at_once=sum(largest) ** 2 if packed else sum(count * width**2 for count, width in widths),
        completion_at_once=max(sum(completions[i : i + micro]) for i in range(0, len(items), micro)),
    )


def run_memory(model: PreTrainedModel, plan: Plan, rows: RunRows, under: Conditions) -> dict[str, float]:
    """Bytes that a planned run takes on each device while it trains, by purpose.

    Args:
        model: a skeleton, or the model itself.
        plan: of the run.
        rows: of the run.
        under: which conditions.
    """
    mask, adapted = plan.weight_mask, plan.adaptation is not None or plan.own_adapter
    whole = not adapted and mask is None
    needs = plan.objective.needs("reference")
    kept = reference_size(model, rows, plan.objective)
    how = choose(under.reference, needs, kept)
    planned = plan.training.attention
    attention = model.config._attn_implementation if planned == "auto" else planned
    training = training_memory(
        model,
        work(rows, plan.training, packed=plan.packing.packed),
        objective=plan.objective,
        second=how == "model" and not adapted,
        trained=plan.trained_parameters(model) if mask is None else mask_summary(model, mask)["weights"],
        dtype=under.dtype,
        bits=under.bits,
        whole=whole,
        mask=mask,
        autocast=under.autocast,
        checkpointing=plan.training.gradient_checkpointing,
        bits_of_moments=8 if plan.training.optimizer == "adamw_8bit" else 32,
        depth=blocks_kept(model, plan),
        eager=attention == "eager",
    )
    if how != "precomputed":
        return training
    shape = model.config.get_text_config(decoder=True)
    copied = whole and any("states" in kept_of(names) for names in needs.values())
    return {
        **training,
        **({"start model's head": 4.0 * shape.vocab_size * shape.hidden_size} if copied else {}),
        **({"reference values": float(kept)} if under.on_cpu else {}),
    }


def blocks_kept(model: PreTrainedModel, plan: Plan) -> float:
    """Decoder blocks that keep activations: from the first with trained weights to the last that a loss reads.

    A first block in which the down-projection alone is trained keeps its inputs only, which is a share of a block.
    """
    trained = {id(model.get_parameter(name)) for name in plan.trained_names(model)}
    stack = [{id(parameter) for parameter in block.parameters()} for block in blocks(model)]
    with_trained = [number for number, parameters in enumerate(stack) if parameters & trained]
    ends = reached_parameters(model, plan.objective) is not None
    last = plan.objective.layer if ends else None
    stop = len(stack) if last is None else last + 1
    if not trained <= set().union(*stack):
        return stop  # embeddings come before all blocks
    first = with_trained[0]
    last_layers = [layer for layer in _layers(model) if id(layer.weight) in stack[first]][-1:]
    if first < stop and any(stack[first] & trained == {id(layer.weight)} for layer in last_layers):
        return stop - first - 1 + shape_of(last_layers[0])[1] / _block(model, tokens=1, computed=1, residual=1)[0]
    return max(0, stop - first)


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
    mask: Mask | None = None,
    autocast: bool,
    checkpointing: bool,
    bits_of_moments: int = 32,
    depth: float | None = None,
    eager: bool = False,
) -> dict[str, float]:
    """Bytes that a training run takes on each device, by purpose, at the peak of a step.

    Weights, gradients and the two moments of AdamW are counted exactly; what is trained is float32 or wider, whatever
    the stored type. A decoder block keeps its two residual states, the outputs of its linear layers but those that are
    added to the residual, and what attention gave: (4 hidden + 2 key-value + 2 intermediate) numbers a token on Llama
    blocks; or one residual state, where activations are computed again. Eager attention keeps a probability for each
    head and pair of positions besides. Without accumulation, gradients take the place
    of activations as the backward pass goes on. What an allocator does not use again is left out.

    Args:
        model: a skeleton.
        size: of the run.
        objective: says whether whole logits are needed.
        second: is a frozen copy of the start model held?
        trained: how many parameters are trained.
        dtype: type of the weights, or `auto`.
        bits: what the linear layers' weights are kept in, if they are quantized.
        whole: are the model's own weights trained without a mask, so that all of them are held in float32?
        mask: of what is trained; what it selects is held once more.
        autocast: is float32 computed in bfloat16, with copies of the linear layers' weights?
        checkpointing: are activations computed again in the backward pass?
        bits_of_moments: of the optimizer: 8, or those of what is trained.
        depth: how many decoder blocks keep activations; None: all.
        eager: is attention computed for all pairs of positions at once?
    """
    shape = model.config.get_text_config(decoder=True)
    stored = torch.finfo(model.dtype if dtype == "auto" else getattr(torch, dtype)).bits // 8
    wide = max(4, stored)
    width = wide if whole else stored
    weights = weight_bytes(model, width, bits)
    layers = [shape_of(layer) for layer in _layers(model)]
    table = shape.vocab_size * shape.hidden_size
    # Autocast keeps one copy of a trained weight, and one of a frozen weight for each group of rows of like length.
    copies = 2.0 * (1 if whole else size.groups_at_once) * (sum(math.prod(layer) for layer in layers) + table)
    gradients = float(trained * wide)
    depth = len(blocks(model)) if depth is None else depth
    computed = 2 if autocast else width
    one, residual = _block(model, size.tokens_at_once, computed=computed, residual=width)
    active = depth * residual + one if checkpointing else depth * one
    if eager:  # the share of a block that keeps inputs of its last layer alone keeps nothing of its attention
        kept = math.floor(depth)
        active += (min(1, kept) if checkpointing else kept) * _attention(model, size.pairs_at_once, computed)
    active += _logits(shape.vocab_size, size, objective)
    if size.accumulation > 1:
        steps = {"gradients": gradients, "activations": active}
    else:
        first = table * wide if whole and trained > table else 0  # the head's gradient comes first
        steps = {"activations, then gradients": max(active + first, gradients)}
    if mask is not None:
        steps["selected weights"] = float(trained * (8 if mask.layout.unit == "weight" else 4))
    return {
        "weights": weights,
        **({"bfloat16 copies of weights": copies} if autocast and width > 2 and bits is None else {}),
        **({"frozen start model": weights} if second else {}),
        "optimizer": 2.0 * trained * (1 if bits_of_moments == 8 else wide),
        **steps,
        "libraries": LIBRARIES,
    }


def _block(model: PreTrainedModel, tokens: int, *, computed: int, residual: int) -> tuple[float, float]:
    """Bytes that a decoder block keeps for the backward pass, of numbers `computed` and `residual` bytes wide.

    Returns:
        All of them, and those of the residual state that it begins with.
    """
    shape = model.config.get_text_config(decoder=True)
    hidden = int(shape.hidden_size)
    outputs = sum(out for out, _ in map(shape_of, _layers(model))) / len(blocks(model))
    # Two outputs are added to the residual; what attention gave is as wide as the residual.
    return tokens * (2 * hidden * residual + (outputs - hidden) * computed), float(tokens * hidden * residual)


def _layers(model: PreTrainedModel) -> list[nn.Module]:
    """Linear layers of the decoder blocks, without the factors of an adapter that the model came with."""
    tuned = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    factors = {id(part) for module in tuned for part in module.modules() if part is not module.get_base_layer()}
    return [layer for layer in linear_layers(model).values() if id(layer) not in factors]


def _attention(model: PreTrainedModel, pairs: int, computed: int) -> float:
    """Bytes that eager attention keeps in a decoder block: probabilities in float32, and as they are computed with.

    A soft cap of the scores keeps its result, too.
    """
    shape = model.config.get_text_config(decoder=True)
    capped = getattr(shape, "attn_logit_softcapping", None) is not None
    return float(pairs * shape.num_attention_heads * (4 + (computed != 4) * computed + capped * computed))


def _logits(vocabulary: int, size: Work, objective: Objective) -> float:
    """Bytes of the logits, float32, of all streams together: kept for each, and four times while one is scored."""
    streams = max(1, len(objective.streams))
    each = size.completion_at_once * vocabulary / streams
    shown = set().union(*objective.needs("current").values())
    if not shown & FROM_HEAD:
        return 0.0
    if each > HEAD_CHUNK and "logits" not in shown:
        return 4 * 4 * HEAD_CHUNK
    return 4 * (streams + 3) * each


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
    active = next(amount for name, amount in memory.items() if name.startswith("activations"))
    fixed = memory["weights"] + memory.get("libraries", 0.0)
    return fixed + active + 16 * max(sizes), 4.0 * sum(sizes) if whole_map else 0.0


def run_peak(model: PreTrainedModel, plan: Plan, rows: RunRows, under: Conditions) -> float:
    """Bytes at the peak of a run: of its training, or of the pass before it that an adapter takes.

    Args:
        model: a skeleton, or the model itself.
        plan: of the run.
        rows: of the run.
        under: which conditions.
    """
    memory = run_memory(model, plan, rows, under)
    training = sum(memory.values())
    if plan.adaptation is None or not plan.adaptation.wants_retain:
        return training
    whole_map = plan.adaptation.name == "fila"
    on_device, beside = importance_memory(model, plan.matrices, memory, whole_map=whole_map)
    return max(training, on_device + (beside if under.on_cpu else 0.0))

"""Dry runs: what a run would do, shown before anything is loaded, computed or written."""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from expunge.cli.console import heading, say, table
from expunge.cli.help import shown
from expunge.config.resolve import Resolved
from expunge.core.checks import ExpungeError
from expunge.core.format import counted

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from expunge.core.batch import Encoded
    from expunge.data.corpus import Corpus
    from expunge.objectives.combine import Objective
    from expunge.training.config import TrainingConfig
    from expunge.training.rows import RunRows

INCOMPLETE = 1
"""Exit code where something is missing."""


@dataclass
class Problems:
    """What stands in the way of a run, collected so that all of it is said at once."""

    found: list[str] = field(default_factory=list)

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Keep the errors of users in here instead of stopping at the first."""
        try:
            yield
        except ExpungeError as error:
            self.found.append(str(error))

    def concluded(self) -> int:
        """Say what stands in the way; the exit code."""
        if not self.found:
            say("\nNothing was loaded or written. Everything is there: leave out --dry-run to start.")
            return 0
        heading("Problems")
        for problem in self.found:
            say(f"- {problem}")
        return INCOMPLETE


def show_settings(resolved: Resolved[Any], filled: Mapping[str, Any]) -> None:
    """Print every setting with its value and where it came from.

    Args:
        resolved: the configuration.
        filled: for settings left at nothing, the value that the stage takes for them and where that comes from.
    """
    rows = []
    for setting in resolved.known:
        value = resolved.more.get(setting.name, getattr(resolved.config, setting.name, setting.default))
        origin = resolved.origins[setting.name]
        taken, taken_from = filled.get(setting.name, (None, origin))
        if value in (None, {}) and taken is not None:
            value, origin = taken, taken_from
        rows.append((setting.name, shown(value), origin))
    heading("Settings")
    table(("setting", "value", "from"), rows)


def show_example(row: "Encoded", tokenizer: "PreTrainedTokenizerBase", title: str) -> None:
    """Print a row as the model will see it, each supervised token between marks."""
    from expunge.data.tokenizing import marked

    supervised = len(row.ids) - row.start
    heading(f"{title}: {len(row.ids)} tokens, of which the {supervised} between «» are supervised")
    say(marked_text(marked(row, tokenizer)))


def marked_text(pieces: Sequence[tuple[str, bool]]) -> str:
    """Text with each supervised piece between «»; tabs and line ends are written out, so that nothing is invisible."""
    from expunge.report.text import legible

    shown_pieces = []
    for text, supervised in pieces:
        visible = legible(text).replace("\t", "\\t").replace("\n", "\\n")
        shown_pieces.append((f"«{visible}»" if supervised else visible) + ("\n" if "\n" in text else ""))
    return "".join(shown_pieces)


def skeleton(source: str, *, trust_remote_code: bool) -> "PreTrainedModel":
    """A model without weights, from its configuration alone, or that of an adapter's start model."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from expunge.models.load import adapter_base, check_model_folder, holds_adapter_alone

    check_model_folder(source)
    if holds_adapter_alone(source):
        return skeleton(adapter_base(source), trust_remote_code=trust_remote_code)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ExpungeError(f"cannot read the configuration of the model '{source}': {error}") from error
    return model


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


def work(rows: "RunRows", config: "TrainingConfig") -> Work:
    """Count steps and tokens of a run, for one process or as many as a launcher started."""
    micro, accumulation = config.split(int(os.environ.get("WORLD_SIZE", "1")))
    items = [rows[k] for k in range(len(rows))]

    def total(per_row: Callable[["Encoded"], int]) -> list[int]:
        return [sum(per_row(rows.encoded[s][n]) for s, numbers in item.rows.items() for n in numbers) for item in items]

    tokens, completions = total(lambda row: len(row.ids)), total(lambda row: len(row.ids) - row.start)
    return Work(
        rows=rows.pairs.n_forget,
        steps=math.ceil(len(rows) / config.batch_size),
        micro=micro,
        accumulation=accumulation,
        tokens_an_epoch=round(sum(tokens) * rows.pairs.n_forget / len(rows)),
        tokens_at_once=max(sum(tokens[i : i + micro]) for i in range(0, len(items), micro)),
        completion_at_once=max(sum(completions[i : i + micro]) for i in range(0, len(items), micro)),
    )


def show_work(corpus: "Corpus", rows: "RunRows", config: "TrainingConfig") -> Work:
    """Print rows and tokens of every split, and the steps of the run."""
    size = work(rows, config)
    lines = [(split, str(len(corpus[split])), "-", "-", "-") for split in corpus if split not in rows.encoded]
    for stream, encoded in rows.encoded.items():
        supervised = sum(len(row.ids) - row.start for row in encoded)
        longest = max(len(row.ids) for row in encoded)
        lines.append((stream, str(len(encoded)), str(rows.tokens(stream)), str(supervised), str(longest)))
    heading("Data")
    table(("set", "rows", "tokens", "supervised", "longest row"), lines, numeric=(1, 2, 3, 4))
    say()
    say(
        f"{counted(config.epochs or 0, 'epoch')} of {counted(size.rows, 'row')} in steps of {config.batch_size}: "
        f"{counted(size.steps, 'step')}, {counted(size.micro, 'row')} at once, "
        f"{counted(size.accumulation, 'time')} a step"
    )
    in_all = size.tokens_an_epoch * (config.epochs or 0)
    say(f"{size.tokens_an_epoch} tokens an epoch (padding not counted), {in_all:.0f} in all")
    return size


def memory(
    model: "PreTrainedModel",
    size: Work,
    *,
    objective: "Objective",
    second: bool,
    trained: int,
    dtype: str,
    bits: int | None = None,
    checkpointing: bool,
) -> dict[str, float]:
    """Bytes that a training run takes on each device, by purpose; a rough estimate.

    Weights, gradients and the two moments of AdamW are counted exactly (gradients and moments in the type of the
    weights). Activations are those that a gated decoder block keeps for its backward pass: (10 hidden + 4 intermediate)
    numbers a token and block, measured on Llama blocks to within 10 %, or one hidden state a token and block where they
    are computed again. Logits are float32, twice. What libraries and allocators take is left out.

    Args:
        model: a skeleton.
        size: of the run.
        objective: tells whether whole logits are needed.
        second: is a frozen copy of the start model held?
        trained: how many parameters are trained.
        dtype: type of the weights, or `auto`.
        bits: what the linear layers' weights are kept in, if they are quantized.
        checkpointing: are activations computed again in the backward pass?
    """
    import torch

    from expunge.models.observe import HEAD_CHUNK

    shape = model.config.get_text_config()
    width = torch.finfo(model.dtype if dtype == "auto" else getattr(torch, dtype)).bits // 8
    hidden, depth = shape.hidden_size, shape.num_hidden_layers
    inner = getattr(shape, "intermediate_size", None) or 4 * hidden
    block = size.tokens_at_once * (10 * hidden + 4 * inner) * width
    blocks = depth * size.tokens_at_once * hidden * width + block if checkpointing else depth * block
    logits = size.completion_at_once * shape.vocab_size
    if not any("logits" in names for names in objective.needs("current").values()):
        logits = min(logits, HEAD_CHUNK)
    weights = weight_bytes(model, width, bits)
    return {
        "weights": weights,
        **({"frozen start model": weights} if second else {}),
        "gradients": trained * width,
        "optimizer": 2 * trained * width,
        "activations": blocks + 8 * logits,
    }


def weight_bytes(model: "PreTrainedModel", width: int, bits: int | None) -> float:
    """Bytes of a model's weights.

    Args:
        model: a skeleton.
        width: bytes of a number.
        bits: what the linear layers in the blocks are kept in; None: all is as wide. Scales beside them are left out.
    """
    from expunge.models.matrices import linear_layers, shape_of

    everything: int = sum(p.numel() for p in model.parameters())
    if bits is None:
        return everything * width
    linear: int = sum(math.prod(shape_of(layer)) for layer in linear_layers(model).values())
    return (everything - linear) * width + linear * bits / 8


def importance_memory(
    model: "PreTrainedModel", matrices: Sequence[str], memory: Mapping[str, float], *, whole_map: bool
) -> tuple[float, float]:
    """Bytes that the pass before FILA or VILA takes: (on each device, in the computer's own memory); a rough estimate.

    Args:
        model: a skeleton.
        matrices: names of those that are adapted.
        memory: of the training, by purpose. Weights and activations are the pass's too: it takes no more rows at once.
        whole_map: is a float32 number a weight of all matrices kept, as FILA does?

    Returns:
        On the device weights, activations and four float32 matrices of the largest size, which is what the gradient,
        its squares and the decomposition of one matrix take; beside it the map.
    """
    from expunge.models.matrices import linear_layers, shape_of

    layers = linear_layers(model)
    sizes = [math.prod(shape_of(layers[name])) for name in matrices]
    return memory["weights"] + memory["activations"] + 16 * max(sizes), 4.0 * sum(sizes) if whole_map else 0.0


def show_importance_memory(on_device: float, beside: float) -> None:
    """Print what the pass before training takes."""
    say(
        f"importance is measured before training, in {in_units(on_device)} on each device"
        + (f" and {in_units(beside)} of the computer's own memory" if beside else "")
    )


def show_mask(told: Mapping[str, Any]) -> None:
    """Print what a mask lets change; `told` is its summary."""
    heading("Mask")
    say(
        f"{told['units']} units ({told['unit']}): {told['weights']} weights may change, {told['share']:.2%} of the "
        "model; all others stay bit for bit as they are"
    )


def show_adapter(name: str, matrices: Sequence[str], numbers: int, weights: int) -> None:
    """Print which matrices an adapter is put on, how many numbers are trained, and beside how many of the model's."""
    heading("Adapter")
    say(
        f"{name} on {len(matrices)} matrices ({matrices[0]} to {matrices[-1]}): {numbers} numbers are trained, "
        f"{numbers / weights:.2%} of the model's {weights} weights"
    )


def masked_memory(told: Mapping[str, Any]) -> dict[str, float]:
    """Bytes that a mask of this summary takes beside weights and activations: all of it in float32, selected only."""
    weights = told["weights"]
    copies = weights * (8 if told["unit"] == "weight" else 4)  # single weights bring their positions along
    return {"selected weights": copies, "gradients": 4 * weights, "optimizer": 8 * weights}


def show_memory(parts: Mapping[str, float]) -> None:
    """Print an estimate of memory and its sum."""
    heading("Memory on each device, estimated roughly")
    lines = [(name, in_units(amount)) for name, amount in parts.items()]
    table(("for", "memory"), [*lines, ("together", in_units(sum(parts.values())))], numeric=(1,))


def in_units(amount: float) -> str:
    """Bytes as `28.3 MB` or `1.2 GB`."""
    return f"{amount / 1e9:.1f} GB" if amount >= 1e9 else f"{amount / 1e6:.1f} MB"


def evaluation_memory(model: "PreTrainedModel", dtype: str, bits: int | None = None) -> dict[str, float]:
    """Bytes that an evaluation takes, by purpose; a rough estimate that leaves out the cache of generation."""
    import torch

    from expunge.evaluation.scoring import BATCH_TOKENS
    from expunge.models.observe import HEAD_CHUNK

    shape = model.config.get_text_config()
    width = torch.finfo(model.dtype if dtype == "auto" else getattr(torch, dtype)).bits // 8
    inner = getattr(shape, "intermediate_size", None) or 4 * shape.hidden_size
    logits = min(HEAD_CHUNK, BATCH_TOKENS * shape.vocab_size)
    return {
        "weights": weight_bytes(model, width, bits),
        "activations": BATCH_TOKENS * (10 * shape.hidden_size + 4 * inner) * width + 4 * logits,
    }

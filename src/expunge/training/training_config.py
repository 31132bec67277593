"""How one run trains: a dataclass that checks itself.

No torch here, so that the command line can read it in no time.
"""

import importlib.util
import math
import re
from dataclasses import dataclass, replace
from typing import Literal, get_args

from expunge.config.field_types import check_types
from expunge.core.checks import ExpungeError, require_at_least, require_between
from expunge.core.progress import processes

LARGEST_RATE = 1.0
MOST_EPOCHS = 100_000
LARGEST_SEED = 2**32 - 1
"""What numpy's generators, which transformers seeds, take."""
MOST_RETAIN_ROWS = 1000
"""For one forget row; a step computes them all."""
Tracker = Literal["tensorboard", "trackio", "wandb"]
WITHOUT_EFFECT = (
    "micro_batch_size",
    "checkpoint_every",
    "keep_checkpoints",
    "gradient_checkpointing",
    "memory",
    "packing",
    "report_to",
)
"""Settings that cannot change the result, and so may change when a run is resumed."""
PackingPolicy = Literal["auto", "on", "off"]


LARGEST_BATCH, FEWEST_STEPS = 32, 20
"""Where no batch is asked for: its most rows, and the steps that it leaves where it can."""
FULL_SIZE, FASTEST = 1e9, 30.0
"""Published learning rates are for models of at least so many parameters; for smaller ones they grow by the ratio, up
to this factor."""


_UNITS = {"k": 3, "m": 6, "g": 9, "t": 12, "ki": 10, "mi": 20, "gi": 30, "ti": 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]i?)b", re.IGNORECASE)


def bytes_of(size: str) -> float:
    """The bytes of a size such as `40GiB` or `512 MB`.

    Raises:
        ExpungeError: it is written otherwise, or is nothing.
    """
    found = _SIZE.fullmatch(size.strip())
    if found is None or not float(found[1]) > 0:
        raise ExpungeError(f"memory must be a size such as 40GiB or 512MB; got {size!r}.")
    unit = found[2].lower()
    return float(found[1]) * (2.0 if "i" in unit else 10.0) ** _UNITS[unit]


def rate_for(rate: float, parameters: int) -> float:
    """A published learning rate for a model of this size, to two digits."""
    return float(f"{rate * min(FASTEST, max(1.0, FULL_SIZE / parameters)):.1e}")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How one run trains. The global batch is the setting; what a device computes at once is derived from it."""

    learning_rate: float | None = None
    """Peak learning rate of AdamW; null: the method's default, which suits models of 1 billion parameters and more;
    times 1e9 / parameters for smaller ones, at most times 30."""
    epochs: float | None = None
    """Passes over the forget set (over the data, when fine-tuning); null: the method's default."""
    batch_size: int | None = None
    """Forget rows of one optimizer step, over all devices and accumulation steps; null: 32, or with few rows as many
    as leave 20 steps."""
    micro_batch_size: int | None = None
    """Forget rows that one device computes at once; null: all of its share.
    Changes memory and time, never the update."""
    retain_per_forget: int = 1
    """Retain rows paired with each forget row."""
    weight_decay: float = 0.01
    """Decoupled weight decay of AdamW."""
    warmup: float | None = None
    """Epochs over which the learning rate rises linearly; null: one epoch, or a tenth of a run of one epoch or
    less."""
    schedule: Literal["linear", "constant", "cosine"] = "linear"
    """What the learning rate does after the warm-up."""
    max_grad_norm: float = 1.0
    """Clip the gradient's 2-norm to this; 0 turns clipping off."""
    surgery: Literal["none", "gru"] = "none"
    """`gru`: each step takes the forget gradient alone, without its component that would raise the retain loss."""
    smoothing: float = 0.8
    """With surgery, the weight of the newest retain gradient in the running mean that the forget gradient is held
    against."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute precision of training. `auto`: bfloat16 where it pays, on a GPU that has it and, from a hidden size of
    384, on a CPU that has it; float32 elsewhere. Weights are trained in float32 and saved in the type that they came
    in."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    memory: str | None = None
    """Most memory that a device may take, such as `40GiB`: a micro-batch that was left open, and then
    gradient_checkpointing, are chosen so that the estimate of the dry run fits; null: no limit."""
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    """`adamw_8bit` keeps the two moments of each weight in 8 bits instead of 32, through bitsandbytes on a GPU."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """How attention is computed in training; `auto`: as the model was loaded, sdpa as a rule. `flash_attention_2`
    needs a GPU and the package flash-attn."""
    tf32: bool = False
    """Round the inputs of float32 matrix products to 10 bits, which is faster on NVIDIA GPUs from Ampere on."""
    compile: bool = False
    """Compile the decoder blocks with torch.compile: a minute or more at the start, faster steps after it."""
    packing: PackingPolicy = "auto"
    """Rows of a step as one sequence without padding, in which no row sees another. `auto`: with flash or
    flex attention, which skip other rows; `on`: wherever it can be done, and refused elsewhere. Rows of like length are
    padded together otherwise. Changes memory and time, never the update."""
    checkpoint_every: float = 1.0
    """Epochs between checkpoints that a killed run resumes from; 0 writes none."""
    keep_checkpoints: int = 1
    """How many of them are kept, the latest: 1 is for resuming only and goes when the run ends; 0 keeps all. An older
    one goes once a step has started well from the newer one."""
    report_to: tuple[Tracker, ...] = ()
    """Experiment trackers that get each history row while the run goes on. Their files are in the run folder; trackio
    keeps its own store."""
    seed: int = 0
    """Random seed of row order, pairing and sampling."""

    def __post_init__(self) -> None:
        check_types(self)
        if self.learning_rate is not None and not 0 < self.learning_rate < LARGEST_RATE:
            raise ExpungeError(
                f"learning_rate must be between 0 and 1; got {self.learning_rate!r}. Full-parameter training "
                "of models of 1 to 8 billion parameters uses 1e-6 to 5e-5, models of a few million 1e-4 to 1e-3."
            )
        if self.epochs is not None and not 0 < self.epochs <= MOST_EPOCHS:
            raise ExpungeError(f"epochs must be above 0 and at most {MOST_EPOCHS}; got {self.epochs!r}.")
        require_between("seed", self.seed, 0, LARGEST_SEED)
        if self.batch_size is not None:
            require_at_least("batch_size", self.batch_size, 1)
        require_between("retain_per_forget", self.retain_per_forget, 1, MOST_RETAIN_ROWS)
        require_between("weight_decay", self.weight_decay, 0, 1)
        if self.warmup is not None:
            require_at_least("warmup", self.warmup, 0)
        require_at_least("max_grad_norm", self.max_grad_norm, 0)
        require_at_least("checkpoint_every", self.checkpoint_every, 0)
        require_at_least("keep_checkpoints", self.keep_checkpoints, 0)
        if self.schedule not in ("linear", "constant", "cosine"):
            raise ExpungeError(f"schedule must be linear, constant or cosine; got {self.schedule!r}.")
        if self.surgery not in ("none", "gru"):
            raise ExpungeError(f"surgery must be none or gru; got {self.surgery!r}.")
        if not 0 < self.smoothing <= 1:
            raise ExpungeError(f"smoothing must be above 0 and up to 1; got {self.smoothing!r}.")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ExpungeError(f"precision must be auto, float32 or bfloat16; got {self.precision!r}.")
        if self.packing not in get_args(PackingPolicy):
            raise ExpungeError(f"packing must be auto, on or off; got {self.packing!r}.")
        if self.micro_batch_size is not None:
            require_at_least("micro_batch_size", self.micro_batch_size, 1)
        if self.memory is not None:
            bytes_of(self.memory)
        # One name and a list of names are welcome too.
        trackers = (self.report_to,) if isinstance(self.report_to, str) else tuple(self.report_to)
        object.__setattr__(self, "report_to", trackers)
        for tracker in trackers:
            if tracker not in get_args(Tracker):
                raise ExpungeError(f"report_to must name tensorboard, trackio or wandb; got {tracker!r}.")
            if not _installed(tracker):
                raise ExpungeError(
                    f"report_to={tracker} needs {tracker}, which is not installed: pip install {tracker}"
                )

    def filled(self, *, learning_rate: float, epochs: float, rows: int | None) -> "TrainingConfig":
        """With these values, and the warm-up and batch that follow, where nothing else was asked for.

        Args:
            learning_rate: the default.
            epochs: the default.
            rows: of one epoch; None where they are not known yet, and the batch is the largest.
        """
        epochs = epochs if self.epochs is None else self.epochs
        if self.warmup is not None and self.warmup > epochs:
            raise ExpungeError(
                f"warmup must be at most the {epochs:g} epochs of the run, so that it reaches its learning rate; got "
                f"{self.warmup:g}."
            )
        return replace(
            self,
            learning_rate=learning_rate if self.learning_rate is None else self.learning_rate,
            epochs=epochs,
            batch_size=self._batch(epochs, rows) if self.batch_size is None else self.batch_size,
            warmup=(1.0 if epochs > 1 else epochs / 10) if self.warmup is None else self.warmup,
        )

    def _batch(self, epochs: float, rows: int | None) -> int:
        """The largest power of two up to 32 that leaves enough steps, in whole shares of all devices."""
        most = LARGEST_BATCH if rows is None else min(LARGEST_BATCH, max(1, epochs * rows / FEWEST_STEPS))
        share = processes() * (self.micro_batch_size or 1)
        return max(1, (1 << int(math.log2(most))) // share) * share

    @property
    def rows_a_step(self) -> int:
        """The global batch, once it is filled in."""
        assert self.batch_size is not None
        return self.batch_size

    def split(self, devices: int | None = None) -> tuple[int, int]:
        """(rows a device computes at once, accumulation steps).

        Args:
            devices: how many compute; None: one for each process that a launcher started. A global batch that does not
                divide among them is filled up with rows that weigh nothing; it is never rounded.

        Raises:
            ExpungeError: micro-batches do not divide a device's share.
        """
        devices = processes() if devices is None else devices
        share = -(-self.rows_a_step // devices)
        micro = self.micro_batch_size or share
        steps, rest = divmod(share, micro)
        if rest:
            raise ExpungeError(
                f"micro_batch_size={micro} does not divide the {share} rows that each of {devices} device(s) computes "
                f"in a step of batch_size={self.batch_size}."
            )
        return micro, steps


def _installed(package: str) -> bool:
    found = importlib.util.find_spec(package)
    return found is not None and found.origin is not None  # a folder ./wandb of earlier runs is no package

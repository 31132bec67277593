"""The trainer: transformers' Trainer with our rows, our loss and our denominators; nothing else is changed."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler, SequentialSampler
from transformers import (
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import SCHEDULER_NAME

from expunge.core.batch import Batch
from expunge.core.checks import ExpungeError
from expunge.core.distributed import barrier, sharded
from expunge.core.surface import flag
from expunge.core.tensor_file import give_usual_mode
from expunge.models.adapter_files import read_adapter_into, write_adapter
from expunge.models.fingerprint import whole
from expunge.models.finite import non_finite_parameter
from expunge.models.load import read_weights_into
from expunge.models.reference import Reference
from expunge.objectives.combine import Objective, Side, Stream
from expunge.training.loss import batch_terms, denominators
from expunge.training.masked import Selected
from expunge.training.optimizer_file import holds_gathered, read_optimizer, write_optimizer
from expunge.training.recomputed import recomputed
from expunge.training.rows import Item, RunRows
from expunge.training.run_log import RunLog
from expunge.training.surgery import Surgery


class NonFiniteLoss(ExpungeError):
    """The loss or its gradient is no longer a finite number; the weights are still those before the step."""

    def __init__(self, message: str, *, gradient_alone: bool = False) -> None:
        super().__init__(message)
        self.gradient_alone = gradient_alone
        """Are the losses finite, so that the weights are good?"""


class NonFiniteWeights(ExpungeError):
    """A step left weights that are not finite."""


class ObjectiveTrainer(Trainer):
    """Trains an objective. A step's loss is divided by counts over the whole step: every micro-batch, every rank."""

    optimizer: torch.optim.Optimizer | None
    # Our denominators span the accumulation steps; without this flag `training_step` would divide by them once more.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *,
        model: nn.Module,
        args: TrainingArguments,
        rows: RunRows,
        objective: Objective,
        reference: Reference | None,
        rows_a_step: int,
        surgery: Surgery | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Set up a run.

        Args:
            model: what is trained, already with `requires_grad` as wished.
            args: transformers' training arguments.
            rows: the run's rows in order.
            objective: the losses and weights.
            reference: the frozen start model or its head, where one is held.
            rows_a_step: the global batch.
            surgery: projects the forget gradient, where asked for.
            about: what is said of an adapter besides its weights in checkpoints.
        """

        def _on_host(items: Sequence[Item]) -> _OnHost:
            return _OnHost(rows.collate(items))

        super().__init__(model=model, args=args, train_dataset=cast(Dataset, rows), data_collator=_on_host)  # type: ignore[arg-type]
        self.objective = objective
        self.divided = sharded(model)
        """Does each process hold a part of each weight? Asked before steps, which may leave weights whole meanwhile."""
        self.reference = reference
        self.rows_a_step = rows_a_step
        self.selected: Selected | None = None
        """What may change, where a mask says so; set before training."""
        self.surgery = surgery
        self.about = about
        self.run_log: RunLog | None = None
        """Of the run folder, where there is one; set before training."""
        self.recomputes = True
        """Are activations that cost little computed again? Set before training."""
        self.unproven = False
        """Is there a checkpoint that no step has started from yet?"""
        self.numbers: dict[str, float] = {}
        """The history row of the step in progress."""
        self.step = _StepSums()
        self.gradient_norm: Tensor | None = None
        for callback in list(self.callback_handler.callbacks):
            if type(callback).__name__ in ("PrinterCallback", "ProgressCallback"):
                self.remove_callback(callback)
        self.add_callback(_GuardAndLog(self))

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        # The stock sampler shuffles. Here order and pairing are a function of seed and position, so that every world
        # size sees the same pairs and a resumed run goes on with the next one.
        rows = cast(RunRows, self.train_dataset)
        if self.accelerator.num_processes == 1:
            return SequentialSampler(rows)
        slots = self.args.train_batch_size * self.accelerator.num_processes * self.args.gradient_accumulation_steps
        return _Filled(len(rows), self.rows_a_step, slots)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW over everything that has gradients, or over what a mask selects."""
        # The stock method builds parameter groups from the model; it returns an optimizer that is there already.
        if self.selected is not None and self.optimizer is None:
            whole = cast(Any, self.model if model is None else model)
            kind, arguments = self.get_optimizer_cls_and_kwargs(self.args, whole)
            decayed = set(self.get_decay_parameter_names(whole))
            self.optimizer = self.selected.optimizer(kind, arguments, decay=self.args.weight_decay, decayed=decayed)
        return cast(torch.optim.Optimizer, super().create_optimizer(model))  # the one that is there, if any

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The schedule of transformers, but for a warm-up that rises from its first step on: theirs takes it at 0."""
        warmup, before = self.args.get_warmup_steps(num_training_steps), self.lr_scheduler
        found = super().create_scheduler(num_training_steps, optimizer)
        if before is None and warmup:
            found.lr_lambdas = [_risen(share, warmup) for share in found.lr_lambdas]
            for group, rate, share in zip(found.optimizer.param_groups, found.base_lrs, found.lr_lambdas, strict=True):
                group["lr"] = rate * share(0)
            found._last_lr = [group["lr"] for group in found.optimizer.param_groups]
        return found

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """The micro-batches of one optimizer step, and the denominators of the whole step over all ranks."""
        # The Trainer calls this once an optimizer step and hands what it returns as `num_items_in_batch` to each
        # `compute_loss`: the one place where all micro-batches of a step are known before the first forward pass.
        batches = [found.batches for _, found in zip(range(num_batches), epoch_iterator, strict=False)]
        totals: dict[Side, Tensor] = {}
        for batch in batches:
            for side, count in denominators(batch, self.objective).items():
                totals[side] = totals.get(side, count.new_zeros(())) + count
        here = {side: float(total) for side, total in totals.items()}
        for side, total in totals.items():
            totals[side] = self.accelerator.gather(total.to(device, non_blocking=True).reshape(1)).sum()
            # One process knows its counts without asking the device.
            if not (here[side] if self.accelerator.num_processes == 1 else totals[side]) > 0:
                raise ExpungeError(
                    f"step {self.state.global_step + 1} has no {side} token that counts; "
                    "use longer completions or a larger batch."
                )
        self.step = _StepSums(denominators=totals)
        return batches, totals

    def _prepare_inputs(self, inputs: Any) -> Any:
        # Rows stay on the host: what is where in them is worked out there, and the device is not waited for.
        return inputs

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """One micro-batch forward and backward; with surgery once for each side, so that their gradients stay apart."""
        if self.surgery is None:
            return cast(Tensor, super().training_step(model, inputs, num_items_in_batch))
        whole, losses = self.objective, []
        try:
            for side in ("forget", "retain"):
                self.objective = whole.only(side)
                losses.append(super().training_step(model, inputs, num_items_in_batch))
                self.surgery.swap()
        finally:
            self.objective = whole
        if self.accelerator.sync_gradients:
            self.numbers["gradient_cosine"] = self.surgery.operate()
        return cast(Tensor, losses[0] + losses[1])

    def weigh_retain(self, alpha: float) -> None:
        """From the next step on, weigh the retain loss by `alpha`."""
        self.objective = replace(self.objective, alpha=alpha)

    def retain_loss(self) -> float:
        """The last step's retain loss over all ranks, its sets weighed against each other."""
        sums, sets = self.step, self.objective.retain_sets
        return sum(weight * float(sums.values[name] / sums.denominators[name]) for name, weight in sets.items())

    def _init_training_state(self, *arguments: Any) -> tuple[int, int]:
        done: tuple[int, int] = super()._init_training_state(*arguments)
        if self.run_log is not None:
            self.state.log_history = [dict(row) for row in self.run_log.rows]
        return done

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        # The Trainer only warns, and of tied heads too, which have no weights of their own in the file.
        tied = getattr(self.accelerator.unwrap_model(self.model), "all_tied_weights_keys", {})
        if wrong := [*(set(load_result.missing_keys) - {*tied}), *load_result.unexpected_keys]:
            raise ExpungeError(
                f"the checkpoint does not fit the model: {', '.join(sorted(wrong)[:3])} in one and not in the other. "
                f"Start again ({flag('overwrite')})."
            )

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        # History is appended to a file of its own: in the state of the Trainer it would be written anew each time.
        assert self.run_log is not None
        self.check_weights()
        number, writes = self.state.global_step, self.is_world_process_zero()
        if writes:
            self.run_log.clear(number)
        barrier()
        rows, self.state.log_history = self.state.log_history, []
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.state.log_history = rows
        barrier()
        if writes:
            self.run_log.close(number, steps=self.state.max_steps)
        barrier()  # all may name the checkpoint now
        self.unproven = True

    def check_weights(self) -> None:
        """Raise `NonFiniteWeights` where the last step left weights that are not finite."""
        if (name := non_finite_parameter(self.model)) is not None:
            raise NonFiniteWeights(
                f"step {self.state.global_step} of {self.state.max_steps} left weights that are not finite ({name}); "
                "they are not saved. Try a lower learning_rate, or weights in bfloat16 or float32 where they are "
                "float16."
            )

    def proven(self) -> None:
        """A step has started well from the last checkpoint: older ones may go."""
        if self.unproven and self.run_log is not None and self.is_world_process_zero():
            self.run_log.rotate()
        self.unproven = False

    # Called when a checkpoint is written and read: the running mean of surgery is state like the optimizer's moments.
    # The stock methods store and take the part of each weight that one process holds, where weights are divided.
    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.divided:
            assert self.optimizer is not None and self.lr_scheduler is not None
            write_optimizer(self.optimizer, Path(output_dir))
            if self.args.should_save:
                torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)
        else:
            super()._save_optimizer_and_scheduler(output_dir)
        if self.surgery is not None:
            self.surgery.save(Path(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and (self.divided or holds_gathered(Path(checkpoint))):
            assert self.optimizer is not None and self.lr_scheduler is not None
            read_optimizer(self.optimizer, Path(checkpoint))
            self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))
        else:
            super()._load_optimizer_and_scheduler(checkpoint)
        if self.surgery is not None and checkpoint is not None:
            self.surgery.load(Path(checkpoint))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[Stream, Batch],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor:
        """This micro-batch's share of the step's loss."""
        with self.accelerator.autocast(), recomputed() if self.recomputes else nullcontext():
            part = batch_terms(model, inputs, self.objective, reference=self.reference)
        self.step.add(part.terms, part.logprobs)
        # Engines average gradients over ranks; our denominators already span them.
        loss = self.objective.combine(part.terms, num_items_in_batch)
        return loss * cast(int, self.accelerator.num_processes)

    # Called before each optimizer step where clipping is on; returns the norm before clipping. It is kept because the
    # Trainer logs it after the step, and the guard below must see it before.
    def _clip_grad_norm(self, model: nn.Module) -> Any:
        norm = super()._clip_grad_norm(model)
        self.gradient_norm = None if norm is None else torch.as_tensor(norm)
        return norm

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        # Called in each step, with the norm where clipping computed it. Without clipping it is computed here, since a
        # gradient that is not finite must stop the step.
        if grad_norm is None:
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            grad_norm = torch.nn.utils.get_total_norm(gradients) if gradients else None
            self.gradient_norm = grad_norm
        return super()._get_grad_norm(model, grad_norm=grad_norm)

    # Checkpoints of a PEFT model: the stock method saves its adapter without what says which base it belongs to.
    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if isinstance(self.model, PeftModel):
            if self.args.should_save:
                write_adapter(self.model, output_dir or str(self.args.output_dir), self.about)
            return
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            # safetensors creates files that only their owner may read, whatever the umask says.
            give_usual_mode(*Path(output_dir or str(self.args.output_dir)).glob("*.safetensors"))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        # The stock method looks for adapters by name in sub-folders and warns where there are none.
        if isinstance(self.model, PeftModel):
            read_adapter_into(self.model, resume_from_checkpoint)
            return
        if self.divided:
            read_weights_into(cast(PreTrainedModel, self.model), resume_from_checkpoint)
            return
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log a row, with its epoch as passes over the anchor set; the trainer itself takes all epochs for one."""
        whole, anchor = self.state.epoch, cast(RunRows, self.train_dataset).pairs.n_forget
        self.state.epoch = self.state.global_step * (self.rows_a_step / anchor)
        try:
            super().log(logs, start_time)
        finally:
            self.state.epoch = whole
        if "loss" in logs and self.run_log is not None and self.is_world_process_zero():
            self.run_log.add(self.state.log_history[-1])

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: the estimate of transformers reads `input_ids` of a flat batch, and ours holds streams."""
        return 0


def _risen(share: Callable[[int], float], warmup: int) -> Callable[[int], float]:
    """A schedule whose `warmup` steps rise evenly to the rate of the step after them, the first one included."""
    return lambda step: (step + 1) / (warmup + 1) if step < warmup else share(step)


class _Filled(Sampler[int]):
    """The rows of each step in order, and fillers up to what all processes compute together; they weigh nothing."""

    def __init__(self, rows: int, a_step: int, slots: int) -> None:
        self.rows, self.a_step, self.slots = rows, a_step, slots

    def __len__(self) -> int:
        return -(-self.rows // self.a_step) * self.slots

    def __iter__(self) -> Iterator[int]:
        for first in range(0, self.rows, self.a_step):
            real = range(first, min(first + self.a_step, self.rows))
            yield from real
            yield from range(self.rows, self.rows + self.slots - len(real))


class _StepSums:
    """Sums over the micro-batches of one optimizer step, for the history."""

    def __init__(self, denominators: Mapping[Side, Tensor] | None = None) -> None:
        self.denominators = denominators or {}
        self.values: dict[Side, Tensor] = {}
        self.logprobs: dict[str, tuple[Tensor, Tensor]] = {}

    def add(self, terms: Mapping[Side, Any], logprobs: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Add one micro-batch."""
        for side, term in terms.items():
            value = term.values.detach().sum()
            self.values[side] = self.values[side] + value if side in self.values else value
        for stream, (total, tokens) in logprobs.items():
            if stream in self.logprobs:
                before, n = self.logprobs[stream]
                total, tokens = total + before, tokens + n
            self.logprobs[stream] = (total, tokens)

    def gather(self, accelerator: Any) -> None:
        """Add up the sums of all processes."""
        if accelerator.num_processes == 1:
            return

        def everywhere(value: Tensor) -> Tensor:
            total: Tensor = accelerator.gather(value.reshape(1).to(accelerator.device)).sum()
            return total

        self.values = {side: everywhere(value) for side, value in self.values.items()}
        self.logprobs = {name: (everywhere(a), everywhere(n)) for name, (a, n) in self.logprobs.items()}

    def row(self, objective: Objective, gradient_norm: Tensor | None) -> dict[str, float]:
        """This process's numbers of the step, for which the device is waited for once.

        Unweighted losses, the geometric mean probability of a completion token, and the norm of the gradient.
        """
        asked = {f"{side}_loss": value / self.denominators[side] for side, value in self.values.items()}
        for stream, (total, tokens) in self.logprobs.items():
            asked |= {f"{stream}_probability": total / tokens, f"{stream}_tokens": tokens}
        if gradient_norm is not None:
            asked["gradient_norm"] = whole(gradient_norm)
        row = _read(asked)
        for stream in self.logprobs:
            row[f"{stream}_probability"] = math.exp(row[f"{stream}_probability"])
            row[f"{stream}_tokens"] = int(row[f"{stream}_tokens"])
        return {"loss": sum(w * row[f"{side}_loss"] for side, (_, w) in objective.losses.items())} | row


def _read(numbers: Mapping[str, Tensor]) -> dict[str, float]:
    """Numbers on a device as numbers, all in one transfer."""
    place = next(iter(numbers.values())).device
    dtype = torch.float64 if any(n.dtype == torch.float64 for n in numbers.values()) else torch.float32
    together = torch.stack([n.detach().to(place, dtype, non_blocking=True).reshape(()) for n in numbers.values()])
    return dict(zip(numbers, together.tolist(), strict=True))


@dataclass(frozen=True)
class _OnHost:
    """The rows of a micro-batch; loaders that move tensors to a device leave it as it is."""

    batches: dict[Stream, Batch]


class _GuardAndLog(TrainerCallback):
    """Stops before a step that would spoil the weights; writes one history row a step."""

    def __init__(self, trainer: ObjectiveTrainer) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        trainer = self.trainer
        trainer.step.gather(trainer.accelerator)
        row = trainer.numbers
        row |= trainer.step.row(trainer.objective, trainer.gradient_norm)
        if trainer.lr_scheduler is not None:
            row["learning_rate"] = float(trainer.lr_scheduler.get_last_lr()[0])  # the one that this step takes
        bad = [f"{name} is {value}" for name, value in row.items() if not math.isfinite(value)]
        if bad:
            first = (
                "No step has been taken yet, so this is about the start model or its precision, not the learning rate: "
                "load it in bfloat16 or float32, and evaluate it."
            )
            later = f"Try a lower learning_rate, a smaller max_grad_norm (now {args.max_grad_norm:g}), or fewer epochs."
            raise NonFiniteLoss(
                f"step {state.global_step + 1} of {state.max_steps} was stopped before it changed the weights: "
                f"{', '.join(bad)} (learning rate {row.get('learning_rate', args.learning_rate):.2g}). "
                f"{later if state.global_step else first}",
                gradient_alone=all(math.isfinite(value) for name, value in row.items() if name != "gradient_norm"),
            )
        trainer.proven()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.trainer.log(dict(self.trainer.numbers))
        self.trainer.numbers.clear()

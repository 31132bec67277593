"""One run: its folder, its manifest, and the way from rows to a trained model that unlearning and fine-tuning share."""

import csv
import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments
from transformers.utils import logging as transformers_logging

from expunge.core.checkpoints import FOLDER, checkpoints
from expunge.core.checks import ExpungeError
from expunge.core.manifest import Manifest
from expunge.core.nested import flattened
from expunge.core.output import check_output
from expunge.core.progress import Progress, first_process
from expunge.core.surface import flag
from expunge.models.adapter_files import read_adapter_into
from expunge.models.anatomy import without_dropout
from expunge.models.load import load_model, save_model
from expunge.models.patch import patch_of
from expunge.training.adapter import Keep
from expunge.training.callbacks import (
    CheckpointAtEpochs,
    Clock,
    ReportProgress,
    StopWhenAsked,
    WarnOfCollapse,
)
from expunge.training.dual import DualAscent
from expunge.training.masked import masked, reached_parameters
from expunge.training.plan import Plan
from expunge.training.rows import RunRows
from expunge.training.stopping import NoValue, StopWhen
from expunge.training.surgery import Surgery
from expunge.training.tracking import PROJECT, run_name, tracked
from expunge.training.trainer import NonFiniteLoss, ObjectiveTrainer
from expunge.training.training_config import TrainingConfig

CHECKPOINTS = FOLDER
HISTORY = "history.csv"
PATCH = "patch.safetensors"


@dataclass(frozen=True)
class Run:
    """What training returns."""

    model: PreTrainedModel | PeftModel
    """A plain model; a PEFT model only where one was handed in and not merged, or over a quantized base."""
    history: Sequence[Mapping[str, float]]
    """One row a step: step, epoch, loss, forget_loss, retain_loss (unweighted), probabilities, learning rate,
    gradient norm."""
    manifest: Manifest
    folder: Path | None = None
    checkpoints: Sequence[Path] = field(default_factory=tuple)
    """Checkpoints that were kept, in order of steps."""


def open_folder(
    folder: Path,
    manifest: Manifest,
    *,
    overwrite: bool,
    resume: bool,
    patch: bool = False,
    own_adapter: PeftModel | None = None,
) -> Run | None:
    """Make the run folder ready; return the finished run where `resume` finds one.

    Args:
        folder: made where it is missing.
        manifest: of the run that is asked for.
        overwrite: replace what is there.
        resume: go on with what is there.
        patch: was a patch asked for?
        own_adapter: a start model with an adapter of its own, which takes the values of a finished run's.

    Raises:
        ExpungeError: the folder is in use and neither `overwrite` nor `resume` was said; it holds something that is not
            a run of ours; or the run in it was made with other settings or inputs.
    """
    if not first_process():
        return None  # the main process answers for the folder; an error there ends the others, too
    used = check_run_folder(folder, overwrite=overwrite, resume=resume)
    if used and resume:
        before = check_same(folder, arguments=manifest.arguments, inputs=manifest.inputs)
        if before.results.get("finished"):
            if patch and not (folder / PATCH).is_file():
                raise ExpungeError(
                    f"the run in {folder} is finished and left no patch. Make one of the two models: "
                    f"expunge patch create base=... model={folder} output=patch.safetensors"
                )
            model = load_model(folder) if own_adapter is None else _as_finished(own_adapter, folder)
            return Run(model, read_history(folder / HISTORY), before, folder, checkpoints(folder))
    elif used:
        shutil.rmtree(folder)
    manifest.save(folder)
    return None


def _as_finished(model: PeftModel, folder: Path) -> PeftModel:
    read_adapter_into(model, folder)
    return model.eval()


def check_run_folder(folder: Path, *, overwrite: bool, resume: bool) -> bool:
    """`check_output` for the folder of a run, of which `overwrite` replaces runs only."""
    return check_output(folder, overwrite=overwrite, resume=resume, stages=("train", "unlearn"))


_WITHOUT_EFFECT = ("micro_batch_size", "checkpoint_every", "keep_checkpoints", "gradient_checkpointing", "report_to")
"""Settings that cannot change the result, and so may change when a run is resumed."""


def check_same(folder: Path, *, arguments: Mapping[str, Any], inputs: Mapping[str, str] | None = None) -> Manifest:
    """The manifest of the run in a folder, which must have been made with these settings.

    Args:
        folder: of the run to go on with.
        arguments: what the manifest of the run that is asked for says of its settings.
        inputs: fingerprints of what it works on; None: not known yet, and not compared.

    Raises:
        ExpungeError: something was another then; micro-batches and checkpoints may change.
    """
    before = Manifest.load(folder)
    compared = [("arguments", before.arguments, arguments)]
    if inputs is not None:
        compared.append(("inputs", before.inputs, inputs))
    for what, old, new in compared:
        then, plain = flattened(old), flattened(json.loads(json.dumps(new, default=str)))
        changed = [
            f"{k}: {then.get(k)!r} then, {plain.get(k)!r} now"
            for k in {*then, *plain}
            if k not in _WITHOUT_EFFECT and then.get(k) != plain.get(k)
        ]
        if changed:
            raise ExpungeError(
                f"cannot resume {folder}, its {what} were others: {'; '.join(sorted(changed))}. Put them back "
                "(the model must be the start model, loaded anew), or choose another output."
            )
    return before


def train(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: RunRows,
    plan: Plan,
    manifest: Manifest,
    *,
    reference: nn.Module | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
    keep: Keep | None = None,
    about: Mapping[str, Any] | None = None,
    stop: StopWhen | None = None,
) -> Run:
    """Run the steps, and write the result into `folder` where there is one.

    Args:
        model: trained in place.
        tokenizer: stored next to checkpoints and result.
        rows: the run's rows.
        plan: the losses, how to train, and what may change: its mask, else every parameter that has gradients.
        manifest: stored with the result.
        reference: the frozen start model, where one is held.
        folder: run folder, already opened; None keeps the result in memory only.
        progress: called at each step.
        keep: writes the trained model and returns what the run hands back; None writes it whole and returns it.
        about: with an adapter, what is said of it besides its weights in checkpoints.
        stop: ends the run early.
    """
    objective, config, mask, patch = plan.objective, plan.training, plan.weight_mask, plan.patch
    start: dict[str, Tensor] = {}
    with ExitStack() as around:
        scratch = (folder or Path(around.enter_context(tempfile.TemporaryDirectory()))) / CHECKPOINTS
        name = run_name(folder) if config.report_to and folder is not None and first_process() else None
        arguments = training_arguments(rows, config, scratch, model, name=name)
        trainer = ObjectiveTrainer(
            model=model, args=arguments, rows=rows, objective=objective, reference=reference, about=about
        )
        if objective.dual is not None:
            warmup_steps = round(objective.dual.warmup * rows.pairs.n_forget / config.batch_size)
            trainer.add_callback(DualAscent(trainer, objective.dual, warmup_steps=warmup_steps))
        asked, clock = StopWhenAsked(), Clock()
        trainer.add_callback(asked)
        if stop is not None:
            trainer.add_callback(stop)
        trainer.add_callback(clock)
        trainer.add_callback(WarnOfCollapse())
        if folder is not None:
            every = config.checkpoint_every
            trainer.add_callback(
                CheckpointAtEpochs(
                    rows_per_epoch=rows.pairs.n_forget, batch_size=config.batch_size, every=every, tokenizer=tokenizer
                )
            )
        if progress is not None:
            trainer.add_callback(ReportProgress(plan.what, progress))
        latest = checkpoints(scratch.parent)[-1:] if folder is not None else []
        transformers_logging.disable_progress_bar()
        around.enter_context(without_dropout(model))
        if folder is not None:
            around.enter_context(asked.listening())
        around.enter_context(_engine_taken_off(model, checkpointing=config.gradient_checkpointing))
        if mask is not None:
            _check_engine(trainer, patch=patch)
            trainer.selected = around.enter_context(masked(model, mask, reached=reached_parameters(model, objective)))
            if patch:
                start = trainer.selected.values()
        done = int(latest[0].name.rpartition("-")[2]) if latest else 0
        around.enter_context(tracked(trainer, folder, done=done))
        if config.surgery == "gru":
            trainer.surgery = Surgery(model, smoothing=config.smoothing)  # now that it is known what is trained
        try:
            trainer.train(resume_from_checkpoint=str(latest[0]) if latest else None)
        except (NonFiniteLoss, NoValue) as error:
            if folder is None:
                raise
            # The Trainer saves between steps only; this is the state before the step that was refused.
            trainer._save_checkpoint(model, None)
            tokenizer.save_pretrained(scratch / f"checkpoint-{trainer.state.global_step}")
            raise type(error)(
                f"{error} The last good weights are in {scratch / f'checkpoint-{trainer.state.global_step}'}."
            ) from error
    model.eval()
    history = [row for row in trainer.state.log_history if "loss" in row]
    if asked.asked and trainer.state.global_step < trainer.state.max_steps:
        where = scratch / f"checkpoint-{trainer.state.global_step}"
        raise KeyboardInterrupt(
            f"stopped at step {trainer.state.global_step} of {trainer.state.max_steps}; the checkpoint {where} "
            f"loads as a model, and the same call with {flag('resume')} goes on from it"
        )
    seconds_a_step = round(clock.seconds / clock.steps, 4) if clock.steps else None
    manifest = replace(
        manifest,
        results={
            **manifest.results,
            "finished": True,
            "steps": trainer.state.global_step,
            "planned_steps": trainer.state.max_steps,
            "seconds_a_step": seconds_a_step,
            **(stop.results() if stop is not None else {}),
        },
    )
    kept: list[Path] = []
    main = trainer.is_world_process_zero()
    if keep is not None:
        model = keep(model, folder if main else None)
    elif folder is not None and main:
        save_model(model, tokenizer, folder)
    if folder is not None and main:
        write_history(history, folder / HISTORY)
        if patch and trainer.selected is not None:
            put_back = trainer.selected.with_values(start)
            patch_of(model, put_back, base=manifest.inputs["model"], manifest=manifest).save(folder / PATCH)
        if config.keep_checkpoints == 1:
            shutil.rmtree(scratch, ignore_errors=True)
        kept = checkpoints(folder)
        manifest.save(folder)  # last: `finished` is only true once everything else is there
    return Run(model, history, manifest, folder, kept)


def _check_engine(trainer: ObjectiveTrainer, *, patch: bool) -> None:
    """Raise for engines that move parameters to where a mask, or a patch, cannot follow."""
    if patch and trainer.is_distributed_loading_by_transformers:
        raise ExpungeError(
            "a patch is made of whole weights, and this model is sharded. Make it of the two folders afterwards: "
            "expunge patch create base=... model=... output=patch.safetensors"
        )
    if trainer.is_deepspeed_enabled:
        raise ExpungeError(
            "masks do not go with DeepSpeed: it keeps weights in flat partitions, where a weight's position is not "
            "known. Use one process, data-parallel processes, or FSDP2."
        )
    if trainer.is_fsdp_enabled and not trainer.is_distributed_loading_by_transformers:
        raise ExpungeError(
            "a mask needs the model to be sharded before training starts; accelerate's FSDP shards it later, with the "
            "compact tensors. Load it sharded: from_pretrained(..., distributed_config=DistributedConfig(fsdp_size=2))."
        )


@contextmanager
def _engine_taken_off(model: PreTrainedModel | PeftModel, *, checkpointing: bool) -> Iterator[None]:
    """Take off afterwards what the engine puts on a model: the wrapper for half precision, and checkpointing."""
    own = {name: vars(model)[name] for name in ("forward", "_original_forward") if name in vars(model)}
    try:
        yield
    finally:
        for name in ("forward", "_original_forward"):
            vars(model).pop(name, None)
        vars(model).update(own)
        if checkpointing:
            model.activation_checkpointing_disable()


def training_arguments(
    rows: RunRows, config: TrainingConfig, scratch: Path, model: nn.Module, *, name: str | None = None
) -> TrainingArguments:
    """Our configuration in transformers' words; `name` is the run's in trackers."""
    assert config.learning_rate is not None and config.warmup is not None
    on_cpu = next(model.parameters()).device.type == "cpu"
    micro, accumulation = config.split(PartialState(cpu=on_cpu).num_processes)
    steps = math.ceil(len(rows) / config.batch_size)
    warmup = round(config.warmup * rows.pairs.n_forget / config.batch_size)
    arguments = TrainingArguments(
        output_dir=str(scratch),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=1,  # the rows hold all epochs, laid end to end
        max_steps=steps,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        warmup_steps=warmup,
        lr_scheduler_type={"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}[config.schedule],
        seed=config.seed,
        bf16=uses_bf16(model, config),
        use_cpu=on_cpu,
        activation_checkpointing=config.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if config.gradient_checkpointing else None,
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=not on_cpu,
        remove_unused_columns=False,
        logging_strategy="no",
        logging_nan_inf_filter=False,
        save_strategy="no",  # our callback says when
        save_total_limit=config.keep_checkpoints or None,
        report_to=list(config.report_to) or "none",
        run_name=name,
        project=PROJECT,
        disable_tqdm=True,
    )
    # With several GPUs and one process the Trainer would wrap the model in DataParallel, whose replicas average losses
    # over GPUs and so break our denominators. Several GPUs are for several processes.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def uses_bf16(model: nn.Module, config: TrainingConfig) -> bool:
    """Does training compute in bfloat16?"""
    on_gpu = next(model.parameters()).device.type != "cpu" and torch.cuda.is_available()
    return config.precision == "bfloat16" or (config.precision == "auto" and on_gpu and torch.cuda.is_bf16_supported())


def write_history(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """One CSV row a step."""
    columns = list(dict.fromkeys(key for row in history for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["step", *(c for c in columns if c != "step")])
        writer.writeheader()
        writer.writerows(history)


def read_history(path: Path) -> list[dict[str, float]]:
    """What `write_history` wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]

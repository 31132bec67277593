"""One run: its folder, its manifest, and the way from rows to a trained model that unlearning and fine-tuning share."""

import csv
import json
import math
import pickle
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch
from accelerate import PartialState
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments
from transformers.utils import logging as transformers_logging

from expunge.core.checkpoints import FOLDER as CHECKPOINTS
from expunge.core.checkpoints import checkpoints, manifest_of, step
from expunge.core.checks import ExpungeError
from expunge.core.distributed import barrier
from expunge.core.manifest import Manifest, file_digest, file_digests
from expunge.core.nested import flattened
from expunge.core.progress import Progress, first_process
from expunge.core.surface import flag
from expunge.core.whole import is_left_over, make_room, move_into
from expunge.models.adapter_files import read_adapter_into
from expunge.models.anatomy import causal_lm, without_dropout
from expunge.models.identity import weights_identity
from expunge.models.load import load_model, save_model
from expunge.models.patch import patch_of
from expunge.models.reference import Reference
from expunge.models.tiny import cpu_has_bfloat16
from expunge.objectives.combine import Stream
from expunge.results.places import LOG, RESULT, check_run_folder
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
from expunge.training.masters import narrow
from expunge.training.options import options_on
from expunge.training.outcome import Outcome, Scored, scored
from expunge.training.packing import packing
from expunge.training.perturbed import perturb
from expunge.training.plan import Plan
from expunge.training.rows import RunRows
from expunge.training.run_log import RunLog, resumable
from expunge.training.stopping import NoValue, StopWhen
from expunge.training.surgery import Surgery
from expunge.training.tracking import PROJECT, run_name, tracked
from expunge.training.trainer import NonFiniteLoss, NonFiniteWeights, ObjectiveTrainer
from expunge.training.training_config import WITHOUT_EFFECT, TrainingConfig

HISTORY = "history.csv"
PATCH = "patch.safetensors"
PAYS_FROM_WIDTH = 384
"""Hidden size from which bfloat16 pays on a CPU that has it: 1.6 times as fast there, 1.2 at 288, slower below."""


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


def finished_run(
    folder: Path | None,
    manifest: Manifest,
    *,
    overwrite: bool,
    resume: bool,
    patch: bool = False,
    own_adapter: PeftModel | None = None,
) -> Run | None:
    """Check the run folder; the finished run that `resume` finds there, if it does. Nothing is written.

    Args:
        folder: of the run; None where nothing is kept.
        manifest: of the run that is asked for.
        overwrite: replace what is there.
        resume: go on with what is there.
        patch: was a patch asked for?
        own_adapter: a start model with an adapter of its own, which takes the values of a finished run's.

    Raises:
        ExpungeError: the folder is in use and neither `overwrite` nor `resume` was said; it holds something that is not
            a run of ours; or the run in it was made with other settings or inputs.
    """
    if folder is None or not first_process():
        return None  # the main process answers for the folder; an error there ends the others, too
    if not check_run_folder(folder, overwrite=overwrite, resume=resume) or not resume:
        return None
    before = check_same(folder, arguments=manifest.arguments, inputs=manifest.inputs)
    if not before.results.get("finished"):
        return None
    if patch and not (folder / PATCH).is_file():
        raise ExpungeError(
            f"the run in {folder} is finished and left no patch. Make one of the two models: "
            f"expunge patch create base=... model={folder} output=patch.safetensors"
        )
    _check_history(folder, before)
    _clean_up(folder, before)
    model = load_model(folder) if own_adapter is None else _as_finished(own_adapter, folder)
    return Run(model, read_history(folder / HISTORY), before, folder, checkpoints(folder))


def _open_folder(folder: Path, manifest: Manifest, *, resume: bool) -> Manifest:
    """Make the run folder ready for the first step; the manifest with what it takes over from a run to be resumed."""
    if resume:
        manifest = _resumed(manifest, manifest_of(folder))
    else:
        make_room(folder)
    folder.resolve().mkdir(parents=True, exist_ok=True)
    manifest.save(folder)
    return manifest


def _resumed(manifest: Manifest, before: Manifest) -> Manifest:
    """A manifest that also says with which other versions the run was begun; warns of them."""
    earlier = list(before.results.get("earlier_versions", []))
    names = [
        name
        for name in sorted({*before.versions, *manifest.versions})
        if before.versions.get(name) != manifest.versions.get(name)
    ]
    if names:
        changed = [
            f"{n} {before.versions.get(n, 'missing')} then, {manifest.versions.get(n, 'missing')} now" for n in names
        ]
        warnings.warn(
            f"the run is resumed under other versions: {'; '.join(changed)}. It goes on, but need not end with the "
            "weights of an undisturbed run; its manifest lists both.",
            stacklevel=2,
        )
        earlier.append(before.versions)
    return replace(manifest, results=manifest.results | ({"earlier_versions": earlier} if earlier else {}))


def _clean_up(folder: Path, manifest: Manifest) -> None:
    """Remove what a finished run needs no longer; a kill meanwhile loses nothing."""
    (folder / LOG).unlink(missing_ok=True)
    shutil.rmtree(folder / RESULT, ignore_errors=True)
    for path in filter(is_left_over, folder.iterdir()):
        path.unlink()
    if manifest.arguments["keep_checkpoints"] == 1:
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def _check_history(folder: Path, manifest: Manifest) -> None:
    path, written = folder / HISTORY, manifest.results.get("files", {}).get(HISTORY)
    if not path.is_file() or written not in (None, file_digest(path)):
        raise ExpungeError(
            f"{path} is not what the run wrote: it is missing, or was changed since. Put it back, or make the run "
            f"again ({flag('overwrite')})."
        )


def _as_finished(model: PeftModel, folder: Path) -> PeftModel:
    read_adapter_into(model, folder)
    return model.eval()


def check_same(folder: Path, *, arguments: Mapping[str, Any], inputs: Mapping[str, str] | None = None) -> Manifest:
    """The manifest of the run in a folder, which must have been made with these settings.

    Args:
        folder: of the run to go on with.
        arguments: what the manifest of the run that is asked for says of its settings.
        inputs: fingerprints of what it works on; None: not known yet, and not compared.

    Raises:
        ExpungeError: something was another then; micro-batches and checkpoints may change.
    """
    before = manifest_of(folder)
    # A setting that is younger than the run had its default then.
    defaults = {name: value for name, value in asdict(TrainingConfig()).items() if name in arguments}
    compared = [("arguments", defaults | dict(before.arguments), arguments)]
    if inputs is not None:
        compared.append(("inputs", before.inputs, inputs))
    for what, old, new in compared:
        then, plain = flattened(old), flattened(json.loads(json.dumps(new, default=str)))
        changed = [
            f"{k}: {then.get(k)!r} then, {plain.get(k)!r} now"
            for k in {*then, *plain}
            if k not in WITHOUT_EFFECT and then.get(k) != plain.get(k)
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
    before: Mapping[Stream, Scored],
    reference: Reference | None = None,
    folder: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    keep: Keep | None = None,
    about: Mapping[str, Any] | None = None,
    stop: StopWhen | None = None,
    stored: Mapping[str, torch.dtype] = MappingProxyType({}),
    steps_in: AbstractContextManager[None],
) -> Run:
    """Run the steps, and write the result into `folder` where there is one.

    Args:
        model: trained in place.
        tokenizer: stored next to checkpoints and result.
        rows: the run's rows.
        plan: the losses, how to train, and what may change: its mask, else every parameter that has gradients.
        manifest: stored with the result.
        before: probabilities of the rows under the start model, from `check_start`.
        reference: the frozen start model or its head, where one is held.
        folder: run folder, checked and locked; what is in it is replaced just before the first step. None keeps the
            result in memory only.
        resume: go on with the run in that folder instead.
        progress: called at each step.
        keep: writes the trained model and returns what the run hands back; None writes it whole and returns it.
        about: with an adapter, what is said of it besides its weights in checkpoints.
        stop: ends the run early.
        stored: types that the result is rounded to, of the parameters that `masters.widen` holds in float32.
        steps_in: entered for the steps, to explain their errors.
    """
    objective, config, mask, patch = plan.objective, plan.training, plan.weight_mask, plan.patch
    start: dict[str, Tensor] = {}
    with ExitStack() as around:
        scratch = Path(around.enter_context(tempfile.TemporaryDirectory()))  # the Trainer makes its folder at once
        latest, rows_before = resumable(folder) if folder is not None and resume else (None, [])
        name = run_name(folder, resume=resume) if config.report_to and folder is not None and first_process() else None
        arguments = training_arguments(rows, config, scratch, model, name=name)
        trainer = ObjectiveTrainer(
            model=model,
            args=arguments,
            rows=rows,
            objective=objective,
            reference=reference,
            about=about,
            rows_a_step=config.rows_a_step,
        )
        # Checkpointing keeps less than that and computes more; compiled blocks choose by themselves what they keep.
        trainer.recomputes = not (config.compile or config.gradient_checkpointing)
        if objective.dual is not None:
            warmup_steps = round(objective.dual.warmup * rows.pairs.n_forget / config.rows_a_step)
            trainer.add_callback(DualAscent(trainer, objective.dual, warmup_steps=warmup_steps))
        asked, clock = StopWhenAsked(), Clock()
        trainer.add_callback(asked)
        if stop is not None:
            trainer.add_callback(stop)
        trainer.add_callback(clock)
        trainer.add_callback(WarnOfCollapse())
        if folder is not None:
            per_epoch, every = rows.pairs.n_forget, config.checkpoint_every
            trainer.add_callback(
                CheckpointAtEpochs(rows_per_epoch=per_epoch, batch_size=config.rows_a_step, every=every)
            )
        if progress is not None:
            trainer.add_callback(ReportProgress(plan.what, progress))
        transformers_logging.disable_progress_bar()
        around.enter_context(without_dropout(model))
        around.enter_context(options_on(cast(PreTrainedModel, causal_lm(model)), config))
        longest = max(len(row.ids) for encoded in rows.encoded.values() for row in encoded)
        choice = around.enter_context(
            packing(model, plan.packing, config.packing, longest=longest, autocast=arguments.bf16)
        )
        if folder is not None:
            around.enter_context(asked.listening())
        around.enter_context(_engine_taken_off(model, checkpointing=config.gradient_checkpointing))
        if mask is not None:
            _check_engine(trainer, patch=patch)
            trainer.selected = around.enter_context(masked(model, mask, reached=reached_parameters(model, objective)))
            if patch:
                start = trainer.selected.values()
        if objective.perturbs is not None:
            perturb(model, objective.perturbs, seed=config.seed, selected=trainer.selected)
        if folder is not None:
            if trainer.is_world_process_zero():
                manifest = _open_folder(folder, manifest, resume=resume)
            trainer.args.output_dir = str(folder / CHECKPOINTS)
            trainer.run_log = RunLog(folder, tokenizer, manifest, rows_before, keep=config.keep_checkpoints)
            if trainer.is_world_process_zero():
                trainer.run_log.begin()
        around.enter_context(tracked(trainer, folder, done=len(rows_before)))
        if config.surgery == "gru":
            trainer.surgery = Surgery(model, smoothing=config.smoothing)  # now that it is known what is trained
        try:
            with steps_in:
                trainer.train(resume_from_checkpoint=str(latest) if latest else None)
            trainer.check_weights()
            outcome = Outcome(before, scored(model, rows, autocast=arguments.bf16))
        except (NonFiniteLoss, NonFiniteWeights, NoValue) as error:
            if folder is None:
                raise
            raise type(error)(f"{error} {_last_good(trainer, folder, error)}") from error
        except pickle.UnpicklingError as error:
            raise ExpungeError(
                f"the checkpoint {latest} holds code where a run writes numbers, and code is not run: it was not made "
                "by this run. Remove it; the run then goes on from the one before."
            ) from error
    model.eval()
    history = [row for row in trainer.state.log_history if "loss" in row]
    ended = trainer.state.global_step == trainer.state.max_steps or (stop is not None and stop.reason is not None)
    if asked.asked and not ended:
        assert trainer.run_log is not None
        where = trainer.run_log.checkpoint(trainer.state.global_step)
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
            "packing": choice.told,
            "computed_in": str(torch.bfloat16 if arguments.bf16 else next(model.parameters()).dtype).removeprefix(
                "torch."
            ),
            **outcome.as_results(),
            **(stop.results() if stop is not None else {}),
        },
    )
    narrow(model, stored)
    if stored:
        trainer.check_weights()  # what float32 holds may be infinite in float16
    writes = trainer.is_world_process_zero()
    # Divided weights are gathered from all processes, of which the first writes.
    aside = folder / RESULT if folder is not None and (writes or trainer.divided) else None
    if aside is not None and writes:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
    if trainer.divided:
        barrier()
    if keep is not None:
        model = keep(model, aside)
    elif aside is not None:
        save_model(model, tokenizer, aside)
    manifest = replace(manifest, results={**manifest.results, "result": weights_identity(model)})
    if folder is None or aside is None or not writes:
        return Run(model, history, manifest, folder)
    write_history(history, aside / HISTORY)
    if patch and trainer.selected is not None:
        put_back = trainer.selected.with_values(start)
        patch_of(model, put_back, base=manifest.inputs["model"], manifest=manifest).save(aside / PATCH)
    files = file_digests(aside)
    manifest = replace(manifest, results={**manifest.results, "files": files})
    # Before, so that what is moved now is known for the run's own.
    replace(manifest, results={**manifest.results, "finished": False}).save(folder)
    move_into(aside, folder)
    manifest.save(folder)  # `finished` is true once everything else is there, and checkpoints go after that
    _clean_up(folder, manifest)
    return Run(model, history, manifest, folder, checkpoints(folder))


def _last_good(trainer: ObjectiveTrainer, folder: Path, error: ExpungeError) -> str:
    """Save the weights of a run that failed if they are good, and say where the last good ones are."""
    step_now = trainer.state.global_step
    if step_now == 0:
        return ""
    good = isinstance(error, NoValue) or (isinstance(error, NonFiniteLoss) and error.gradient_alone)
    if good:
        try:
            # The Trainer saves between steps only; this is the state before the step that was refused.
            trainer._save_checkpoint(cast(nn.Module, trainer.model), None)
        except NonFiniteWeights:
            good = False
    found = [path for path in checkpoints(folder) if step(path) < step_now + good]
    if found:
        return f"The last good weights are in {found[-1]}."
    return f"No checkpoint from before step {step_now} is left, so the start model has the last good weights."


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
    steps = math.ceil(len(rows) / config.rows_a_step)
    warmup = round(config.warmup * rows.pairs.n_forget / config.rows_a_step)
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
        optim={"adamw": "adamw_torch_fused", "adamw_8bit": "adamw_bnb_8bit"}[config.optimizer],
        bf16=uses_bf16(model, config),
        tf32=config.tf32 or None,
        use_cpu=on_cpu,
        activation_checkpointing=config.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if config.gradient_checkpointing else None,
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=not on_cpu,
        remove_unused_columns=False,
        logging_strategy="no",
        logging_nan_inf_filter=False,
        save_strategy="no",  # our callback says when, and our log which stay
        report_to=list(config.report_to) or "none",
        run_name=name,
        project=PROJECT,
        disable_tqdm=True,
    )
    # With several GPUs and one process the Trainer would wrap the model in DataParallel, whose replicas average losses
    # over GPUs and so break our denominators. Several GPUs are for several processes.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def uses_bf16(model: nn.Module, config: TrainingConfig, place: str | None = None) -> bool:
    """Does training compute in bfloat16?

    Args:
        model: what is trained.
        config: how.
        place: where the model will be; None: where it is.
    """
    if config.precision != "auto":
        return config.precision == "bfloat16"
    if (place or next(model.parameters()).device.type) != "cpu":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    shape = causal_lm(model).config.get_text_config(decoder=True)  # type: ignore[union-attr, operator]
    return cpu_has_bfloat16() and getattr(shape, "hidden_size", 0) >= PAYS_FROM_WIDTH


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

"""What `train` and `unlearn` share: their settings, their dry run, and what they say at the end."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from expunge.cli import preview
from expunge.cli.console import say
from expunge.cli.inputs import ShardingConfig, tokenizer_of
from expunge.cli.verb import Call
from expunge.config.settings import DEFAULT
from expunge.core.checkpoints import manifest_of, step, steps_of
from expunge.core.checks import ExpungeError, require_bits
from expunge.core.format import counted
from expunge.core.manifest import FILE
from expunge.core.surface import words
from expunge.data.data_config import DataConfig
from expunge.results.places import check_run_folder
from expunge.training.training_config import TrainingConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from expunge.data.corpus import Corpus
    from expunge.models.reference import ReferencePolicy
    from expunge.training.plan import Plan
    from expunge.training.rows import RunRows
    from expunge.training.run import Run
    from expunge.training.stopping import Rule


ADAPTER = "adapter_config.json"
"""PEFT's name for what marks an adapter's folder."""


@dataclass(frozen=True, kw_only=True)
class RunConfig(ShardingConfig, DataConfig, TrainingConfig):
    """Which model is trained, and where the result goes."""

    model: str
    """Model to start from: a folder or a hub id."""
    output: str
    """Run folder to write, such as `runs/first`; one in use is never touched without --overwrite or --resume."""
    mask: str | None = None
    """Mask file: only what it selects may change; null: no mask."""
    patch: bool = False
    """Also write what a masked run changed, as `patch.safetensors` in the run folder."""

    def __post_init__(self) -> None:
        DataConfig.__post_init__(self)
        TrainingConfig.__post_init__(self)
        require_bits(self.bits)
        if self.patch and self.mask is None:
            raise ExpungeError(
                "patch=true writes what a masked run changed; name a mask, or compare two models afterwards: "
                "expunge patch create base=... model=... output=patch.safetensors"
            )


C = TypeVar("C", bound=RunConfig)


def dry_run(
    call: Call[C],
    *,
    corpus: "Callable[[], Corpus]",
    plan: "Callable[[PreTrainedModel, Corpus | None], Plan]",
    check_source: Callable[[], object] = lambda: None,
    reference: "ReferencePolicy" = "auto",
    origins: Mapping[str, str] = MappingProxyType({}),
    check_data: "Callable[[Corpus], object]" = lambda _corpus: None,
) -> int:
    """Show what a run would do; the exit code.

    Args:
        call: the verb's call.
        corpus: reads the corpus, with the splits named as the run takes them.
        plan: plans the run, from a model without weights and the corpus where it could be read.
        check_source: raises for start models that the run refuses before it loads them.
        reference: how reference values are obtained.
        origins: where the stage's values come from for settings that were left open.
        check_data: raises where the corpus lacks something that the run needs besides its rows.
    """
    from expunge.models.load import bits_under, check_loading, check_tokenizer_fits, place_of
    from expunge.models.skeleton import skeleton
    from expunge.models.speed import least_seconds
    from expunge.training.budget import fitted, told
    from expunge.training.masked import mask_summary
    from expunge.training.memory import Conditions, importance_memory, run_memory, run_peak
    from expunge.training.run import check_same, uses_bf16

    config, problems = call.config, preview.Problems()
    tokenizer: PreTrainedTokenizerBase | None = None
    model: PreTrainedModel | None = None
    data: Corpus | None = None
    planned: Plan | None = None
    rows: RunRows | None = None
    with problems.collected():
        check_run_folder(config.output, overwrite=call.overwrite, resume=call.resume)
    with problems.collected():
        tokenizer = tokenizer_of(config.model, config)
    with problems.collected():
        data = corpus()
        check_data(data)
    with problems.collected():
        check_source()
        check_loading(config.model, device=config.device, bits=config.bits, sharded=config.sharded)
        model = skeleton(config.model, trust_remote_code=config.trust_remote_code)
        if tokenizer is not None:
            check_tokenizer_fits(model, tokenizer)
        planned = plan(model, data)
        if tokenizer is not None:
            planned = planned.dated(tokenizer, Path(config.output) if call.resume else None)
    if call.resume and planned is not None and (Path(config.output) / FILE).is_file():
        with problems.collected():
            check_same(Path(config.output), arguments=planned.arguments)
    with problems.collected():
        preview.show_settings(call.resolved, _taken(config, planned, data, origins) if planned else {})
    if tokenizer is None or data is None or model is None or planned is None:
        return problems.concluded()
    with problems.collected():
        rows = planned.rows(data, tokenizer, model)
    if rows is None:
        return problems.concluded()
    with problems.collected():
        place = place_of(config.device)
        under = Conditions(
            dtype=config.dtype,
            bits=config.bits or bits_under(config.model),
            autocast=uses_bf16(model, planned.training, place),
            reference=reference,
            place=place,
        )
        planned = fitted(planned, lambda way: run_peak(model, way, rows, under), divided=config.sharded)
        whole = planned.adaptation is None and planned.mask is None
        least = partial(least_seconds, model, whole=whole, bf16=under.autocast)
        preview.show_work(data, rows, planned.training, least)
        if planned.weight_mask is not None:
            preview.show_mask(mask_summary(model, planned.weight_mask))
        trained = planned.trained_parameters(model)
        if planned.adaptation is not None:
            weights = sum(p.numel() for p in model.parameters())
            preview.show_adapter(planned.adaptation.name, planned.matrices, trained, weights)
        memory = run_memory(model, planned, rows, under)
        preview.show_memory(memory)
        if config.memory is not None:
            say(f"to keep to memory={config.memory}: {told(planned)}")
        choice = planned.packing
        say(choice.told + (", if a trial with two rows goes well" if choice.packed else ""))
        kind = str(model.dtype).removeprefix("torch.") if config.dtype == "auto" else config.dtype
        if whole and kind in ("bfloat16", "float16"):
            say(f"weights of type {kind} are trained in float32, and the result is saved in {kind}")
        if planned.adaptation is not None and planned.adaptation.wants_retain:
            whole_map = planned.adaptation.name == "fila"
            preview.show_importance_memory(*importance_memory(model, planned.matrices, memory, whole_map=whole_map))
        if planned.objective.forget is not None:
            note_checkpoints(config)
    for stream in (rows.anchor, "alternate"):
        if stream in rows.encoded:
            preview.show_example(rows.encoded[stream][0], tokenizer, f"First {stream} row")
    return problems.concluded()


def _taken(
    config: RunConfig, plan: "Plan", corpus: "Corpus | None", origins: Mapping[str, str]
) -> dict[str, tuple[Any, str]]:
    """For settings that were left open, what the run takes and where that comes from."""
    import torch

    micro, _ = plan.training.split()
    objective = plan.objective
    values = asdict(plan.training) | {
        "retain_sets": dict(objective.retain_sets),
        "retain_loss": objective.retain.name if objective.retain else "none",
        "gamma": objective.gamma,
        "alpha": objective.alpha,
        "layer": objective.layer,
        "save": plan.save if plan.adaptation is not None else None,
    }
    found = {name: (value, f"{DEFAULT} of {origins.get(name, plan.what)}") for name, value in values.items()} | {
        "date": (plan.template.date, "the chat template, which writes it"),
        "micro_batch_size": (f"{micro} (the rows of a step on each device)", DEFAULT),
        "device": ("cuda (the first GPU)" if torch.cuda.is_available() else "cpu (there is no GPU)", DEFAULT),
        "tokenizer": (f"{config.model} (the model's)", DEFAULT),
    }
    if plan.adaptation is None:
        return found
    settings, origin = plan.adaptation.settings, f"{DEFAULT} of {plan.adaptation.name}"
    few = plan.objective.forget is not None and plan.objective.forget.method.trains == "down_projections"
    found["targets"] = ("the method's own matrices" if few else "all-linear", origin)
    if "lora_alpha" in settings:
        found["lora_alpha"] = (f"{2 * settings['rank']} (2 x rank)", origin)
    if "retain_samples" in settings and corpus is not None and {"forget", "retain"} <= {*corpus}:
        from expunge.adapters._passes import retain_count

        rows = retain_count(None, len(corpus["retain"]), forget=len(corpus["forget"]))
        found["retain_samples"] = (f"{rows} (a quarter of the forget rows)", origin)
    if "importance" in settings:
        found["importance"] = ("the cache", origin)
    return found


def training_fields(config: TrainingConfig) -> dict[str, Any]:
    """The training settings alone, of a configuration that holds others too."""
    return {name: value for name, value in asdict(config).items() if name in TrainingConfig.__dataclass_fields__}


def note_checkpoints(config: RunConfig) -> None:
    """Say how `expunge compare` can take the run, where it will have kept no checkpoints to be followed along."""
    if config.keep_checkpoints == 1 or not config.checkpoint_every:
        say(
            f"note: expunge compare {config.output} needs trace=mixing, or checkpoints to follow the run along, which "
            "keep_checkpoints=0 (and checkpoint_every=<epochs>) keeps"
        )


def note_mask(config: RunConfig, model: "PreTrainedModel") -> None:
    """Say that a mask was made from another model, where its manifest says which."""
    if config.mask is None:
        return
    from expunge.masks.mask import Mask
    from expunge.models.fingerprint import model_fingerprint

    manifest = Mask.load(config.mask).manifest
    made_on = None if manifest is None else manifest.inputs.get("model")
    if made_on is not None and made_on != model_fingerprint(model):
        say(f"note: {config.mask} was made from another model than {config.model}; it fits, and is taken as it is")


def say_resumed(folder: str | Path) -> None:
    """Say what --resume does with what is in a run folder."""
    from expunge.training.run_log import resumable

    folder = Path(folder)
    with warnings.catch_warnings(action="ignore"):  # the stage says them
        finished = manifest_of(folder).results.get("finished")
        latest, _ = resumable(folder)
    if finished:
        say(f"resume: the run in {folder} is finished already")
    elif latest is not None:
        say(f"resume: going on from step {step(latest)} of {steps_of(latest)}")
    else:
        say("resume: no whole checkpoint: starting from the first step")


def conclude(run: "Run", what: str, data: Mapping[str, Any], rule: "Rule | None" = None) -> None:
    """Say what came out of a run and how to go on.

    Args:
        run: as it ended.
        what: was done: `unlearned with npo`.
        data: settings of the data and of how they are framed, for the command that goes on.
        rule: that was to stop it.
    """
    from expunge.training.outcome import advice, outcome_text

    results = run.manifest.results
    steps = results.get("steps", len(run.history))
    planned = results.get("planned_steps", steps)
    say(f"{what}: {counted(steps, 'step')}")
    if "stopped" in results:
        say(f"stopped at step {steps} of {planned}: {results['stopped'].removeprefix(f'step {steps}: ')}")
    elif rule is not None:
        look = dict(results.get("stop_look", {}))
        looked = look.pop("step", None)
        when = "" if looked == steps else f" at step {looked}, the last look"
        measured = ", ".join(c.beside(look[c.measure]) for c in rule.conditions if c.measure in look) + when
        why = measured if look else "it was never measured, since stop_every is longer than the rest of the run"
        say(f"the rule to stop by was not met after {counted(steps, 'step')}: {why}")
    if kept := dict(results.get("kept_to_memory", {})):
        say(f"to keep to memory={kept.pop('limit')}: {words(kept)}")
    say(f"{_kept(run)}, history and manifest: {run.folder}")
    if told := outcome_text(results):
        say(told)
    if "outcome" in results and (hint := advice(results["outcome"], run.manifest.arguments, steps)):
        say(hint)
    start = results.get("start_model") if "outcome" in results else None
    beside = {"start": start} if start and Path(start).is_dir() else {}
    say(f"next: expunge evaluate {words({'model': run.folder, **data, **beside})}")


def _kept(run: "Run") -> str:
    """What of model and adapter is in the run folder."""
    assert run.folder is not None
    folder = Path(run.folder)
    if (folder / "adapter" / ADAPTER).is_file():
        return f"model, adapter ({folder / 'adapter'})"
    if (folder / ADAPTER).is_file():
        return f"adapter (on {run.manifest.results['start_model']})"
    return "model"

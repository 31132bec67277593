"""`expunge unlearn`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from expunge.cli.console import say
from expunge.cli.inputs import corpus_of, framed_data, load, source_settings, template_of
from expunge.cli.verb import Call, Verb
from expunge.cli.verbs._training import (
    RunConfig,
    conclude,
    dry_run,
    note_mask,
    say_resumed,
    training_fields,
)
from expunge.config.continued import CONTINUE, KEY, with_continued
from expunge.config.settings import Setting, parameters
from expunge.core import catalogue
from expunge.core.checks import ExpungeError, require_at_least
from expunge.core.progress import shown
from expunge.objectives.method import method_of
from expunge.results.places import check_run_folder
from expunge.training.training_config import TrainingConfig
from expunge.training.unlearn_config import UnlearnConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from expunge.data.corpus import Corpus
    from expunge.training.plan import Plan


@dataclass(frozen=True, kw_only=True)
class StopConfig:
    """When the run ends early."""

    stop: tuple[str, ...] = ()
    """End the run early once all of these hold, such as `forget_rouge<=0.1`, or `forget_rouge<=unseen` for the start
    model's value on the holdout set."""
    stop_rows: int = 32
    """Rows of each set that are measured for `stop`."""
    stop_suite: str = "default"
    """Suite that the measures of `stop` come from, such as `tdec` for
    `stop=extraction_likelihood<=unseen,memorization_accuracy<=unseen`."""

    def __post_init__(self) -> None:
        require_at_least("stop_rows", self.stop_rows, 1)


@dataclass(frozen=True, kw_only=True)
class UnlearnRunConfig(UnlearnConfig, StopConfig, RunConfig):
    """All settings of the verb, in the order in which its help shows them."""

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)
        UnlearnConfig.__post_init__(self)
        StopConfig.__post_init__(self)
        if self.sharded and self.adapter is not None:
            raise ExpungeError(
                f"adapter={self.adapter} does not go with sharded=true: it is saved beside, or merged into, whole "
                "weights. Leave one of the two out; --launch ddp trains an adapter in several processes."
            )
        if self.bits is not None and self.adapter is None:
            raise ExpungeError(
                f"bits={self.bits}: quantized weights cannot be trained themselves. Train an adapter: adapter=lora "
                "save=adapter, or leave bits out."
            )
        if self.bits is not None and self.save != "adapter":
            raise ExpungeError(
                f"bits={self.bits} needs save=adapter: merged into a quantized model the adapter would be rounded away."
            )


def unlearn(call: Call[UnlearnRunConfig]) -> int:
    """Make a model forget the forget set while it keeps the retain set."""
    config, extra = call.config, call.resolved.extra
    of_source = {setting.name for setting in source_settings({"source": config.source})}
    of_method = {name: value for name, value in extra.items() if name not in of_source and name != KEY}
    if call.dry_run:
        return dry_run(
            call,
            corpus=lambda: corpus_of(config, extra, reads=read_sets(config)),
            plan=lambda model, corpus: planned(config, of_method, model, corpus),
            check_source=lambda: check_source(config, of_method),
            reference=config.reference,
            origins={"learning_rate": config.adapter, "save": config.adapter} if config.adapter else {},
            check_data=lambda corpus: check_stop(config, corpus),
        )
    check_run_folder(config.output, overwrite=call.overwrite, resume=call.resume)
    check_source(config, of_method)
    if call.resume:
        say_resumed(config.output)
    from expunge.training.unlearn import unlearn as stage

    corpus = corpus_of(config, extra, reads=read_sets(config))
    model, tokenizer = load(config.model, config)
    note_mask(config, model)
    rule = None
    with shown() as report:
        if config.stop:
            from expunge.stop_rules import measured_rule

            rule = measured_rule(
                model,
                tokenizer,
                corpus,
                config.stop,
                suite=config.stop_suite,
                rows=config.stop_rows,
                template=template_of(config),
                max_length=config.max_length,
                progress=report,
            )
            say(f"start model: {rule.start}")
            if rule.doubt:
                say(f"note: {rule.doubt}")
            if rule.met and not call.resume:
                raise ExpungeError(
                    f"the start model is already where stop= says ({rule.start}), so there is nothing to unlearn by "
                    "this measure. Lower the threshold, stop by another measure, or leave stop out."
                )
        run = stage(
            model,
            tokenizer,
            corpus,
            stop=rule,
            mask=config.mask,
            patch=config.patch,
            output_dir=config.output,
            overwrite=call.overwrite,
            resume=call.resume,
            template=template_of(config),
            max_length=config.max_length,
            progress=report,
            **unlearn_fields(config),
            **training_fields(config),
            **of_method,
        )
    through = f" through {config.adapter}" if config.adapter else ""
    conclude(run, f"unlearned with {config.method}{through}", framed_data(config, extra), rule)
    return 0


def read_sets(config: UnlearnRunConfig) -> set[str] | None:
    """The sets that a run reads; None: all, since a measure to stop by may read any."""
    if config.stop:
        return None
    method = method_of(catalogue.resolve("methods", config.method))
    retained = {*(config.retain_sets or ("retain",))} if (config.retain_loss or method.retain) != "none" else set()
    looks = config.adapter and "retain" in catalogue.needs(catalogue.resolve("adapters", config.adapter))
    return {"forget", *retained, *(["retain"] if looks else [])}


def check_source(config: UnlearnRunConfig, given: Mapping[str, Any]) -> None:
    """Raise for adapters, and for their absence, that do not go with how the model is loaded; none is."""
    from expunge.models.load import bits_under
    from expunge.training.adapter import check_start, split_adapter_settings

    if (bits := bits_under(config.model)) is not None:
        raise ExpungeError(
            f"'{config.model}' holds an adapter over weights in {bits} bits, which it cannot be merged into, and no "
            "second one goes on top. Start from its start model, or train it further from Python: "
            "peft.PeftModel.from_pretrained(base, folder, is_trainable=True)."
        )
    adaptation, _ = split_adapter_settings(config.adapter, config.targets, config.save, given)
    if adaptation is not None:
        check_start(config.model, adaptation.save)


def check_stop(config: UnlearnRunConfig, corpus: "Corpus") -> None:
    """Raise for conditions to stop by that cannot be read, or measured on this corpus."""
    if config.stop:
        from expunge.stop_rules import check_conditions

        check_conditions(config.stop, corpus, suite=config.stop_suite)


def hyperparameters(values: dict[str, Any]) -> Sequence[Setting]:
    """The settings of the source, the method, the retain loss and the adapter that the values name."""
    name = values["method"]
    function = catalogue.resolve("methods", name)
    method = method_of(function)
    retain = values["retain_loss"] or method.retain
    found = [*source_settings(values), *parameters(function, owner=name, beside=method.beside)]
    if retain != "none":
        loss = catalogue.resolve("retain_losses", retain)
        taken = {setting.name for setting in found}
        found += [
            replace(setting, name=f"retain_{setting.name}") if setting.name in taken - set(method.beside) else setting
            for setting in parameters(loss, owner=retain, beside=method_of(loss).beside)
        ]
    if values["adapter"]:
        found += parameters(catalogue.resolve("adapters", values["adapter"]), owner=values["adapter"])
    return found


def unlearn_fields(config: UnlearnConfig) -> dict[str, Any]:
    """What is unlearned and how, of a configuration that holds other settings too."""
    return {name: getattr(config, name) for name in UnlearnConfig.__dataclass_fields__}


def planned(
    config: UnlearnRunConfig, given: dict[str, Any], model: "PreTrainedModel", corpus: "Corpus | None"
) -> "Plan":
    """The run that a configuration describes, on a model of which shapes alone are read."""
    from expunge.models.load import place_of
    from expunge.training.plan import plan_unlearning
    from expunge.training.reference_rows import require_eps

    rule = None
    if config.stop:
        from expunge.stop_rules import about_rule

        rule = about_rule(config.stop, config.stop_suite, config.stop_rows)
    plan = plan_unlearning(
        model,
        UnlearnConfig(**unlearn_fields(config)),
        TrainingConfig(**training_fields(config)),
        given,
        corpus=corpus,
        mask=config.mask,
        patch=config.patch,
        output_dir=config.output,
        template=template_of(config),
        max_length=config.max_length,
        stop=rule,
        place=place_of(config.device),
        divided=config.sharded,
    )
    require_eps(plan.objective)
    return plan


VERB = Verb(
    name="unlearn",
    config=UnlearnRunConfig,
    run=unlearn,
    own_settings=(CONTINUE,),
    further_layers=with_continued,
    extra_settings=hyperparameters,
    unknown_hint=catalogue.of_adapters,
    shared=True,
    flags=("dry_run", "overwrite", "resume"),
    note="Each method has settings of its own, such as beta=0.1: `expunge unlearn method=npo --help` shows them.\n\n"
    "Example: expunge unlearn model=my-model forget=forget.jsonl retain=retain.jsonl method=npo output=runs/npo",
)

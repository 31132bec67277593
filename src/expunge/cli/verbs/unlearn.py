"""`expunge unlearn`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from expunge.cli.console import say
from expunge.cli.inputs import corpus_of, load, source_settings, template_of
from expunge.cli.verb import Call, Verb
from expunge.cli.verbs._training import (
    Plan,
    RunConfig,
    conclude,
    dry_run,
    note_mask,
    note_small,
    say_resumed,
    training_fields,
)
from expunge.config.settings import DEFAULT, Setting, parameters
from expunge.core import catalogue
from expunge.core.checks import ExpungeError, require_at_least, require_positive
from expunge.core.output import check_output
from expunge.core.progress import shown
from expunge.objectives.method import method_of
from expunge.training.config import TrainingConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from expunge.data.corpus import Corpus


@dataclass(frozen=True, kw_only=True)
class UnlearnConfig(RunConfig):
    """How the model is made to forget."""

    method: str = "npo"
    """Forget loss: a name of `expunge list methods`, or `package.module:function`."""
    retain_loss: str | None = None
    """Loss on the retain set: a name of `expunge list retain_losses`, or `none`; null: the method's default."""
    gamma: float | None = None
    """Weight of the forget loss; null: the method's default."""
    alpha: float | None = None
    """Weight of the retain loss; null: the method's default."""
    retain_sets: dict[str, float] = field(default_factory=dict)
    """Several retain sets with their weights, by split: `retain_sets.retain=1 retain_sets.general=0.5`;
    none named: `retain` alone."""
    reference: Literal["auto", "precomputed", "model"] = "auto"
    """How the start model's values are had: computed once before training, or from a frozen second model (with an
    adapter: from the same model with its adapter switched off); `auto` computes them once where they fit into a
    gigabyte."""
    adapter: str | None = None
    """Train low-rank factors instead of the weights: a name of `expunge list adapters`; null: all weights."""
    targets: str | None = None
    """Matrices that the adapter is put on: `all-linear`, `attention`, `mlp`, or a regular expression on their names;
    null: those that the method trains where these are few, else all-linear."""
    save: Literal["merged", "adapter", "both"] | None = None
    """What is written of an adapter: `merged` into the weights (the default), the `adapter` alone, or `both`."""
    stop: tuple[str, ...] = ()
    """End the run early once all of these hold, such as `forget_rouge<=0.1`, or `forget_rouge<=unseen` for what the
    start model has on the holdout set."""
    stop_every: float = 1.0
    """Epochs between two measurements for `stop`."""
    stop_rows: int = 32
    """Rows of each set that are measured for `stop`."""
    stop_suite: str = "default"
    """Suite that the measures of `stop` come from, such as `tdec` for
    `stop=extraction_likelihood<=unseen,memorization_accuracy<=unseen`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("gamma", "alpha"):
            if getattr(self, name) is not None:
                require_at_least(name, getattr(self, name), 0)
        require_positive("stop_every", self.stop_every)
        require_at_least("stop_rows", self.stop_rows, 1)
        if self.bits is not None and self.adapter is None:
            raise ExpungeError(
                f"bits={self.bits}: quantized weights cannot be trained themselves. Train an adapter: adapter=lora "
                "save=adapter, or leave bits out."
            )
        if self.bits is not None and self.save != "adapter":
            raise ExpungeError(
                f"bits={self.bits} needs save=adapter: merged into a quantized model the adapter would be rounded away."
            )


def unlearn(call: Call[UnlearnConfig]) -> int:
    """Make a model forget the forget set while it keeps the retain set."""
    config, more = call.config, call.resolved.more
    of_source = {setting.name for setting in source_settings({"source": config.source})}
    of_method = {name: value for name, value in more.items() if name not in of_source}
    if call.dry_run:
        return dry_run(
            call,
            corpus=lambda: corpus_of(config, more),
            plan=lambda model: planned(config, of_method, model),
            reference=config.reference,
            check_data=lambda corpus: check_stop(config, corpus),
        )
    check_output(config.output, overwrite=call.overwrite, resume=call.resume)
    check_adapting(config, of_method)
    if call.resume:
        say_resumed(config.output)
    from expunge.training.unlearn import unlearn as stage

    corpus = corpus_of(config, more)
    model, tokenizer = load(config.model, config)
    if config.adapter is None:
        note_small(config, model)
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
            method=config.method,
            retain=config.retain_loss,
            gamma=config.gamma,
            alpha=config.alpha,
            retain_sets=config.retain_sets or None,
            reference=config.reference,
            adapter=config.adapter,
            targets=config.targets,
            save=config.save,
            stop=rule,
            stop_every=config.stop_every,
            mask=config.mask,
            patch=config.patch,
            output_dir=config.output,
            overwrite=call.overwrite,
            resume=call.resume,
            template=template_of(config),
            max_length=config.max_length,
            progress=report,
            **training_fields(config),
            **of_method,
        )
    through = f" through {config.adapter}" if config.adapter else ""
    conclude(run, f"unlearned with {config.method}{through}", rule)
    return 0


def check_adapting(config: UnlearnConfig, given: Mapping[str, Any]) -> None:
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


def check_stop(config: UnlearnConfig, corpus: "Corpus") -> None:
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


def planned(config: UnlearnConfig, given: dict[str, Any], model: "PreTrainedModel") -> Plan:
    """The run that a configuration describes, on a model of which the configuration alone is read."""
    from expunge.objectives.combine import build
    from expunge.training.adapter import split_adapter_settings
    from expunge.training.unlearn import check_objective, run_arguments, with_defaults

    adaptation, given = split_adapter_settings(config.adapter, config.targets, config.save, given)
    check_adapting(config, given)
    objective = build(
        config.method,
        retain=config.retain_loss,
        gamma=config.gamma,
        alpha=config.alpha,
        depth=model.config.get_text_config(decoder=True).num_hidden_layers,
        retain_sets=config.retain_sets or None,
        hyperparameters=given,
        adapter=adaptation.settings if adaptation else (),
    )
    training = with_defaults(TrainingConfig(**training_fields(config)), objective, adapter=adaptation is not None)
    check_objective(model, config.method, objective, training)
    if objective.dual is not None and objective.dual.eps is None:
        raise ExpungeError(
            f"{config.method} holds the retain loss below eps, which has no default: give eps=<nats a token>, somewhat "
            "more than the start model's, which a start without --dry-run computes and tells."
        )
    taken = asdict(training) | {
        "retain_sets": dict(objective.retain_sets),
        "retain_loss": objective.retain.name if objective.retain else "none",
        "gamma": objective.gamma,
        "alpha": objective.alpha,
        "layer": objective.layer,
    }
    if adaptation is not None:
        taken["save"] = adaptation.save
    origins = {name: config.method for name in taken} | (
        {"learning_rate": config.adapter, "save": config.adapter} if adaptation else {}
    )
    filled = {name: (value, f"{DEFAULT} of {origins[name]}") for name, value in taken.items()}
    arguments = run_arguments(
        config.method, objective, training, template_of(config), config.max_length, config.reference, adaptation
    )
    if config.stop:
        from expunge.stop_rules import about_rule

        about = about_rule(config.stop, config.stop_suite, config.stop_rows)
        arguments |= {"stop": about, "stop_every": config.stop_every}
    return Plan(objective, training, filled, adaptation, arguments)


VERB = Verb(
    name="unlearn",
    config=UnlearnConfig,
    run=unlearn,
    more=hyperparameters,
    elsewhere=catalogue.of_adapters,
    flags=("dry_run", "overwrite", "resume"),
    note="Each method has settings of its own, such as beta=0.1: `expunge unlearn method=npo --help` shows them.\n\n"
    "Example: expunge unlearn model=my-model forget=forget.jsonl retain=retain.jsonl method=npo output=runs/npo",
)

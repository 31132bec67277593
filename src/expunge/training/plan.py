"""A run, planned once: what a dry run shows, a run carries out, and an experiment checks before it starts."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any, cast

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.core.checkpoints import checkpoints, manifest_of
from expunge.core.checks import ExpungeError
from expunge.core.manifest import FILE as MANIFEST
from expunge.core.manifest import jsonable
from expunge.data.corpus import Corpus
from expunge.data.template import Template, dated, given_template
from expunge.masks.mask import Mask
from expunge.models.anatomy import causal_lm, size_of
from expunge.models.load import refuse_adapters
from expunge.models.lowrank import Save
from expunge.models.matrices import down_projections, parameter_count
from expunge.models.rows_fit import check_rows_fit
from expunge.objectives.combine import Objective, build
from expunge.training.adapter import LEARNING_RATE as ADAPTER_RATE
from expunge.training.adapter import (
    Adaptation,
    adapted_matrices,
    check_adaptable,
    check_settings,
    split_adapter_settings,
    warn_of_size,
)
from expunge.training.masked import given_mask, selections
from expunge.training.options import check_options, place_now
from expunge.training.packing import PackingChoice, choose_packing
from expunge.training.rows import RunRows, run_rows
from expunge.training.tracking import check_tracking
from expunge.training.training_config import TrainingConfig, rate_for
from expunge.training.unlearn_config import UnlearnConfig

FINETUNING_EPOCHS = 5.0
FINETUNING_RATE = 1e-5


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run, checked as far as its settings and the shape of its model allow; nothing is computed or written yet."""

    what: str
    """For progress: the name of the method, or `fine-tune`."""
    objective: Objective
    training: TrainingConfig
    """Learning rate, epochs and warm-up filled in."""
    template: Template
    max_length: int
    arguments: Mapping[str, Any]
    """What the manifest of the run says of its settings."""
    retain_per_forget: int
    packing: PackingChoice
    """How its rows are computed, if the trial with two rows goes well."""
    mask: Mask | None = None
    patch: bool = False
    adaptation: Adaptation | None = None
    """The adapter, where one is trained."""
    matrices: tuple[str, ...] = ()
    """Names of the matrices that the adapter is attached to."""
    own_adapter: bool = False
    """Is the adapter trained that the model came with?"""
    save: Save = "merged"
    """What is saved of the adapter, or of the one that the model came with."""

    @property
    def weight_mask(self) -> Mask | None:
        """The mask of the weights; with an adapter it has chosen the matrices already."""
        return self.mask if self.adaptation is None else None

    @property
    def epochs(self) -> float:
        """Passes over the forget set."""
        assert self.training.epochs is not None
        return self.training.epochs

    def trained_parameters(self, model: nn.Module) -> int:
        """How many numbers are trained: an adapter's factors, else what the method trains by default, mask aside.

        Args:
            model: the start model, of which shapes alone are read.
        """
        if self.adaptation is not None:
            return parameter_count(model, self.matrices, self.adaptation.settings["rank"])
        return sum(model.get_parameter(name).numel() for name in self._by_default(model))

    def trained_names(self, model: nn.Module) -> tuple[str, ...]:
        """Names of the parameters that are trained, or that an adapter is added to.

        Args:
            model: the start model, of which shapes alone are read.
        """
        if self.adaptation is not None:
            return tuple(f"{name}.weight" for name in self.matrices)
        if self.mask is not None:
            return tuple(chosen.name for chosen in selections(model, self.mask))
        return self._by_default(model)

    def _by_default(self, model: nn.Module) -> tuple[str, ...]:
        if self.own_adapter:
            return tuple(name for name, parameter in model.named_parameters() if parameter.requires_grad)
        forget, layer = self.objective.forget, self.objective.layer
        if forget is None or forget.method.trains == "all" or layer is None or self.mask is not None:
            return tuple(name for name, _ in model.named_parameters())
        return down_projections(model, layer)

    def computed(self, micro: int, *, checkpointing: bool) -> "Plan":
        """The same run, computed so many rows at once and with or without checkpointing; its result is the same."""
        training = replace(self.training, micro_batch_size=micro, gradient_checkpointing=checkpointing)
        changed = {"micro_batch_size": micro, "gradient_checkpointing": checkpointing}
        return replace(self, training=training, arguments={**self.arguments, **changed})

    def dated(self, tokenizer: PreTrainedTokenizerBase, resumed: Path | None) -> "Plan":
        """The plan with the date that a chat template writes fixed: that of the run in a folder, else today."""
        like = None
        if resumed is not None and ((resumed / MANIFEST).is_file() or checkpoints(resumed)):
            like = manifest_of(resumed).arguments.get("template", {}).get("date")
        template = dated(self.template, tokenizer, like=like)
        return replace(self, template=template, arguments={**self.arguments, "template": jsonable(template.about)})

    def rows(self, corpus: Corpus, tokenizer: PreTrainedTokenizerBase, model: nn.Module) -> RunRows:
        """The token rows of the run in the order in which it meets them.

        Raises:
            ExpungeError: a set is missing, or a row leaves no completion token or does not fit the model.
        """
        rows = run_rows(
            corpus,
            tokenizer,
            streams=self.objective.streams,
            epochs=self.epochs,
            seed=self.training.seed,
            retain_per_forget=self.retain_per_forget,
            template=self.template,
            max_length=self.max_length,
        )
        check_rows_fit(model, chain.from_iterable(rows.encoded.values()))
        return rows


def plan_unlearning(
    model: PreTrainedModel | PeftModel,
    config: UnlearnConfig,
    training: TrainingConfig,
    hyperparameters: Mapping[str, Any],
    *,
    corpus: Corpus | None = None,
    mask: Mask | str | Path | None = None,
    patch: bool = False,
    output_dir: str | Path | None = None,
    template: Template | None = None,
    max_length: int = 512,
    stop: Any = None,
    place: str | None = None,
    divided: bool | None = None,
) -> Plan:
    """Plan an unlearning run; everything that its settings and the shape of the model rule out is refused here.

    Args:
        model: the start model. Only its configuration and shapes are read, so one without weights will do.
        config: what is unlearned and how.
        training: how the run trains.
        hyperparameters: of the method, the retain loss and the adapter.
        corpus: what the run uses; None leaves out what depends on the sizes of its sets.
        mask: what may change, or its file.
        patch: also write what a masked run changed.
        output_dir: the run folder; only whether there is one matters here.
        template: how questions are framed; None: the tokenizer's chat template where it has one.
        max_length: longest row in tokens.
        stop: what the manifest says of the rule to stop by; None: there is none.
        place: where the model will be; None: where it is.
        divided: will processes share its weights? None: do they?

    Raises:
        ExpungeError: unknown names, settings out of range, or combinations that do not go together.
    """
    own = isinstance(model, PeftModel)
    adaptation, rest = split_adapter_settings(config.adapter, config.targets, config.save, hyperparameters, own=own)
    check_adaptable(model, adaptation, config.save)
    inner, place = cast(PreTrainedModel, causal_lm(model)), place or place_now(model)
    mask = given_mask(mask)
    check_patch(patch, mask, output_dir)
    check_tracking(training, output_dir)
    _check_mask(mask, patch, adaptation, own=own)
    check_options(inner, training, place, masked=mask is not None and adaptation is None)
    shape = inner.config.get_text_config(decoder=True)
    objective = build(
        config.method,
        retain=config.retain_loss,
        gamma=config.gamma,
        alpha=config.alpha,
        depth=shape.num_hidden_layers,
        retain_sets=config.retain_sets,
        hyperparameters=rest,
        adapter=adaptation.settings if adaptation else (),
    )
    training = _with_defaults(training, objective, model, corpus, adapter=adaptation is not None or own)
    if objective.perturbs is not None and (adaptation is not None or own):
        raise ExpungeError(
            f"{config.method} perturbs the model's own weights and teaches them again, and an adapter leaves them as "
            "they are. Train the weights (no adapter), or those of a mask."
        )
    matrices: tuple[str, ...] = ()
    if adaptation is not None:
        matrices = adapted_matrices(model, objective, config.targets, mask)
        if corpus is not None:
            check_settings(model, adaptation, matrices, corpus)
        warn_of_size(model, adaptation, matrices)
    check_objective(inner, config.method, objective, training)
    training.split()  # refused now where batch and processes do not divide
    choice = choose_packing(model, training, place=place, divided=divided)  # refused now where rows cannot be packed
    template = given_template(template)
    arguments = {
        "method": config.method,
        "retain": objective.retain.name if objective.retain else "none",
        "gamma": objective.gamma,
        "alpha": objective.alpha,
        "retain_sets": dict(objective.retain_sets),
        "hyperparameters": objective.forget.hyperparameters if objective.forget else {},
        "retain_hyperparameters": objective.retain.hyperparameters if objective.retain else {},
        **({"dual": asdict(objective.dual)} if objective.dual else {}),
        **objective.generates,
        **(asdict(objective.perturbs) if objective.perturbs else {}),
        "layer": objective.layer,
        "positions": objective.positions,
        "reference": config.reference,
        "template": template.about,
        "max_length": max_length,
        **asdict(training),
        **(adaptation.arguments() if adaptation else {}),
        **({"stop": stop, "stop_every": config.stop_every} if stop is not None else {}),
    }
    return Plan(
        what=config.method,
        objective=objective,
        training=training,
        template=template,
        max_length=max_length,
        arguments=jsonable(arguments),
        mask=mask,
        patch=patch,
        adaptation=adaptation,
        matrices=matrices,
        own_adapter=own,
        save=config.save or "adapter" if own else adaptation.save if adaptation else "merged",
        retain_per_forget=training.retain_per_forget,
        packing=choice,
    )


def plan_finetuning(
    model: PreTrainedModel,
    splits: Sequence[str],
    training: TrainingConfig,
    *,
    rows: int | None = None,
    mask: Mask | str | Path | None = None,
    patch: bool = False,
    output_dir: str | Path | None = None,
    template: Template | None = None,
    max_length: int = 512,
    place: str | None = None,
    divided: bool | None = None,
) -> Plan:
    """Plan a fine-tuning run.

    Args:
        model: the start model; of it only its size and whether it carries an adapter are read.
        splits: what is learned.
        training: how the run trains; learning rate 1e-5 (more below 1 billion parameters) and 5 epochs by default, as
            TOFU's models were made.
        rows: how many there are to learn; None leaves the batch that follows from them at its largest.
        mask: what may change, or its file.
        patch: also write what a masked run changed.
        output_dir: the run folder; only whether there is one matters here.
        template: how questions are framed; None: the tokenizer's chat template where it has one.
        max_length: longest row in tokens.
        place: where the model will be; None: where it is.
        divided: will processes share its weights? None: do they?

    Raises:
        ExpungeError: combinations that do not go together.
    """
    refuse_adapters(model)
    inner, place = cast(PreTrainedModel, causal_lm(model)), place or place_now(model)
    mask = given_mask(mask)
    check_patch(patch, mask, output_dir)
    check_tracking(training, output_dir)
    check_options(inner, training, place, masked=mask is not None)
    rate = rate_for(FINETUNING_RATE, size_of(model))
    training = training.filled(learning_rate=rate, epochs=FINETUNING_EPOCHS, rows=rows)
    training.split()  # refused now where batch and processes do not divide
    choice = choose_packing(model, training, place=place, divided=divided)  # refused now where rows cannot be packed
    template = given_template(template)
    arguments = {"splits": splits, "template": template.about, "max_length": max_length, **asdict(training)}
    return Plan(
        what="fine-tune",
        objective=build(None, retain="nll"),
        training=training,
        template=template,
        max_length=max_length,
        arguments=jsonable(arguments),
        mask=mask,
        patch=patch,
        retain_per_forget=1,
        packing=choice,
    )


def split_settings(settings: Mapping[str, Any]) -> tuple[UnlearnConfig, TrainingConfig, dict[str, Any]]:
    """Keyword arguments to (what is unlearned, how it trains, the rest, which method or adapter must know).

    `retain` is short for `retain_loss`, as in `expunge.unlearn(..., retain="nll")`.

    Raises:
        ExpungeError: a value out of range, or both names of the retain loss.
    """
    rest = dict(settings)
    if (short := rest.pop("retain", None)) is not None:
        if rest.get("retain_loss") not in (None, short):
            raise ExpungeError(
                f"retain is short for retain_loss, and both were given: {short!r} and {rest['retain_loss']!r}."
            )
        rest["retain_loss"] = short

    def taken(config: type) -> dict[str, Any]:
        return {f.name: rest.pop(f.name) for f in fields(config) if f.name in rest}

    return UnlearnConfig(**taken(UnlearnConfig)), TrainingConfig(**taken(TrainingConfig)), rest


def _with_defaults(
    config: TrainingConfig, objective: Objective, model: nn.Module, corpus: Corpus | None, *, adapter: bool
) -> TrainingConfig:
    """What was left open filled in: from the method or what suits an adapter, the size of the model, and the rows."""
    (loss, _), *_ = objective.losses.values()
    rate = ADAPTER_RATE if adapter else loss.method.learning_rate
    anchor = "forget" if objective.forget is not None else "retain"
    rows = len(corpus[anchor]) if corpus is not None and anchor in corpus else None
    return config.filled(learning_rate=rate_for(rate, size_of(model)), epochs=loss.method.epochs, rows=rows)


def check_objective(model: nn.Module, method: str, objective: Objective, config: TrainingConfig) -> None:
    """Raise for settings that a loss refuses, and for combinations that would train something else than was asked for.

    Args:
        model: a causal language model, of which the configuration alone is read.
        method: name of the forget loss.
        objective: what is to be trained.
        config: how.
    """
    shape = model.config.get_text_config(decoder=True)  # type: ignore[union-attr, operator]
    objective.check(depth=shape.num_hidden_layers, width=shape.hidden_size, vocabulary=shape.vocab_size)
    if objective.forget is not None and objective.forget.method.compares_with == "other":
        raise ExpungeError(
            f"{method} matches another model than the start model, and a run has none. Use it in a loop of your own: "
            f"expunge.compute_loss(model, forget=batch, method='{method}', reference=<that model>)."
        )
    if objective.retain is None and (config.surgery != "none" or objective.dual is not None):
        what = f"surgery={config.surgery}" if config.surgery != "none" else method
        raise ExpungeError(f"{what} needs a retain loss: retain_loss=nll.")
    if objective.dual is not None and objective.retain is not None and objective.retain.name != "nll":
        raise ExpungeError(f"{method} bounds the retain set's NLL by eps; retain={objective.retain.name} is another.")
    if config.surgery != "none" and (objective.alpha == 0 or objective.dual is not None):
        why = "alpha=0 removes that" if objective.alpha == 0 else f"{method} weighs that gradient itself"
        raise ExpungeError(f"surgery={config.surgery} compares the forget gradient with the retain gradient; {why}.")


def _check_mask(mask: Mask | None, patch: bool, adaptation: Adaptation | None, *, own: bool) -> None:
    """Raise for masks and patches that an adapter has no use for; those of matrices are the adapter's."""
    if patch and adaptation is not None:
        raise ExpungeError("a patch holds weights that a masked run changed; what an adapter changes is save=adapter.")
    if mask is not None and own:
        raise ExpungeError("the model's own adapter is trained, which a mask of its weights says nothing about.")


def check_patch(patch: bool, mask: Mask | None, output_dir: str | Path | None) -> None:
    """Raise where a patch is asked for that a run cannot write."""
    if patch and (mask is None or output_dir is None):
        raise ExpungeError(
            "a patch holds what a masked run changed, and is written into its run folder: give a mask and an output "
            "folder, or compare two model folders: expunge patch create base=... model=... output=patch.safetensors"
        )

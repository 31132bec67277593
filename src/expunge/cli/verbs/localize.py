"""`expunge localize`."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from expunge.cli import preview
from expunge.cli.console import heading, say, table
from expunge.cli.inputs import ShardingConfig, corpus_of, load, source_settings, template_of, tokenizer_of
from expunge.cli.verb import Call, Verb
from expunge.config.settings import Setting, parameters
from expunge.core import catalogue
from expunge.core.checks import ExpungeError, require_at_least
from expunge.core.output import check_output_file
from expunge.core.progress import first_process, shown
from expunge.core.surface import words
from expunge.data.data_config import DataConfig
from expunge.masks.mask_fingerprint import plural

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from expunge.localize.gradients import Dataset
    from expunge.localize.localization_plan import Plan
    from expunge.masks.units import Layout


@dataclass(frozen=True, kw_only=True)
class LocalizeConfig(ShardingConfig, DataConfig):
    """What is scored, and what of it is selected."""

    model: str
    """Start model: a folder or a hub id."""
    output: str | None = None
    """File for the mask, such as `mask.safetensors`."""
    scores: str | None = None
    """File for the scores themselves, to select from again: `expunge mask select`."""
    attribution: str = "wagle"
    """How units are scored: a name of `expunge list attributions`, or `package.module:function`."""
    unit: Literal["weight", "value_vector", "neuron", "matrix"] | None = None
    """What a mask switches as a whole; null: value vectors, where the attribution has them."""
    modules: tuple[str, ...] | None = None
    """Which parameters: `linear`, `mlp`, `down`, `attention`, `all`, or regular expressions for parameter names; null:
    the linear layers of the decoder blocks, or the MLPs for value vectors and neurons."""
    down_projection: str | None = None
    """Where the MLP's down-projection is inside a decoder block, for families that are not known."""
    ratio: float | None = None
    """Share of the units selected; null: 0.1, unless count or threshold is given."""
    count: int | None = None
    """Number of units selected instead."""
    threshold: float | None = None
    """Select every unit with a score above this instead."""
    scope: Literal["global", "per_matrix", "per_row"] | None = None
    """Within what units are ranked; null: `per_row` for wanda, else `global`."""
    order: Literal["top", "bottom"] = "top"
    """`bottom` selects the lowest scores, a control."""
    forget_objective: str = "nll"
    """Loss whose gradient is taken on the forget set: `nll`, or a name of `expunge list methods`."""
    gradient: Literal["mean", "sum"] = "mean"
    """Mean or sum of the examples' gradients."""
    retain_examples: int | None = None
    """How many retain examples, drawn by seed; null: as many as the forget set has."""
    batch_size: int = 8
    """Examples computed at once; changes memory and time alone."""
    seed: int = 0
    """Of everything that is drawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least("batch_size", self.batch_size, 1)
        if self.bits is not None:
            raise ExpungeError(f"bits={self.bits}: quantized weights cannot be localized. Leave bits out.")
        if self.output is None and self.scores is None:
            raise ExpungeError("output is missing: say where the mask goes, such as output=mask.safetensors")


def localize(call: Call[LocalizeConfig]) -> int:
    """Score how much each part of a model is tied to the forget set, and select a mask of the highest scores."""
    config, extra = call.config, call.resolved.extra
    of_source = {setting.name for setting in source_settings({"source": config.source})}
    of_attribution = {name: value for name, value in extra.items() if name not in of_source}
    if call.dry_run:
        return _dry_run(call, of_attribution)
    for path in (config.output, config.scores):
        check_output_file(path, overwrite=call.overwrite, kind="mask")
    _check_selection(config)  # now, not after the passes over the data
    plan = _planned(config, of_attribution)
    from expunge.localize.localize import localize as stage
    from expunge.masks.mask_fingerprint import fingerprint

    corpus = corpus_of(config, extra, reads=plan.splits) if plan.splits else None
    model, tokenizer = load(config.model, config)
    _check_count(config, _units(config, plan, model))
    with shown() as report:
        scores = stage(
            model,
            tokenizer,
            corpus,
            attribution=config.attribution,
            unit=config.unit,
            modules=config.modules,
            down_projection=config.down_projection,
            forget_objective=config.forget_objective,
            gradient=config.gradient,
            retain_examples=config.retain_examples,
            batch_size=config.batch_size,
            seed=config.seed,
            template=template_of(config),
            max_length=config.max_length,
            progress=report,
            **of_attribution,
        )
    assert scores.manifest is not None
    for what, share in scores.manifest.results["shares"].items():
        say(f"{what}: {100 * share:.1f} % of the units")
    for note in scores.manifest.results["notes"]:
        say(f"note: {note}")
    if not first_process():
        return 0
    if config.scores is not None:
        if config.output is not None:
            Path(config.output).unlink(missing_ok=True)  # a kill leaves no mask of other scores
        say(f"scores: {scores.save(config.scores)}")
    if config.output is None:
        return 0
    mask = scores.select(
        ratio=config.ratio,
        count=config.count,
        threshold=config.threshold,
        scope=config.scope,
        order=config.order,
    )
    saved = mask.save(config.output)
    print_ = fingerprint(mask, config.attribution)
    say(f"mask: {saved}, {describe(print_.units, print_.share, mask.share().weights, print_.unit)}")
    say(f"next: expunge mask info {shlex.quote(str(saved))} {words({'output': saved.with_suffix('.svg')})}")
    return 0


def _check_selection(config: LocalizeConfig) -> None:
    from expunge.masks.scores import check_selection

    check_selection(
        ratio=config.ratio, count=config.count, threshold=config.threshold, scope=config.scope, order=config.order
    )


def _units(config: LocalizeConfig, plan: "Plan", model: "PreTrainedModel") -> "Layout":
    from expunge.localize.model_units import layout

    return layout(model, unit=plan.unit, modules=config.modules, down_projection=config.down_projection)


def _check_count(config: LocalizeConfig, units: "Layout") -> None:
    from expunge.masks.scores import check_count

    check_count(config.count, units.groups, config.scope)


def describe(units: int, share: float, of_weights: float, unit: str) -> str:
    """How much a mask selects, in words."""
    if not units:
        return f"empty: no {unit.replace('_', ' ')} was selected, and no run takes such a mask. Select more of them"
    return f"{units} {plural(unit)} ({100 * share:.3g} %), {100 * of_weights:.3g} % of the eligible weights"


def hyperparameters(values: dict[str, Any]) -> Sequence[Setting]:
    """The settings of the source, the attribution and the forget objective that the values name."""
    from expunge.localize.attribution import ALIASES, attribution_of

    name = values["attribution"].replace("-", "_") if ":" not in values["attribution"] else values["attribution"]
    name = ALIASES[name][0] if name in ALIASES else name
    function = catalogue.resolve("attributions", name)
    found = [*source_settings(values), *parameters(function, owner=name, beside=attribution_of(function).observes)]
    if values["forget_objective"] != "nll":
        from expunge.objectives.method import method_of

        loss = catalogue.resolve("methods", values["forget_objective"])
        found += parameters(loss, owner=values["forget_objective"], beside=method_of(loss).observes)
    return found


def _planned(config: LocalizeConfig, given: dict[str, Any]) -> "Plan":
    from expunge.localize.localization_plan import planned

    plan = planned(config.attribution, config.unit, given, config.forget_objective)
    plan.check(config.gradient, config.retain_examples)
    return plan


def _dry_run(call: Call[LocalizeConfig], given: dict[str, Any]) -> int:
    """Show what would be scored; the exit code."""
    from expunge.localize.datasets import datasets_of
    from expunge.models.anatomy import blocks, causal_lm
    from expunge.models.load import check_loading, check_tokenizer_fits
    from expunge.models.rows_fit import check_rows_fit, embedded_ids
    from expunge.models.skeleton import skeleton

    config, problems = call.config, preview.Problems()
    plan = corpus = tokenizer = units = model = None
    for path in (config.output, config.scores):
        with problems.collected():
            check_output_file(path, overwrite=call.overwrite, kind="mask")
    with problems.collected():
        _check_selection(config)
    with problems.collected():
        plan = _planned(config, given)
    with problems.collected():
        tokenizer = tokenizer_of(config.model, config)
    with problems.collected():
        if plan is not None and plan.splits:
            corpus = corpus_of(config, call.resolved.extra, reads=plan.splits)
    with problems.collected():
        check_loading(config.model, device=config.device, sharded=config.sharded)
    with problems.collected():
        model = skeleton(config.model, trust_remote_code=config.trust_remote_code)
        if tokenizer is not None:
            check_tokenizer_fits(model, tokenizer)
        if plan is not None:
            units = _units(config, plan, model)
            _check_count(config, units)
    preview.show_settings(call.resolved, {"unit": (plan.unit, f"default of {plan.name}")} if plan else {})
    if plan is None or tokenizer is None or units is None or model is None:
        return problems.concluded()
    weights = sum(part.numel for part in units.parts.values())
    heading("Units")
    say(f"{sum(units.groups.values())} units of {plan.unit} in {len(units.parts)} parameters, {weights} weights")
    datasets: "Mapping[str, Dataset]" = {}
    with problems.collected():
        if corpus is not None:
            datasets = datasets_of(
                replace(plan, depth=len(blocks(causal_lm(model)))),
                corpus,
                tokenizer,
                embedded=embedded_ids(model),
                seed=config.seed,
                retain_examples=config.retain_examples,
                template=template_of(config),
                max_length=config.max_length,
            )
            for dataset in datasets.values():
                check_rows_fit(model, chain.from_iterable(dataset.rows.values()))
    rows = {split: next(iter(dataset.rows.values())) for split, dataset in datasets.items()}
    lines = [(split, str(len(of)), str(sum(len(row.ids) for row in of))) for split, of in rows.items()]
    if lines:
        heading("Data")
        table(("set", "rows", "tokens"), lines, numeric=(1, 2))
    width = sum(p.numel() * p.element_size() for p in model.parameters())
    buffers = sum(what.endswith(("gradients", "squares")) for what in plan.needs)
    preview.show_memory(
        {
            "weights": width,
            "sums of gradients": 4 * weights * buffers,
            "scores": 4 * sum(units.groups.values()),
        }
    )
    for split, (first, *_) in list(rows.items())[:1]:
        preview.show_example(first, tokenizer, f"First {split} row")
    return problems.concluded()


VERB = Verb(
    name="localize",
    config=LocalizeConfig,
    run=localize,
    extra_settings=hyperparameters,
    shared=True,
    flags=("dry_run", "overwrite"),
    note="Each attribution has settings of its own, such as gamma=1e-6: `expunge localize attribution=wagle --help` "
    "shows them.\n\nExample: expunge localize model=my-model forget=forget.jsonl retain=retain.jsonl attribution=wagle "
    "ratio=0.1 output=mask.safetensors",
)

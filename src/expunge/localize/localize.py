"""Localization: from a start model and a corpus to one score a unit."""

from itertools import chain
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.core import catalogue
from expunge.core.checks import ExpungeError, require_at_least, require_type
from expunge.core.distributed import join
from expunge.core.manifest import Manifest, fingerprint, jsonable
from expunge.core.progress import Progress
from expunge.data.corpus import Corpus, check_corpus
from expunge.data.template import Template, dated
from expunge.localize.attribution import attribution_of
from expunge.localize.attribution_inputs import Inputs
from expunge.localize.datasets import datasets_of, ids
from expunge.localize.localization_plan import planned
from expunge.localize.model_units import Modules, layout
from expunge.masks.scores import Scores
from expunge.masks.units import Layout
from expunge.models.anatomy import blocks, causal_lm
from expunge.models.fingerprint import model_fingerprint, tokenizer_fingerprint
from expunge.models.finite import check_finite
from expunge.models.load import check_tokenizer_fits, refuse_adapters
from expunge.models.placement import offloading
from expunge.models.rows_fit import check_rows_fit, embedded_ids


def localize(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus | None = None,
    *,
    attribution: str = "wagle",
    unit: str | None = None,
    modules: Modules | None = None,
    down_projection: str | None = None,
    forget_objective: str = "nll",
    gradient: str = "mean",
    retain_examples: int | None = None,
    batch_size: int = 8,
    seed: int = 0,
    template: Template | None = None,
    max_length: int = 512,
    progress: Progress | None = None,
    **hyperparameters: Any,
) -> Scores:
    """Score how much each unit of a model is tied to the forget set; `scores.select(ratio=0.1)` makes a mask.

    The model is left as it was. Gradients of up to 1 GiB are kept in the cache, by the content of model and rows, so
    that several attributions share one pass. Processes that a launcher started share the batches, and each returns all
    scores.

    Args:
        model: the start model.
        tokenizer: its tokenizer.
        corpus: holds `forget`, and `retain` where the attribution asks for it; None for those that look at no data.
        attribution: a name of `expunge list attributions`, one of `wagle_down`, `memflex_down`, `random_down` (value
            vectors), or `package.module:function`.
        unit: `weight`, `value_vector`, `neuron` or `matrix`; None: value vectors where the attribution has them.
        modules: which parameters are scored: a set by name (`linear`, `mlp`, `down`, `attention`, `all`) or regular
            expressions for parameter names. None: all linear layers of the decoder blocks, or the MLPs for value
            vectors and neurons.
        down_projection: where the MLP's down-projection is inside a block, for families not known.
        forget_objective: loss whose gradient is taken on the forget set: `nll` (each completion's token mean), or any
            method of `expunge list methods`, `idk` for refusals. The model is its own reference.
        gradient: `mean` over examples, or `sum`, with which published constants for sums go.
        retain_examples: how many, drawn by seed; None: as many as the forget set has, or all there are.
        batch_size: examples computed at once; changes memory and time alone.
        seed: of everything that is drawn.
        template: how questions are framed; None: the tokenizer's chat template where it has one.
        max_length: longest row in tokens.
        progress: called with (what, done, in all, numbers).
        **hyperparameters: of the attribution (`gamma`, `mu`, ...), of how it reads data (`positions`, `examples`,
            `label_noise`, `copies`), and of the forget objective (`beta`, ...).

    Returns:
        Scores, float32, one a unit; higher = more tied to the forget set. What was noticed on the way stands in
        `scores.manifest.results`.

    Raises:
        ExpungeError: unknown names, a unit that the attribution is not defined for, settings that would change nothing,
            a missing set, non-finite scores.
    """
    join()
    refuse_adapters(model)
    check_tokenizer_fits(model, tokenizer)
    if corpus is not None:
        check_corpus(corpus)
    plan = planned(attribution, unit, hyperparameters, forget_objective, depth=len(blocks(causal_lm(model))))
    plan.check(gradient, retain_examples)
    require_at_least("batch_size", batch_size, 1)
    require_type("seed", seed, int, "a whole number")
    units = layout(model, unit=plan.unit, modules=modules, down_projection=down_projection)
    _refuse_parted(model, units)
    template = dated(template, tokenizer)
    datasets = datasets_of(
        plan,
        corpus,
        tokenizer,
        embedded=embedded_ids(model),
        seed=seed,
        retain_examples=retain_examples,
        template=template,
        max_length=max_length,
    )
    for dataset in datasets.values():
        check_rows_fit(model, chain.from_iterable(dataset.rows.values()))
    check_finite(model)
    identity = model_fingerprint(model)
    inputs = Inputs(model, units, plan, datasets, gradient, batch_size, seed, identity, progress)
    values: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    total = len(units.groups)
    with torch.no_grad():
        for number, group in enumerate(units.groups, start=1):
            found = plan.function(*(inputs(name, group) for name in catalogue.needs(plan.function)), **plan.own)
            scores, notes = found if isinstance(found, tuple) else (found, {})
            values[group] = scores.float().cpu()
            for name, true in notes.items():
                counts[name] = counts.get(name, 0) + int(true.sum())
            if progress is not None:
                progress("scores", number, total, "")
    n_units = sum(units.groups.values())
    shares = {name: n / n_units for name, n in counts.items()}
    manifest = Manifest(
        stage="localize",
        arguments=jsonable(
            {
                "attribution": plan.name,
                "unit": plan.unit,
                "modules": modules,
                "down_projection": down_projection,
                "hyperparameters": {**plan.own, **plan.reading},
                "forget_objective": forget_objective,
                "forget_hyperparameters": plan.of_objective,
                "gradient": gradient,
                "seed": seed,
                "template": template.about,
                "max_length": max_length,
            }
        ),
        seed=seed,
        inputs={
            "model": identity,
            "tokenizer": tokenizer_fingerprint(tokenizer),
            **{name: fingerprint(ids(dataset.rows)) for name, dataset in datasets.items()},
        },
        results={
            "start_model": str(model.config._name_or_path),
            "units": n_units,
            "weights": sum(part.numel for part in units.parts.values()),
            "data": {} if corpus is None else corpus.about(*(split for split in plan.splits if split in corpus)),
            "examples": {name: len(dataset) for name, dataset in datasets.items()},
            "shares": shares,
            "data_notes": list(corpus.notes) if corpus is not None else [],
            "notes": [
                f"{100 * shares[name]:.1f} % of {name}: {text}"
                for name, (limit, text) in attribution_of(plan.function).readings.items()
                if shares.get(name, 0) > limit
            ],
        },
    )
    scored = Scores(units, values, attribution_of(plan.function).scope, manifest)
    scored.check_finite()
    return scored


def _refuse_parted(model: PreTrainedModel, units: Layout) -> None:
    """Raise for weights of an offloaded model that two layers share: each layer is brought a tensor of its own."""
    tied = getattr(model, "all_tied_weights_keys", {})
    parted = sorted({*tied, *tied.values()} & {*units.parts})
    if parted and any(offloading(module) for module in model.modules()):
        raise ExpungeError(
            f"{parted[0]} is shared by two layers, and of an offloaded model such weights cannot be scored. Choose "
            "modules without it, such as modules=linear, or load the model onto one device."
        )

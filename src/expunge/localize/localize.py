"""Localization: from a start model and a corpus to one score a unit."""

import inspect
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.core import catalogue
from expunge.core.checks import ExpungeError, require_at_least, require_between, unknown
from expunge.core.manifest import Manifest, fingerprint, jsonable
from expunge.core.mask import Layout, Unit
from expunge.core.progress import Progress
from expunge.core.rows import Encoded
from expunge.core.scores import Scores
from expunge.data.alternates import drawn
from expunge.data.corpus import Corpus, Example
from expunge.data.template import Template
from expunge.data.tokenizing import encode
from expunge.localize.attribution import ALIASES, SHOWN, attribution_of
from expunge.localize.layout import Modules, layout
from expunge.localize.statistics import Side, gradients, input_means
from expunge.models.anatomy import blocks, causal_lm, is_linear, output_dim
from expunge.models.load import check_tokenizer_fits, model_fingerprint, refuse_adapters, tokenizer_fingerprint
from expunge.objectives.combine import Stream, build

_OF_FORGET = {"forget_gradients", "forget_squares", "mean_inputs", "mean_squared_inputs"}
_OF_DATA = _OF_FORGET | {"retain_gradients"}


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
    that several attributions share one pass.

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
        down_projection: where the MLP's down-projection lies inside a block, for families not known.
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
        ExpungeError: unknown names, a unit that the attribution is not defined for, a missing set, non-finite scores.
    """
    refuse_adapters(model)
    check_tokenizer_fits(model, tokenizer)
    plan = planned(attribution, unit, hyperparameters, forget_objective, depth=len(blocks(causal_lm(model))))
    if gradient not in ("mean", "sum"):
        raise ExpungeError(f"gradient must be 'mean' or 'sum'; got {gradient!r}.")
    require_at_least("batch_size", batch_size, 1)
    units = layout(model, unit=plan.unit, modules=modules, down_projection=down_projection)
    template = template or Template()
    sides = _sides(
        plan, corpus, tokenizer, seed=seed, retain_examples=retain_examples, template=template, max_length=max_length
    )
    identity = model_fingerprint(model)
    shown = _Shown(model, units, plan, sides, gradient, batch_size, seed, identity, progress)
    values: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    total = len(units.groups)
    with torch.no_grad():
        for number, group in enumerate(units.groups, start=1):
            found = plan.function(*(shown(name, group) for name in catalogue.needs(plan.function)), **plan.own)
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
                "template": asdict(template),
                "max_length": max_length,
            }
        ),
        seed=seed,
        inputs={
            "model": identity,
            "tokenizer": tokenizer_fingerprint(tokenizer),
            **{name: fingerprint(_ids(side.rows)) for name, side in sides.items()},
        },
        results={
            "start_model": str(model.config._name_or_path),
            "units": n_units,
            "weights": sum(part.numel for part in units.parts.values()),
            "examples": {name: len(side) for name, side in sides.items()},
            "shares": shares,
            "warnings": [
                f"{100 * shares[name]:.1f} % of {name}: {text}"
                for name, (limit, text) in attribution_of(plan.function).warns.items()
                if shares.get(name, 0) > limit
            ],
        },
    )
    for text in manifest.results["warnings"]:
        warnings.warn(f"{plan.name}: {text}", stacklevel=2)
    scored = Scores(units, values, attribution_of(plan.function).scope, manifest)
    scored.check_finite()
    return scored


@dataclass(frozen=True)
class Plan:
    """An attribution with everything filled in that can be without a model's weights."""

    name: str
    function: Callable[..., Any]
    unit: Unit
    own: Mapping[str, Any]
    """Hyperparameters of the function."""
    reading: Mapping[str, Any]
    """Hyperparameters that say how data is read."""
    objective: str
    of_objective: Mapping[str, Any] = field(default_factory=dict)
    depth: int | None = None

    @property
    def needs(self) -> frozenset[str]:
        """What the function is shown."""
        return frozenset(catalogue.needs(self.function))

    @property
    def splits(self) -> tuple[str, ...]:
        """The sets that it looks at."""
        forget = ("forget",) if self.needs & _OF_FORGET else ()
        return (*forget, *(("retain",) if "retain_gradients" in self.needs else ()))


def planned(
    attribution: str,
    unit: str | None,
    hyperparameters: Mapping[str, Any],
    forget_objective: str = "nll",
    depth: int | None = None,
) -> Plan:
    """Fill in an attribution; arguments as for `localize`, `depth` is the number of decoder blocks.

    Raises:
        ExpungeError: an unknown attribution or hyperparameter, or a unit that it is not defined for.
    """
    name = attribution.replace("-", "_") if ":" not in attribution else attribution
    if name in ALIASES:
        name, fixed = ALIASES[name]
        if unit not in (None, fixed):
            raise ExpungeError(f"{attribution} scores {fixed}s; leave out unit={unit}, or use attribution={name}.")
        unit = fixed
    function = catalogue.resolve("attributions", name)
    about = attribution_of(function)
    for parameter in catalogue.needs(function):
        if parameter not in SHOWN:
            raise unknown("thing that attributions are shown", parameter, SHOWN, came_from=name)
    chosen = about.units[0] if unit is None else unit
    if chosen not in about.units:
        raise ExpungeError(f"{name} is not defined for unit={chosen}. It takes: {', '.join(about.units)}.")
    own = dict(catalogue.hyperparameters(function))
    reading = dict(about.observes)
    # What neither the function nor the reading of data knows must be the objective's.
    of_objective = {k: v for k, v in hyperparameters.items() if k not in {*own, *reading}}
    known = {*own, *reading}
    if forget_objective != "nll":
        loss = catalogue.resolve("methods", forget_objective)
        known |= {*catalogue.hyperparameters(loss), "layer", "positions"}
    for key in of_objective:
        if key not in known:
            raise unknown(f"hyperparameter of {name}", key, known)
    own |= {k: v for k, v in hyperparameters.items() if k in own}
    if missing := [k for k, v in own.items() if v is inspect.Parameter.empty]:
        raise ExpungeError(f"{name} needs a value for {', '.join(missing)}, which has no default.")
    reading |= {k: v for k, v in hyperparameters.items() if k in reading}
    _check_reading(reading)
    return Plan(name, function, chosen, own, reading, forget_objective, of_objective, depth)  # type: ignore[arg-type]


def _check_reading(reading: Mapping[str, Any]) -> None:
    if reading.get("positions", "all") not in ("predicting", "all"):
        raise ExpungeError(f"positions must be 'predicting' or 'all'; got {reading['positions']!r}.")
    require_between("label_noise", reading.get("label_noise", 0), 0, 1)
    require_at_least("copies", reading.get("copies", 1), 1)
    require_at_least("examples", reading.get("examples", 1), 1)


def _sides(
    plan: Plan,
    corpus: Corpus | None,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    retain_examples: int | None,
    template: Template,
    max_length: int,
) -> dict[str, Side]:
    """The rows of each set that the attribution looks at, and their losses."""
    if not plan.splits:
        return {}
    for split in plan.splits:
        if corpus is None or split not in corpus:
            held = "no corpus came" if corpus is None else f"the corpus '{corpus.name}' holds only {', '.join(corpus)}"
            raise ExpungeError(f"{plan.name} looks at the {' and the '.join(plan.splits)} set, and {held}.")
    assert corpus is not None

    def rows(examples: Sequence[Example]) -> list[Encoded]:
        return encode(examples, tokenizer, template=template, max_length=max_length)

    def noisy(encoded: list[Encoded], what: str) -> list[Encoded]:
        noise, copies = plan.reading.get("label_noise", 0.0), plan.reading.get("copies", 1)
        if not noise and copies == 1:
            return encoded
        return _noisy(encoded, noise, copies, max(tokenizer.get_vocab().values()) + 1, f"{seed} {what}")

    nll = build(None, retain="nll")
    sides = {}
    if "forget" in plan.splits:
        examples = list(corpus["forget"])
        if (most := plan.reading.get("examples")) is not None and len(examples) > most:
            examples = [examples[i] for i in sorted(random.Random(f"{seed} forget").sample(range(len(examples)), most))]
        if plan.objective == "nll":
            sides["forget"] = Side("forget", nll, {"retain": noisy(rows(examples), "forget")})
        else:
            objective = build(plan.objective, retain="none", depth=plan.depth, hyperparameters=plan.of_objective)
            streams: dict[Stream, list[Encoded]] = {}
            if "forget" in objective.streams:
                streams["forget"] = noisy(rows(examples), "forget")
            if "alternate" in objective.streams:
                others, where = drawn(examples, epochs=1, seed=seed)
                alternates = rows([others[where[i, 0]] for i in range(len(examples))])
                streams["alternate"] = noisy(alternates, "forget")
            sides["forget"] = Side("forget", objective, streams)
    if "retain" in plan.splits:
        examples = list(corpus["retain"])
        n = min(len(corpus["forget"]), len(examples)) if retain_examples is None else retain_examples
        if not 1 <= n <= len(examples):
            raise ExpungeError(f"retain_examples must lie between 1 and {len(examples)}, what there is; got {n}.")
        chosen = sorted(random.Random(f"{seed} retain").sample(range(len(examples)), n))
        sides["retain"] = Side("retain", nll, {"retain": noisy(rows([examples[i] for i in chosen]), "retain")})
    return sides


def _noisy(rows: Sequence[Encoded], noise: float, copies: int, vocabulary: int, seed: str) -> list[Encoded]:
    """Copies of rows in which completion tokens, drawn with replacement, are replaced by random ones."""
    chance = random.Random(seed)
    found = []
    for row in rows:
        for _ in range(copies):
            ids = list(row.ids)
            for _ in range(int(noise * (len(ids) - row.start))):
                ids[chance.randrange(row.start, len(ids))] = chance.randrange(vocabulary)
            found.append(replace(row, ids=tuple(ids)))
    return found


def _ids(rows: Mapping[Stream, Sequence[Encoded]]) -> Any:
    return {stream: [[row.ids, row.start] for row in encoded] for stream, encoded in sorted(rows.items())}


class _Shown:
    """What an attribution is shown of each group; each pass over the data is made when it is first asked for."""

    def __init__(
        self,
        model: nn.Module,
        units: Layout,
        plan: Plan,
        sides: Mapping[str, Side],
        how: str,
        batch_size: int,
        seed: int,
        identity: str,
        progress: Progress | None,
    ) -> None:
        self.model, self.units, self.plan, self.sides = model, units, plan, sides
        self.how, self.batch_size, self.seed, self.identity, self.progress = how, batch_size, seed, identity, progress
        self.parameters = dict(causal_lm(model).named_parameters())
        self.passed: dict[str, dict[str, Tensor]] = {}

    def __call__(self, what: str, group: str) -> Any:
        plain = {"unit": self.units.unit, "group": group, "seed": self.seed}
        if what in plain:
            return plain[what]
        if what == "weights":
            return unit_rows(self.units, group, self.parameters)
        if what == "value_vectors":
            part = self.units.parts[group]
            return self.parameters[group].detach().double().movedim(part.dim, 0).reshape(part.units, -1)
        if what in ("forget_gradients", "retain_gradients", "forget_squares"):
            return unit_rows(self.units, group, self._gradients(what))
        return self._inputs(what, group)

    def _gradients(self, what: str) -> dict[str, Tensor]:
        if what not in self.passed:
            with torch.enable_grad():
                self.passed[what] = gradients(
                    self.model,
                    self.sides[what.partition("_")[0]],
                    list(self.units.parts),
                    how="squares" if what == "forget_squares" else self.how,
                    batch_size=self.batch_size,
                    model_fingerprint=self.identity,
                    progress=self.progress,
                )
        return self.passed[what]

    def _inputs(self, what: str, group: str) -> Tensor:
        layers = self._layers()
        if what not in self.passed:
            found = input_means(
                self.model,
                layers,
                next(iter(self.sides["forget"].rows.values())),
                positions=self.plan.reading.get("positions", "predicting"),
                batch_size=self.batch_size,
                progress=self.progress,
            )
            self.passed["mean_inputs"], self.passed["mean_squared_inputs"] = found
        means, part = self.passed[what][group], self.units.parts[group]
        if part.cut == "slices":
            return means
        across = means[None, :] if output_dim(layers[group]) == 0 else means[:, None]
        return across.expand(part.shape).reshape(-1)

    def _layers(self) -> dict[str, nn.Module]:
        """The linear layer of each group: the one whose weight goes by the group's name."""
        inner = causal_lm(self.model)
        by_weight = {id(m.weight): m for block in blocks(inner) for m in block.modules() if is_linear(m)}
        found = {}
        for group in self.units.groups:
            layer = by_weight.get(id(self.parameters[group]))
            if layer is None:
                raise ExpungeError(
                    f"{self.plan.name} looks at the inputs of the decoder blocks' linear layers, and {group} is none's "
                    "weight. Use modules=linear, mlp, down or attention."
                )
            found[group] = layer
        return found


def unit_rows(units: Layout, group: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """What belongs to each unit of a group, [U, K], float64.

    Args:
        units: how parameters are cut.
        group: a group of it.
        tensors: a tensor in its shape for each parameter of the group.
    """
    rows = []
    for name, part in units.parts.items():
        if part.group != group:
            continue
        values = tensors[name].detach().double()
        rows.append((values.movedim(part.dim, 0) if part.cut == "slices" else values).reshape(part.units, -1))
    return torch.cat(rows, 1)

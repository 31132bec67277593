"""Objectives: a forget loss and a retain loss, weighted, and what the two need to be shown.

    L = gamma * L_forget + alpha * sum over retain sets k of w_k * L_retain,k

A loss says what it needs by the names of its positional parameters. `logprobs` is the model's own value on the loss's
own rows; `alternate_` in front asks for the rows of the alternate answers, `reference_` for the same under the frozen
start model.
"""

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from expunge.core import catalogue
from expunge.core.checks import (
    ExpungeError,
    require_at_least,
    require_between,
    require_finite,
    require_positive,
    unknown,
)
from expunge.core.logprobs import counts as count
from expunge.core.logprobs import masked_sum
from expunge.objectives.method import Method, method_of

Stream = str
"""Rows that meet in a step: `forget`, `alternate` (other answers to its prompts), or a retain set by its name."""
Side = str
"""A term of the objective: `forget`, or a retain set by its name."""


class Need(NamedTuple):
    """One thing that a loss must be shown."""

    by: Literal["current", "reference"]
    """Which model shows it."""
    stream: Stream
    """On which rows."""
    observable: str
    """What: `logprobs`, `token_logprobs`, `logits`, `hidden`, `completion_mask`, `targets`, `counts`, and instead of
    logits `token_values` or the `states` that they are made from."""

    @classmethod
    def parse(cls, name: str, own: Stream) -> "Need":
        """The need behind a parameter name, for a loss whose own rows are those of stream `own`."""
        by: Literal["current", "reference"] = "reference" if name.startswith("reference_") else "current"
        rest = name.removeprefix("reference_")
        return cls(by, "alternate" if rest.startswith("alternate_") else own, rest.removeprefix("alternate_"))


class Term(NamedTuple):
    """A loss on the rows of one micro-batch, not yet reduced."""

    values: Tensor
    """[B]."""
    counts: Tensor | None
    """[B] where the step's value is sum(values) / sum(counts); None where every row counts 1."""

    @property
    def size(self) -> Tensor:
        """What these rows add to the step's denominator."""
        return self.values.new_tensor(len(self.values)) if self.counts is None else self.counts.sum()


POSITIONS = ("holding", "predicting")
TYPES: Mapping[Any, tuple[Any, str]] = {
    float: (Real, "a number"),
    int: (Integral, "a whole number"),
    bool: (bool, "true or false"),
    str: (str, "text"),
}
"""What a hyperparameter annotated so may be, and what to call it."""
Lookup = Callable[[Need], Tensor]
_OF_TOKENS = {"logits", "reference_logits", "targets", "completion_mask"}  # what a tokenwise loss may ask for


@dataclass(frozen=True, kw_only=True)
class Loss:
    """One catalogued loss with its hyperparameters filled in."""

    name: str
    function: Callable[..., Any]
    own: Stream
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def method(self) -> Method:
        """The settings that stand next to the loss."""
        return method_of(self.function)

    @property
    def needs(self) -> dict[str, Need]:
        """What must be shown, by parameter name."""
        return {name: Need.parse(name, self.own) for name in catalogue.needs(self.function)}

    @property
    def tokenwise(self) -> bool:
        """Is it computed from the logits of a few tokens at a time?"""
        return self.method.tokenwise and any(need.observable == "logits" for need in self.needs.values())

    @property
    def observed(self) -> frozenset[Need]:
        """What must be observed of whole rows.

        All needs, but `token_values` and reference `states` in place of logits that are shown a few tokens at a time.
        """
        if not self.tokenwise:
            return frozenset(self.needs.values())
        found = {Need("current", self.own, "token_values"), Need("current", self.own, "completion_mask")}
        if "reference_logits" in self.needs:
            found.add(Need("reference", self.own, "states"))
        return frozenset(found)

    def of_tokens(self, logits: Tensor, reference_logits: Tensor | None, targets: Tensor) -> Tensor:
        """What a tokenwise loss gives some completion tokens, [n], from the logits that predict them, [n, V]."""
        shown = {
            "logits": logits,
            "reference_logits": reference_logits,
            "targets": targets,
            "completion_mask": torch.ones_like(targets, dtype=torch.bool),
        }
        hyperparameters = dict(self.hyperparameters) | ({self.method.skips: 0} if self.method.skips else {})
        rows = [cast(Tensor, shown[name]).unsqueeze(1) for name in self.needs]
        found = self.function(*rows, **hyperparameters)
        return cast(Tensor, found[0] if isinstance(found, tuple) else found)

    def of_rows(self, token_values: Tensor, completion_mask: Tensor) -> Term:
        """The unreduced loss, from what `of_tokens` gave each completion token, [B, C]."""
        columns = torch.arange(completion_mask.shape[1], device=completion_mask.device)
        mask = completion_mask & (columns >= self._skipped)
        values, counts = masked_sum(token_values, mask), count(mask, token_values)
        return Term(values, counts) if self.method.reduction == "token" else Term(values / counts, None)

    def observed_term(self, lookup: Lookup) -> Term:
        """The unreduced loss, from what `lookup` shows of the needs in `observed`."""
        if not self.tokenwise:
            return self.term(lookup)
        values, mask = (lookup(Need("current", self.own, name)) for name in ("token_values", "completion_mask"))
        return self.of_rows(values, mask)

    @property
    def _skipped(self) -> int:
        return (self.hyperparameters.get(self.method.skips) if self.method.skips else 0) or 0

    def term(self, lookup: Lookup) -> Term:
        """The unreduced loss, from what `lookup` shows of whole rows."""
        found = self.function(*(lookup(need) for need in self.needs.values()), **self.hyperparameters)
        term = Term(*found) if isinstance(found, tuple) else Term(found, None)
        if (term.counts is None) != (self.method.reduction == "sequence"):
            came = "values without counts" if term.counts is None else "values and counts"
            raise ExpungeError(
                f"{self.name} says reduction='{self.method.reduction}' and returned {came}. A token mean returns "
                "(values, counts), a sequence mean values alone; say which: METHOD = Method(reduction=...) beside it."
            )
        return term

    def counted(self, completion_tokens: Tensor) -> Tensor:
        """What each row adds to the step's denominator, [B], known before any forward pass.

        Args:
            completion_tokens: supervised tokens of each row of the stream whose tokens are averaged, [B].
        """
        if self.method.reduction == "sequence":
            return completion_tokens.new_ones(completion_tokens.shape)
        return (completion_tokens - self._skipped).clamp(min=0)

    def weighed(self, term: Term, weights: Tensor | None) -> Term:
        """A term with rows of weight 0 left out; None: every row counts."""
        if weights is None:
            return term
        weights = weights.to(term.values, non_blocking=True)
        counts = weights if term.counts is None else term.counts * weights
        return Term(torch.where(weights > 0, term.values, 0.0), None if term.counts is None else counts)

    @property
    def counted_stream(self) -> Stream:
        """The stream whose tokens a token mean counts: that of the mask that the loss asks for."""
        streams = {need.stream for need in self.needs.values() if need.observable in ("completion_mask", "counts")}
        return streams.pop() if len(streams) == 1 else self.own


@dataclass(frozen=True, kw_only=True)
class Dual:
    """The retain loss as a constraint: during training its weight follows the dual, from alpha on."""

    eps: float | None
    """What the retain loss may be, in nats a token; training refuses to start without it."""
    step: float
    """The multiplier moves by step * (retain loss - eps) each optimizer step."""
    warmup: float
    """Epochs before it starts to move."""


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """How much of the start model's weights a run gives up before its first step."""

    perturbation: float
    """Share by which weights are shrunk, in [0, 1]: 0 leaves them as they are, 1 leaves noise alone."""
    noise: float
    """Size of the noise that takes its place, 0 or above: 1 is that of matrices that nothing has trained yet."""

    def __post_init__(self) -> None:
        require_between("perturbation", self.perturbation, 0, 1)
        require_at_least("noise", self.noise, 0)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A forget loss, a retain loss over one or several sets, and their weights; either may be absent."""

    forget: Loss | None
    retain: Loss | None
    gamma: float = 1.0
    alpha: float = 1.0
    layer: int | None = None
    """Decoder block whose output the hidden-state losses read."""
    positions: str = "holding"
    """Where they read it: at the positions that hold a completion token or at those `predicting` one."""
    retain_sets: Mapping[str, float] = field(default_factory=lambda: {"retain": 1.0})
    """Weight of each retain set within the retain term; every set has its own mean."""

    generates: Mapping[str, Any] = field(default_factory=dict)
    """How the start model makes up alternate answers where the data has none; empty: refusals are taken."""
    perturbs: Perturbation | None = None
    """How the start model is perturbed before the first step; None: it is not."""
    dual: Dual | None = None
    """How alpha moves during training; None: it stays."""

    @property
    def losses(self) -> dict[Side, tuple[Loss, float]]:
        """The losses present with their weights."""
        found: dict[Side, tuple[Loss, float]] = {}
        if self.forget is not None:
            found["forget"] = (self.forget, self.gamma)
        if self.retain is not None:
            for name, weight in self.retain_sets.items():
                found[name] = (replace(self.retain, own=name), self.alpha * weight)
        return found

    def needs(self, by: Literal["current", "reference"]) -> dict[Stream, frozenset[str]]:
        """What one of the two models must show on each stream, as rows."""
        found: dict[Stream, set[str]] = {}
        for loss, _ in self.losses.values():
            for need in loss.observed:
                if need.by == by:
                    found.setdefault(need.stream, set()).add(need.observable)
        return {stream: frozenset(names) for stream, names in found.items()}

    def only(self, side: Literal["forget", "retain"]) -> "Objective":
        """The forget term or the retain term alone."""
        return replace(self, retain=None) if side == "forget" else replace(self, forget=None)

    @property
    def streams(self) -> frozenset[Stream]:
        """All streams that a step must bring."""
        return frozenset(need.stream for loss, _ in self.losses.values() for need in loss.needs.values())

    def check(self, *, depth: int, width: int, vocabulary: int) -> None:
        """Raise for settings that a loss refuses, by showing each a single row, before anything is computed.

        Args:
            depth: decoder blocks of the model.
            width: its hidden size.
            vocabulary: number of its tokens.
        """
        if any(n.observable == "hidden" for loss, _ in self.losses.values() for n in loss.needs.values()):
            require_between("layer", depth // 3 if self.layer is None else self.layer, 0, depth - 1)
        shown = {
            "logprobs": torch.zeros(1),
            "token_logprobs": torch.zeros(1, 2),
            "logits": torch.zeros(1, 2, vocabulary),
            "hidden": torch.zeros(1, 2, width),
            "completion_mask": torch.ones(1, 2, dtype=torch.bool),
            "targets": torch.zeros(1, 2, dtype=torch.long),
            "counts": torch.full((1,), 2.0),
        }
        for loss, _ in self.losses.values():
            loss.term(lambda need: shown[need.observable])

    def terms(self, lookup: Lookup) -> dict[Side, Term]:
        """Both losses, unreduced, from what was observed."""
        return {side: loss.observed_term(lookup) for side, (loss, _) in self.losses.items()}

    def combine(self, terms: Mapping[Side, Term], denominators: Mapping[Side, Tensor]) -> Tensor:
        """The weighted sum of both losses for these rows.

        Over all micro-batches of a step it adds up to the step's loss.

        Args:
            terms: what `terms` gave.
            denominators: for each side, the sum of counts (or the number of rows) of the WHOLE step, over all
                micro-batches and ranks, so that the update does not depend on how the step is cut.
        """
        parts = [weight * terms[side].values.sum() / denominators[side] for side, (_, weight) in self.losses.items()]
        return sum(parts[1:], start=parts[0])


def build(
    method: str | None,
    *,
    retain: str | None = None,
    gamma: float | None = None,
    alpha: float | None = None,
    depth: int | None = None,
    retain_sets: Mapping[str, float] | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    adapter: Collection[str] | None = None,
) -> Objective:
    """An objective from names.

    Args:
        method: forget loss; None trains on the retain side alone.
        retain: retain loss, `none` for none; None takes the method's default.
        gamma: weight of the forget loss; None takes the method's default.
        alpha: weight of the retain loss; None takes the method's default (1 where a retain loss is asked for by name
            from a method that uses none by itself).
        depth: decoder blocks of the model, from which the default layer of hidden-state losses follows:
            min(7, depth // 3).
        retain_sets: weight of each retain set, by split; None: the split `retain` alone.
        hyperparameters: of the forget loss, and `layer` and `positions` for hidden-state losses. A name that only the
            retain loss knows goes there; where both know it, `retain_` in front means the retain loss's.
        adapter: settings of the adapter that the run has, for messages; None where there can be none.

    Raises:
        ExpungeError: unknown method, retain loss or hyperparameter; one without default that is missing; or a value of
            another type than the loss takes.
    """
    given = dict(hyperparameters or {})
    if method is None and retain in (None, "none"):
        raise ExpungeError("an objective needs a forget loss or a retain loss; got neither.")
    forget_function = catalogue.resolve("methods", method) if method is not None else None
    defaults = method_of(forget_function) if forget_function else Method(reduction="token", gamma=0.0)
    retain_name = (defaults.retain if retain is None else retain).replace("-", "_")
    retain_function = catalogue.resolve("retain_losses", retain_name) if retain_name != "none" else None
    observed: dict[str, Any] = dict(defaults.observes)
    if retain_function is not None:
        observed |= {k: v for k, v in method_of(retain_function).observes.items() if k not in observed}
    forget_known = catalogue.hyperparameters(forget_function) if forget_function else {}
    retain_known = catalogue.hyperparameters(retain_function) if retain_function else {}
    of_retain = retain_names(forget_known, retain_known)
    dual, generates, perturbs = dict(defaults.dual), dict(defaults.generates), dict(defaults.perturbs)
    for name in given:
        known = {*forget_known, *of_retain, *observed, *dual, *generates, *perturbs}
        if name not in known:
            what = f"hyperparameter of {method or 'fine-tuning'} with retain loss {retain_name}"
            hint = "" if adapter is None else catalogue.of_adapters(name)
            raise unknown(what, name, {*known, *(adapter or ())}, hint=hint)
    dual |= {k: v for k, v in given.items() if k in dual}
    generates |= {k: v for k, v in given.items() if k in generates}
    perturbs |= {k: v for k, v in given.items() if k in perturbs}
    observed |= {k: v for k, v in given.items() if k in observed}
    if "layer" in observed and observed["layer"] is None and depth is not None:
        observed["layer"] = min(7, depth // 3)
    if observed.get("positions", "holding") not in POSITIONS:
        raise unknown("place to read hidden states at (positions)", str(observed["positions"]), POSITIONS)
    if alpha is None:
        alpha = defaults.alpha if defaults.retain != "none" else 1.0
    gamma = defaults.gamma if gamma is None else gamma
    require_at_least("gamma", gamma, 0)
    require_at_least("alpha", alpha, 0)
    retain_sets = {"retain": 1.0} if retain_sets is None else retain_sets
    _check_sets(retain_sets, retain_name)
    return Objective(
        forget=_loss(method, forget_function, "forget", forget_known, given) if forget_function else None,
        retain=_loss(
            retain_name,
            retain_function,
            "retain",
            retain_known,
            {own: given[name] for name, own in of_retain.items() if name in given},
        )
        if retain_function
        else None,
        gamma=gamma,
        alpha=alpha,
        layer=observed.get("layer"),
        positions=observed.get("positions", "holding"),
        retain_sets=dict(retain_sets),
        dual=_dual(dual) if dual else None,
        generates=generates,
        perturbs=Perturbation(**perturbs) if perturbs else None,
    )


def retain_names(forget: Mapping[str, Any], retain: Mapping[str, Any]) -> dict[str, str]:
    """How a retain loss's hyperparameters are called next to a forget loss's: name -> its own name."""
    return {f"retain_{name}" if name in forget else name: name for name in retain}


def _dual(values: Mapping[str, Any]) -> Dual:
    require_positive("dual_step", values["dual_step"])
    require_at_least("dual_warmup", values["dual_warmup"], 0)
    return Dual(eps=values["eps"], step=values["dual_step"], warmup=values["dual_warmup"])


def _check_sets(retain_sets: Mapping[str, float], retain_loss: str) -> None:
    if not retain_sets:
        raise ExpungeError("retain_sets is empty; name at least one split, or use a retain loss of 'none'.")
    for name, weight in retain_sets.items():
        require_at_least(f"retain_sets.{name}", weight, 0)
        if name in ("forget", "alternate"):
            raise ExpungeError(f"retain_sets names '{name}', which is what is to be forgotten; name other splits.")
    if retain_loss == "none" and set(retain_sets) != {"retain"}:
        raise ExpungeError(f"retain_sets names {', '.join(retain_sets)}, but there is no retain loss; name one (nll).")


def _loss(
    name: str | None,
    function: Callable[..., Any],
    own: Stream,
    known: Mapping[str, Any],
    given: Mapping[str, Any],
) -> Loss:
    values = dict(known) | {k: v for k, v in given.items() if k in known}
    missing = [k for k, v in values.items() if v is inspect.Parameter.empty]
    if missing:
        raise ExpungeError(f"{name} needs a value for {', '.join(missing)}, which has no default.")
    kinds = inspect.get_annotations(function)
    for key, value in values.items():
        fits, what = TYPES.get(kinds.get(key), (object, ""))
        if not isinstance(value, fits) or (isinstance(value, bool) and fits not in (bool, object)):
            raise ExpungeError(f"{name}: {key} must be {what}; got {value!r}.")
        if isinstance(value, float):
            require_finite(f"{name}: {key}", value)
    loss = Loss(name=str(name), function=function, own=own, hyperparameters=values)
    if loss.tokenwise and (others := sorted(set(loss.needs) - _OF_TOKENS)):
        raise ExpungeError(
            f"{name} is declared tokenwise and asks for {', '.join(others)}; a tokenwise loss may ask for "
            f"{', '.join(sorted(_OF_TOKENS))}. Leave tokenwise out of its METHOD."
        )
    return loss

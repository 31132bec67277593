"""The loss of one batch of rows: run the models, show the losses what they need, weigh and reduce."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from expunge.core.batch import Batch
from expunge.core.checks import ExpungeError
from expunge.core.logprobs import IGNORED
from expunge.models.anatomy import blocks, causal_lm
from expunge.models.load import check_model
from expunge.models.observe import Observed, Place, TokenLoss, observe
from expunge.models.reference import Reference, kept_of, start_head
from expunge.objectives.combine import Loss, Need, Objective, Side, Stream, Term, build


@dataclass(frozen=True)
class StepPart:
    """What one micro-batch gave."""

    terms: Mapping[Side, Term]
    logprobs: Mapping[str, tuple[Tensor, Tensor]]
    """For the forget and retain sets where known: (sum of token log-probabilities, completion tokens), detached."""


def batch_terms(
    model: nn.Module, batches: Mapping[Stream, Batch], objective: Objective, *, reference: Reference | None = None
) -> StepPart:
    """Unreduced losses of one micro-batch, from one forward pass over all streams together.

    Args:
        model: the model in training.
        batches: the rows of each stream that the objective needs.
        objective: what to compute.
        reference: the frozen start model; not needed where the batches carry `reference_...` values, but for its head
            where these are hidden states that logits are made from.
    """
    missing = [stream for stream in sorted(objective.streams) if stream not in batches]
    if missing:
        raise ExpungeError(_missing(objective, missing[0]))
    before = _reference(reference, batches, objective, next(model.parameters()).device)
    losses = {loss.own: _of_tokens(loss, before, reference) for loss, _ in objective.losses.values() if loss.tokenwise}
    seen = {"current": _observe(model, batches, objective, "current", losses), "reference": before}

    def lookup(need: Need) -> Tensor:
        shown = seen[need.by][need.stream]
        value = getattr(shown, need.observable)
        if value is None:
            raise AssertionError(f"{need} was not observed")
        return cast(Tensor, value)

    known = {
        stream: _totals(shown, batches[stream].get("weights"))
        for stream, shown in seen["current"].items()
        if shown.token_logprobs is not None and stream != "alternate"
    }
    terms = {
        side: objective.losses[side][0].weighed(term, _weights(batches, objective.losses[side][0]))
        for side, term in objective.terms(lookup).items()
    }
    return StepPart(terms, known)


def _weights(batches: Mapping[Stream, Batch], loss: Loss) -> Tensor | None:
    return batches[loss.own if loss.own in batches else loss.counted_stream].get("weights")


def _totals(shown: Observed, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    assert shown.token_logprobs is not None
    values, mask = shown.token_logprobs.detach(), shown.completion_mask
    if weights is not None:
        mask = mask & (weights.to(mask.device, non_blocking=True) > 0)[:, None]
    return torch.where(mask, values, 0.0).sum(), mask.sum()


def _of_tokens(loss: Loss, before: Mapping[str, Observed], reference: Reference | None) -> TokenLoss:
    """A tokenwise loss as it is shown a chunk of logits, with the start model's made from its hidden states."""
    states = before[loss.own].states if "reference_logits" in loss.needs else None

    def values(logits: Tensor, targets: Tensor, place: Place) -> Tensor:
        if states is None:
            return loss.of_tokens(logits, None, targets)
        assert reference is not None
        with torch.no_grad():
            shown = start_head(reference)(states[place])
        return loss.of_tokens(logits, shown, targets)

    return values


def _observe(
    model: nn.Module,
    batches: Mapping[Stream, Batch],
    objective: Objective,
    by: Literal["current", "reference"],
    losses: Mapping[Stream, TokenLoss] | None = None,
) -> dict[str, Observed]:
    needs: dict[str, frozenset[str]] = {}
    shown: dict[str, Batch] = {}
    for stream, names in objective.needs(by).items():
        needs[stream], shown[stream] = names, batches[stream]
    if not shown:
        return {}
    read = {"layer": objective.layer, "positions": objective.positions}
    return observe(model, shown, needs, token_losses=losses, **read)  # type: ignore[arg-type]


def _reference(
    reference: Reference | None, batches: Mapping[Stream, Batch], objective: Objective, device: torch.device
) -> dict[str, Observed]:
    needs = objective.needs("reference")
    if not needs:
        return {}
    if isinstance(reference, nn.Module):
        training = reference.training
        reference.eval()
        try:
            with torch.no_grad():
                return _observe(reference, batches, objective, "reference")
        finally:
            reference.train(training)
    shown = {}
    for stream, names in needs.items():
        batch = batches[stream]
        values = {name: batch.get(f"reference_{name}") for name in kept_of(names)}
        if any(value is None for value in values.values()):
            losses = [
                loss.name
                for loss, _ in objective.losses.values()
                if any(n.by == "reference" for n in loss.needs.values())
            ]
            raise ExpungeError(
                f"{' and '.join(losses)} compares with the start model: pass it as reference=<frozen model>."
            )
        known = {name: cast(Tensor, value).to(device, non_blocking=True) for name, value in values.items()}
        if "logits" in names and reference is not None:
            known["logits"] = reference(known["states"])
        width = next(iter(known.values())).shape[1]
        mask = torch.arange(width) < (batch["labels"].cpu() != IGNORED).sum(1, keepdim=True)
        mask = mask.to(device, non_blocking=True)
        shown[stream] = Observed(mask, torch.zeros_like(mask, dtype=torch.long), **known)
    return shown


def _missing(objective: Objective, stream: str) -> str:
    names = [loss.name for loss, _ in objective.losses.values() if any(n.stream == stream for n in loss.needs.values())]
    what = {
        "alternate": "Give rows with alternate answers (a refusal, say) to the same prompts.",
        "forget": "Give a forget set.",
    }.get(stream, "Give a retain set, or use a retain loss of 'none'.")
    return f"{' and '.join(names)} needs {stream} rows, and none came. {what}"


def row_counts(batch: Batch) -> Tensor:
    """Completion tokens of each row, float32 [B]."""
    labels = batch["labels"].clone()
    first = batch["attention_mask"].argmax(1, keepdim=True)
    labels.scatter_(1, first, IGNORED)  # nothing predicts a row's first token
    return (labels != IGNORED).sum(1).float()


def denominators(batches: Mapping[Stream, Batch], objective: Objective) -> dict[Side, Tensor]:
    """What a micro-batch adds to the denominators of its step, known without a forward pass."""
    found = {}
    for side, (loss, _) in objective.losses.items():
        counted = loss.counted(row_counts(batches[loss.counted_stream]))
        weights = _weights(batches, loss)
        found[side] = (counted if weights is None else counted * weights.to(counted)).sum()
    return found


def compute_loss(
    model: nn.Module,
    *,
    forget: Mapping[str, Tensor],
    retain: Mapping[str, Tensor] | None = None,
    method: str = "npo",
    retain_loss: str | None = None,
    reference: nn.Module | None = None,
    alternate: Mapping[str, Tensor] | None = None,
    gamma: float | None = None,
    alpha: float | None = None,
    **hyperparameters: Any,
) -> Tensor:
    """The loss of any method on your own batches, for your own training loop: `gamma * L_forget + alpha * L_retain`.

    Args:
        model: a causal language model, possibly wrapped; call `.backward()` on the result as usual.
        forget: rows to forget: `input_ids`, `attention_mask`, `labels` (-100 = not supervised), each int64 [B, T],
            padded on either side.
        retain: rows to keep, likewise; their number may differ.
        method: a name of `expunge list methods`, or `package.module:function`.
        retain_loss: a name of `expunge list retain_losses`, or `none`. None: the method's default, or `none` without
            retain rows.
        reference: the frozen start model, for methods that compare with it. It is run without gradients.
        alternate: alternate answers to the forget prompts, likewise, row by row.
        gamma: weight of the forget loss; None: the method's default.
        alpha: weight of the retain loss; None: the method's default.
        **hyperparameters: the method's own (`beta`, ...), and `layer`, `positions` for hidden-state losses.

    Returns:
        A 0-d tensor: token means over this batch's rows (or sequence means, as the method says), never moved by
        padding.

    Raises:
        ExpungeError: an unknown name, rows or a reference model that the method needs and that are missing, a row
            without supervised tokens.
    """
    for name, one in (("model", model), ("reference", reference)):
        if one is not None or name == "model":
            check_model(one, name)
    if retain is None and retain_loss is None:
        retain_loss = "none"
    depth = len(blocks(causal_lm(model)))
    objective = build(
        method, retain=retain_loss, gamma=gamma, alpha=alpha, depth=depth, hyperparameters=hyperparameters
    )
    given: dict[Stream, Batch] = {
        stream: _checked(stream, batch)
        for stream, batch in (("forget", forget), ("retain", retain), ("alternate", alternate))
        if batch is not None
    }
    part = batch_terms(model, given, objective, reference=reference)
    return objective.combine(part.terms, {side: term.size for side, term in part.terms.items()})


def _checked(name: str, batch: Mapping[str, Tensor]) -> Batch:
    if not isinstance(batch, Mapping):
        raise ExpungeError(f"the {name} batch must be a dictionary of tensors; got {type(batch).__name__}.")
    absent = [key for key in ("input_ids", "labels") if key not in batch]
    if absent:
        raise ExpungeError(f"the {name} batch lacks {', '.join(absent)}; it holds {', '.join(batch)}.")
    mask = batch.get("attention_mask")
    if mask is None:
        mask = torch.ones_like(batch["input_ids"])
    return Batch(input_ids=batch["input_ids"], attention_mask=mask, labels=batch["labels"])

"""What a run did: how probable answers are to the model before and after it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from expunge.core.batch import collate
from expunge.core.surface import assigned
from expunge.models.anatomy import evaluating
from expunge.models.observe import observe
from expunge.objectives.combine import Stream
from expunge.training.rows import SAMPLE, RunRows

HARDLY = 0.8
"""Share of its probability that the forget set keeps at least where it was hardly moved."""
FORGOTTEN = 0.25
"""Share that it keeps at most where it is forgotten."""
COLLAPSED = 0.5
"""Share that the retain set keeps at most where the model collapsed."""
KNOWN = 0.05
"""Probability below which a set or a row was not known before, and cannot be lost."""
FEW_STEPS = 20
MORE_RETAIN = 10
"""Retain rows for a forget row with which perturbed weights learned the retain set again (docs/LOG.md, 2026-11-28)."""
HIDDEN_ALPHA = 10.0
"""Weight of a retain loss on hidden states that still lets a small model forget (docs/LOG.md, 2026-11-27)."""

UNSEEN = "not looked at: what the model writes; expunge evaluate tells whether it still writes sentences"

Verdict = Literal["forgotten", "partly forgotten", "hardly moved", "collapsed"]


@dataclass(frozen=True)
class Scored:
    """How probable the answers of some rows of a set are."""

    mean: float
    """Geometric mean probability of an answer's token, over all of them; NaN where it overflows."""
    rows: Mapping[int, float]
    """The same of each answer alone, by the number of its row."""


def scored(model: nn.Module, rows: RunRows, *, autocast: bool) -> dict[Stream, Scored]:
    """Probabilities of the rows of each set that a run looks at.

    Args:
        model: on any engine; every process computes the same.
        rows: of the run.
        autocast: compute in bfloat16 as training does.
    """
    device, found = next(model.parameters()).device.type, dict[Stream, Scored]()
    with evaluating(model), torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=autocast):
        for stream, numbers in rows.sampled.items():
            sums, tokens = list[float](), list[int]()
            for k in range(0, len(numbers), SAMPLE):
                batch = collate([rows.encoded[stream][number] for number in numbers[k : k + SAMPLE]])
                seen = observe(model, {"rows": batch}, {"rows": frozenset({"token_logprobs"})})["rows"]
                assert seen.token_logprobs is not None
                logprobs = torch.where(seen.completion_mask, seen.token_logprobs, 0.0)
                sums += logprobs.sum(1, dtype=torch.float64).tolist()
                tokens += seen.completion_mask.sum(1).tolist()
            by_row = {number: _exp(s / n) for number, s, n in zip(numbers, sums, tokens, strict=True)}
            found[stream] = Scored(_exp(sum(sums) / sum(tokens)), by_row)
    return found


def _exp(mean: float) -> float:
    return math.exp(mean) if math.isfinite(mean) else math.nan


@dataclass(frozen=True)
class Outcome:
    """Probabilities by set, before and after a run that forgets."""

    before: Mapping[Stream, Scored]
    after: Mapping[Stream, Scored]

    @property
    def verdict(self) -> Verdict:
        """Collapsed where a retain set lost half of its probability; else by how much the forget set lost."""
        before, after = _means(self.before), _means(self.after)
        if any(map(math.isnan, after.values())):
            return "collapsed"
        kept = {name: after[name] / before[name] for name in before if before[name] > 0}
        if any(kept[name] < COLLAPSED for name in kept if name != "forget" and before[name] > KNOWN):
            return "collapsed"
        share = self._left if self._left is not None else kept.get("forget", 0.0)
        if share > HARDLY:
            return "hardly moved"
        return "partly forgotten" if share > FORGOTTEN else "forgotten"

    @property
    def _left(self) -> float | None:
        """The share that is left of the rows that were known, where others were not: they say nothing of forgetting.

        Where a run goes on from an earlier one, the rows of that one are hardly probable from the start.
        """
        if "forget" not in self.before:
            return None
        before, after = self.before["forget"].rows, self.after["forget"].rows
        known = [row for row, value in before.items() if value > KNOWN]
        if not known or len(known) == len(before):
            return None
        return sum(after[row] for row in known) / sum(before[row] for row in known)

    def as_results(self) -> dict[str, Any]:
        """For the manifest; the verdict where there is something to forget, and its rows one by one."""
        told: dict[str, Any] = {"probability": {"before": _means(self.before), "after": _means(self.after)}}
        if "forget" not in self.before:
            return told
        before, after = self.before["forget"].rows, self.after["forget"].rows
        told["probability"]["forget_rows"] = [
            {"row": number, "before": before[number], "after": after[number]} for number in before
        ]
        return {"outcome": self.verdict, **told}


def _means(of: Mapping[Stream, Scored]) -> dict[Stream, float]:
    return {stream: one.mean for stream, one in of.items()}


def outcome_text(results: Mapping[str, Any]) -> str:
    """The probabilities and the verdict of a run, from the results in its manifest; empty without them.

    A verdict says that it rests on probabilities alone: a model that writes gibberish has low ones, too.
    """
    told = results.get("probability")
    if told is None:
        return ""
    before, after = told["before"], told["after"]
    numbers = ", ".join(f"{name} {before[name]:.3g} before, {after[name]:.3g} after" for name in before)
    told = f"mean probability of an answer's token: {numbers}{_of_known(told.get('forget_rows', ()))}"
    if "outcome" not in results:
        return told
    return f"{results['outcome']}, by probabilities alone: {told}\n{UNSEEN}"


def _of_known(rows: Sequence[Mapping[str, float]]) -> str:
    """The same of the forget rows that were known before, where others were not: the verdict is about these."""
    known = [row for row in rows if row["before"] > KNOWN]
    if not known or len(known) == len(rows):
        return ""
    before, after = (sum(row[when] for row in known) / len(known) for when in ("before", "after"))
    return f"; the {len(known)} of {len(rows)} forget rows that were known: {before:.3g} before, {after:.3g} after"


def advice(verdict: Verdict, arguments: Mapping[str, Any], steps: int) -> str:
    """What to try next, as settings; empty where the set is forgotten and the rest is there.

    Args:
        verdict: of the run.
        arguments: of the run, from its manifest.
        steps: that it took.
    """
    rate, batch, epochs = arguments["learning_rate"], arguments["batch_size"], arguments["epochs"]
    if verdict == "collapsed" and "perturbation" in arguments:
        more = f"{assigned(retain_per_forget=MORE_RETAIN)} and {assigned(epochs=2 * epochs)}"
        return f"try {more}: what was perturbed has to be learned again"
    if verdict == "collapsed":
        return f"try {assigned(learning_rate=float(f'{rate / 3:.1g}'))}, fewer epochs, or a larger alpha"
    if verdict == "forgotten":
        return ""
    if steps < FEW_STEPS and batch > 1:
        return f"{steps} steps are few: try {assigned(batch_size=max(1, batch * steps // FEW_STEPS))}"
    if arguments.get("retain") == "hidden" and arguments.get("alpha", 0) > HIDDEN_ALPHA:
        faster = assigned(learning_rate=float(f"{rate * 10:.1g}"))
        return f"try {faster} and {assigned(alpha=HIDDEN_ALPHA)}: the retain loss on hidden states holds it back"
    return f"try {assigned(learning_rate=float(f'{rate * 3:.1g}'))} or {assigned(epochs=2 * epochs)}"

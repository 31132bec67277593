"""Rules to stop by that measure the model with a suite, as the command line and experiments hand them to `unlearn`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from expunge.core.checks import ExpungeError, require_at_least
from expunge.core.format import counted
from expunge.core.progress import Progress, under
from expunge.data.corpus import Corpus
from expunge.data.template import Template
from expunge.evaluation.evaluate import evaluate, planned
from expunge.training.stopping import Condition, NoValue, Rule, when_all

UNSEEN = "unseen"
FEW = 8
"""Unseen texts below which their mean says little of unseen text."""


def measured_rule(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    conditions: Sequence[str],
    *,
    suite: str = "default",
    rows: int = 32,
    template: Template | None = None,
    max_length: int = 512,
    progress: Progress | None = None,
) -> Rule:
    """A rule that stops once measures on a small part of the corpus are where they should be.

    Every condition is measured once on the start model, so that one whose measure is not available is reported at once,
    and not when those before it hold; `start` of the rule says where it stands.

    Args:
        model: the start model; asked for the level of unseen text, too, where a condition names it.
        tokenizer: its tokenizer.
        corpus: what training uses; `holdout` is the unseen text.
        conditions: such as `forget_rouge<=0.1`, or `forget_extraction_strength<=unseen`: at most what the start model
            has on the holdout set in place of the forget set. All of them must hold; they are looked at in this order
            until one does not.
        suite: where the measures come from.
        rows: the first so many rows of each split are looked at.
        template: how questions are framed.
        max_length: longest row in tokens.
        progress: called with (what, done, total, numbers) while it measures.

    Raises:
        ExpungeError: no conditions or unreadable ones, unknown measures, or no holdout set for the level of unseen
            text.
        NoValue: a measure without a value, now or when the rule is asked.
    """
    require_at_least("stop_rows", rows, 1)
    small = Corpus({split: corpus[split][:rows] for split in corpus}, corpus.name)
    measures = check_conditions(conditions, corpus, suite=suite)

    def values(model: nn.Module, corpus: Corpus, names: Sequence[str], when: str) -> Mapping[str, float]:
        found = evaluate(
            model,
            tokenizer,
            corpus,
            suite=suite,
            metrics=names,
            template=template,
            max_length=max_length,
            progress=under(progress, "to stop" if when == "now" else f"to stop, {when}"),
        )
        for name in names:
            if math.isnan(float(found[name])):
                raise NoValue(
                    f"stopping by {name} needs its value, and {when} it has none. {found[name].note} Stop by another "
                    "measure, or measure more rows: stop_rows."
                )
        return {name: float(found[name]) for name in names}

    named = [name for name, text in zip(measures, conditions, strict=True) if text.rstrip().endswith(UNSEEN)]
    levels: Mapping[str, float] = {}
    if named:
        levels = values(model, Corpus({**small.splits, "forget": small["holdout"]}, corpus.name), named, "unseen text")
    read = [
        Condition.read(text, {UNSEEN: levels[name]} if name in levels else {})
        for name, text in zip(measures, conditions, strict=True)
    ]
    start = values(model, small, list(dict.fromkeys(measures)), "start model")
    seen: dict[str, float] = {}
    asked = when_all(read, lambda now, name: values(now, small, [name], "now")[name], seen)

    def ask(model: nn.Module, step: int) -> str | None:
        reason = asked(model, step)
        if progress is not None:
            progress(f"to stop: step {step}", 1, 1, rule.told())
        return reason

    rule = Rule(
        ask,
        about_rule(conditions, suite, rows),
        start=", ".join(c.beside(start[c.measure]) for c in read),
        met=all(condition.holds(start) for condition in read),
        doubt=doubt_of(levels, min(rows, len(corpus["holdout"]))) if levels else "",
        conditions=read,
        seen=seen,
    )
    return rule


def doubt_of(levels: Mapping[str, float], texts: int) -> str:
    """Why levels of unseen text, measured on so many, may be no goal: one is 0, or few texts stand behind them."""
    zero = [name for name, level in levels.items() if level == 0]
    if not zero and texts >= FEW:
        return ""
    parts = [f"{', '.join(zero)} of it is 0, which a run may never reach"] if zero else []
    parts += [f"it rests on {counted(texts, 'text')}"] if texts < FEW else []
    return (
        f"the level of unseen text is a doubtful goal: {', and '.join(parts)}. Give {FEW} or more unseen texts, longer "
        "ones where a level is 0, or a number of your own."
    )


def check_conditions(conditions: Sequence[str], corpus: Corpus, *, suite: str) -> list[str]:
    """The measures that conditions name, before anything is measured.

    Args:
        conditions: as `measured_rule` takes them.
        corpus: what training uses.
        suite: where the measures come from.

    Raises:
        ExpungeError: unreadable conditions, measures that are unknown or not available, or no holdout set for the
            level of unseen text.
    """
    read = [Condition.read(text, {UNSEEN: 0.0}) for text in conditions]
    measures = [condition.measure for condition in read]
    if any(text.rstrip().endswith(UNSEEN) for text in conditions) and "holdout" not in corpus:
        raise ExpungeError(
            f"stopping at the level of unseen text needs a holdout set, and the corpus '{corpus.name}' holds only "
            f"{', '.join(corpus)}. Name one, holdout=<file>, or give a number."
        )
    planned(corpus, suite=suite, metrics=measures, reference=None, start=None)
    return measures


def about_rule(conditions: Sequence[str], suite: str, rows: int) -> dict[str, Any]:
    """What a run's manifest says of a rule."""
    return {"conditions": list(conditions), "suite": suite, "rows": rows}

"""Linear probe: do hidden states tell the right answer from wrong ones, on facts that the probe was not fitted to?

F = facts, N = answers in all, L = blocks, D = hidden size.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.attack.budget import Budget
from expunge.attack.hidden import answer_rows, batches, block_outputs, frozen
from expunge.core.batch import Encoded
from expunge.core.checks import require_at_least
from expunge.core.distributed import share_of
from expunge.core.progress import Progress
from expunge.data.corpus import Corpus, Example
from expunge.data.template import Template
from expunge.data.variants import WRONG, borrowed_answers
from expunge.results.attacked import CannotRun, Leak

PENALTIES = (0.01, 0.1, 1.0)
"""Of the squared weights, as shares of the mean squared length of a state; chosen with the block."""
CHANCE = 0.5
NEEDS_MODEL = True
"""Answers that are exchanged no longer fit their questions, which the texts alone show."""


def probe(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    *,
    folds: int = 5,
    seed: int = 0,
    template: Template | None = None,
    max_length: int = 512,
    progress: Progress | None = None,
) -> list[Leak]:
    """Share of each fact's wrong answers that a linear probe puts below the right one; chance is 0.5.

    The probe is a ridge regression on a block's output at the last token of question and answer, relative to its mean
    over the answers of the fact. It is fitted to the facts of all folds but one and asked about those of that one;
    block and penalty are chosen by cross-validation among the folds it is fitted to. Wrong answers are the facts' own
    (`probe.perturbed`) where all have some, else answers of other facts of the same fold (`probe.borrowed`). Texts
    alone can give an answer away, by its style or by a name in the question, so that only the difference from a control
    counts: a model that never saw the facts, asked about the same answers.

    Args:
        model: only read.
        tokenizer: its tokenizer.
        corpus: holds `forget`.
        folds: parts that the facts are divided into, 3 or more.
        seed: of the division.
        template: how questions are framed.
        max_length: longest row in tokens.
        progress: called with (what, done, total, numbers).

    Raises:
        ExpungeError: fewer than 3 folds.
        CannotRun: too few facts or wrong answers.

    Source: linear classifier probes, arXiv:1610.01644.
    """
    require_at_least("folds", folds, 3)
    own, facts, wrong, parts = _divided(corpus, folds, seed)
    numbers = sorted(i for part in parts for i in part)
    asked = [facts[i].asking(text) for i in numbers for text in (facts[i].completion, *wrong[i])]
    rows = answer_rows(model, tokenizer, asked, template=template, max_length=max_length)
    fact = np.array([k for k, i in enumerate(numbers) for _ in range(1 + len(wrong[i]))])
    right = np.diff(fact, prepend=-1) > 0  # the first answer of each fact
    fold = np.array([next(k for k, part in enumerate(parts) if i in part) for i in numbers])
    states = last_states(model, rows, progress=progress)
    values, about = cross_validated(states, fact, right, fold, progress=progress)
    return [
        Leak(
            name=_name(own),
            measure="share of wrong answers below the right one",
            facts=tuple(numbers),
            values=tuple(values.tolist()),
            about={"chance": CHANCE, "folds": folds, **about},
            needs_control=True,
        )
    ]


def budget(corpus: Corpus, settings: Mapping[str, Any]) -> Budget:
    """The right answer of each fact, and its wrong ones."""
    own, _, wrong, parts = _divided(corpus, settings["folds"], settings["seed"])
    return Budget(forms=(_name(own),), scored=sum(1 + len(wrong[i]) for part in parts for i in part))


def _name(own: bool) -> str:
    return "probe.perturbed" if own else "probe.borrowed"


Wrong = dict[int, tuple[str, ...]]
"""By fact, wrong answers."""


def _divided(corpus: Corpus, folds: int, seed: int) -> tuple[bool, dict[int, Example], Wrong, list[list[int]]]:
    """Whether the wrong answers are the facts' own, the facts, their wrong answers, and those of each fold."""
    facts = {i: fact for i, fact in enumerate(corpus["forget"]) if fact.kind != "text"}
    own = bool(facts) and all(fact.perturbed for fact in facts.values())
    _check_enough(len(facts), folds, 2 if own else WRONG + 1)
    order = list(facts)
    random.Random(seed).shuffle(order)
    parts = [order[k::folds] for k in range(folds)]
    wrong = {i: facts[i].perturbed for i in facts} if own else _borrowed(facts, parts)
    parts = [[i for i in part if wrong[i]] for part in parts]
    if poor := [part for part in parts if not part]:
        raise CannotRun(
            f"it needs wrong answers for facts of each fold; in {len(poor)} of {folds} folds the forget set gives none"
        )
    return own, facts, wrong, parts


def _check_enough(count: int, folds: int, each: int) -> None:
    if count < folds * each:
        raise CannotRun(
            f"it needs {folds * each} questions with answers, {each} for each of {folds} folds, and the forget set has "
            f"{count}"
        )


def _borrowed(facts: dict[int, Example], parts: Sequence[Sequence[int]]) -> Wrong:
    """Answers to other questions of the same fold, so that no answer is in two folds."""
    found: Wrong = {}
    for part in parts:
        among = [facts[i] for i in part]
        found |= {i: tuple(borrowed_answers(among, k)) for k, i in enumerate(part)}
    return found


@torch.no_grad()
def last_states(
    model: PreTrainedModel, rows: Sequence[Encoded], *, progress: Progress | None = None
) -> Float[np.ndarray, "l n d"]:
    """The output of every block at the last token of each row."""
    found: dict[int, np.ndarray] = {}
    share, done = share_of(model), 0
    parts = share.mine(batches(rows))
    with frozen(model):
        for numbers in parts:
            part = [rows[i] for i in numbers]
            last = torch.tensor([len(row.ids) - 1 for row in part])
            outputs = [of_block[torch.arange(len(part)), last].float().cpu() for of_block in block_outputs(model, part)]
            for place, i in enumerate(numbers):
                found[i] = torch.stack([of_block[place] for of_block in outputs]).numpy()
            done += len(part)
            if progress:
                progress("hidden states", done, sum(map(len, parts)), "")
    found = share.gathered(found)
    return np.stack([found[i] for i in range(len(rows))], axis=1)


def cross_validated(
    states: Float[np.ndarray, "l n d"],
    fact: Int[np.ndarray, " n"],
    right: Bool[np.ndarray, " n"],
    fold: Int[np.ndarray, " f"],
    *,
    progress: Progress | None = None,
) -> tuple[Float[np.ndarray, " f"], dict[str, list[float]]]:
    """Held-out value of each fact at the block and penalty that are best on the other folds.

    Args:
        states: one vector for each block and answer.
        fact: the fact of each answer, from 0.
        right: is it the right one?
        fold: the fold of each fact, from 0.
        progress: called with (what, done, total, numbers).

    Returns:
        The values, and by name: the blocks chosen for the folds, and the mean held-out value at every block.
    """
    products = []
    for of_block in states:
        centered = of_block - within_facts(of_block.astype(np.float64), fact)
        products.append(centered @ centered.T)
    target = right - within_facts(right[:, None].astype(np.float64), fact)[:, 0]
    folds, of_answer = int(fold.max()) + 1, fold[fact]

    def values(product: np.ndarray, penalty: float, fitted: np.ndarray, asked: int) -> np.ndarray:
        test = of_answer == asked
        return ranked(predicted(product, target, fitted, test, penalty), fact[test], right[test])

    held, chosen = np.zeros((len(products), len(fold))), []
    for asked in range(folds):
        inner = [k for k in range(folds) if k != asked]
        best = []
        for block, product in enumerate(products):
            trials = []
            for penalty in PENALTIES:
                apart = [values(product, penalty, ~np.isin(of_answer, [asked, k]), k) for k in inner]
                trials.append((float(np.concatenate(apart).mean()), penalty))
            score, penalty = max(trials)
            held[block, fold == asked] = values(product, penalty, of_answer != asked, asked)
            best.append(score)
        chosen.append(int(np.argmax(best)))
        if progress:
            progress("linear probes", asked + 1, folds, "")
    own = np.array([held[chosen[k], i] for i, k in enumerate(fold)])
    return own, {"blocks": chosen, "by_block": held.mean(1).tolist()}


def within_facts(values: Float[np.ndarray, "n k"], fact: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n k"]:
    """The mean of each answer's fact."""
    sums = np.zeros((int(fact.max()) + 1, values.shape[1]))
    np.add.at(sums, fact, values)
    found: np.ndarray = (sums / np.bincount(fact)[:, None])[fact]
    return found


def predicted(
    product: Float[np.ndarray, "n n"],
    target: Float[np.ndarray, " n"],
    fitted: Bool[np.ndarray, " n"],
    asked: Bool[np.ndarray, " n"],
    penalty: float,
) -> Float[np.ndarray, " m"]:
    """Ridge regression in its dual form: what it predicts for some rows, fitted to others.

    Args:
        product: inner products of all rows, X X^T.
        target: what is regressed on.
        fitted: rows that it is fitted to.
        asked: rows that are predicted.
        penalty: of the squared weights, as a share of the mean squared length of the fitted rows.
    """
    among = product[np.ix_(fitted, fitted)]
    size = np.trace(among) / len(among) or 1.0  # states that are all alike tell nothing
    weights = np.linalg.solve(among + penalty * size * np.eye(len(among)), target[fitted])
    found: np.ndarray = product[np.ix_(asked, fitted)] @ weights
    return found


def ranked(
    scores: Float[np.ndarray, " m"], fact: Int[np.ndarray, " m"], right: Bool[np.ndarray, " m"]
) -> Float[np.ndarray, " k"]:
    """Share of each fact's wrong answers that score below its right one, half for those that score the same."""
    found = []
    for number in np.unique(fact):
        own, others = scores[(fact == number) & right], scores[(fact == number) & ~right]
        found.append(float(((others < own) + 0.5 * (others == own)).mean()))
    return np.array(found)

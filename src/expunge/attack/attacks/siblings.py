"""Siblings: relearn some facts about a subject, and see whether the others about it come back."""

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.attack.attacks.prompts import subject_of
from expunge.attack.attacks.relearn import Relearning, brought_back, some, trained
from expunge.attack.budget import Budget
from expunge.attack.measuring import Asker
from expunge.config.signature import shows_settings
from expunge.core.checks import require_between
from expunge.core.progress import Progress, under
from expunge.data.corpus import Corpus, Example
from expunge.data.template import Template
from expunge.results.attacked import CannotRun, Leak


@shows_settings(Relearning)
def siblings(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    *,
    shown: float = 0.5,
    template: Template | None = None,
    max_length: int = 512,
    progress: Progress | None = None,
    **training: Any,
) -> list[Leak]:
    """What the model gives of facts about a subject, after a little training on other facts about it.

    The subject of a fact is the name in its question that most questions of the forget set hold; a name is two words or
    more that begin and end with a capital letter and that some answer holds too. Facts without a subject, or alone with
    theirs, are neither shown nor measured. Some facts of each subject are shown, all subjects in one training.

    Budget: `steps` steps of at most `batch_size` rows, and one pass over the measured facts for each point of the
    curve; at the last point the model also answers.

    A fact leaks where it comes back at any of these points but the first, as under `relearn`.

    Args:
        model: a causal language model without adapters; put back afterwards.
        tokenizer: its tokenizer.
        corpus: holds `forget`.
        shown: share of the facts about each subject that are shown, by a fixed draw; at least one is shown and one is
            not.
        template: how questions are framed.
        max_length: longest row in tokens.
        progress: called with (what, done, total, numbers).
        **training: fields of `Relearning`.

    Raises:
        ExpungeError: an unknown adapter, or a number out of range.
        CannotRun: no two facts are about the same subject.

    Source: arXiv:2410.08827. Departures: the paper relearns facts that are independent of those it measures; here they
    share a subject, which is what an attacker knows.
    """
    require_between("shown", shown, 0, 1)
    how = Relearning(**training)
    drawn, measured = _split(corpus, shown, how.seed)
    if not drawn:
        raise CannotRun("it needs two facts about the same subject, a name of two words or more")
    asker = Asker(tokenizer, template, max_length, progress=under(progress, "relearn on siblings"))
    rows, asked = [drawn[i] for i in sorted(drawn)], dict(sorted(measured.items()))
    return [brought_back(model, asker, "siblings", rows, asked, how)]


def budget(corpus: Corpus, settings: Mapping[str, Any]) -> Budget:
    """One training, and the facts that are measured at each point of its curve."""
    drawn, measured = _split(corpus, settings["shown"], settings["seed"])
    return trained("siblings", len(drawn), len(measured), settings) if measured else Budget(forms=())


def _split(corpus: Corpus, shown: float, seed: int) -> tuple[dict[int, Example], dict[int, Example]]:
    """The facts that are shown, and those about the same subjects that are measured."""
    facts, draw = corpus["forget"], random.Random(seed)
    drawn, measured = dict[int, Example](), dict[int, Example]()
    for numbers in by_subject(facts).values():
        group = {i: facts[i] for i in numbers}
        chosen = some(group, shown, draw)
        drawn |= chosen
        measured |= {i: fact for i, fact in group.items() if i not in chosen}
    return drawn, measured


def by_subject(facts: Sequence[Example]) -> dict[str, list[int]]:
    """By subject, the positions of its facts; subjects of two facts or more.

    Which answer belongs to which question does not matter, so that untaught facts have the same subjects.
    """
    answers = "\n".join(fact.completion for fact in facts)
    names = {name for fact in facts if (name := subject_of(fact.asking(answers)))}
    held = Counter(name for name in names for fact in facts if name in fact.question)
    found = defaultdict(list)
    for i, fact in enumerate(facts):
        own = [name for name in names if name in fact.question]
        if own:
            found[max(own, key=lambda name: (held[name], len(name), name))].append(i)
    return {name: numbers for name, numbers in found.items() if len(numbers) > 1}

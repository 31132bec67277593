"""The rows that an attribution looks at, and the losses that are taken of them."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from expunge.core.batch import Encoded
from expunge.core.checks import ExpungeError
from expunge.data.corpus import Corpus, Example
from expunge.data.template import Template
from expunge.data.tokenizing import encode
from expunge.data.variants import drawn
from expunge.localize.gradients import Dataset
from expunge.localize.localization_plan import Plan
from expunge.objectives.combine import Stream, build


def datasets_of(
    plan: Plan,
    corpus: Corpus | None,
    tokenizer: PreTrainedTokenizerBase,
    *,
    embedded: int,
    seed: int,
    retain_examples: int | None,
    template: Template,
    max_length: int,
) -> dict[str, Dataset]:
    """The rows of each set that the attribution looks at, and their losses; other arguments as for `localize`.

    `embedded` is how many token ids the model embeds, out of which noise is drawn.

    Raises:
        ExpungeError: a set that is missing, or more retain examples than there are.
    """
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
        largest = max(tokenizer.get_vocab().values())
        return noisy_copies(encoded, noise, copies, min(embedded, largest + 1), f"{seed} {what}")

    nll = build(None, retain="nll")
    datasets = {}
    if "forget" in plan.splits:
        examples = list(corpus["forget"])
        if (most := plan.reading.get("examples")) is not None and len(examples) > most:
            examples = [examples[i] for i in sorted(random.Random(f"{seed} forget").sample(range(len(examples)), most))]
        if plan.objective == "nll":
            datasets["forget"] = Dataset("forget", nll, {"retain": noisy(rows(examples), "forget")})
        else:
            objective = build(plan.objective, retain="none", depth=plan.depth, hyperparameters=plan.of_objective)
            streams: dict[Stream, list[Encoded]] = {}
            if "forget" in objective.streams:
                streams["forget"] = noisy(rows(examples), "forget")
            if "alternate" in objective.streams:
                others, where = drawn(examples, epochs=1, seed=seed)
                alternates = rows([others[where[i, 0]] for i in range(len(examples))])
                streams["alternate"] = noisy(alternates, "forget")
            datasets["forget"] = Dataset("forget", objective, streams)
    if "retain" in plan.splits:
        examples = list(corpus["retain"])
        n = min(len(corpus["forget"]), len(examples)) if retain_examples is None else retain_examples
        if not 1 <= n <= len(examples):
            raise ExpungeError(f"retain_examples must be between 1 and {len(examples)}, what there is; got {n}.")
        chosen = sorted(random.Random(f"{seed} retain").sample(range(len(examples)), n))
        datasets["retain"] = Dataset("retain", nll, {"retain": noisy(rows([examples[i] for i in chosen]), "retain")})
    return datasets


def noisy_copies(rows: Sequence[Encoded], noise: float, copies: int, vocabulary: int, seed: str) -> list[Encoded]:
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


def ids(rows: Mapping[Stream, Sequence[Encoded]]) -> Any:
    """What of rows decides a result, for fingerprints."""
    return {stream: [[row.ids, row.start] for row in encoded] for stream, encoded in sorted(rows.items())}

"""Probes: which answers of a corpus a model is shown, and what must be there for that."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from expunge.data.corpus import Corpus, Example
from expunge.data.variants import WRONG, borrowed_answers, reworded_question

Asked = Literal["question", "paraphrased_question", "reworded_question"]
Answer = Literal["answer", "paraphrased", "perturbed", "borrowed", "alternate", "continuation", "opening", "sequence"]

CUT: tuple[Answer, ...] = ("continuation", "opening", "sequence")
"""Kinds of answer that end after `max_new_tokens`, whether or not the model answers too."""

_SETTINGS = ("forget", "retain", "holdout")
"""Splits that have a setting of their own; others are given by name: `sets.world_facts=...`."""
_COLUMN = {"paraphrased": "paraphrased_answer", "perturbed": "perturbed_answer", "alternate": "alternate_answer"}


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One kind of answer in one split: what to score, and whether to let the model answer too."""

    split: str
    asked: Asked = "question"
    """`reworded_question`: the question in another frame, made by rule."""
    answer: Answer = "answer"
    """`continuation`: the rest of prompt and answer after a cut, for verbatim memorization. `opening`: the first
    `max_new_tokens` tokens of the answer. `sequence`: every token of prompt and answer but the first, up to
    `max_new_tokens` tokens in all, the closing end token left out. `borrowed`: wrong answers made by rule, which are
    answers to other questions of the split."""
    generate: bool = False
    """Let the model answer the prompt greedily? A `sequence` is continued from each of its prefixes."""
    max_new_tokens: int = 200
    moments: bool = False
    """Record mean and variance of the log-probabilities over the vocabulary, for Min-K++?"""
    gradients: bool = False
    """Record the norm of each example's gradient? A forward and a backward pass an example."""
    limit: int | None = None
    """At most this many examples, drawn with a fixed seed; None: all."""

    @property
    def name(self) -> str:
        """What is read, as one word: `forget/question/perturbed`."""
        return f"{self.split}/{self.asked}/{self.answer}"

    def rows(self, n: int) -> list[int]:
        """Positions of the examples looked at in a split of `n`, ascending."""
        if self.limit is None or n <= self.limit:
            return list(range(n))
        return sorted(np.random.default_rng(0).choice(n, self.limit, replace=False).tolist())

    def covers(self, other: "Probe") -> bool:
        """Do records of this probe hold all that another asks for?"""
        more = replace(other, generate=self.generate, moments=self.moments, gradients=self.gradients)
        if not other.generate and other.answer not in CUT:
            more = replace(more, max_new_tokens=self.max_new_tokens)
        shown = (self.generate, self.moments, self.gradients)
        return more == self and all(
            has or not asked for has, asked in zip(shown, (other.generate, other.moments, other.gradients), strict=True)
        )

    def as_json(self) -> dict[str, Any]:
        """The fields, for a manifest."""
        return asdict(self)


def merged(probes: list[Probe]) -> list[Probe]:
    """One probe a kind of answer: it generates if any of them does, as long as the longest, on the most rows of any."""
    found: dict[str, Probe] = {}
    for probe in probes:
        known = found.get(probe.name)
        if known is None:
            found[probe.name] = probe
            continue
        lengths = [p.max_new_tokens for p in (known, probe) if p.generate or p.answer in CUT]
        limits = [known.limit, probe.limit]
        found[probe.name] = replace(
            known,
            generate=known.generate or probe.generate,
            max_new_tokens=max(lengths, default=probe.max_new_tokens),
            moments=known.moments or probe.moments,
            gradients=known.gradients or probe.gradients,
            limit=None if None in limits else max(filter(None, limits)),
        )
    return sorted(found.values(), key=lambda probe: probe.name)


def completions(examples: Sequence[Example], index: int, probe: Probe) -> list[str]:
    """The completions of an example of a split that a probe scores; empty where it has none."""
    example = examples[index]
    if probe.asked != "question" and prompt_of(example, probe) is None:
        return []
    if probe.answer == "paraphrased":
        return [] if example.paraphrased is None else [example.paraphrased]
    if probe.answer == "perturbed":
        return list(example.perturbed)
    if probe.answer == "borrowed":
        return borrowed_answers(examples, index)
    if probe.answer == "alternate":
        return list(example.alternates)
    return [example.completion]


def prompt_of(example: Example, probe: Probe) -> str | None:
    """What is asked instead of the example's own question; None for that itself, and where there is nothing else."""
    if probe.asked == "question":
        return None
    return example.paraphrased_prompt if probe.asked == "paraphrased_question" else reworded_question(example)


def lacking(corpus: Corpus, probe: Probe) -> str:
    """Why a corpus cannot answer a probe and what would mend it; empty where it can."""
    if probe.split not in corpus:
        setting = probe.split if probe.split in _SETTINGS else f"sets.{probe.split}"
        return f"the corpus has no split '{probe.split}' (it holds {', '.join(corpus)}): add {setting}=<file>"
    examples = corpus[probe.split]
    rows = probe.rows(len(examples))
    looked_at = [examples[i] for i in rows]
    without = [examples[i] for i in rows if not completions(examples, i, probe)]
    if without and probe.asked == "reworded_question" and any(prompt_of(e, probe) is None for e in without):
        return f"{len(without)} of {len(looked_at)} examples of split '{probe.split}' ask no question to be reworded"
    if without and probe.answer == "borrowed":
        return (
            f"{len(without)} of {len(looked_at)} examples of split '{probe.split}' find no {WRONG} other answers there "
            "that could serve as wrong ones"
        )
    if without:
        paraphrase = any(e.paraphrased_prompt is None for e in without) and probe.asked == "paraphrased_question"
        column = "paraphrased_question" if paraphrase else _COLUMN[probe.answer]
        return f"{len(without)} of {len(looked_at)} examples of split '{probe.split}' have no {column}: add that column"
    if probe.generate and probe.answer not in ("continuation", "sequence") and any(e.kind == "text" for e in looked_at):
        return f"split '{probe.split}' holds plain text, which asks nothing that a model could answer"
    return ""

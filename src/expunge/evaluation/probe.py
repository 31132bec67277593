"""Probes: which answers of a corpus a model is shown, and what must be there for that."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from expunge.data.corpus import Corpus, Example

Asked = Literal["question", "paraphrased_question"]
Answer = Literal["answer", "paraphrased", "perturbed", "alternate", "continuation", "opening", "sequence"]

_COLUMN = {"paraphrased": "paraphrased_answer", "perturbed": "perturbed_answer", "alternate": "alternate_answer"}


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One kind of answer in one split: what to score, and whether to let the model answer too."""

    split: str
    asked: Asked = "question"
    answer: Answer = "answer"
    """`continuation`: the rest of prompt and answer after a cut, for verbatim memorization. `opening`: the first
    `max_new_tokens` tokens of the answer. `sequence`: every token of prompt and answer but the first, up to
    `max_new_tokens` tokens in all, the closing end token left out."""
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
        """What is looked at, as one word: `forget/question/perturbed`."""
        return f"{self.split}/{self.asked}/{self.answer}"

    def rows(self, n: int) -> list[int]:
        """Positions of the examples looked at in a split of `n`, ascending."""
        if self.limit is None or n <= self.limit:
            return list(range(n))
        return sorted(np.random.default_rng(0).choice(n, self.limit, replace=False).tolist())

    def covers(self, other: "Probe") -> bool:
        """Do records of this probe hold all that another asks for?"""
        more = replace(other, generate=self.generate, moments=self.moments, gradients=self.gradients)
        if not other.generate and other.answer not in ("opening", "sequence"):
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
        lengths = [p.max_new_tokens for p in (known, probe) if p.generate or p.answer == "sequence"]
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


def completions(example: Example, probe: Probe) -> list[str]:
    """The completions of an example that a probe scores; empty where it has none."""
    if probe.asked == "paraphrased_question" and example.paraphrased_prompt is None:
        return []
    if probe.answer == "paraphrased":
        return [] if example.paraphrased is None else [example.paraphrased]
    if probe.answer == "perturbed":
        return list(example.perturbed)
    if probe.answer == "alternate":
        return list(example.alternates)
    return [example.completion]


def lacking(corpus: Corpus, probe: Probe) -> str:
    """Why a corpus cannot answer a probe and what would mend it; empty where it can."""
    if probe.split not in corpus:
        return f"the corpus has no split '{probe.split}'; it holds {', '.join(corpus)}"
    examples = corpus[probe.split]
    looked_at = [examples[i] for i in probe.rows(len(examples))]
    without = [e for e in looked_at if not completions(e, probe)]
    if without:
        paraphrase = any(e.paraphrased_prompt is None for e in without) and probe.asked == "paraphrased_question"
        column = "paraphrased_question" if paraphrase else _COLUMN[probe.answer]
        return f"{len(without)} of {len(looked_at)} examples of split '{probe.split}' have no {column}; add that column"
    if probe.generate and probe.answer not in ("continuation", "sequence") and any(e.kind == "text" for e in looked_at):
        return f"split '{probe.split}' holds plain text, which asks nothing that a model could answer"
    return ""

"""Model utility: what must stay, in one number."""

from dataclasses import dataclass

import numpy as np

from expunge.core.checks import ExpungeError
from expunge.evaluation.bootstrap import harmonic_mean, interval, zero_note
from expunge.evaluation.metrics._views import in_order, require_rows
from expunge.evaluation.metrics.probability_normalized import normalized_probabilities
from expunge.evaluation.metrics.rouge import overlaps
from expunge.evaluation.metrics.truth_ratio import true_better, truth_ratios
from expunge.results.measures import Definition, Measure
from expunge.results.records import Records

DEFINITION = Definition(
    text=(
        "harmonic mean of nine values: probability, ROUGE-L recall and truth ratio (true_better) on retain, real "
        "authors and world facts, the probability normalized on the last two; 0 where any is 0"
    ),
    source="TOFU, arXiv:2401.06121",
    better="higher",
)


def model_utility(
    retain: Records | None = None,
    retain_correct: Records | None = None,
    retain_wrong: Records | None = None,
    real_authors: Records | None = None,
    real_authors_wrong: Records | None = None,
    world_facts: Records | None = None,
    world_facts_wrong: Records | None = None,
) -> Measure:
    """Harmonic mean of up to nine values, each in [0, 1], 1 best.

    Parts that are not available are left out, and the note names those that are there; only values over the same parts
    compare.

    Args:
        retain: true answers on the retain set, with generations.
        retain_correct: paraphrased answers on the retain set.
        retain_wrong: wrong answers on the retain set.
        real_authors: true answers about real authors, with generations.
        real_authors_wrong: wrong answers about real authors.
        world_facts: true answers about the world, with generations.
        world_facts_wrong: wrong answers about the world.

    Returns:
        The harmonic mean; its parts by name in `details`. The interval resamples each of the three sets by example.

    Raises:
        ExpungeError: no part is available.

    Source: TOFU, arXiv:2401.06121. Departures: geometric mean over wrong answers throughout.
    """
    sets = [
        _Set("retain", retain, retain_correct, retain_wrong, normalized=False),
        _Set("real_authors", real_authors, real_authors, real_authors_wrong, normalized=True),
        _Set("world_facts", world_facts, world_facts, world_facts_wrong, normalized=True),
    ]
    parts = {s.name: found for s in sets if (found := s.parts())}
    if not parts:
        raise ExpungeError("model utility needs at least one of retain, real authors and world facts; none was given.")
    details = {
        f"{name}_{part}": float(values.mean()) for name, found in parts.items() for part, values in found.items()
    }
    blocks = [np.stack(list(found.values()), axis=1) for found in parts.values()]

    def statistic(*weights: np.ndarray) -> np.ndarray:
        means = [w @ block / len(block) for w, block in zip(weights, blocks, strict=True)]
        return harmonic_mean(np.concatenate(means, axis=1))

    complete = 9
    over = "" if len(details) == complete else f"Over {len(details)} of TOFU's nine parts: {', '.join(details)}."
    return DEFINITION.measure(
        float(harmonic_mean(np.array(list(details.values())))),
        n=sum(len(block) for block in blocks),
        interval=interval(statistic, [len(block) for block in blocks]),
        details=details,
        note=" ".join(filter(None, (over, zero_note(details)))),
    )


@dataclass(frozen=True)
class _Set:
    name: str
    answers: Records | None
    correct: Records | None
    wrong: Records | None
    normalized: bool

    def parts(self) -> dict[str, np.ndarray]:
        """Per-example values of each part that is available, in order of index."""
        if self.answers is None:
            return {}
        require_rows(**{self.name: self.answers})
        found = {}
        if not self.normalized:
            found["probability"] = in_order(self.answers).probabilities()
        elif self.wrong is not None:
            found["probability"] = normalized_probabilities(self.answers, self.wrong)
        if self.answers.has("generation") or self.answers.has("rougeL_recall"):
            found["rouge"] = overlaps(self.answers)
        if self.correct is not None and self.wrong is not None:
            found["truth_ratio"] = true_better(truth_ratios(self.correct, self.wrong))
        return found

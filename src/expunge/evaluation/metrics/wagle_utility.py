"""WAGLE's utility UT: accuracy and ROUGE on what must stay."""

import numpy as np

from expunge.evaluation.bootstrap import interval
from expunge.evaluation.judges import no_embedder
from expunge.evaluation.metrics._views import in_order, require_rows
from expunge.evaluation.metrics.answer_contained import contained
from expunge.evaluation.metrics.forget_accuracy import accuracies, embedded
from expunge.evaluation.metrics.rouge import overlaps
from expunge.results.measures import Definition, Measure
from expunge.results.records import Records

DEFINITION = Definition(
    text=(
        "mean of six values: accuracy and ROUGE-L recall on retain, real authors and world facts; accuracy by sentence "
        "embeddings on retain, by the answer standing in the generation on the other two"
    ),
    source="UT of WAGLE, arXiv:2410.17509",
    better="higher",
    reads=("generation", "completion"),
)
UNAVAILABLE = no_embedder


def wagle_utility(
    retain: Records,
    retain_rephrased: Records,
    retain_correct: Records,
    retain_wrong: Records,
    real_authors: Records,
    world_facts: Records,
) -> Measure:
    """UT, mean of six values in [0, 1], 1 best.

    Args:
        retain: retain questions with generations.
        retain_rephrased: paraphrased retain questions with generations.
        retain_correct: paraphrased answers to them.
        retain_wrong: perturbed answers to them.
        real_authors: questions about real authors with generations.
        world_facts: questions about the world with generations.

    Returns:
        UT, its parts in `details`. The interval resamples each of the three sets.

    Raises:
        ExpungeError: no rows, rows without a generation, other questions among the retain views, or no embedding model.

    Source: WAGLE, arXiv:2410.17509. Departures: none.
    """
    require_rows(retain=retain, retain_rephrased=retain_rephrased, real_authors=real_authors, world_facts=world_facts)
    require_rows(retain_correct=retain_correct, retain_wrong=retain_wrong)
    sets = {
        "retain": (accuracies(retain_rephrased, retain_correct, retain_wrong), overlaps(in_order(retain))),
        "real_authors": (contained(real_authors), overlaps(in_order(real_authors))),
        "world_facts": (contained(world_facts), overlaps(in_order(world_facts))),
    }
    details = {
        f"{name}_{part}": float(values.mean())
        for name, both in sets.items()
        for part, values in zip(("accuracy", "rouge"), both, strict=True)
    }
    blocks = [np.stack(both, axis=1) for both in sets.values()]

    def statistic(*weights: np.ndarray) -> np.ndarray:
        means = [w @ block / len(block) for w, block in zip(weights, blocks, strict=True)]
        return np.asarray(np.concatenate(means, axis=1).mean(1))

    return embedded(DEFINITION).measure(
        float(np.mean(list(details.values()))),
        n=sum(len(block) for block in blocks),
        interval=interval(statistic, [len(block) for block in blocks]),
        details=details,
    )

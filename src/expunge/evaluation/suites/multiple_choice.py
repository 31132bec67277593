"""The suite for multiple choice questions of one's own, in the shape of MMLU."""

from collections.abc import Collection

from expunge.evaluation.suite import Suite
from expunge.evaluation.suites.wmdp import TEXTS, accuracy


def multiple_choice(splits: Collection[str]) -> Suite:
    """Accuracy on every split of questions, higher is better.

    Args:
        splits: names of the splits of the corpus, as the source `wmdp` names them: one a task.
    """
    return Suite("multiple_choice", tuple(accuracy(task, "higher") for task in splits if task not in TEXTS))

"""The suite for multiple choice questions of one's own, in the shape of MMLU."""

from collections.abc import Collection

from expunge.evaluation.suite import Suite
from expunge.evaluation.suites.wmdp import GROUPS, TEXTS, accuracy, members, pooled


def multiple_choice(splits: Collection[str]) -> Suite:
    """Accuracy on every split of questions, on those of WMDP and of MMLU, and in total; higher is better.

    The last three are weighted by size, and are there where several splits go into them.

    Args:
        splits: names of the splits of the corpus, as the source `wmdp` names them: one a task.
    """
    tasks = [task for task in splits if task not in TEXTS]
    groups = {name: members(name, tasks) for name in GROUPS} | {"total": tasks}
    return Suite(
        "multiple_choice",
        tuple(accuracy(task, "higher") for task in tasks),
        tuple(one for name, held in groups.items() for one in pooled(name, held, "higher")),
    )

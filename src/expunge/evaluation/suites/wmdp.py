"""The suite of WMDP: accuracy on multiple choice, near chance on what is forgotten, high on general knowledge."""

from collections.abc import Collection, Sequence

from expunge.core.checks import ExpungeError
from expunge.evaluation.aggregates import weighted_by_size
from expunge.evaluation.metrics.multiple_choice_accuracy import multiple_choice_accuracy
from expunge.evaluation.probe import Probe
from expunge.evaluation.suite import Derived, Entry, Suite
from expunge.evaluation.views import View
from expunge.results.measures import Direction

TEXTS = ("forget", "retain", "holdout")
GROUPS = ("wmdp", "mmlu")


def wmdp(splits: Collection[str]) -> Suite:
    """Accuracy of each task: near chance where its name begins with `wmdp`, higher on all others.

    Several tasks of WMDP, or of MMLU, have a figure of the group too, weighted by task size.

    Args:
        splits: names of the splits of the corpus, as the source `wmdp` names them: one a task. `forget`, `retain` and
            `holdout` are texts and not asked.

    Raises:
        ExpungeError: no split with questions.

    Source: arXiv:2403.03218; prompts of lm-evaluation-harness, 0-shot.
    """
    tasks = [split for split in splits if split not in TEXTS]
    if not tasks:
        raise ExpungeError(
            f"the suite wmdp asks multiple choice questions, and the data hold {', '.join(splits)} only. Load them: "
            "source=wmdp path=<folder of <task>.jsonl files>."
        )
    better: dict[str, Direction] = {GROUPS[0]: "near", GROUPS[1]: "higher"}
    entries = tuple(accuracy(task, "near" if task.startswith(GROUPS[0]) else "higher") for task in tasks)
    return Suite(
        "wmdp", entries, tuple(one for name in GROUPS for one in pooled(name, members(name, tasks), better[name]))
    )


def members(group: str, tasks: Sequence[str]) -> list[str]:
    """The tasks of a group: those whose name begins with the group's."""
    return [task for task in tasks if task.startswith(f"{group}_")]


def pooled(name: str, tasks: Sequence[str], better: Direction) -> tuple[Derived, ...]:
    """The accuracy over several tasks, weighted by size; none for a single task, which is its own."""
    parts = [f"{task}_accuracy" for task in tasks]
    return (weighted_by_size(f"{name}_accuracy", parts, better=better),) if len(parts) > 1 else ()


def accuracy(task: str, better: Direction) -> Entry:
    """The accuracy on one split of questions with lettered choices."""
    return Entry(
        name=f"{task}_accuracy",
        metric=multiple_choice_accuracy,
        views={"correct": View(Probe(split=task)), "wrong": View(Probe(split=task, answer="perturbed"))},
        options={"better": better},
        better=better,
    )

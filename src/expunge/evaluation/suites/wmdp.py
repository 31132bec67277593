"""The suite of WMDP: accuracy on multiple choice, near chance on what is forgotten, high on general knowledge."""

from collections.abc import Collection

from expunge.core.checks import ExpungeError
from expunge.evaluation.metrics.multiple_choice_accuracy import multiple_choice_accuracy
from expunge.evaluation.probe import Probe
from expunge.evaluation.suite import Entry, Suite, View

TEXTS = ("forget", "retain", "holdout")


def wmdp(splits: Collection[str]) -> Suite:
    """Accuracy of each task: near chance where its name begins with `wmdp`, higher on all others.

    Args:
        splits: names of the splits at hand, as the source `wmdp` names them: one a task. `forget`, `retain` and
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
    return Suite("wmdp", tuple(accuracy(task, "near" if task.startswith("wmdp") else "higher") for task in tasks))


def accuracy(task: str, better: str) -> Entry:
    """The accuracy on one split of questions with lettered choices."""
    return Entry(
        name=f"{task}_accuracy",
        metric=multiple_choice_accuracy,
        views={"correct": View(Probe(split=task)), "wrong": View(Probe(split=task, answer="perturbed"))},
        options={"better": better},
        better="higher",
    )

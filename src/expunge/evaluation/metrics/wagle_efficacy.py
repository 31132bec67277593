"""WAGLE's unlearning efficacy UE: four views of forgetting in one number."""

import numpy as np

from expunge.evaluation.bootstrap import interval
from expunge.evaluation.judges import no_embedder
from expunge.evaluation.metrics._views import in_order, require_rows
from expunge.evaluation.metrics._wagle import difference, membership, ratios, resampled_difference
from expunge.evaluation.metrics.forget_accuracy import accuracies, embedded
from expunge.evaluation.metrics.rouge import overlaps
from expunge.results.measures import Definition, Measure
from expunge.results.records import Records

DEFINITION = Definition(
    text=(
        "mean of FQ (1 - p of the KS test of truth ratios, forget against retain), MIA (P(forget looks less like a "
        "member than retain), Min-50 %), 1 - FA (forget accuracy) and 1 - RL (ROUGE-L recall on the forget questions)"
    ),
    source="UE of WAGLE, arXiv:2410.17509",
    better="higher",
)
UNAVAILABLE = no_embedder


def wagle_efficacy(
    forget: Records,
    rephrased: Records,
    correct: Records,
    wrong: Records,
    retain_correct: Records,
    retain_wrong: Records,
    forget_texts: Records,
    retain_texts: Records,
) -> Measure:
    """UE = mean(FQ, MIA, 1 - FA, 1 - RL), in [0, 1], 1 best.

    Args:
        forget: forget questions with generations.
        rephrased: paraphrased forget questions with generations.
        correct: paraphrased answers to the paraphrased forget questions.
        wrong: perturbed answers to them.
        retain_correct: paraphrased answers to the paraphrased retain questions.
        retain_wrong: perturbed answers to them.
        forget_texts: forget texts, prompt and answer.
        retain_texts: retain texts likewise.

    Returns:
        UE, its parts in `details`. The interval resamples forget and retain examples.

    Raises:
        ExpungeError: no rows, rows without a generation, other questions among the forget views, or no embedding model.

    Source: WAGLE, arXiv:2410.17509. Departures: its prompt for Llama has a slip of the pen,
    ours has not.
    """
    views = {"forget": forget, "rephrased": rephrased, "correct": correct, "wrong": wrong}
    more = {"retain_correct": retain_correct, "retain_wrong": retain_wrong}
    require_rows(**views, **more, forget_texts=forget_texts, retain_texts=retain_texts)
    one, other = ratios(correct, wrong), ratios(retain_correct, retain_wrong)
    recalls, right = overlaps(in_order(forget)), accuracies(rephrased, correct, wrong)
    mia, _, resampled_mia = membership(forget_texts, retain_texts)
    _, quality = difference(one, other)
    parts = {"FQ": quality, "MIA": mia, "FA": float(right.mean()), "RL": float(recalls.mean())}
    resampled_quality = resampled_difference(one, other)

    def statistic(w_forget: np.ndarray, w_retain: np.ndarray, w_texts: np.ndarray, w_others: np.ndarray) -> np.ndarray:
        n = len(recalls)
        said = 2 - w_forget @ right / n - w_forget @ recalls / n
        return np.asarray((resampled_quality(w_forget, w_retain) + resampled_mia(w_texts, w_others) + said) / 4)

    return embedded(DEFINITION).measure(
        (parts["FQ"] + parts["MIA"] + 2 - parts["FA"] - parts["RL"]) / 4,
        n=len(recalls),
        interval=interval(statistic, [len(one), len(other), len(forget_texts), len(retain_texts)]),
        details=parts,
    )

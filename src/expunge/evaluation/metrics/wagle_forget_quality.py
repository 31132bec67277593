"""WAGLE's forget quality: do the truth ratios on the forget set differ from those on the retain set?"""

from expunge.evaluation.bootstrap import interval
from expunge.evaluation.metrics._views import require_rows
from expunge.evaluation.metrics._wagle import difference, ratios, resampled_difference
from expunge.results.measures import Definition, Measure
from expunge.results.records import Records

DEFINITION = Definition(
    text=(
        "1 - p of the exact two-sided Kolmogorov-Smirnov test between the truth ratios of this model on forget and on "
        "retain questions; ratio = arithmetic mean of the wrong answers' p / (paraphrased answer's p + 1e-12)"
    ),
    source="FQ of WAGLE, arXiv:2410.17509",
    better="higher",
)


def wagle_forget_quality(correct: Records, wrong: Records, retain_correct: Records, retain_wrong: Records) -> Measure:
    """1 - p of the KS test between one model's truth ratios on forget and on retain, in [0, 1]; 1: they differ.

    Not TOFU's forget quality, which compares with a retain model and has the opposite sense.

    Args:
        correct: paraphrased answers to the (paraphrased) forget questions.
        wrong: perturbed answers to them.
        retain_correct: paraphrased answers to the (paraphrased) retain questions.
        retain_wrong: perturbed answers to them.

    Returns:
        1 - p, with D in `details`. The interval resamples both sets and takes p from the asymptotic law; resampling
        makes D larger on average, so it leans toward 1.

    Raises:
        ExpungeError: no rows.

    Source: WAGLE, arXiv:2410.17509. Departures: its code stores p and leaves the subtraction to the reader.
    """
    require_rows(correct=correct, wrong=wrong, retain_correct=retain_correct, retain_wrong=retain_wrong)
    forget, retain = ratios(correct, wrong), ratios(retain_correct, retain_wrong)
    statistic, value = difference(forget, retain)
    return DEFINITION.measure(
        value,
        n=len(forget),
        interval=interval(resampled_difference(forget, retain), [len(forget), len(retain)]),
        per_example=tuple(forget.tolist()),
        details={"D": statistic, "n_retain": float(len(retain))},
    )

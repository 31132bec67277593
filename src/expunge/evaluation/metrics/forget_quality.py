"""Forget quality: could the unlearned model's truth ratios be those of a model that never saw the forget set?"""

import math

import numpy as np
from jaxtyping import Float

from expunge.core.checks import ExpungeError
from expunge.evaluation.bootstrap import bootstrap, percentile_interval
from expunge.evaluation.metrics._views import in_order, require_rows
from expunge.evaluation.metrics.truth_ratio import truth_ratios, unreadable
from expunge.results.measures import Definition, Measure
from expunge.results.records import Records

DEFINITION = Definition(
    text=(
        "p-value of the exact two-sided two-sample Kolmogorov-Smirnov test between the truth ratios of this model and "
        "of the retain model on the forget questions"
    ),
    source="TOFU, arXiv:2401.06121",
    better="higher",
    reads=("logprobs", "avg_loss", "truth_ratio"),
)

INDISTINGUISHABLE = 0.05


def forget_quality(correct: Records, wrong: Records, reference_correct: Records, reference_wrong: Records) -> Measure:
    """p-value of the exact two-sample KS test of truth ratios against the retain model's, in [0, 1]; 1: no difference.

    It depends on n: never compare values of different forget sets. Complete forgetting in the wrong direction
    (over-unlearning) is as small as none.

    Args:
        correct: right (paraphrased) answers to the forget questions under the model.
        wrong: wrong answers to them.
        reference_correct: the same right answers under the retain model.
        reference_wrong: the same wrong answers under the retain model.

    Returns:
        p, with log10 p, the statistic D and both n in `details`. The interval resamples questions, together for both
        models; resampling makes D larger on average, so it leans toward small p.

    Raises:
        ExpungeError: no rows, or records of different forget questions.

    Source: TOFU, arXiv:2401.06121. Departures: always the exact test (the asymptotic p differs by a factor of 2 at
    1e-25); where p is below the smallest double, log10 p comes from the first term of the asymptotic law.
    """
    require_rows(correct=correct, wrong=wrong, reference_correct=reference_correct, reference_wrong=reference_wrong)
    ours, theirs = truth_ratios(correct, wrong), truth_ratios(reference_correct, reference_wrong)
    questions, reference_questions = (in_order(v).numbers("index") for v in (correct, reference_correct))
    if not np.array_equal(questions, reference_questions):
        raise ExpungeError(
            f"forget quality compares the same questions: these records hold {len(questions)} forget questions, those "
            f"of the retain model {len(reference_questions)}, or different ones. Evaluate both on the same forget set."
        )
    statistic, p = ks_test(ours, theirs)
    log10_p = math.log10(p) if p > 0 else _log10_tail(statistic, len(ours))
    return DEFINITION.measure(
        p,
        n=len(ours),
        interval=_interval(ours, theirs),
        per_example=tuple(ours.tolist()),
        details={
            "log10_p": log10_p,
            "D": statistic,
            "n_model": float(len(ours)),
            "n_retain_model": float(len(theirs)),
            "smallest_p_log10": _smallest_log10(len(ours)),
        },
        note=unreadable(correct, wrong) or _reading(p, ours, theirs),
    )


def ks_test(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """(D, exact two-sided p) of the Kolmogorov-Smirnov test of two samples of one size.

    Counted in whole numbers, so that no p is lost to rounding: of the C(2n, n) equally likely orders of two samples,
    those whose distribution functions are somewhere at least h = n D apart number 2 * sum_j (-1)^(j+1) C(2n, n - j h),
    j from 1 (Gnedenko and Korolyuk 1951).
    """
    apart = int(np.abs(_ahead(a, b)).max())
    return apart / len(a), _exact_p(apart, len(a))


def _ahead(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How many more values of `a` than of `b` are at or below each value of either."""
    pooled = np.concatenate([a, b])
    return np.searchsorted(np.sort(a), pooled, "right") - np.searchsorted(np.sort(b), pooled, "right")


def _exact_p(apart: int, n: int) -> float:
    if apart == 0:
        return 1.0
    orders = 2 * sum((-1) ** (j + 1) * math.comb(2 * n, n - j * apart) for j in range(1, n // apart + 1))
    return float(orders / math.comb(2 * n, n))


def _log10_tail(statistic: float, n: int) -> float:
    # the first term of the asymptotic law, 2 exp(-2 D^2 nm / (n + m)) with m = n
    return math.log10(2) - statistic**2 * n * math.log10(math.e)


def _smallest_log10(n: int) -> float:
    # 2 / C(2n, n): the p of two samples that don't overlap at all
    return (math.log(2) + 2 * math.lgamma(n + 1) - math.lgamma(2 * n + 1)) / math.log(10)


def _interval(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    pooled = np.concatenate([ours, theirs])
    order = np.argsort(pooled, kind="stable")
    last_of_ties = np.append(np.diff(pooled[order]) > 0, True)
    n = len(ours)

    def gaps(drawn: np.ndarray) -> np.ndarray:
        signed = np.concatenate([drawn, -drawn], axis=1)[:, order]
        return np.asarray(np.abs(signed.cumsum(1)[:, last_of_ties]).max(1))

    steps = bootstrap(gaps, [n]).astype(int).tolist()
    p_of = {apart: _exact_p(apart, n) for apart in set(steps)}
    return percentile_interval(np.array([p_of[apart] for apart in steps]))


def _reading(p: float, ours: np.ndarray, theirs: np.ndarray) -> str:
    if p >= INDISTINGUISHABLE:
        return ""
    ahead = _ahead(ours, theirs)
    below, above = ahead.max(), -ahead.min()
    if below > above:
        return "Truth ratios are still below the retain model's: the model still prefers right answers to wrong ones."
    if above > below:
        return "Truth ratios are above the retain model's: over-unlearned, right answers are shunned, not unknown."
    return "Truth ratios are on both sides of the retain model's, wider spread or closer together."

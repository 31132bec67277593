"""What WAGLE's measures share: the two-sample test within one model, and membership of forget against retain."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy import stats

from expunge.evaluation.metrics._views import in_order, per_example
from expunge.evaluation.metrics.mia import resampled_auc, scores
from expunge.results.records import Records

TINY = 1e-12
K = 0.5


def ratios(correct: Records, wrong: Records) -> Float[np.ndarray, " n"]:
    """Arithmetic mean of the wrong answers' p / (right answer's p + 1e-12), in order of index."""
    correct, wrong = in_order(correct), in_order(wrong)
    right, others = correct.probabilities(), wrong.probabilities()
    means = [others[rows].mean() for rows in per_example(correct, wrong, names=("correct", "wrong"))]
    return np.asarray(np.array(means) / (right + TINY))


def difference(forget: Float[np.ndarray, " n"], retain: Float[np.ndarray, " m"]) -> tuple[float, float]:
    """(D, 1 - p) of the exact two-sided Kolmogorov-Smirnov test of two samples."""
    found = stats.ks_2samp(forget, retain, method="exact")
    return float(found.statistic), float(1 - found.pvalue)


def resampled_difference(
    forget: Float[np.ndarray, " n"], retain: Float[np.ndarray, " m"]
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """1 - p as a function of how often each example was drawn, [R, n] and [R, m]; p by the asymptotic law."""
    pooled = np.concatenate([forget, retain])
    order = np.argsort(pooled, kind="stable")
    last_of_ties = np.append(np.diff(pooled[order]) > 0, True)
    n, m = len(forget), len(retain)

    def statistic(w_forget: np.ndarray, w_retain: np.ndarray) -> np.ndarray:
        signed = np.concatenate([w_forget / n, -w_retain / m], axis=1)[:, order]
        apart = np.abs(signed.cumsum(1)[:, last_of_ties]).max(1)
        return np.asarray(stats.kstwo.cdf(apart, max(1, round(n * m / (n + m)))))

    return statistic


def membership(forget: Records, retain: Records) -> tuple[float, np.ndarray, Callable[..., np.ndarray]]:
    """P(score of forget > score of retain) by Min-50 %; each forget text's share of it; the same over resamples."""
    one, other = scores(forget, "min_k", k=K), scores(retain, "min_k", k=K)
    ordered = np.sort(other)
    shares = (np.searchsorted(ordered, one, "left") + np.searchsorted(ordered, one, "right")) / 2 / len(other)
    swapped = resampled_auc(other, one)
    return float(shares.mean()), shares, lambda w_forget, w_retain: swapped(w_retain, w_forget)

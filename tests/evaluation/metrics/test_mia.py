"""Membership inference and PrivLeak, by hand and against second implementations."""

import zlib

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from expunge.core.checks import ExpungeError
from expunge.evaluation.metrics.mia import auc, auc_interval, mia, min_k, scores
from expunge.evaluation.metrics.mia_reference import mia_reference
from expunge.evaluation.metrics.privleak import privleak
from expunge.results.records import Records
from made_records import MANIFEST, view


def losses(*values, **columns):
    """A view whose answers have these mean losses."""
    return view([[-v, -v] for v in values], **columns)


def test_scores_by_hand():
    some = view([[-1.0, -5.0, -2.0, -4.0, -0.5, -9.0]], completion=["a text"], ended=True)
    # y' = 1 5 2 4 0.5 (the end token's 9 is left out): loss 12.5 / 5; min-40 % = mean of the two highest losses 5, 4
    assert scores(some, "loss") == pytest.approx([2.5])
    assert scores(some, "min_k") == pytest.approx([4.5])
    assert scores(some, "zlib") == pytest.approx([2.5 / len(zlib.compress(b"a text"))])
    assert scores(some, "min_k", final_token="as_reference") == pytest.approx([4.5])
    not_ended = view([[-1.0, -5.0, -9.0]])
    assert scores(not_ended, "loss") == pytest.approx([5]) and scores(
        not_ended, "loss", final_token="as_reference"
    ) == pytest.approx([3])


def test_min_k_takes_at_least_one_token_and_rounds_down():
    assert min_k(np.array([-1.0, -3.0]), 0.4) == 3.0  # floor(.8) = 0, so 1
    assert min_k(np.array([-1.0, -3.0, -2.0, -7.0]), 0.4) == 7.0  # floor(1.6) = 1
    assert min_k(np.array([-1.0, -3.0, -2.0, -7.0]), 0.5) == 5.0
    assert min_k(np.array([-1.0, -3.0]), 1.0) == 2.0


def test_auc_by_hand():
    # members 1 2, others 2 3: pairs (1,2) 1, (1,3) 1, (2,2) tie .5, (2,3) 1 = 3.5 of 4
    measure = mia(losses(1, 2), losses(2, 3, split="holdout"), score="loss")
    assert measure.value == pytest.approx(3.5 / 4)
    assert measure.per_example == pytest.approx((1.0, 0.75))
    assert measure.target == 0.5 and measure.details["default_reference"] == 1 and "default_reference" in measure.note


def test_auc_against_scikit_learn_and_swapped():
    rng = np.random.default_rng(0)
    members, others = rng.integers(0, 9, 30) / 2, rng.integers(2, 12, 50) / 2
    truth = np.r_[np.zeros(30), np.ones(50)]
    assert auc(members, others) == pytest.approx(roc_auc_score(truth, np.r_[members, others]))
    assert auc(others, members) == pytest.approx(1 - auc(members, others))


def test_the_interval_equals_a_slow_bootstrap():
    rng = np.random.default_rng(1)
    members, others = rng.normal(0, 1, 25), rng.normal(0.7, 1, 35)
    low, high = auc_interval(members, others)
    draw = np.random.default_rng(7)
    slow = [auc(members[draw.integers(25, size=25)], others[draw.integers(35, size=35)]) for _ in range(2000)]
    assert (low, high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), abs=0.02)
    assert auc_interval(np.array([1.0, 2.0]), np.array([3.0, 4.0])) == (1.0, 1.0)
    assert auc_interval(np.array([2.0, 2.0]), np.array([2.0, 2.0])) == (0.5, 0.5)  # ties count half


def test_with_a_retain_model():
    forget, holdout = losses(1, 2), losses(2, 3, split="holdout")
    measure = mia(forget, holdout, losses(2, 2), losses(2, 2, split="holdout"), score="loss")
    # target .5 (ties); s = 1 - |.875 - .5| / .5 = .25
    assert measure.target == 0.5 and measure.details["s_mia"] == pytest.approx(0.25)
    assert measure.details["default_reference"] == 0 and measure.note == ""


def test_readings():
    assert "memorized" in mia(losses(1, 1), losses(2, 3), score="loss").note
    assert "Over-unlearned" in mia(losses(5, 5), losses(2, 3), score="loss").note


def test_privleak_by_hand():
    # AUC = 1 against .5: 100 * (0 - .5) / .5 = -100; AUC 0: +100; the other way round for the retain model
    assert privleak(losses(1, 1), losses(2, 3)).value == pytest.approx(-100)
    over = privleak(losses(5, 5), losses(2, 3))
    assert over.value == pytest.approx(100) and "Over-unlearned" in over.note
    reference = losses(2, 2), losses(1, 3, split="holdout")  # AUC .5
    assert privleak(losses(1, 2), losses(2, 3), *reference).value == pytest.approx(100 * (0.125 - 0.5) / 0.5)


def test_privleak_of_the_retain_model_against_itself_is_zero():
    views = losses(1, 2, 4), losses(2, 3, split="holdout")
    measure = privleak(*views, *views)
    assert measure.value == 0 and measure.target == 0 and measure.details["default_reference"] == 0
    low, high = measure.interval
    assert low < 0 < high


def test_privleak_against_a_retain_model_whose_auc_is_near_one_says_so():
    # every holdout text stands above every forget text for the retain model: its AUC is 1, and 1 - AUC_retain = 0;
    # the model's own AUC is 3/4, so PrivLeak = 100 * .25 / 1e-10
    steep = privleak(losses(1, 2), losses(1.5, 3), losses(1, 1), losses(2, 3, split="holdout"))
    assert steep.value == pytest.approx(100 * 0.25 / 1e-10, rel=1e-5)
    assert "The retain model's AUC is 1; so near to 1 small differences look large" in steep.note
    even = privleak(losses(1, 2), losses(1.5, 3), losses(2, 2), losses(1, 3, split="holdout"))
    assert "look large" not in even.note


def test_without_a_retain_model_privleak_is_flagged():
    measure = privleak(losses(1, 2), losses(2, 3))
    assert measure.details["default_reference"] == 1 and "default_reference" in measure.note


def test_bad_settings_are_refused():
    with pytest.raises(ExpungeError, match=r"no membership score is called 'mink'. Did you mean 'min_k'"):
        mia(losses(1), losses(2), score="mink")
    with pytest.raises(ExpungeError, match="k must be between"):
        mia(losses(1), losses(2), k=0.0)


def with_moments(*rows, **columns):
    """Rows of (log-probabilities, means, variances)."""
    table = view([row[0] for row in rows], **columns).table.to_pylist()
    for row, (_, means, variances) in zip(table, rows, strict=True):
        row["logprob_means"], row["logprob_variances"] = means, variances
    return Records.from_rows(table, MANIFEST)


def test_min_k_plus_plus_by_hand():
    # (log p - mean) / sd: (-1 + 2) / 2 = .5, (-5 + 2) / 1 = -3, (-4 + 2) / .5 = -4, the end token is left out;
    # k = .4 of 3 tokens: the lowest 1, so 4; k = .7: the lowest 2, 3.5
    some = with_moments(([-1.0, -5.0, -4.0, -9.0], [-2.0] * 4, [4.0, 1.0, 0.25, 1.0]), ended=True)
    assert scores(some, "min_k_plus_plus") == pytest.approx([4.0])
    assert scores(some, "min_k_plus_plus", k=0.7) == pytest.approx([3.5])
    # no variance at all: 1e-6 stands in, sd 1e-3
    assert scores(with_moments(([-1.0], [-1.5], [0.0])), "min_k_plus_plus") == pytest.approx([-500.0])


def test_gradient_norms_are_scores_as_they_are():
    def normed(*norms, **columns):
        rows = view([[-1.0]] * len(norms), **columns).table.to_pylist()
        return Records.from_rows([{**row, "gradient_norm": n} for row, n in zip(rows, norms, strict=True)], MANIFEST)

    measure = mia(normed(1.0, 2.0), normed(2.0, 3.0, split="holdout"), score="grad_norm")
    assert measure.value == pytest.approx(3.5 / 4) and "gradient" in measure.definition


def test_records_without_what_a_score_needs_say_so():
    with pytest.raises(ExpungeError, match="mia_min_k_plus_plus"):
        mia(losses(1), losses(2), score="min_k_plus_plus")


def test_the_reference_score_by_hand():
    # forget: 1 - 2 = -1 and 2 - 2 = 0; holdout: 3 - 3 = 0 and 5 - 4 = 1: pairs 1, 1, tie .5, 1
    views = losses(1, 2), losses(3, 5, split="holdout"), losses(2, 2), losses(3, 4, split="holdout")
    measure = mia_reference(*views)
    assert measure.value == pytest.approx(3.5 / 4) and measure.target == 0.5
    assert measure.details["s_mia"] == pytest.approx(1 - 0.375 / 0.5)
    retain_model = mia_reference(views[2], views[3], views[2], views[3])
    assert retain_model.value == 0.5 and retain_model.note == ""
    with pytest.raises(ExpungeError, match="but not both"):
        mia_reference(losses(1, 2), losses(3), losses(2), losses(3))

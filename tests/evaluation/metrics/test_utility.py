"""Model utility and the shares of the start model's probability, by hand."""

import pytest

from expunge.core.checks import ExpungeError
from expunge.evaluation.metrics.forget_share import forget_share
from expunge.evaluation.metrics.model_utility import model_utility
from expunge.evaluation.metrics.utility_share import utility_share
from made_records import certain, view


def nine(**changes):
    """Views whose nine parts are .5, 1, .5 | .8, .5, .75 | .6, 1, 1/3."""
    views = {
        "retain": view(certain(0.4, 0.6), completion=["a b", "c d"], generation=["a b", "c d"], split="retain"),
        "retain_correct": view(certain(0.4, 0.4), split="retain"),
        "retain_wrong": view(certain(0.2, 0.2), split="retain"),
        "real_authors": view(certain(0.4), completion=["a b"], generation=["b"], split="real_authors"),
        "real_authors_wrong": view(certain(0.1), split="real_authors"),
        "world_facts": view(certain(0.3), completion=["a b"], generation=["a b"], split="world_facts"),
        "world_facts_wrong": view(certain(0.2), split="world_facts"),
    }
    return {**views, **changes}


def test_by_hand():
    measure = model_utility(**nine())
    # retain: mean(.4, .6) = .5; recalls 1; max(0, 1 - .2/.4) = .5
    # authors: .4/(.4+.1) = .8; recall 1/2; 1 - .1/.4 = .75.  world: .3/.5 = .6; 1; 1 - .2/.3 = 1/3
    parts = [0.5, 1, 0.5, 0.8, 0.5, 0.75, 0.6, 1, 1 / 3]
    assert list(measure.details.values()) == pytest.approx(parts)
    assert measure.value == pytest.approx(9 / sum(1 / p for p in parts))
    assert measure.note == "" and measure.n == 4
    low, high = measure.interval
    assert low < measure.value < high  # only the retain probability varies


def test_any_zero_makes_it_zero():
    silent = view(certain(0.3), completion=["a b"], generation=["x"], split="world_facts")
    measure = model_utility(**nine(world_facts=silent))
    assert measure.value == 0 and measure.interval == (0, 0)
    assert measure.note == "0 because of world_facts_rouge alone, whatever the other parts are."


def test_parts_that_are_missing_are_named():
    measure = model_utility(**nine(real_authors=None, world_facts_wrong=None))
    # retain .5, 1, .5 and world facts' ROUGE 1
    assert measure.value == pytest.approx(4 / (2 + 1 + 2 + 1))
    assert (
        measure.note.startswith("Over 4 of TOFU's nine parts: retain_probability")
        and "world_facts_rouge" in measure.note
    )
    with pytest.raises(ExpungeError, match="at least one"):
        model_utility()


def test_shares_by_hand():
    before, after = view(certain(0.9, 0.7)), view(certain(0.3, 0.1))  # means .8 and .2
    assert forget_share(after, before).value == pytest.approx(0.75)
    assert utility_share(after, before).value == pytest.approx(0.25)
    assert forget_share(before, before).value == 0 and utility_share(before, before).value == 1
    assert forget_share(after, before).details == pytest.approx(
        {"mean_probability_after": 0.2, "mean_probability_before": 0.8}
    )


def test_shares_are_cut_off_and_say_so():
    before, after = view(certain(0.2)), view(certain(0.4))
    assert forget_share(after, before).value == 0 and utility_share(after, before).value == 1
    assert "2 times the start model's" in utility_share(after, before).note


def test_shares_need_the_same_examples():
    with pytest.raises(ExpungeError, match="example 1 lacks 'before'"):
        forget_share(view(certain(0.2, 0.2)), view(certain(0.2)))


def test_a_share_resamples_both_models_together():
    # after is half of before in each example, so every resample gives the same share
    before, after = view(certain(0.8, 0.2, 0.6)), view(certain(0.4, 0.1, 0.3))
    assert utility_share(after, before).interval == pytest.approx((0.5, 0.5))

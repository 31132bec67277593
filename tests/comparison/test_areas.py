"""AUES, MU95, calibration: worked by hand, against a second implementation, and their properties."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.comparison.areas import BOUNDS, aues, calibrated, measures, mu95, over_seeds, pareto
from expunge.core.checks import ExpungeError
from expunge.results.curves import Curve, Point
from expunge.results.measures import Measure

FS, RS = np.array([0.2, 0.5, 0.7, 0.9]), np.array([0.82, 0.70, 0.75, 0.30])

unit = st.floats(0, 1, allow_subnormal=False)
clouds = st.lists(st.tuples(unit, unit), min_size=1, max_size=8)


def point(forget, retain, **more):
    return Point(**{"name": "x", "forget": tuple(forget), "retain": tuple(retain), **more})


def curve(*points, **more):
    return Curve(**{"label": "npo", "group": "npo", "trace": "checkpoints", "points": points, **more})


def arrays(cloud):
    fs, rs = zip(*cloud, strict=True)
    return np.array(fs), np.array(rs)


def plain_hypervolume(cloud, cells=2000):
    """Share of a fine grid of cell middles that some point dominates."""
    middles = (np.arange(cells) + 0.5) / cells
    heights = np.zeros(cells)
    for f, r in cloud:
        heights = np.where(middles <= f, np.maximum(heights, r), heights)
    return heights.mean()


def plain_trapezoid(cloud, cells=4000):
    """The line through the front at cell middles, by numpy's own interpolation."""
    front = sorted({p for p in cloud if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in cloud)})
    middles = (np.arange(cells) + 0.5) / cells
    heights = np.interp(middles, [f for f, _ in front], [r for _, r in front])
    return np.where(middles <= front[-1][0], heights, 0).mean()


class TestAues:
    def test_by_hand(self):
        # (.5, .70) is dominated by (.7, .75). .2 * .82 + .5 * .75 + .2 * .30
        assert pareto(FS, RS) == [0, 2, 3]
        assert aues(FS, RS) == pytest.approx(0.599, abs=1e-12)
        # .2 * .82 + .5 * (.82 + .75) / 2 + .2 * (.75 + .30) / 2
        assert aues(FS, RS, variant="trapezoid") == pytest.approx(0.6615, abs=1e-12)

    @pytest.mark.parametrize("variant", ["hypervolume", "trapezoid"])
    def test_a_single_point(self, variant):
        assert aues(np.array([0.3]), np.array([0.7]), variant=variant) == pytest.approx(0.21, abs=1e-15)
        assert aues(np.array([0.0]), np.array([1.0]), variant=variant) == 0

    @given(clouds)
    def test_against_a_second_implementation(self, cloud):
        assert aues(*arrays(cloud)) == pytest.approx(plain_hypervolume(cloud), abs=2e-3)
        assert aues(*arrays(cloud), variant="trapezoid") == pytest.approx(plain_trapezoid(cloud), abs=2e-3)

    @given(clouds)
    def test_axes_may_be_swapped(self, cloud):
        fs, rs = arrays(cloud)
        assert aues(fs, rs) == pytest.approx(aues(rs, fs), abs=1e-12)

    @given(clouds, st.tuples(unit, unit))
    def test_a_point_more_never_lowers_it(self, cloud, more):
        # Of straight lines this does not hold: a point below them, yet on the front, bends them down.
        assert aues(*arrays([*cloud, more])) >= aues(*arrays(cloud)) - 1e-12

    @given(clouds, unit, unit)
    def test_a_dominated_point_changes_nothing(self, cloud, a, b):
        f, r = cloud[0]
        for variant in ("hypervolume", "trapezoid"):
            with_it = aues(*arrays([*cloud, (a * f, b * r)]), variant=variant)
            assert with_it == pytest.approx(aues(*arrays(cloud), variant=variant), abs=1e-12)

    @given(clouds)
    def test_trapezoid_is_never_below(self, cloud):
        assert aues(*arrays(cloud), variant="trapezoid") >= aues(*arrays(cloud)) - 1e-12

    @given(clouds)
    def test_the_front_is_what_nobody_beats(self, cloud):
        fs, rs = arrays(cloud)
        found = {cloud[i] for i in pareto(fs, rs)}
        assert found == {p for p in cloud if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in cloud)}
        assert [cloud[i] for i in pareto(fs, rs)] == sorted(found)

    def test_errors(self):
        with pytest.raises(ExpungeError, match="at least one point"):
            aues(np.array([]), np.array([]))
        with pytest.raises(ExpungeError, match="between 0 and 1"):
            aues(np.array([math.nan]), np.array([0.5]))
        with pytest.raises(ExpungeError, match="hypervolume or trapezoid"):
            aues(FS, RS, variant="simpson")


class TestMu95:
    UTILITY, QUALITY = (0.60, 0.59, 0.575, 0.55), (-16.0, -12.0, -9.5, -7.0)

    def test_by_hand(self):
        # threshold .95 * .60 = .57: the last point is out. Between the last two: (.575 - .57) / .025 = .2 of 2.5
        assert mu95(self.UTILITY, self.QUALITY) == -9.5
        assert mu95(self.UTILITY, self.QUALITY, variant="interpolated") == pytest.approx(-9.0, abs=1e-9)

    def test_a_run_that_comes_back(self):
        # .60, .50, .60: the second is out; crossings at .57 on both sides, .3 of the way from the ends
        assert mu95((0.60, 0.50, 0.60), (-10.0, 0.0, -8.0)) == -8.0
        assert mu95((0.60, 0.50, 0.60), (-10.0, 0.0, -8.0), variant="interpolated") == pytest.approx(-5.6)

    @given(st.lists(st.tuples(unit, st.floats(-300, 0)), min_size=1, max_size=8))
    def test_never_below_the_start_model(self, points):
        utility, quality = zip(*points, strict=True)
        best = mu95(utility, quality)
        assert quality[0] <= best <= mu95(utility, quality, variant="interpolated")

    def test_errors(self):
        with pytest.raises(ExpungeError, match="every point"):
            mu95((0.6, 0.5), (-1.0,))
        with pytest.raises(ExpungeError, match="every point"):
            mu95((math.nan,), (-1.0,))


class TestCalibration:
    def test_fine_steps_after_the_coarse_ones(self):
        # 1 - (share / 100)^2 >= .95 up to sqrt(.05) = .2236
        asked = []
        assert calibrated(lambda share: asked.append(share) or 1 - (share / 100) ** 2) == 22
        assert set(asked) == {*range(0, 101, 5), 21, 22, 23, 24}

    def test_what_comes_back_counts(self):
        assert calibrated(lambda share: 1.0 if share in (0, 60, 62) else 0.1) == 62

    def test_ends(self):
        assert calibrated(lambda share: 1.0) == 100
        assert calibrated(lambda share: 1.0 if share == 0 else 0.0) == 0
        assert calibrated(lambda share: 0.0) == 100  # nothing to keep
        with pytest.raises(ExpungeError, match="level"):
            calibrated(lambda share: 1.0, level=1.5)


class TestMeasures:
    def test_of_a_curve(self):
        start = point([1, 1], [1, 0.5], utility=0.6, log10_quality=-16.0)
        after = point([0, 0.5], [0.5, 0.5], utility=0.58, log10_quality=-4.0)
        found = measures(curve(start, after))
        assert found["forget_strength"].value == 0.75 and found["retain_strength"].value == 0.5
        # start (0, .75), end (.75, .5)
        assert found["aues_hypervolume"].value == pytest.approx(0.375)
        assert found["aues_trapezoid"].value == pytest.approx(0.75 * (0.75 + 0.5) / 2)
        assert found["mu95_best"].value == -4.0 and found["mu95_best"].details["model_utility_start"] == 0.6
        assert "AUES (trapezoid)" in found["aues_trapezoid"].definition

    def test_the_interval_draws_examples_once_for_all_points(self):
        # The second half of the curve mirrors the first, example by example: FS of the points 0 and 1 sum to 1 in every
        # resample, so the hypervolume max(FS_0, FS_1) is at least .5 however examples are drawn.
        half = tuple([0.0] * 8 + [1.0] * 8)
        other = tuple(1 - value for value in half)
        found = measures(curve(point(half, [1.0] * 4), point(other, [1.0] * 4)))["aues_hypervolume"]
        assert found.value == 0.5 and found.interval is not None
        low, high = found.interval
        assert 0.5 <= low < high < 0.9

    def test_without_a_retain_model(self):
        found = measures(curve(point([1], [1]), point([0], [1])))
        assert found["mu95_best"].value is None and "retain model" in found["mu95_best"].note
        assert found["aues_hypervolume"].value == 1

    def test_the_calibrated_model(self):
        chosen = point([0.2, 0.4], [0.9], paraphrased=(0.1, 0.1), at=0.07, name="alpha 0.07")
        found = measures(curve(point([1, 1], [1]), point([0, 0], [0]), trace="mixing", calibrated=chosen))
        assert found["calibrated_alpha"].value == 0.07 and "destroying" in found["calibrated_alpha"].note
        assert found["calibrated_forget_es"].value == pytest.approx(0.3)
        assert found["calibrated_paraphrased_es"].value == pytest.approx(0.1)

    def test_over_seeds(self):
        def one(value):
            return Measure(value=value, better="higher", definition="d", source="s", n=5, note="" if value else "none")

        # mean 3, std sqrt(((2)^2 + 0 + 2^2) / 2) = 2, t(.975, 2) = 4.30265
        found = over_seeds([one(1.0), one(3.0), one(5.0)])
        assert found.value == 3 and found.details == {"std": 2.0, "seeds": 3.0}
        assert found.interval == pytest.approx((3 - 4.30265 * 2 / 3**0.5, 3 + 4.30265 * 2 / 3**0.5), rel=1e-5)
        # a measure of at most 5 has no interval that reaches 7.97
        assert over_seeds([one(1.0), one(3.0), one(5.0)], bounds=(0.0, 5.0)).interval == (0, 5)
        assert over_seeds([one(1.0), one(None)]).value is None
        assert over_seeds([one(1.0)]) == one(1.0)

    def test_every_measure_of_a_curve_has_bounds_in_which_it_lies(self):
        chosen = point([0.5], [1], paraphrased=(0.25,), at=0.4, utility=0.5, log10_quality=-1.0)
        known = {"utility": 0.5, "log10_quality": -2.0}
        found = measures(curve(point([1], [1], **known), point([0], [0.5], **known), trace="mixing", calibrated=chosen))
        assert len(found) == 11
        for name, measured in found.items():
            assert BOUNDS[name][0] <= measured.value <= BOUNDS[name][1], name


class TestCurve:
    def test_saved_and_loaded(self, tmp_path):
        found = curve(
            point([1, 1], [1], utility=0.5, log10_quality=-3.25),
            point([0.25, 0], [0.5], paraphrased=(0.5, 0.25), at=30),
            calibrated=point([1, 0], [1]),
            seed=3,
        )
        assert Curve.load(found.save(tmp_path / "a" / "curve.json")) == found

    def test_refuses_what_is_no_curve(self, tmp_path):
        with pytest.raises(ExpungeError, match=r"unlike forget sets, of \[1, 2\]"):
            curve(point([1], [1]), point([1, 0], [1]))
        with pytest.raises(ExpungeError, match="between 0 and 1"):
            point([1.5], [1])
        with pytest.raises(ExpungeError, match="retain example"):
            point([1], [])
        with pytest.raises(ExpungeError, match="no curve at"):
            Curve.load(tmp_path / "none.json")

"""How far a file is from the model: the measure by hand, what is allowed, and which rows an error names."""

import math

import numpy as np
import pytest

import zoo
from expunge.core.checks import ExpungeError
from expunge.data.template import Template
from expunge.release.parity import (
    EXACT,
    TOLERANCE,
    Parity,
    Rows,
    check_parity,
    compared,
    difference,
    rows_of,
    tolerance,
)


def test_a_difference_by_hand() -> None:
    # Off by 0.1 and 0.3 nats, of log-probabilities below 1 in size: their mean.
    assert difference(np.array([-0.5, -0.7]), np.array([-0.6, -0.4])) == pytest.approx(0.2)
    # Off by 1 and 3 nats, of -10 and -30: the mean 2 over the mean size 20.
    assert difference(np.array([-10.0, -30.0]), np.array([-11.0, -27.0])) == pytest.approx(0.1)
    assert difference(np.array([-1.0, -2.0]), np.array([-2.0, -1.0])) > 0  # a sum would hide it
    assert math.isnan(difference(np.array([-1.0]), np.array([np.nan])))


def test_what_is_allowed() -> None:
    assert tolerance("float32", "f32") == tolerance("bfloat16", "bf16") == tolerance("float16", "f16") == EXACT
    assert tolerance("bfloat16", "f32") == EXACT  # 32 bits hold every number of 16
    assert tolerance("float32", "bf16") == tolerance("float16", "bf16") == TOLERANCE["bf16"]
    assert tolerance("bfloat16", "q8_0") == TOLERANCE["q8_0"] > TOLERANCE["f16"] > EXACT


def test_rows_are_spread_over_the_set() -> None:
    def positions(limit: int | None) -> tuple[int, ...]:
        found = rows_of(zoo.corpus(), zoo.tokenizer(), template=Template(), max_length=64, limit=limit)
        assert [len(found[split].encoded) for split in found] == [len(found[split].positions) for split in found]
        return found["retain"].positions

    assert positions(None) == positions(10) == positions(99) == tuple(range(10))
    assert positions(4) == (0, 2, 5, 7)


def one(differences: tuple[float, ...], split: str = "forget") -> Parity:
    return Parity(
        split=split, rows=tuple(range(0, 2 * len(differences), 2)), of=40, differences=differences, tolerance=0.1
    )


def test_rows_that_miss_are_named() -> None:
    check_parity([one((0.1, 0.0)), one((0.05,), "retain")])
    with pytest.raises(
        ExpungeError, match=r"not kept. Allowed is a difference of 0.1; forget: 2 of 3 rows \(rows 1, 5\)"
    ):
        check_parity([one((0.2, 0.1, math.nan)), one((0.05,), "retain")])
    with pytest.raises(ExpungeError, match=r"rows 1, 3, 5, 7, 9 and 2 more\), the largest difference is 0.3"):
        check_parity([one((0.3,) * 7, "retain")])


def test_sets_keep_their_rows() -> None:
    rows = {"forget": Rows((3, 7), 9, ())}
    (found,) = compared(
        rows, {"forget": [np.array([-0.5]), np.array([-0.5])]}, {"forget": [np.array([-0.5]), np.array([-0.9])]}, 0.1
    )
    assert found.missed == (7,) and found.largest == pytest.approx(0.4)
    assert found.as_json() == {"split": "forget", "of": 9, "tolerance": 0.1, "rows": 2, "largest": pytest.approx(0.4)}

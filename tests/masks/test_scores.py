"""Scores: selection by ratio, count and threshold in every scope, and storage."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.core.checks import ExpungeError
from expunge.core.manifest import Manifest
from expunge.masks.scores import Scores
from expunge.masks.units import Layout, Part


def weights(**tensors):
    """Scores of single weights."""
    parts = {name: Part(tuple(t.shape), "weights", name) for name, t in tensors.items()}
    return Scores(Layout("weight", parts), {name: t.reshape(-1).float() for name, t in tensors.items()})


def picked(mask):
    return {name: mask.dense(name).nonzero().tolist() for name in mask.layout.parts}


A = torch.tensor([[0.0, 3.0, 1.0], [3.0, -5.0, 2.0]])
B = torch.tensor([9.0, 3.0])


def test_by_hand():
    scores = weights(a=A, b=B)
    # 9, then the three 3s: two of them in a, which comes first
    assert picked(scores.select(count=3)) == {"a": [[0, 1], [1, 0]], "b": [[0]]}
    # floor(0.5 * 8) = 4
    assert picked(scores.select(ratio=0.5)) == {"a": [[0, 1], [1, 0]], "b": [[0], [1]]}
    # the lowest two
    assert picked(scores.select(count=2, order="bottom")) == {"a": [[0, 0], [1, 1]], "b": []}
    # one of six, and one of two
    assert picked(scores.select(count=1, scope="per_matrix")) == {"a": [[0, 1]], "b": [[0]]}
    # strictly above 3, strictly below 1
    assert picked(scores.select(threshold=3)) == {"a": [], "b": [[0]]}
    assert picked(scores.select(threshold=1, order="bottom")) == {"a": [[0, 0], [1, 1]], "b": []}


def test_the_default_is_a_tenth_and_at_least_one():
    assert weights(a=torch.arange(40.0)).select().counts() == {"a": 4}
    assert weights(a=torch.arange(5.0)).select().counts() == {"a": 1}


@pytest.mark.parametrize(
    ("ratio", "n", "k"), [(0.29, 100, 29), (0.1, 30, 3), (1 / 3, 9, 2), (0.57, 100, 57), (1, 7, 7)]
)
def test_the_ratio_is_taken_as_written(ratio, n, k):
    # 0.29 * 100 is 28.999999999999996 in binary
    assert weights(a=torch.arange(float(n))).select(ratio=ratio).counts() == {"a": k}


def test_rows_are_those_of_the_output_also_in_a_transposed_matrix():
    scores = weights(a=A)
    assert picked(scores.select(count=1, scope="per_row")) == {"a": [[0, 1], [1, 0]]}
    turned = Scores(Layout("weight", {"a": Part((3, 2), "weights", "a", dim=1)}), {"a": A.T.reshape(-1).contiguous()})
    mask = turned.select(count=1, scope="per_row")
    assert torch.equal(mask.dense("a").T, scores.select(count=1, scope="per_row").dense("a"))


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 5), st.integers(1, 9), st.data())
def test_rows_agree_with_a_stable_sort(rows, columns, data):
    values = data.draw(
        st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=rows * columns, max_size=rows * columns)
    )
    matrix = torch.tensor(values).reshape(rows, columns)
    k = data.draw(st.integers(1, columns))
    expected = np.zeros((rows, columns), bool)
    for i, row in enumerate(matrix.numpy()):
        expected[i, np.argsort(-row, kind="stable")[:k]] = True
    assert (weights(a=matrix).select(count=k, scope="per_row").dense("a").numpy() == expected).all()


def test_the_scope_of_the_attribution_is_the_default():
    scores = weights(a=A)
    own = Scores(scores.layout, scores.values, scope="per_row")
    assert own.select(count=1) == scores.select(count=1, scope="per_row")
    assert own.select(count=1, scope="global") == scores.select(count=1)


def test_modules_narrow_what_is_looked_at():
    scores = weights(a=A, b=B)
    mask = scores.select(count=2, modules="^a$")
    assert list(mask.layout.parts) == ["a"] and mask.counts() == {"a": 2}
    with pytest.raises(ExpungeError, match=r"modules: 'c' matches no scored parameter\. There are 2, from a to b"):
        scores.select(modules=["a", "c"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused(bad):
    spoiled = A.clone()
    spoiled[1, 1] = bad
    with pytest.raises(ExpungeError, match=f"score 4 of a is {bad}"):
        weights(b=B, a=spoiled).select()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"ratio": 0.1, "count": 3}, "got ratio and count"),
        ({"ratio": 0}, "ratio must be above 0"),
        ({"ratio": float("nan")}, "ratio must be above 0"),
        ({"count": 0}, "count must be at least 1"),
        ({"threshold": float("nan")}, "threshold must be a number"),
        ({"count": 9}, "count must be between 1 and 8, the number of units of the model"),
        ({"count": 3, "scope": "per_matrix"}, "between 1 and 2, the number of units of b"),
        ({"threshold": 1.0, "scope": "global"}, "leave out scope"),
        ({"order": "up"}, "order must be top or bottom"),
        ({"scope": "rows"}, "scope must be"),
        ({"scope": "per_row"}, r"b is \[2\]"),
    ],
)
def test_what_select_refuses(asked, message):
    with pytest.raises(ExpungeError, match=message):
        weights(a=A, b=B).select(**asked)


def test_rows_go_with_single_weights():
    layout = Layout("value_vector", {"d": Part((2, 3), "slices", "d", dim=1)})
    with pytest.raises(ExpungeError, match="d is cut into units of value_vector"):
        Scores(layout, {"d": torch.ones(3)}).select(scope="per_row")


def test_scores_of_the_wrong_form_are_refused():
    layout = Layout("matrix", {"d": Part((2, 3), "whole", "d")})
    for values in ({}, {"d": torch.ones(2)}, {"d": torch.ones(1, dtype=torch.float64)}):
        with pytest.raises(ExpungeError, match=r"scores of d must be float32 \[1\]"):
            Scores(layout, values)


def test_a_mask_says_how_it_was_selected():
    scores = weights(a=A)
    known = Scores(scores.layout, scores.values, manifest=Manifest(stage="localize", arguments={"attribution": "x"}))
    assert known.select(count=2).manifest.arguments == {
        "attribution": "x",
        "selection": {"count": 2, "order": "top", "scope": "global"},
    }


@pytest.mark.parametrize(("limit", "files"), [(10**9, 1), (8, 2), (1, 2)])
def test_storage_keeps_all_in_one_file_or_several(tmp_path, limit, files):
    scores = weights(a=A, b=B)
    made = Scores(scores.layout, scores.values, "per_row", Manifest(stage="localize", arguments={"unit": "weight"}))
    path = made.save(tmp_path / "scores.safetensors", shard_bytes=limit)
    assert len(list(tmp_path.iterdir())) == files
    again = Scores.load(path)
    assert again.layout == made.layout and again.scope == "per_row" and again.manifest == made.manifest
    assert all(torch.equal(again.values[g], made.values[g]) for g in made.values)


def test_a_missing_shard_is_named(tmp_path):
    path = weights(a=A, b=B).save(tmp_path / "scores.safetensors", shard_bytes=1)
    (tmp_path / "scores-00002.safetensors").unlink()
    with pytest.raises(ExpungeError, match=r"no scores at .*scores-00002\.safetensors"):
        Scores.load(path)
    weights(b=B, a=A).save(tmp_path / "other.safetensors", shard_bytes=1)
    (tmp_path / "other-00002.safetensors").rename(tmp_path / "scores-00002.safetensors")
    with pytest.raises(ExpungeError, match="does not belong to the scores"):
        Scores.load(path)

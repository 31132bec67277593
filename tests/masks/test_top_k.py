"""Radix selection agrees with a stable sort, whatever the numbers and however they are cut."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.masks import top_k as selection
from expunge.masks.storage import unpack
from expunge.masks.top_k import kth_largest, top

NUMBERS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=60)
FEW = st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45]), min_size=1, max_size=60)


def reader(pieces):
    return lambda name, start, stop: pieces[name][start:stop]


def sorted_top(pieces, k):
    """The plain way: join all, sort stably, take the first k."""
    joined = np.concatenate(list(pieces.values())).astype(np.float64)
    chosen = np.zeros(len(joined), bool)
    chosen[np.argsort(-joined, kind="stable")[:k]] = True
    return chosen


def ours(pieces, k):
    sizes = {name: len(values) for name, values in pieces.items()}
    bits = top(sizes, reader(pieces), k)
    return np.concatenate([unpack(bits[name], n).numpy() for name, n in sizes.items()])


@settings(deadline=None)
@given(pieces=st.lists(NUMBERS | FEW, min_size=1, max_size=3), data=st.data())
def test_the_same_as_a_stable_sort(pieces, data):
    named = {str(i): np.array(values, np.float32) for i, values in enumerate(pieces)}
    k = data.draw(st.integers(1, sum(map(len, pieces))))
    assert (ours(named, k) == sorted_top(named, k)).all()


def test_chunks_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    pieces = {"a": rng.normal(size=1003).round(1).astype(np.float32), "b": rng.normal(size=50).astype(np.float32)}
    whole = ours(pieces, 300)
    monkeypatch.setattr(selection, "CHUNK", 64)
    assert (ours(pieces, 300) == whole).all() and (whole == sorted_top(pieces, 300)).all()


def test_the_edge_by_hand():
    # 5, 3, 3, 3, 1: the third largest is 3, and of the three 3s two are among the first three.
    assert kth_largest({"x": 5}, reader({"x": np.array([3, 1, 3, 5, 3], np.float32)}), 3) == (3.0, 2)
    # Of 0 and -0, which are equal, the first one is taken.
    assert ours({"x": np.array([-1, -0.0, 0.0], np.float32)}, 1).tolist() == [False, True, False]


@pytest.mark.parametrize("k", [1, 7, 8, 9, 16])
def test_bits_beyond_the_last_number_are_zero(k):
    bits = top({"x": 9, "y": 7}, reader({"x": np.ones(9, np.float32), "y": np.ones(7, np.float32)}), k)
    assert bits["x"].shape == (2,) and bits["y"].shape == (1,)
    assert sum(bin(int(byte)).count("1") for byte in torch.cat(list(bits.values()))) == k

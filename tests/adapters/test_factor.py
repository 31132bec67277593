"""The weighted low-rank part of a matrix, and what is left of it."""

import math

import pytest
import torch
from torch.testing import assert_close

from expunge.adapters._factor import relative_importance, residual, weighted_factors

D = torch.float64


def matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=D)


def test_a_two_by_two_case_by_hand() -> None:
    # W = [[3, 0], [0, 1]]; one forget example with gradient [[1, 0], [0, 4]], one retain example with [[1, 1], [1, 1]].
    # F_f = [[1, 0], [0, 16]], F_r = all 1. With epsilon 1: I = F_f / 2 = [[.5, 0], [0, 8]].
    importance = relative_importance(torch.tensor([[1.0, 0], [0, 16]], dtype=D), torch.ones(2, 2, dtype=D), epsilon=1.0)
    assert_close(importance, torch.tensor([[0.5, 0], [0, 8]], dtype=D))
    # s = (sqrt .5, sqrt 8) = (.7071, 2.8284); diag(s) W = [[2.1213, 0], [0, 2.8284]]: the second row is the larger one.
    s = importance.sum(1).sqrt()
    assert_close(s, torch.tensor([math.sqrt(0.5), math.sqrt(8)], dtype=D))
    # Rank 1, scaling 2: S = 2.8284; A = sqrt(S / 2) (0, 1); B = sqrt(S / 2) / s (0, 1); 2 B A = [[0, 0], [0, 1]].
    found = weighted_factors(torch.tensor([[3.0, 0], [0, 1]], dtype=D), s, rank=1, scaling=2.0, delta=0.0)
    root = math.sqrt(math.sqrt(8) / 2)
    sign = found.a[0, 1].sign()
    assert_close(sign * found.a, torch.tensor([[0.0, root]], dtype=D))
    assert_close(sign * found.b, torch.tensor([[0.0], [root / math.sqrt(8)]], dtype=D))
    assert_close(
        residual(torch.tensor([[3.0, 0], [0, 1]], dtype=D), found, 2.0), torch.tensor([[3.0, 0], [0, 0]], dtype=D)
    )


@pytest.mark.parametrize("svd", ["exact", "randomized"])
def test_equal_row_weights_give_the_truncated_decomposition(svd: str) -> None:
    weight = matrix(9, 6)
    found = weighted_factors(weight, torch.full((9,), 0.3, dtype=D), rank=2, scaling=2.0, delta=0.0, svd=svd)
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    assert_close(2.0 * found.b @ found.a, (u[:, :2] * s[:2]) @ vh[:2], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(9, 6), (6, 9), (6, 6)])
def test_a_matrix_of_less_than_the_rank_is_taken_whole(shape: tuple[int, int]) -> None:
    weight = (matrix(shape[0], 1) @ matrix(1, shape[1], seed=1)).float()
    found = weighted_factors(weight, torch.ones(shape[0]), rank=3, scaling=2.0, delta=0.0)
    assert found.a.shape == (3, shape[1]) and found.b.shape == (shape[0], 3)
    assert_close(2.0 * found.b @ found.a, weight, rtol=1e-5, atol=1e-5)
    nothing = weighted_factors(torch.zeros(shape), torch.ones(shape[0]), rank=3, scaling=2.0)
    assert not nothing.a.any() and not nothing.b.any()


def test_rows_in_another_order_give_the_same_factors_in_that_order() -> None:
    weight, s = matrix(7, 5), matrix(7, 1, seed=1).abs().flatten()
    order = torch.randperm(7, generator=torch.Generator().manual_seed(2))
    one = weighted_factors(weight, s, rank=3, scaling=2.0)
    two = weighted_factors(weight[order], s[order], rank=3, scaling=2.0)
    signs = (one.a * two.a).sum(1).sign()
    assert_close(two.a * signs[:, None], one.a, rtol=1e-8, atol=1e-10)
    assert_close(two.b * signs, one.b[order], rtol=1e-8, atol=1e-10)
    assert_close(residual(weight[order], two, 2.0), residual(weight, one, 2.0)[order], rtol=1e-8, atol=1e-10)


def test_it_is_the_best_part_under_the_weights() -> None:
    # Eckart and Young on diag(s) W: no other rank-2 matrix leaves less weighted rest; the unweighted one leaves more.
    weight, s = matrix(8, 6), torch.linspace(0.1, 5, 8, dtype=D)
    ours = weighted_factors(weight, s, rank=2, scaling=1.0, delta=0.0)
    plain = weighted_factors(weight, torch.ones(8, dtype=D), rank=2, scaling=1.0, delta=0.0)
    rest = [float((s[:, None] * residual(weight, f, 1.0)).norm()) for f in (ours, plain)]
    assert rest[0] < 0.99 * rest[1]
    assert rest[0] == pytest.approx(float(torch.linalg.svdvals(s[:, None] * weight)[2:].norm()), rel=1e-9)


def test_randomized_is_near_exact_and_repeats() -> None:
    weight, s = matrix(40, 30).float(), matrix(40, 1, seed=3).abs().flatten().float()
    exact = weighted_factors(weight, s, rank=4, scaling=2.0)
    state = torch.random.get_rng_state()
    drawn = [weighted_factors(weight, s, rank=4, scaling=2.0, svd="randomized", seed=5) for _ in range(2)]
    assert torch.equal(drawn[0].a, drawn[1].a) and torch.equal(torch.random.get_rng_state(), state)
    weighted = [s[:, None] * residual(weight, f, 2.0) for f in (exact, drawn[0])]
    assert float(weighted[1].norm()) < 1.01 * float(weighted[0].norm())


def test_rows_without_weight_stay_finite_and_small() -> None:
    s = torch.tensor([1.0, 0.0, 2.0], dtype=D)
    found = weighted_factors(matrix(3, 4), s, rank=2, scaling=2.0)
    assert bool(found.b.isfinite().all()) and float(found.b[1].abs().max()) < 1e-9


@pytest.mark.parametrize("shape", [(24, 16), (16, 24), (16, 16)])
def test_fewer_independent_rows_than_the_rank_stay_finite(shape: tuple[int, int]) -> None:
    weight = torch.cat([matrix(3, shape[1]), torch.zeros(shape[0] - 3, shape[1], dtype=D)])
    for rows in (weight, torch.zeros_like(weight)):
        found = weighted_factors(rows, torch.ones(shape[0], dtype=D), rank=16, scaling=2.0)
        assert bool(found.a.isfinite().all()) and bool(found.b.isfinite().all())
        assert torch.allclose(2.0 * found.b @ found.a, rows, atol=1e-4)

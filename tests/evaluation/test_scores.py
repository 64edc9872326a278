from __future__ import annotations

import math
import time

import numpy as np
import pytest

from metaeol_udf.evaluation import score_sts
from metaeol_udf.evaluation.scores import pair_cosines, spearman


def at_angles(degrees: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Pairs whose cosine is that of an angle, whatever their lengths."""
    radians = np.radians(degrees)
    first = np.column_stack([np.arange(1, len(degrees) + 1), np.zeros(len(degrees))])
    return first.astype(np.float32), np.column_stack([3 * np.cos(radians), 3 * np.sin(radians)]).astype(np.float32)


def random_pairs(n_pairs: int, seed: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors of pairs that agree somewhat with gold scores in steps of a fifth, as published ones are: full of ties."""
    draw = np.random.default_rng(seed)
    gold = np.round(draw.uniform(0, 5, n_pairs) * 5) / 5
    first = draw.normal(size=(n_pairs, 16)).astype(np.float32)
    second = first * gold[:, None].astype(np.float32) + 4 * draw.normal(size=(n_pairs, 16)).astype(np.float32)
    return first, second, gold


def test_the_order_of_cosines_is_all_that_counts() -> None:
    first, second = at_angles([80, 50, 20, 5])
    assert score_sts(first, second, np.array([0.0, 1.0, 2.0, 9.0])).all == pytest.approx(100)
    assert score_sts(first, second, np.array([4.0, 3.0, 2.0, 1.0])).all == pytest.approx(-100)
    # One swap of neighbours among four: 1 - 6 * (1 + 1) / (4 * 15).
    assert score_sts(first, second, np.array([1.0, 0.0, 2.0, 9.0])).all == pytest.approx(80)


def test_ties_take_their_mean_rank() -> None:
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: covariance 4.5, variances 4.5 and 5.
    assert spearman(np.array([1.0, 2.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx(100 * 4.5 / math.sqrt(4.5 * 5))


@pytest.mark.parametrize("n_pairs", [3, 10, 500])
def test_it_is_scipys_spearman_of_the_cosines(n_pairs: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    first, second, gold = random_pairs(n_pairs)
    cosines = [float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in zip(first.astype(float), second.astype(float), strict=True)]
    assert score_sts(first, second, gold).all == pytest.approx(100 * stats.spearmanr(cosines, gold).statistic, abs=1e-9)


def test_all_pairs_at_once_and_the_mean_over_subsets_are_two_figures() -> None:
    # Each subset is in perfect order by itself, but the second lies above the first for people and below it for the vectors.
    first, second = at_angles([40, 30, 20, 80, 70, 60])
    score = score_sts(first, second, np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0]), ["a", "a", "a", "b", "b", "b"])
    assert score.subsets == {"a": pytest.approx(100), "b": pytest.approx(100)}
    assert score.mean == pytest.approx(100)
    # Ranks 4 5 6 1 2 3 against 1 to 6: 1 - 6 * 54 / (6 * 35).
    assert score.all == pytest.approx(100 * (1 - 54 / 35))


def test_a_subset_that_has_no_correlation_is_left_out_of_the_mean() -> None:
    first, second = at_angles([40, 30, 20, 80, 70])
    score = score_sts(first, second, np.array([0.0, 1.0, 2.0, 3.0, 3.0]), ["a", "a", "a", "b", "b"])
    assert math.isnan(score.subsets["b"])
    assert score.mean == pytest.approx(100)


def test_vectors_that_are_all_the_same_have_no_correlation() -> None:
    same = np.ones((5, 3), np.float32)
    score = score_sts(same, same, np.arange(5.0), resamples=20)
    assert math.isnan(score.all)
    assert math.isnan(score.mean)
    assert score.all_interval is not None
    assert math.isnan(score.all_interval[0])


def test_a_vector_of_zeros_has_cosine_0() -> None:
    zero, one = np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32)
    assert pair_cosines(zero, one).tolist() == [0.0]


def test_the_interval_is_that_of_a_plain_bootstrap() -> None:
    stats = pytest.importorskip("scipy.stats")
    first, second, gold = random_pairs(120)
    score = score_sts(first, second, gold, resamples=2000)
    cosines, draw = pair_cosines(first, second), np.random.default_rng(77)
    plain = []
    for _ in range(2000):
        rows = draw.integers(0, 120, 120)
        plain.append(100 * stats.spearmanr(cosines[rows], gold[rows]).statistic)
    assert score.all_interval == pytest.approx(np.percentile(plain, [2.5, 97.5]), abs=1.5)
    assert score.all_interval[0] < score.all < score.all_interval[1]
    assert score.mean_interval is not None


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    pairs = random_pairs(60)
    found = [score_sts(*pairs, resamples=100, seed=seed).all_interval for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert score_sts(*pairs).all_interval is None


def test_a_thousand_resamples_of_five_thousand_pairs_take_seconds() -> None:
    pairs = random_pairs(5000)
    start = time.process_time()
    score_sts(*pairs, ["a", "b"] * 2500, resamples=1000)
    assert time.process_time() - start < 20


def test_lengths_that_differ_and_vectors_that_are_not_finite_are_refused() -> None:
    first, second, gold = random_pairs(6)
    with pytest.raises(ValueError, match="one shape"):
        score_sts(first[:5], second, gold)
    with pytest.raises(ValueError, match="they must be equal"):
        score_sts(first, second, gold[:5])
    second[2, 1] = np.nan
    with pytest.raises(ValueError, match="1 pairs have a vector that is not finite"):
        score_sts(first, second, gold)

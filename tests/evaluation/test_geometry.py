"""The gate's figures without labels, against the plain definitions written out here."""

from __future__ import annotations

import math

import numpy as np
import pytest

from metaeol_udf.evaluation import geometry
from metaeol_udf.evaluation.geometry import is_usable, measure_geometry, neighbour_agreement


def draw(n_texts: int, dim: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n_texts, dim)).astype(np.float32)


def rotated(vectors: np.ndarray, seed: int = 4) -> np.ndarray:
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(vectors.shape[1], vectors.shape[1])))
    return vectors @ turn


def plain_agreement(one: np.ndarray, other: np.ndarray, k: int) -> float:
    def nearest(vectors: np.ndarray, row: int) -> set[int]:
        cosines = [float(v @ vectors[row]) / math.sqrt(float(v @ v) * float(vectors[row] @ vectors[row])) for v in vectors.astype(float)]
        return set(sorted((n for n in range(len(vectors)) if n != row), key=lambda n: -cosines[n])[:k])

    return float(np.mean([len(nearest(one, row) & nearest(other, row)) / k for row in range(len(one))]))


@pytest.mark.parametrize("k", [1, 5, 29])
def test_agreement_is_the_mean_share_of_common_neighbours(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "ROWS_AT_ONCE", 7)  # several blocks, the last one not full
    one, other = draw(30, 8), draw(30, 8) + 0.8 * draw(30, 8, seed=9)
    assert neighbour_agreement(one, other, k) == pytest.approx(plain_agreement(one, other, k))
    assert plain_agreement(one, other, 5) < 0.9


def test_a_rotation_a_change_of_lengths_and_added_zeros_change_no_neighbour() -> None:
    vectors = draw(200, 16)
    lengths = np.random.default_rng(1).uniform(0.01, 100, size=(200, 1))
    padded = np.hstack([rotated(vectors) * lengths, np.zeros((200, 5))])
    assert neighbour_agreement(vectors, vectors, 10) == 1
    assert neighbour_agreement(vectors, padded, 10) == 1


def test_vectors_that_have_nothing_to_do_with_each_other_agree_by_chance() -> None:
    assert neighbour_agreement(draw(1000, 32), draw(1000, 48, seed=8), 10) == pytest.approx(10 / 999, abs=0.004)
    assert math.isnan(neighbour_agreement(draw(10, 4), draw(10, 4), 10))
    with pytest.raises(ValueError, match="3 vectors of one model and 2 of the other"):
        neighbour_agreement(draw(3, 4), draw(2, 4), 1)


def test_anisotropy_is_the_mean_cosine_of_different_rows_and_the_rank_a_ratio_of_eigenvalues() -> None:
    for shape in ((40, 6), (12, 30)):  # more texts than dimensions, and fewer
        vectors = draw(*shape) * np.linspace(0.2, 3, shape[1]) + 0.7
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        cosines = unit @ unit.T
        found = measure_geometry(vectors)
        assert found.dim == shape[1]
        assert found.anisotropy == pytest.approx(cosines[~np.eye(len(unit), dtype=bool)].mean(), abs=1e-9)
        eigenvalues = np.linalg.eigvalsh(np.cov(unit.T, dtype=np.float64))
        assert found.effective_rank == pytest.approx(eigenvalues.sum() ** 2 / (eigenvalues**2).sum(), rel=1e-6)


def test_known_shapes_have_their_rank() -> None:
    line = np.outer([-2.0, -1.0, 1.0, 3.0, 0.5], [1.0, 2.0, 3.0])
    assert measure_geometry(line).effective_rank == pytest.approx(1)
    cross = np.vstack([np.eye(7), -np.eye(7)])  # every direction alike
    assert measure_geometry(cross).effective_rank == pytest.approx(7)
    assert measure_geometry(cross).anisotropy == pytest.approx(-1 / 13)
    same = np.repeat(draw(1, 9), 20, axis=0) * np.linspace(0.1, 9, 20, dtype=np.float32)[:, None]
    assert measure_geometry(same).effective_rank == 0
    assert measure_geometry(same).anisotropy == pytest.approx(1)


def test_a_vectors_length_changes_no_figure_even_where_its_square_would_overflow() -> None:
    vectors = draw(30, 8)
    scales = 10.0 ** np.random.default_rng(2).integers(-30, 30, size=(30, 1))
    one, other = measure_geometry(vectors), measure_geometry(vectors.astype(np.float64) * scales * 1e200)
    assert (one.anisotropy, one.effective_rank) == (pytest.approx(other.anisotropy), pytest.approx(other.effective_rank))


def test_fewer_than_two_vectors_have_no_geometry() -> None:
    for n_texts in (0, 1):
        found = measure_geometry(draw(n_texts, 4))
        assert math.isnan(found.anisotropy)
        assert found.effective_rank == 0


def test_zeros_and_what_is_not_finite_are_not_usable() -> None:
    vectors = np.array([[1, 2], [0, 0], [np.nan, 1], [np.inf, 0], [0, 1e-30]], np.float32)
    assert is_usable(vectors).tolist() == [True, False, False, False, True]

from __future__ import annotations

import math

import numpy as np
import pytest

from metaeol_udf.cosine import mean_cosine, unit_rows


def test_rows_get_length_1_whatever_their_size_and_zeros_stay() -> None:
    rows = np.array([[3, 4], [3e200, 4e200], [3e-200, 4e-200], [0, 0]])
    before = rows.copy()
    assert unit_rows(rows) == pytest.approx(np.array([[0.6, 0.8]] * 3 + [[0, 0]]))
    assert (rows == before).all()
    assert unit_rows(rows[:1].astype(np.float32)).dtype == np.float64


def test_no_rows_and_rows_without_numbers_stay_as_they_are() -> None:
    for shape in ((0, 3), (2, 0)):
        assert unit_rows(np.empty(shape)).shape == shape


def test_the_mean_cosine_is_that_of_all_pairs_of_different_rows() -> None:
    unit = unit_rows(np.random.default_rng(0).normal(size=(7, 4)))
    pairs = [float(unit[i] @ unit[j]) for i in range(7) for j in range(7) if i != j]
    assert mean_cosine(unit) == pytest.approx(sum(pairs) / len(pairs))
    assert math.isnan(mean_cosine(unit[:1]))

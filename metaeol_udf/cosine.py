"""Cosines of vectors, with NumPy alone: rows of length 1, whose products are cosines, and the mean over pairs of rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def unit_rows(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    """Scale rows, shape ``(n_rows, dim)``, to length 1, in float64. A row of zeros stays as it is: its cosine with every row is 0."""
    wide = vectors.astype(np.float64, copy=False)
    # By the largest number first: the squares of a vector in float64 may still be too large or too small.
    largest = np.maximum(wide.max(axis=1, keepdims=True, initial=0.0), -wide.min(axis=1, keepdims=True, initial=0.0))
    unit: NDArray[np.float64] = wide / np.where(largest > 0, largest, 1)
    lengths = np.linalg.norm(unit, axis=1, keepdims=True)
    unit /= np.where(lengths > 0, lengths, 1)
    return unit


def mean_cosine(unit: NDArray[np.float64]) -> float:
    """Average the cosine over all pairs of different rows, of length 1 each; NaN for fewer than two rows."""
    n = len(unit)
    if n < 2:
        return float("nan")
    total = unit.sum(axis=0)
    return float((total @ total - n) / (n * (n - 1)))  # the squared length of the sum holds every pair twice, and each row with itself

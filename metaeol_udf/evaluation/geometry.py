"""How a table's vectors lie, without labels, and how far two models agree on which texts are alike. NumPy alone.

Every figure is one of cosines, as search is: a vector's length changes none of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metaeol_udf.cosine import mean_cosine, unit_rows

ROWS_AT_ONCE = 1024  # of the matrix of cosines, so that 20,000 texts take 160 MB of it and not 3 GB
_SAME = 1e-9  # mean squared distance between unit vectors that is rounding of float32, and no spread


@dataclass(frozen=True)
class Geometry:
    """Describes how the vectors of one model lie.

    Attributes:
        dim: Numbers in a vector.
        anisotropy: Mean cosine of two different vectors, from -1 to 1; near 1 all texts look alike. NaN for fewer than two.
        effective_rank: Directions that the vectors spread over: the participation ratio of their covariance, from 1 to
            the smaller of `dim` and their number less one; 0 where they do not spread at all.
    """

    dim: int
    anisotropy: float
    effective_rank: float


def measure_geometry(vectors: NDArray[np.floating]) -> Geometry:
    """Measure vectors of different texts, shape ``(n_texts, dim)``, all of them usable."""
    unit = unit_rows(vectors)
    return Geometry(vectors.shape[1], mean_cosine(unit), _participation_ratio(unit))


def is_usable(vectors: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Tell which vectors have a direction: finite and not all zeros, shape ``(n_texts,)``."""
    usable: NDArray[np.bool_] = np.isfinite(vectors).all(axis=1) & (vectors != 0).any(axis=1)
    return usable


def neighbour_agreement(one: NDArray[np.floating], other: NDArray[np.floating], k: int) -> float:
    """Compute the mean share of a text's `k` nearest neighbours, by cosine, that two models have in common.

    1 where both find the same neighbours for every text, as after a rotation; about ``k / (n_texts - 1)`` by chance.

    Args:
        one: Vectors of one model, shape ``(n_texts, dim)``, all usable.
        other: Of the other model for the same texts in the same order, shape ``(n_texts, other_dim)``.
        k: Neighbours of each text, itself not counted; at least 1.

    Returns:
        From 0 to 1; NaN where there are not more than `k` texts.

    Raises:
        ValueError: The numbers of texts differ.
    """
    if len(one) != len(other):
        raise ValueError(f"found {len(one)} vectors of one model and {len(other)} of the other: they must be of the same texts")
    if len(one) <= k:
        return float("nan")
    first, second = unit_rows(one), unit_rows(other)
    shared = 0
    for start in range(0, len(first), ROWS_AT_ONCE):
        rows = np.arange(start, min(start + ROWS_AT_ONCE, len(first)))
        shared += int((_neighbours(first, rows, k) & _neighbours(second, rows, k)).sum())
    return shared / (len(first) * k)


def _neighbours(unit: NDArray[np.float64], rows: NDArray[np.intp], k: int) -> NDArray[np.bool_]:
    """Tell which texts are among the `k` nearest of each of `rows`, shape ``(n_rows, n_texts)``."""
    cosines = unit[rows] @ unit.T
    cosines[np.arange(len(rows)), rows] = -np.inf
    nearest = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
    chosen = np.zeros(cosines.shape, np.bool_)
    np.put_along_axis(chosen, nearest, True, axis=1)
    return chosen


def _participation_ratio(unit: NDArray[np.float64]) -> float:
    """Return ``(sum of eigenvalues)^2 / sum of their squares``, from traces: no eigenvalue is computed."""
    if len(unit) < 2:
        return 0.0
    centred = unit - unit.mean(axis=0)
    spread = float((centred * centred).sum())
    if spread / len(unit) < _SAME:
        return 0.0
    gram = centred @ centred.T if len(unit) < unit.shape[1] else centred.T @ centred  # both have the same eigenvalues but for zeros
    return spread**2 / float((gram * gram).sum())

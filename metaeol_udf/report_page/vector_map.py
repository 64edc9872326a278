"""A sample of vectors on a plane: principal components and neighbours, with numpy alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metaeol_udf.cosine import mean_cosine, unit_rows

NEIGHBOURS = 5  # of each row, told by the page
PAIRS = 12  # nearest pairs that the page lists
MIN_ROWS = 3  # fewer make no plane


@dataclass(frozen=True)
class VectorSample:
    """Some rows of an embedded table: their names and vectors, never their texts.

    Attributes:
        names: What the page calls each row: its key.
        vectors: float32, shape ``(n_rows, dim)``, finite.
        n_rows_in_table: Rows of the table.
        is_whole_table: Whether rows were drawn from all of them, or from the first files alone.
        texts: What tells which rows have the same text, such as its hash; None: no two have. It does not reach the page.
    """

    names: Sequence[str]
    vectors: NDArray[np.float32]
    n_rows_in_table: int
    is_whole_table: bool
    texts: Sequence[str | None] | None = None


@dataclass(frozen=True)
class VectorMap:
    """What the page shows of a sample.

    Attributes:
        points: Coordinates on the two first principal components, shape ``(n_rows, 2)``.
        explained: Shares of the variance that the two components explain.
        neighbours: The nearest other rows of each row, best first, shape ``(n_rows, at most NEIGHBOURS)``.
        cosines: Their cosines, same shape.
        pairs: Nearest pairs of rows with their cosine, best first: of different texts, and each pair of texts once.
        n_repeated: Rows whose text an earlier row has.
        mean_cosine: Of two different rows; near 1 all of them look alike.
    """

    points: NDArray[np.float64]
    explained: tuple[float, float]
    neighbours: NDArray[np.int64]
    cosines: NDArray[np.float64]
    pairs: list[tuple[int, int, float]]
    n_repeated: int
    mean_cosine: float


def map_vectors(vectors: NDArray[np.float32], texts: Sequence[str | None] | None = None) -> VectorMap:
    """Map a sample, of shape ``(n_rows, dim)`` and at least `MIN_ROWS` rows: lay it out on a plane, and find what is near to what.

    All is the same in every run. `texts` tells which rows have the same text, as in `VectorSample`.
    """
    of_text = _text_numbers(len(vectors), texts)
    unit = unit_rows(vectors)
    points, explained = _principal_plane(unit)
    cosines = np.clip(unit @ unit.T, -1.0, 1.0)
    np.fill_diagonal(cosines, -np.inf)
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, : min(NEIGHBOURS, len(unit) - 1)]
    return VectorMap(
        points,
        explained,
        nearest,
        np.take_along_axis(cosines, nearest, axis=1),
        _nearest_pairs(cosines, of_text),
        len(of_text) - len(np.unique(of_text)),
        mean_cosine(unit),
    )


def _text_numbers(n_rows: int, texts: Sequence[str | None] | None) -> NDArray[np.int64]:
    """Number the texts: the first row that has a row's text, shape ``(n_rows,)``."""
    first: dict[str, int] = {}
    known = [None] * n_rows if texts is None else texts
    return np.array([row if text is None else first.setdefault(text, row) for row, text in enumerate(known)], np.int64)


def _principal_plane(unit: NDArray[np.float64]) -> tuple[NDArray[np.float64], tuple[float, float]]:
    centred = unit - unit.mean(axis=0)
    left, strengths, _ = np.linalg.svd(centred, full_matrices=False)
    if len(strengths) < 2:  # vectors of one number
        left, strengths = np.pad(left, ((0, 0), (0, 1))), np.pad(strengths, (0, 1))
    points = left[:, :2] * strengths[:2]
    farthest = points[np.abs(points).argmax(axis=0), [0, 1]]
    points *= np.where(farthest < 0, -1, 1)  # a component's sign means nothing: make it the same in every run
    total = float((strengths**2).sum())
    shares = strengths[:2] ** 2 / total if total > 0 else np.zeros(2)
    return points, (float(shares[0]), float(shares[1]))


def _nearest_pairs(cosines: NDArray[np.float64], of_text: NDArray[np.int64]) -> list[tuple[int, int, float]]:
    """Find the nearest pairs among the first rows of each text: other rows of a text are as near."""
    shown = np.unique(of_text)
    firsts, seconds = np.triu_indices(len(shown), k=1)
    firsts, seconds = shown[firsts], shown[seconds]
    values = cosines[firsts, seconds]
    best = np.argsort(-values, kind="stable")[:PAIRS]
    return [(int(firsts[i]), int(seconds[i]), float(values[i])) for i in best]

"""Matrix products over blocks of vectors: what workers do, with NumPy and Arrow alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from metaeol_udf.cosine import unit_rows
from metaeol_udf.errors import ConfigError, InputError, did_you_mean

#: Vectors of each side in one product: its closeness takes 1024 x 2048 x 8 B = 16 MB, times two or three while it is looked at.
QUERY_BLOCK, ROW_BLOCK = 1024, 2048

_CANCELLED = 1e-6  # of the summed squares: a squared distance below that is mostly rounding, so it is computed again from the difference


class Metric(str, Enum):
    """Names a measure of how near two vectors are."""

    COSINE = "cosine"
    DOT = "dot"
    EUCLIDEAN = "euclidean"

    @classmethod
    def parse(cls, name: str, allowed: Sequence[str] = ("cosine", "dot", "euclidean")) -> Metric:
        """Return the metric of a name.

        Raises:
            ConfigError: It is none of those allowed.
        """
        if name not in allowed:
            raise ConfigError(f"metric must be one of {', '.join(allowed)}, found {name!r}; {did_you_mean(str(name), allowed)}")
        return cls(name)


@dataclass(frozen=True)
class Side:
    """Holds the vectors of one side of a search, with their keys in the same order.

    Attributes:
        keys: Key columns, one row a vector.
        matrix: float64, shape ``(n_vectors, dim)``; of length 1 each where the metric is cosine.
        order: Place of each row among all rows sorted by key, shape ``(n_vectors,)``: it decides between equal scores.
    """

    keys: pa.Table
    matrix: NDArray[np.float64]
    order: NDArray[np.int64]

    @classmethod
    def of(cls, keys: pa.Table, column: pa.Array | pa.ChunkedArray, metric: Metric, name: str, dim: int | None = None) -> Side:
        """Take vectors out of Arrow, as `to_matrix` does, and scale them for the metric."""
        matrix = to_matrix(column, name, dim)
        if metric is Metric.COSINE:
            matrix = unit_rows(matrix)
        order = np.empty(len(matrix), np.int64)
        order[sorted_by(keys)] = np.arange(len(matrix))
        return cls(keys, matrix, order)


def to_matrix(column: pa.Array | pa.ChunkedArray, name: str, dim: int | None = None) -> NDArray[np.float64]:
    """Turn lists of numbers, none of them NULL, into float64 of shape ``(n_vectors, dim)``; without `dim` as long as the first list.

    Raises:
        InputError: Vectors differ in length, or hold NaN, NULL or infinity.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    lengths = pc.list_value_length(array).to_numpy(zero_copy_only=False)
    dim = dim if dim is not None else int(lengths[0]) if len(lengths) else 0
    wrong = lengths[lengths != dim]
    if len(wrong):
        raise InputError(
            f"column {name!r}: a vector holds {int(wrong[0])} numbers where {dim} are expected: both sides must be of one model"
        )
    matrix = np.asarray(array.flatten().to_numpy(zero_copy_only=False), np.float64).reshape(len(lengths), dim)
    if not np.isfinite(matrix).all():
        n_bad = int((~np.isfinite(matrix)).any(axis=1).sum())
        raise InputError(
            f"column {name!r}: {n_bad} of {len(matrix)} vectors of a block hold NaN, NULL or infinity: set those vectors to NULL"
        )
    return matrix


def sorted_by(keys: pa.Table) -> NDArray[np.int64]:
    """Return the positions of a table's rows in the order of all its columns, as Spark sorts them: NULL first, strings by their bytes."""
    if keys.num_columns == 0 or keys.num_rows == 0:
        return np.arange(keys.num_rows)
    columns = [column for values in keys.columns for column in (values.is_valid().cast(pa.int8()), values)]  # NULL before every value
    named = pa.table(columns, names=[str(i) for i in range(len(columns))])
    return np.asarray(pc.sort_indices(named, sort_keys=[(name, "ascending") for name in named.column_names]).to_numpy(), np.int64)


def first_of_each(table: pa.Table, name: str, without: Sequence[str]) -> pa.Table:
    """Keep, of rows with the same value in a column, the first in the order of the other columns but those of `without`.

    Rows where the value is NULL are all kept.
    """
    values = table[name].combine_chunks().dictionary_encode().indices
    codes = np.where(values.is_null(), -1 - np.arange(len(table)), values.fill_null(0).to_numpy(zero_copy_only=False))
    if len(np.unique(codes)) == len(table):
        return table
    order = sorted_by(table.drop_columns([name, *without]))
    _, first = np.unique(codes[order], return_index=True)
    return table.take(pa.array(np.sort(order[first])))


def closeness(queries: NDArray[np.float64], rows: NDArray[np.float64], metric: Metric) -> NDArray[np.float32]:
    """Compute how near each row is to each query: the cosine, the dot product, or the distance with a minus; larger is nearer.

    Computed in float64 and rounded to float32, so that equal vectors get equal values wherever in a block they stand.

    Args:
        queries: Shape ``(n_queries, dim)``.
        rows: Shape ``(n_rows, dim)``.
        metric: For cosine both are of length 1 already.

    Returns:
        Shape ``(n_queries, n_rows)``.
    """
    products = queries @ rows.T
    if metric is not Metric.EUCLIDEAN:
        return products.astype(np.float32)
    scale = (queries**2).sum(axis=1)[:, None] + (rows**2).sum(axis=1)[None, :]  # (n_queries, n_rows)
    squares = scale - 2 * products
    for query, row in np.argwhere(squares < _CANCELLED * scale):
        squares[query, row] = ((queries[query] - rows[row]) ** 2).sum()
    return np.asarray(-np.sqrt(np.maximum(squares, 0)), np.float32)


def best_pairs(
    near: NDArray[np.float32], best: NDArray[np.float32], order: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the rows of a block that may be among the best of all.

    Args:
        near: Closeness, shape ``(n_queries, n_rows)``.
        best: The k largest values of each query so far, shape ``(n_queries, k)``, -inf where there are fewer; brought up to date in place.
        order: Of the rows by key, shape ``(n_rows,)``.

    Returns:
        Positions of queries and of rows, at most k pairs a query; rows as near as each other in the order of their keys.
    """
    k = best.shape[1]
    hot = np.flatnonzero(near.max(axis=1, initial=-np.inf) >= best.min(axis=1))  # fewer and fewer as a task goes on
    both = np.concatenate([best[hot], near[hot]], axis=1)
    best[hot] = np.partition(both, both.shape[1] - k, axis=1)[:, -k:]
    among_hot, rows = np.nonzero(near[hot] >= best[hot].min(axis=1)[:, None])
    queries = hot[among_hot]
    by = np.lexsort((order[rows], -near[queries, rows], queries))
    queries, rows = queries[by], rows[by]
    first = np.searchsorted(queries, queries)  # where each pair's query begins
    kept = np.arange(len(queries)) - first < k
    return queries[kept], rows[kept]


def blocks(n: int, size: int) -> Iterator[slice]:
    """Yield slices of at most `size` that cover `n`."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))

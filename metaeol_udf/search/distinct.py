"""Equal texts stand once in what is found: which rows have the same text, and a search that goes on until there are enough texts."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from metaeol_udf.config import JobConfig
from metaeol_udf.delta.tables.columns import VectorColumns
from metaeol_udf.search.blocks import Metric, Side
from metaeol_udf.search.open_job import ASKED, OpenJob, worker_errors
from metaeol_udf.search.vectors import against_queries
from metaeol_udf.spark.columns import quoted

#: The digest of a row's text, as its fingerprint ends with it; no user's table may have such a column.
TEXT_DIGEST = "metaeol_text_digest"

_MORE = 4  # how many times more rows are looked at where they are of too few texts


def text_digest(config: JobConfig) -> Column:
    """Make the column TEXT_DIGEST of a table that holds vectors; NULL in a row without a fingerprint."""
    fingerprint = F.col(quoted(VectorColumns(config.column).fingerprint_column))
    return F.substring_index(fingerprint, "-", -1).alias(TEXT_DIGEST)


def nearest_of_each(
    rows: DataFrame, queries: Side, k: int, column: str, same: Sequence[Sequence[str]], n_looked_at: int, digest: str | None = None
) -> list[list[Row]]:
    """Find the `k` nearest rows of each query of which no two are the same, or all there are.

    Args:
        rows: As `with_vectors` makes them.
        queries: Numbered in the column ASKED.
        k: Rows for each query.
        column: The vectors' name in messages.
        same: Lists of columns: two rows are the same where they are equal, and not NULL, in all columns of one list.
        n_looked_at: Rows that are looked at first; more and more where they do not suffice.
        digest: A column by which equal rows are left out early, as `against_queries` does it.
    """
    while True:
        with worker_errors():
            found = against_queries(rows, queries, n_looked_at, Metric.COSINE, column, digest).collect()
        by_query: list[list[Row]] = [[] for _ in range(len(queries.matrix))]
        for row in sorted(found, key=lambda row: (row[ASKED], row["rank"])):
            by_query[row[ASKED]].append(row)
        best = [_first_of_each(of_query, same)[:k] for of_query in by_query]
        if all(len(kept) == k or len(of_query) < n_looked_at for kept, of_query in zip(best, by_query, strict=True)):
            return best
        n_looked_at *= _MORE


def count_rows(job: OpenJob, config: JobConfig, digests: Iterable[str]) -> dict[str, int]:
    """Count the rows with a vector that have each of a few texts."""
    wanted = job.spark.createDataFrame([(digest,) for digest in sorted(set(digests))], f"{TEXT_DIGEST} string")
    rows = job.target.where(F.col(quoted(config.column)).isNotNull()).select(text_digest(config))
    found = rows.join(F.broadcast(wanted), on=TEXT_DIGEST).groupBy(TEXT_DIGEST).agg(F.count(F.lit(1)).alias("n")).collect()
    return {row[TEXT_DIGEST]: row["n"] for row in found}


def _first_of_each(rows: Sequence[Row], same: Sequence[Sequence[str]]) -> list[Row]:
    """Keep the first of all rows that are the same."""
    seen: set[Hashable] = set()
    kept: list[Row] = []
    for row in rows:
        values = [(number, *(row[name] for name in names)) for number, names in enumerate(same)]
        known = [value for value in values if None not in value]
        if seen.isdisjoint(known):
            kept.append(row)
        seen.update(known)
    return kept

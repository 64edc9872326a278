"""Queries whose rows are known: `metaeol test` looks whether each finds its row among the first `k`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from metaeol_udf.config import GivenConfig, as_config
from metaeol_udf.errors import ConfigError, QualityError
from metaeol_udf.evaluation.rows import check_line, read_rows
from metaeol_udf.prompts.cleanup import is_blank
from metaeol_udf.search.open_job import Hit
from metaeol_udf.search.table import search_table


@dataclass(frozen=True)
class FoundRow:
    """Holds what became of one line of a file of queries.

    Attributes:
        query: What was looked for.
        key: Key columns of the row that must be found, by name, as the file writes them.
        rank: Place of that row, from 1; None where it is not among the first `k`.
        score: Cosine of that row and the query; None likewise.
    """

    query: str
    key: dict[str, str]
    rank: int | None
    score: float | None


def check_queries(
    config: GivenConfig, file: str | Path, *, k: int = 10, where: str | None = None, spark: SparkSession | None = None
) -> list[FoundRow]:
    """Search a job's table for the queries of a file, and look where the rows that they must find stand.

    Args:
        config: The job whose table is searched.
        file: A table, `.tsv` or `.tsv.gz`, with the column `query` and the columns of `source.key`, whose values are compared as texts. A
            query that must find several rows stands in several lines.
        k: Rows for each query.
        where: As in `search_table`.
        spark: The session; None takes the active one or starts one.

    Returns:
        One result a line of the file, in its order.

    Raises:
        ConfigError: The file cannot be read, lacks a column, or a query is blank.
        InputError: As in `search_table`.
    """
    config = as_config(config)
    names = list(config.source.key)
    if "query" in names:
        raise ConfigError("a file of queries has the column 'query', which is a key column of this table: its rows cannot be named in one")
    path = Path(file)
    wanted = []
    for line, (query, *key) in read_rows(path, ["query", *names], least=1):
        check_line(path, line, not is_blank(query), "query must not be blank")
        wanted.append((query, tuple(key)))
    queries = list(dict.fromkeys(query for query, _ in wanted))
    hits = dict(zip(queries, search_table(config, queries, k=k, where=where, spark=spark), strict=True))
    return [_look(query, dict(zip(names, key, strict=True)), hits[query]) for query, key in wanted]


def require_found(found: Sequence[FoundRow], k: int) -> None:
    """Require that every query found its row.

    Raises:
        QualityError: One did not; the message counts them.
    """
    missed = sum(each.rank is None for each in found)
    if missed:
        raise QualityError(f"{missed} of {len(found)} rows are not among the first {k} of their query")


def _look(query: str, key: dict[str, str], hits: Sequence[Hit]) -> FoundRow:
    for rank, hit in enumerate(hits, 1):
        if {name: _as_written(value) for name, value in hit.key.items()} == key:
            return FoundRow(query, key, rank, hit.score)
    return FoundRow(query, key, None, None)


def _as_written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

"""Search in a table of passages: of each text the nearest passage, with what it says."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

from pyspark.sql import Row
from pyspark.sql import functions as F

from metaeol_udf.config import JobConfig
from metaeol_udf.config.source import PASSAGE_KEY
from metaeol_udf.delta.tables.columns import VectorColumns
from metaeol_udf.delta.tables.fingerprint import HashKey
from metaeol_udf.search.blocks import Metric, Side
from metaeol_udf.search.open_job import ASKED, Hit, OpenJob, texts_of, worker_errors
from metaeol_udf.search.vectors import against_queries, with_vectors

_AT_FIRST, _MORE = 4, 4  # passages a text that are looked at, and how many times more where they are of too few texts


def nearest_passages(job: OpenJob, config: JobConfig, queries: Side, k: int) -> list[list[Hit]]:
    """Find the `k` texts that have the passages nearest to each query; `queries` are numbered in the column ASKED.

    Raises:
        InputError: Vectors cannot be compared.
        ConfigError: The key of the texts' hashes cannot be read.
    """
    names, stored = config.source.key, VectorColumns(config.column).fingerprint_column
    rows = with_vectors(job.target, (*names, *PASSAGE_KEY, stored), config.column, f"the table {config.target_table}")
    n_looked_at = _AT_FIRST * k
    while True:
        with worker_errors():
            found = against_queries(rows, queries, n_looked_at, Metric.COSINE, config.column).collect()
        by_query: list[list[Row]] = [[] for _ in range(len(queries.matrix))]
        for row in sorted(found, key=lambda row: (row[ASKED], row["rank"])):
            by_query[row[ASKED]].append(row)
        best = [_first_of_each(of_query, names)[:k] for of_query in by_query]
        if all(len(texts) == k or len(rows) < n_looked_at for texts, rows in zip(best, by_query, strict=True)):
            return _hits(job, config, best)
        n_looked_at *= _MORE


def _first_of_each(rows: Sequence[Row], key: Sequence[str]) -> list[Row]:
    """Keep the first row of each text."""
    first: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        first.setdefault(tuple(row[name] for name in key), row)
    return list(first.values())


def _hits(job: OpenJob, config: JobConfig, best: Sequence[Sequence[Row]]) -> list[list[Hit]]:
    """Add to the best passages what they say, in one pass over the source."""
    names, setting, stored = config.source.key, config.target.fingerprint_key, VectorColumns(config.column).fingerprint_column
    hash_key = None if setting is None else HashKey.read(setting)
    texts = texts_of(job, config, [tuple(row[name] for name in names) for rows in best for row in rows], F.make_valid_utf8)
    hits: list[list[Hit]] = []
    for rows in best:
        hits.append([])
        for row in rows:
            key, place = {name: row[name] for name in names}, {name: row[name] for name in PASSAGE_KEY}
            whole = texts.get(tuple(key.values()))
            extract = None if whole is None else whole[place["start"] : place["end"]]
            is_same = extract is not None and _digest(extract, hash_key) == (row[stored] or "").rpartition("-")[2]
            hits[-1].append(Hit(key, extract if is_same else None, float(row["score"]), place))
    return hits


def _digest(text: str, hash_key: HashKey | None) -> str:
    """Make the digest of a text that its row fingerprint ends with."""
    content = text.encode()
    whole = hashlib.sha256(content) if hash_key is None else hmac.new(hash_key.secret, content, hashlib.sha256)
    return whole.hexdigest()[:32]

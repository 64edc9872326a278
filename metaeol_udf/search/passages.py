"""Search in a table of passages: of each text the nearest passage, with what it says."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from pyspark.sql import Row
from pyspark.sql import functions as F

from metaeol_udf.config import JobConfig
from metaeol_udf.config.source import PASSAGE_KEY
from metaeol_udf.delta.tables.columns import VectorColumns
from metaeol_udf.delta.tables.fingerprint import HashKey
from metaeol_udf.search.blocks import Side
from metaeol_udf.search.distinct import TEXT_DIGEST, nearest_of_each, text_digest
from metaeol_udf.search.open_job import Hit, OpenJob, texts_of
from metaeol_udf.search.vectors import with_vectors

_AT_FIRST = 4  # passages a text that are looked at


def nearest_passages(job: OpenJob, config: JobConfig, queries: Side, k: int, distinct: bool = False) -> list[list[Hit]]:
    """Find the `k` texts that have the passages nearest to each query; `queries` are numbered in the column ASKED.

    If `distinct`, of equal passages the first one alone is looked at.

    Raises:
        InputError: Vectors cannot be compared.
        ConfigError: The key of the texts' hashes cannot be read.
    """
    names, stored = config.source.key, VectorColumns(config.column).fingerprint_column
    digest = [TEXT_DIGEST] if distinct else []
    table = job.target.withColumn(TEXT_DIGEST, text_digest(config)) if distinct else job.target
    rows = with_vectors(table, (*names, *PASSAGE_KEY, stored, *digest), config.column, f"the table {config.target_table}")
    return _hits(job, config, nearest_of_each(rows, queries, k, config.column, [names, *([digest] if distinct else [])], _AT_FIRST * k))


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

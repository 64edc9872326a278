"""An embedded table that is searched: opened and checked against its configuration; what is found in it, and what its rows say."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pyspark.errors import PythonException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from metaeol_udf.config import JobConfig
from metaeol_udf.delta.sources.source import Source
from metaeol_udf.delta.sources.text import text_of
from metaeol_udf.delta.tables.columns import VectorColumns, require_field
from metaeol_udf.delta.tables.fingerprint import of_spec
from metaeol_udf.delta.tables.metadata import differences, label_of, vector_properties
from metaeol_udf.delta.tables.refs import open_table, parse_table, read
from metaeol_udf.delta.tables.where_clause import filtered
from metaeol_udf.encoder.checkpoint.resolve import ResolvedSpec
from metaeol_udf.errors import InputError
from metaeol_udf.spark.cluster.resolve import resolve
from metaeol_udf.spark.cluster.session import get_session
from metaeol_udf.spark.columns import find_field, quoted
from metaeol_udf.terminal import waiting

#: Columns beside the key in results; no user's table may have them.
ASKED, _TEXT = "metaeol_asked", "metaeol_text"


@dataclass(frozen=True)
class Hit:
    """Holds a row near a query.

    Attributes:
        key: Key columns by name.
        text: The row's text as it stands in the source now.
        score: Cosine of the row's and the query's vectors, -1 to 1.
        place: Of a table of passages, which passage of the text it is: its number `passage`, and its characters `start` and `end`; `text`
            is that passage then, or None where the text was changed since. None for other tables.
        more_rows: Of a search for distinct texts: how many other rows have this text.
    """

    key: dict[str, Any]
    text: str | None
    score: float
    place: dict[str, int] | None = None
    more_rows: int = 0


@dataclass(frozen=True)
class OpenJob:
    """Holds an embedded table, found to be what its configuration says.

    Attributes:
        spark: The session.
        resolved: What the vectors are.
        source: The rows that hold the texts.
        target: The rows that hold the vectors; the same where there is no table of their own. Only those that meet the condition.
    """

    spark: SparkSession
    resolved: ResolvedSpec
    source: DataFrame
    target: DataFrame


def open_job(config: JobConfig, where: str | None, spark: SparkSession | None) -> OpenJob:
    """Open the tables of a job and check that all vectors are of its spec.

    Raises:
        InputError: They are not, a table or column is missing, or the condition over the source's columns is none.
        ConfigError: The configuration names a model, layer or template set that does not exist.
    """
    resolved = resolve(config.embedding.of_one_passage(), lambda: get_session(config.spark, spark))
    spark = get_session(config.spark, spark)
    with waiting("checking the table's vectors"):
        source, target = _open(spark, config)
        _check_vectors(spark, target, config, resolved)
    if where is not None:
        kept = filtered(source, where, "--where")
        keys = [quoted(name) for name in config.source.key]
        target = kept if config.target.table is None else target.join(kept.select(*keys), on=list(config.source.key), how="left_semi")
    return OpenJob(spark, resolved, source, target)


@contextmanager
def worker_errors() -> Iterator[None]:
    """Raise again, as itself, what our code refused in a worker: Spark wraps it in the worker's whole stack trace.

    Raises:
        InputError: That.
    """
    try:
        yield
    except PythonException as error:
        ours = re.search(r"^metaeol_udf\.errors\.InputError: (.*)$", str(error), re.MULTILINE)
        if ours is None:
            raise
        raise InputError(ours.group(1)) from None


def _open(spark: SparkSession, config: JobConfig) -> tuple[DataFrame, DataFrame]:
    """Open the table that holds the texts and the one that holds the vectors; they may be one."""
    place, ref = Source(config.source), parse_table(config.target_table, "target.table")
    source = place.read_checked(spark)
    if ref != place.table:
        open_table(spark, ref, "target.table")
    target = read(spark, ref)
    for name in config.of_rows().source.key:
        require_field(target.schema, name, "source.key", ref)
    for field in VectorColumns(config.column).fields:
        if find_field(target.schema, field.name) is None:
            raise InputError(f"{ref} has no column {field.name!r}: run `metaeol embed` with this configuration first")
    return source, target


def _check_vectors(spark: SparkSession, target: DataFrame, config: JobConfig, resolved: ResolvedSpec) -> None:
    """Refuse to compare vectors that different models or settings made: their cosines mean nothing."""
    columns = VectorColumns(config.column)
    has_vector = F.col(quoted(columns.vector)).isNotNull()
    ours = of_spec(resolved.fingerprint, F.col(quoted(columns.fingerprint_column)))
    counts = target.where(has_vector).agg(F.count(F.lit(1)).alias("all"), F.count(F.when(ours, True)).alias("ours")).collect()[0]
    if counts["all"] == 0:
        raise InputError(f"no row of {config.target_table} has a vector in column {columns.vector!r}: run `metaeol embed` first")
    if counts["ours"] < counts["all"]:
        raise InputError(
            f"{counts['all'] - counts['ours']} of {counts['all']} vectors in column {columns.vector!r} of {config.target_table} were made "
            f"by another model or other settings than this configuration's (fingerprint {resolved.fingerprint}): "
            f"{_difference(spark, config, resolved)}"
        )


def _difference(spark: SparkSession, config: JobConfig, resolved: ResolvedSpec) -> str:
    """Say in which settings the table's vectors differ from the configuration's, and what to do."""
    ref, column = parse_table(config.target_table, "target.table"), config.column
    stored = label_of(open_table(spark, ref, "target.table").detail().collect()[0]["properties"], column)
    now = label_of(vector_properties(column, resolved), column)
    either = "set these as in the table, or run `metaeol embed` to replace its vectors"
    if stored.get("fingerprint") == now["fingerprint"]:
        return "a migration to these settings is not at its end: run `metaeol embed` first"
    found = differences(stored, now) if stored else {}
    if not found:
        return f"they differ in a setting that the table's properties do not name, such as max_tokens or normalize; {either}"
    return (
        f"they differ in {', '.join(f'embedding.{name} ({old} in the table, {new} here)' for name, (old, new) in found.items())}; {either}"
    )


def texts_of(
    job: OpenJob, config: JobConfig, keys: Sequence[tuple[Any, ...]], as_read: Callable[[Column], Column] = lambda text: text
) -> dict[tuple[Any, ...], str | None]:
    """Look up the texts of a few rows by their keys, in one pass over the source; `as_read` is done to them there."""
    names = [quoted(name) for name in config.source.key]
    texts = job.source.select(*names, as_read(text_of(config.source, job.source.schema)).alias(_TEXT))
    wanted = F.broadcast(job.spark.createDataFrame(sorted(set(keys), key=repr), texts.drop(_TEXT).schema))
    with waiting("reading the texts that were found"):
        found = texts.join(wanted, on=list(config.source.key), how="left_semi").collect()
    return {tuple(row[name] for name in config.source.key): row[_TEXT] for row in found}

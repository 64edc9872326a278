"""Source and target: read with the job's own checks, so that the doctor refuses what the job would refuse. Nothing is written."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import DataType, StructType

from metaeol_udf.config import JobConfig, SourceConfig
from metaeol_udf.delta.select import selection
from metaeol_udf.delta.sources.passages import key_of_passages
from metaeol_udf.delta.sources.source import Source, check_apart
from metaeol_udf.delta.sources.text import check_text_columns
from metaeol_udf.delta.tables.can_write import check_can_write
from metaeol_udf.delta.tables.columns import VectorColumns, check_source_columns, check_vector_columns, require_field
from metaeol_udf.delta.tables.fingerprint import FINGERPRINT_KEY, HashKey
from metaeol_udf.delta.tables.refs import TableRef, exists, open_table, parse_table
from metaeol_udf.delta.tables.target import check_target, rewritten_bytes
from metaeol_udf.delta.tables.where_clause import filtered
from metaeol_udf.doctor.machine import check_disk
from metaeol_udf.doctor.plan import Plan
from metaeol_udf.errors import MetaEOLError
from metaeol_udf.spark.cluster.catalog import check_catalog
from metaeol_udf.spark.cluster.cluster_settings import MIB
from metaeol_udf.spark.cluster.finding import Finding, ok, refused, warning, wrong_environment
from metaeol_udf.spark.cluster.log_store import check_session_commits
from metaeol_udf.spark.cluster.resolve import resolve

SAMPLE_ROWS = 100_000
_OWN_TABLE = "target.table=<a table of its own>"
_PLACES = {
    "source.table": "a Delta table's path or name", "source.path": "a file or folder", "source.format": "the format of the files",
    "source.query": "one SELECT that always says the same", "target.table": "a folder of its own",
}  # fmt: skip
_DAY_S = 86_400
_UNIT_S = {"second": 1, "minute": 60, "hour": 3600, "day": _DAY_S, "week": 7 * _DAY_S, "month": 30 * _DAY_S, "year": 365 * _DAY_S}


def check_tables(spark: SparkSession, plan: Plan, all_keys: bool) -> Iterator[Finding]:
    """Check everything about the tables; end at the first thing without which the rest cannot be known."""
    config = plan.config
    try:
        place, target_ref = Source(config.source), parse_table(config.target_table, "target.table")
        check_apart(place, target_ref, makes_passages=config.makes_passages)
        ref = place.open(spark)
        source = place.read(spark)
    except MetaEOLError as error:
        yield refused("source", error, f"{place_of(error)}=<{_PLACES.get(place_of(error), 'another place')}>")
        return
    yield check_catalog(spark, [table.name for table in (ref, target_ref) if table is not None and not table.is_path])
    yield check_columns(source, config.source, place)
    yield check_condition(source, config.source)
    yield check_records(source, place)
    yield check_keys(source, config.source, place, all_keys)
    in_place = ref == target_ref
    yield check_vector_room(spark, config, source, place, target_ref)
    yield check_writable(target_ref, "target.table")
    detail = None if ref is None else _detail(spark, ref)
    written = detail if in_place else _detail(spark, target_ref) if exists(spark, target_ref) else None
    properties = written["properties"] if written is not None else {}
    yield check_change_feed(properties, in_place)
    yield check_session_commits(spark, written["location"] if written is not None else target_ref.name)
    if ref is not None and detail is not None:
        yield check_statistics(source.schema, detail, config.source.text_columns, ref, in_place)
        yield check_retention(detail["properties"], ref)
    try:
        resolved = resolve(config.embedding.of_one_passage(), lambda: spark)
    except MetaEOLError:
        yield ok("fingerprint", "the model or the templates cannot be read: see their own findings")
        return
    yield check_migration(properties, config.column, resolved.fingerprint)
    n_rows, is_there = source.count(), config.column in source.columns
    if written is not None:
        missing_bytes = n_rows * resolved.vector_length * 4 if in_place and not is_there else 0
        yield check_rewrites(written, missing_bytes, target_ref, in_place)
    rewritten = int(detail["sizeInBytes"]) if in_place and detail is not None else 0
    yield check_disk(plan, nearest_folder(target_ref), n_rows, resolved.vector_length, rewritten)


def place_of(error: MetaEOLError) -> str:
    """Name the setting that a message begins with."""
    return str(error).partition(":")[0].partition(" ")[0]


def check_records(source: DataFrame, place: Source) -> Finding:
    """Each record of files that are text could be read; rows of other sources always can."""
    try:
        place.check_readable(source)
    except MetaEOLError as error:
        return refused("records", error, "source.options=<options of Spark's reader>")
    return ok("records", "each record can be read")


def check_columns(source: DataFrame, config: SourceConfig, ref: object) -> Finding:
    """The text column holds strings, the key columns plain values."""
    try:
        check_text_columns(config, source.schema, ref)
        check_source_columns(source, config.key, ref)
    except MetaEOLError as error:
        key = "source.key" if str(error).startswith("source.key") else "source.text"
        return refused("columns", error, f"{key}=<{', '.join(source.columns[:8])}>")
    doubled = {name.casefold() for name in config.key} & {name.casefold() for name in config.text_columns}
    if doubled:
        found = f"the text column {', '.join(sorted(doubled))} is a key column: target and quarantine store texts as keys"
        return warning("columns", found, "source.key=<columns that name a row without its text>")
    return ok("columns", f"text {', '.join(config.text_columns)}, key {', '.join(config.key)}")


def check_condition(source: DataFrame, config: SourceConfig) -> Finding:
    """`source.where` is a condition over the source's columns."""
    try:
        filtered(source, config.where)
    except MetaEOLError as error:
        return refused("condition", error, "source.where=null")
    return ok("condition", "all rows" if config.where is None else "source.where can be parsed")


def check_keys(source: DataFrame, config: SourceConfig, name: object, all_keys: bool) -> Finding:
    """No NULL and nothing twice in the key: the job looks at all rows, this looks at the first ones unless told otherwise."""
    rows = source if all_keys else source.limit(SAMPLE_ROWS)
    try:
        selection.check_keys(rows, config, name)
    except MetaEOLError as error:
        return refused("keys", error, "source.key=<columns that are unique together>, or source.where=<a condition without those rows>")
    except PySparkException:  # a column that is not there has a finding of its own
        return ok("keys", "the key columns cannot be read: see columns")
    return ok("keys", f"unique and never NULL in {'all' if all_keys else f'the first {SAMPLE_ROWS:,}'} rows")


def check_vector_room(spark: SparkSession, config: JobConfig, source: DataFrame, place: Source, target: TableRef) -> Finding:
    """The vectors' columns are free, or there with the job's types, and Delta takes what is written into them."""
    columns, fingerprint_key = VectorColumns(config.column), config.target.fingerprint_key
    try:
        hash_key = None if fingerprint_key is None else HashKey.read(fingerprint_key)
        if place.table == target:
            check_vector_columns(source.schema, columns, (*config.source.key, *config.source.text_columns), target)
            check_can_write(spark, open_table(spark, target, "source.table"), target, columns, hash_key, key=None)
        else:
            key = StructType([require_field(source.schema, name, "source.key", target) for name in config.source.key])
            check_target(spark, target, place, key_of_passages(key) if config.makes_passages else key, columns, hash_key)
    except MetaEOLError as error:
        advice = {"embedding.column": f"embedding.column={config.column}_2", FINGERPRINT_KEY: f"{FINGERPRINT_KEY}=env:<a variable>"}
        return refused("vector columns", error, advice.get(str(error).partition(":")[0], _OWN_TABLE))
    return ok("vector columns", f"{config.column} may be written")


def check_writable(ref: TableRef, setting: str) -> Finding:
    """The nearest folder that exists takes new files; a table by name is for its catalog to say."""
    folder = nearest_folder(ref)
    if folder is None:
        return ok("writable", f"{ref} is not on this machine's disk: its catalog or store decides")
    if not folder.is_dir():
        return wrong_environment("writable", f"{folder} is a file: no table can be under it", f"{setting}=<a folder>")
    if not os.access(folder, os.W_OK | os.X_OK) or os.statvfs(folder).f_flag & os.ST_RDONLY:
        return wrong_environment("writable", f"the folder {folder} takes no new files from this user", f"{setting}=<a folder of this user>")
    return ok("writable", f"{folder} takes new files")


def check_file(path: Path, setting: str) -> Finding:
    """A file that the job writes at its end is no folder, and its folder takes new files."""
    if path.is_dir():
        return wrong_environment("writable", f"{path} is a folder, not a file", f"{setting}=<a file>")
    return check_writable(TableRef(str(path.parent), is_path=True), setting)


def check_change_feed(properties: Mapping[str, str], in_place: bool) -> Finding:
    """Whoever reads the table's change feed gets every vector twice, before and after."""
    if in_place and properties.get("delta.enableChangeDataFeed", "").lower() == "true":
        found = "the source has a change data feed: readers of it get an update for each vector that is written back"
        return warning("change feed", found, _OWN_TABLE)
    return ok("change feed", "no reader of a change feed is disturbed")


def check_statistics(schema: StructType, detail: Any, text: Sequence[str], ref: TableRef, in_place: bool) -> Finding:
    """Say whether Delta copies texts into the log of the table that is written to. Read from its properties; no file is opened."""
    if not in_place:
        return ok("statistics", "the table that is written to holds no text")
    logged = [name for name in text if name.casefold() in _columns_with_statistics(schema, detail)]
    if not logged:
        return ok("statistics", f"the table's log holds no value of {', '.join(text)}")
    leave_out = f"ALTER TABLE {ref.sql} SET TBLPROPERTIES ('delta.dataSkippingStatsColumns' = '<other columns>')"
    values = f"the beginning of the smallest and largest {', '.join(logged)} of each file"
    found = f"the table's log holds {values}; {leave_out} keeps those of new files out"
    return ok("statistics", found)


def check_rewrites(detail: Any, missing_bytes: int, ref: TableRef, in_place: bool) -> Finding:
    """A night that changes a few rows copies the files that hold them, vectors and all, unless the table has deletion vectors.

    Args:
        detail: Of the table that is written to.
        missing_bytes: Bytes of vectors that its files do not hold yet.
        ref: The table.
        in_place: Whether the vectors go into the source.
    """
    estimated = rewritten_bytes(detail, missing_bytes)
    if estimated is None:
        return ok("rewrites", "a night that changes a few rows rewrites little")
    file, files = (f"{n_bytes / MIB:,.0f} MiB" for n_bytes in estimated)
    found = f"each changed row rewrites its file of {ref}, {file} with its vectors; rows changed in every file rewrite {files}"
    turn_on = f"ALTER TABLE {ref.sql} SET TBLPROPERTIES ('delta.enableDeletionVectors' = 'true')"
    return warning("rewrites", found, f"{turn_on}, or {_OWN_TABLE}" if in_place else turn_on)


def check_retention(properties: Mapping[str, str], ref: TableRef) -> Finding:
    """A run reads the source as it was at its start: VACUUM must not remove those files meanwhile."""
    key = "delta.deletedFileRetentionDuration"
    written = properties.get(key)
    seconds = 7 * _DAY_S if written is None else interval_s(written)
    if seconds is None:
        return warning("retention", f"{ref} has {key}={written}, which cannot be read as an interval", f"{key}=interval 7 days")
    if seconds < _DAY_S:
        found = f"{ref} has {key}={written}: VACUUM may remove what a run of {seconds / 3600:g} hours still reads"
        return warning("retention", found, f"{key}=interval 7 days")
    return ok("retention", f"files of older versions are kept for {seconds / _DAY_S:g} days")


def check_migration(properties: Mapping[str, str], column: str, fingerprint: str) -> Finding:
    """Vectors of two specs cannot be compared, so that the job embeds all rows anew."""
    stored = properties.get(f"metaeol.{column}.fingerprint")
    if stored is None or stored == fingerprint:
        return ok("fingerprint", "no vectors of another spec" if stored is None else "stored vectors are this spec's")
    was = ", ".join(f"{name} {properties.get(f'metaeol.{column}.{name}', '?')}" for name in ("model", "templates", "layer", "dtype"))
    found = f"column {column} holds vectors of spec {stored} ({was}), the job's is {fingerprint}: every row is embedded anew"
    return warning("fingerprint", found, "embedding.column=<another name> keeps both")


def _columns_with_statistics(schema: StructType, detail: Any) -> set[str]:
    """Name the top-level columns, in lower case, whose smallest and largest values Delta writes into a table's log.

    `delta.dataSkippingStatsColumns` lists them. Without it they are the first ones, where each field of a struct counts.
    """
    listed = detail["properties"].get("delta.dataSkippingStatsColumns")
    if listed is not None:
        names = (name.strip() for name in re.findall(r"(?:`(?:[^`]|``)*`|[^,`])+", listed))
        return {(name[1:-1].replace("``", "`") if name.startswith("`") else name).casefold() for name in names}
    n_indexed = int(detail["properties"].get("delta.dataSkippingNumIndexedCols", 32))
    fields = [field for field in schema.fields if field.name not in detail["partitionColumns"]]
    ends = accumulate(_n_leaves(field.dataType) for field in fields)
    return {field.name.casefold() for field, end in zip(fields, ends, strict=True) if n_indexed < 0 or end <= n_indexed}


def _n_leaves(kind: DataType) -> int:
    return sum(_n_leaves(field.dataType) for field in kind.fields) if isinstance(kind, StructType) else 1


def nearest_folder(ref: TableRef) -> Path | None:
    """The table's folder, or the nearest thing above it that exists; None where the table is not on this machine's disk."""
    if not ref.is_path or (":" in ref.name and not ref.name.startswith("file:")):
        return None
    path = Path(re.sub(r"^file:/*", "/", ref.name))
    return next((folder for folder in (path, *path.parents) if folder.exists()), None)


def interval_s(text: str) -> float | None:
    """Seconds of an interval such as `interval 2 days 4 hours`; None where it is none."""
    parts = re.findall(r"(\d+)\s*(second|minute|hour|day|week|month|year)s?", text.lower())
    return float(sum(int(n) * _UNIT_S[unit] for n, unit in parts)) if parts else None


def _detail(spark: SparkSession, ref: TableRef) -> Any:
    return open_table(spark, ref, "source.table").detail().collect()[0]

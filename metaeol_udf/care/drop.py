"""`metaeol drop`: a job's vectors and all that stands beside them. First a list of it; nothing that is not ours is touched.

Vectors in the source itself: their columns go where the table maps its columns (`delta.columnMapping.mode`), which Delta asks for. Other
tables keep the three columns, all NULL: to write the whole table anew without them could lose rows of other writers.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from py4j.protocol import Py4JError
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

from metaeol_udf.care.vector_table import VectorTable
from metaeol_udf.config import GivenConfig
from metaeol_udf.delta.base.small_files import SmallFile
from metaeol_udf.delta.checkpoint import checkpoint_root, find_checkpoint
from metaeol_udf.delta.job import known_errors
from metaeol_udf.delta.tables.alter_table import alter_table
from metaeol_udf.delta.tables.metadata import check_source, fingerprints_label, label_of, labelled_columns
from metaeol_udf.delta.tables.refs import TableRef, exists, open_table, read, storage_of
from metaeol_udf.delta.tables.spark_errors import with_retries
from metaeol_udf.errors import InputError
from metaeol_udf.spark.columns import find_field, quoted

_OWN_FILE = re.compile(r"_[^/]*(/.*)?|(.*/)?\.[^/]*\.crc|(.*/)?[^/]*\.(parquet|bin)")
_OWN_NAMES = re.compile(r"[0-9a-f]{16}(\.start|\.swept)?")  # of checkpoints and of what stands beside them


@dataclass(frozen=True)
class DropItem:
    """One thing that is dropped.

    Attributes:
        kind: `checkpoint`, `quarantine`, `quarantine rows`, `target`, `columns`, `empty columns`, `label` or `journal`.
        name: The table, folder or columns.
        said: How much that is, or why it is dropped in this way.
    """

    kind: str
    name: str
    said: str


def run_drop(
    config: GivenConfig, spark: SparkSession | None = None, agree: Callable[[Sequence[DropItem]], bool] = lambda items: True
) -> dict[str, Any]:
    """Drop a job's vectors, and the journal, quarantine and stream checkpoints beside them. Needs no model.

    A target of its own that holds nothing else is dropped whole, and of any other table the three columns and the label. What other vector
    columns of the table need stays. A run that is killed goes on where the same command is given again.

    Args:
        config: All settings: a `JobConfig`, nested mappings, or the path of a YAML file.
        spark: The session; None takes the active one or starts one.
        agree: Is given what would be dropped, in order, and says whether to go on.

    Returns:
        `table`, `column` and `items`, each with `kind`, `name` and `said`; `dropped` tells whether they were.

    Raises:
        InputError: The columns are not of this job, or a folder holds files that are not of the table.
        ConflictError: A run is at work.
    """
    with known_errors():
        table = VectorTable.of(config, spark)
        items = _find(table)
        found = {"table": str(table.target), "column": table.columns.vector, "items": [dataclasses.asdict(item) for item in items]}
        if not items or not agree(items):
            return found | {"dropped": False}
        with table.alone("drop") as (_, location):
            present = _find(table)
            for item in present:
                _drop(table, item)
        if present and present[-1].kind == "journal":
            _clear(table.spark, location)
        return found | {"dropped": True}


def _find(table: VectorTable) -> list[DropItem]:
    """Find what would be dropped, in the order in which it is; what says that the rest is ours goes last."""
    properties = table.properties() if table.exists() else {}
    others = sorted(labelled_columns(properties).keys() - {table.columns.vector})
    beside = list(_find_beside(table, others))
    checkpoints = list(_find_checkpoints(table, properties, others))
    vectors = list(_find_vectors(table, properties, others)) if table.exists() else []
    journal = [item for item in beside if item.kind == "journal"]
    found = [*checkpoints, *(item for item in beside if item.kind != "journal"), *vectors, *journal]
    for item in found:
        if item.kind in ("quarantine", "target", "journal") and table.target.is_path:
            _check_files(table.spark, item.name)
    return found


def _find_vectors(table: VectorTable, properties: dict[str, str], others: Sequence[str]) -> Iterator[DropItem]:
    rows, columns = read(table.spark, table.target), table.columns
    found = [field for wanted in columns.fields if (field := find_field(rows.schema, wanted.name)) is not None]
    label = label_of(properties, columns.vector)
    held = [field.name for field in found if not rows.where(F.col(quoted(field.name)).isNotNull()).isEmpty()]
    if not label:
        if held:
            raise InputError(
                f"embedding.column: {table.target} has a column {held[0]!r} and no property metaeol.{columns.vector}.fingerprint: "
                "no run of this package made it"
            )
        return
    if not table.in_place:
        check_source(properties, table.target, columns.vector, table.source)
        ours = {name.casefold() for name in (*table.config.source.key, *(field.name for field in columns.fields))}
        if not others and {name.casefold() for name in rows.columns} <= ours:
            yield DropItem("target", str(table.target), f"a table of {rows.count():,} rows")
            return
    names = ", ".join(field.name for field in found)
    if properties.get("delta.columnMapping.mode", "none") in ("name", "id"):
        if found:
            yield DropItem("columns", names, f"of {table.target}")
    else:
        if held:
            said = f"of {table.target}: made NULL, not dropped, which Delta does only with delta.columnMapping.mode=name"
            yield DropItem("empty columns", names, said)
    yield DropItem("label", f"metaeol.{columns.vector}.*", f"{len(label)} properties of {table.target}")


def _find_beside(table: VectorTable, others: Sequence[str]) -> Iterator[DropItem]:
    if exists(table.spark, table.quarantine):
        rows = read(table.spark, table.quarantine)
        n = (rows if not others else rows.where(F.col("vector_column") == table.columns.vector)).count()
        if not others:
            yield DropItem("quarantine", str(table.quarantine), f"a table of {n:,} rows")
        elif n:
            yield DropItem("quarantine rows", str(table.quarantine), f"{n:,} rows; others are of {', '.join(others)}")
    if exists(table.spark, table.journal) and not others:
        n = read(table.spark, table.journal).count()
        yield DropItem("journal", str(table.journal), f"a table of {n:,} rows, with run locks and proofs")


def _find_checkpoints(table: VectorTable, properties: dict[str, str], others: Sequence[str]) -> Iterator[DropItem]:
    """Find the folders of streams into the column: all beside the table where no other column is there, else that of the stored spec."""
    spark, config = table.spark, table.config
    label = fingerprints_label(label_of(properties, table.columns.vector))
    if not (others or config.stream.checkpoint):
        location = table.target.name if table.target.is_path else None
        if location is None and table.exists():
            location = open_table(spark, table.target, "target.table").detail().collect()[0]["location"]
        names = [] if location is None else _names_in(spark, checkpoint_root(config, location))
        if names:
            root = checkpoint_root(config, location or "")
            strange = [name for name in names if not _OWN_NAMES.fullmatch(name) and not name.endswith(".crc")]
            if strange:
                raise InputError(f"{root} holds {strange[0]!r}, which no stream of this package made: move it away, then drop again")
            yield DropItem("checkpoint", root, "of streams")
        return
    if label is None or not table.exists():
        return
    try:
        folder = find_checkpoint(spark, config, table.source, table.target, table.columns.vector, label)[0]
    except InputError:  # the source is gone, and with it the name of the folder
        return
    root, _, name = folder.rpartition("/")
    for found in _names_in(spark, root):
        if found == name or found.startswith(f"{name}."):
            yield DropItem("checkpoint", f"{root}/{found}", "of the stream")


def _names_in(spark: SparkSession, folder: str) -> list[str]:
    path, storage = storage_of(spark, folder)
    return sorted(status.getPath().getName() for status in storage.listStatus(path)) if storage.exists(path) else []


def _drop(table: VectorTable, item: DropItem) -> None:
    """Drop one thing."""
    spark, columns = table.spark, table.columns
    if item.kind == "checkpoint":
        SmallFile(spark, item.name).delete(recursive=True)
    elif item.kind == "quarantine":
        _drop_table(spark, table.quarantine)
    elif item.kind == "quarantine rows":
        is_mine = F.col("vector_column") == columns.vector
        with_retries(lambda: open_table(spark, table.quarantine, "quarantine").delete(is_mine))
    elif item.kind == "target":
        _drop_table(spark, table.target)
    elif item.kind == "journal":
        _drop_table(spark, table.journal)
    elif item.kind == "columns":
        with_retries(lambda: alter_table(spark, table.target, [], {}, {}, dropped=_present(table)))
    elif item.kind == "empty columns":
        with_retries(lambda: _empty(table))
    else:
        is_there = find_field(read(spark, table.target).schema, columns.vector) is not None
        names = [name for name in table.properties() if name.startswith(f"metaeol.{columns.vector}.")]
        comments = {columns.vector: ""} if is_there else {}
        with_retries(lambda: alter_table(spark, table.target, [], comments, {}, unset=names))


def _present(table: VectorTable) -> list[str]:
    """Name the columns of ours that the table has."""
    schema = read(table.spark, table.target).schema
    return [field.name for wanted in table.columns.fields if (field := find_field(schema, wanted.name)) is not None]


def _empty(table: VectorTable) -> None:
    """Make the columns NULL: one commit, which no row of another writer is lost by."""
    schema, names = read(table.spark, table.target).schema, _present(table)
    held = F.lit(False)
    for name in names:
        held = held | F.col(quoted(name)).isNotNull()
    nothing: dict[str, str | Column] = {quoted(name): F.lit(None).cast(schema[name].dataType) for name in names}
    open_table(table.spark, table.target, "target.table").update(held, nothing)


def _drop_table(spark: SparkSession, ref: TableRef) -> None:
    """Drop a table, files and all."""
    if not ref.is_path:
        spark.sql(f"DROP TABLE IF EXISTS {ref.identifier}")
        return
    SmallFile(spark, ref.name).delete(recursive=True)
    _forget(spark, ref.name)


def _clear(spark: SparkSession, location: str) -> None:
    """Clear away the folder of a dropped journal where nothing is but a sign of life, which the lock gave after it was dropped."""
    if _names_in(spark, location) == ["_claims"]:
        SmallFile(spark, location).delete(recursive=True)


def _check_files(spark: SparkSession, folder: str) -> None:
    """Check that a table's folder holds nothing but the files of the table."""
    path, storage = storage_of(spark, folder)
    root = storage.makeQualified(path).toString().rstrip("/") + "/"
    files = storage.listFiles(path, True)
    while files.hasNext():
        name = files.next().getPath().toString().removeprefix(root)
        if not _OWN_FILE.fullmatch(name) or "/_delta_log/" in name:
            raise InputError(f"{folder} holds {name!r}, which is no file of the table: move it away, then drop again")


def _forget(spark: SparkSession, folder: str) -> None:
    """Make this session forget the log of a table that is gone, so that another may be made in its place."""
    session: Any = spark
    jvm = session._jvm
    try:
        jvm.org.apache.spark.sql.delta.DeltaLog.invalidateCache(session._jsparkSession, jvm.org.apache.hadoop.fs.Path(folder))
    except (Py4JError, TypeError):  # a Delta that hides its log keeps it apart, too
        return

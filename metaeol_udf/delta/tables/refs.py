"""Table names and paths: which are accepted, how tables are opened and made, and what stands beside them."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from delta import DeltaTable
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructField, StructType

from metaeol_udf.delta.connect.sql_table import SqlTable
from metaeol_udf.delta.tables.spark_errors import is_lost_race, with_retries
from metaeol_udf.errors import EnvironmentFault, InputError
from metaeol_udf.formatting import shorten
from metaeol_udf.setting_types import secret_problem
from metaeol_udf.spark.cluster.connect import is_connect
from metaeol_udf.spark.columns import find_field, quoted

logger = logging.getLogger(__name__)

#: Seconds to wait for the first commit of another run that is making the same table.
FIRST_COMMIT_S = 10.0
_LOOK_EVERY_S = 0.2
#: Delta stores a column of such a name only with column mapping.
NEEDS_MAPPING = re.compile(r"[ ,;{}()\n\t=]")

_NAME_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:/")
_NEVER_IN_PATH = re.compile(r"[`;\x00-\x1f*?\[\]{}]")  # quoting, statements, and globs, which would open other tables too
_NO_TABLE = ("DELTA_TABLE_NOT_FOUND", "DELTA_MISSING_DELTA_TABLE", "DELTA_PATH_DOES_NOT_EXIST", "PATH_NOT_FOUND", "TABLE_OR_VIEW_NOT_FOUND")
_COMMITS_LOOKED_AT = 20  # more than one job commits
_FORMATS = ("delta", "parquet", "text", "csv", "json", "orc", "binaryfile")  # `format.name` opens a path, not a table


@dataclass(frozen=True)
class TableRef:
    """A Delta table by path or by name.

    Attributes:
        name: The path, or one to three names with dots between them, as the user wrote it.
        is_path: Which of the two.
    """

    name: str
    is_path: bool

    def __str__(self) -> str:
        return self.name

    @property
    def identifier(self) -> str:
        """What Spark's readers take: the path, or the back-quoted names."""
        return self.name if self.is_path else ".".join(quoted(part) for part in self.name.split("."))

    @property
    def sql(self) -> str:
        """The table as a statement names it."""
        return f"delta.{quoted(self.name)}" if self.is_path else self.identifier

    def beside(self, suffix: str) -> TableRef:
        """The table of that role which stands beside this one: same folder or schema, name with a suffix."""
        return TableRef(f"{self.name}__metaeol_{suffix}", self.is_path)


def parse_table(name: str, setting: str) -> TableRef:
    """Accept a path (it has a `/` or begins with a scheme) or one to three plain names.

    Args:
        name: What the configuration says.
        setting: Its key, for the message.

    Raises:
        InputError: Anything else, such as `delta.`/path`` or a statement.
    """
    if "/" in name or _SCHEME.match(name):
        return TableRef(parse_path(name, setting), is_path=True)
    parts = name.split(".")
    plain = len(parts) <= 3 and all(_NAME_PART.fullmatch(part) for part in parts)
    if not plain or (len(parts) == 2 and parts[0].lower() in _FORMATS):
        raise InputError(
            f"{setting}: {shorten(name, 300)!r} must be a path with a / in it, or one to three names (letters, digits, _ and -) with dots "
            "between"
        )
    return TableRef(name, is_path=False)


def parse_path(name: str, setting: str) -> str:
    """Accept the path of one file or folder, and make it absolute.

    Raises:
        InputError: It carries a secret, or holds wildcards, quotes or control characters.
    """
    carries_secret = secret_problem(setting, name)
    if carries_secret is not None:
        raise InputError(carries_secret.said)
    if _NEVER_IN_PATH.search(name) or not name.strip("/"):
        raise InputError(
            f"{setting}: the path {shorten(name, 300)!r} must name one folder, without back-ticks, semicolons, wildcards or control "
            "characters"
        )
    absolute = name if _SCHEME.match(name) else os.path.abspath(name)  # Delta's catalog takes no relative paths
    return absolute.rstrip("/")


def open_table(spark: SparkSession, ref: TableRef, setting: str) -> DeltaTable:
    """Open a Delta table; over Spark Connect as a `SqlTable`, which has the methods that a run needs.

    Raises:
        InputError: There is no such table, or it is no Delta table.
    """
    try:
        if is_connect(spark):
            table: Any = SqlTable(spark, ref.sql, ref.identifier, is_path=ref.is_path)
            return table  # type: ignore[no-any-return]  # stands in for one
        return DeltaTable.forPath(spark, ref.name) if ref.is_path else DeltaTable.forName(spark, ref.identifier)
    except AnalysisException as error:
        kind = "path" if ref.is_path else "name"
        raise InputError(f"{setting}: no Delta table at the {kind} {ref.name!r} ({error.getCondition() or type(error).__name__})") from None


def exists(spark: SparkSession, ref: TableRef) -> bool:
    """Whether there is a Delta table of that path or name."""
    if ref.is_path and is_connect(spark):
        return _is_described(spark, ref)
    if ref.is_path:
        return DeltaTable.isDeltaTable(spark, ref.name)
    return spark.catalog.tableExists(ref.identifier)


def _is_described(spark: SparkSession, ref: TableRef) -> bool:
    """Tell whether Delta describes a path as a table of its own."""
    try:
        SqlTable(spark, ref.sql, ref.identifier, is_path=True)
    except AnalysisException as error:
        if (error.getCondition() or "") in _NO_TABLE:
            return False
        raise
    return True


@dataclass(frozen=True)
class TableDefinition:
    """Describes a table of ours.

    Attributes:
        schema: Its columns.
        comment: For people who find it.
        stats: Columns, with commas between, whose smallest and largest values Delta may write into its log.
        more_properties: Properties beside those that each table of ours has.
        partitioned_by: Its partition columns.
    """

    schema: StructType
    comment: str
    stats: str
    more_properties: Mapping[str, str] = field(default_factory=dict)
    partitioned_by: Sequence[str] = ()

    @property
    def properties(self) -> dict[str, str]:
        """List the properties that the table is made with: a session may have other defaults."""
        mapping = {"delta.columnMapping.mode": "name"} if any(NEEDS_MAPPING.search(name) for name in self.schema.names) else {}
        return {"delta.appendOnly": "false", "delta.dataSkippingStatsColumns": self.stats, **mapping, **self.more_properties}

    def execute(self, spark: SparkSession, ref: TableRef) -> None:
        """Execute the statement that makes the table, where there is none."""
        if not ref.is_path or is_connect(spark):
            spark.sql(self._statement(ref))
            return
        builder = DeltaTable.createIfNotExists(spark)
        # Without the source's metadata of a column, such as a default value, which would ask for more of the new table.
        plain = StructType([StructField(f.name, f.dataType, f.nullable) for f in self.schema.fields])
        builder = builder.addColumns(plain).comment(self.comment).partitionedBy(*self.partitioned_by)
        for key, value in self.properties.items():
            builder = builder.property(key, value)
        builder.location(ref.name).execute()

    def _statement(self, ref: TableRef) -> str:
        """Write the statement in SQL: Delta's builder takes no name of three parts, as tables of Unity Catalog have."""
        fields = self.schema.fields
        columns = ", ".join(f"{quoted(f.name)} {f.dataType.simpleString()}{'' if f.nullable else ' NOT NULL'}" for f in fields)
        properties = ", ".join(f"{literal(key)} = {literal(value)}" for key, value in self.properties.items())
        partitions = f" PARTITIONED BY ({', '.join(map(quoted, self.partitioned_by))})" if self.partitioned_by else ""
        made = f"CREATE TABLE IF NOT EXISTS {ref.sql} ({columns}) USING delta{partitions}"
        return f"{made} COMMENT {literal(self.comment)} TBLPROPERTIES ({properties})"


def create(spark: SparkSession, ref: TableRef, table: TableDefinition) -> None:
    """Create a table where there is none; of two runs that do so at once, the slower takes the other's table.

    Raises:
        InputError: The folder holds other files, or another run is making the table with other columns.
    """
    if exists(spark, ref):
        return
    try:
        with_retries(lambda: table.execute(spark, ref))
    except Exception as error:
        if not is_lost_race(error):
            raise
        logger.info("%s is being made by another run: waiting for its first commit", ref)
        if not _appears(spark, ref):
            folder = _clear_empty_log(spark, ref, error)
            if folder is not None:
                raise _other_files(ref, folder) from None
            with_retries(lambda: table.execute(spark, ref))
    found = open_table(spark, ref, "table").toDF().schema
    lacking = [name for name in table.schema.names if find_field(found, name) is None]
    if lacking:
        raise InputError(
            f"{ref} was made by another run and has no column {', '.join(map(repr, lacking))}: give each job a table of its own"
        )


def check_free(spark: SparkSession, ref: TableRef) -> None:
    """See that a table that is not there can be made: its folder holds nothing else.

    Over Spark Connect nobody looks before Delta does, when it makes the table.

    Raises:
        InputError: The folder holds other files.
    """
    if not ref.is_path or is_connect(spark):
        return
    folder, storage = storage_of(spark, ref.name)
    names = [status.getPath().getName() for status in storage.listStatus(folder)] if storage.exists(folder) else []
    if set(names) - {"_delta_log"} and not exists(spark, ref):  # another run may have made it meanwhile
        raise _other_files(ref, ref.name)


def _other_files(ref: TableRef, folder: str) -> InputError:
    return InputError(f"{ref}: the folder {folder} holds files but no Delta table: move them away, or name another table")


def replace(spark: SparkSession, ref: TableRef, table: TableDefinition) -> None:
    """Replace a table of ours by an empty table with other columns."""
    # Of the ways to replace a table, the one that Delta takes for a path, too.
    writer = spark.createDataFrame([], table.schema).writeTo(ref.sql).using("delta").tableProperty("comment", table.comment)
    for key, value in table.properties.items():
        writer = writer.tableProperty(key, value)
    if table.partitioned_by:
        writer = writer.partitionedBy(*map(F.col, table.partitioned_by))
    writer.createOrReplace()


def storage_of(spark: SparkSession, path: str) -> tuple[Any, Any]:
    """Make Hadoop's path of a place, and find the file system that has it."""
    context: Any = spark.sparkContext
    place = context._jvm.org.apache.hadoop.fs.Path(path)
    return place, place.getFileSystem(context._jsc.hadoopConfiguration())


def _appears(spark: SparkSession, ref: TableRef) -> bool:
    """Tell whether another run's table appears in time."""
    deadline = time.monotonic() + FIRST_COMMIT_S
    while True:
        try:
            _ = read(spark, ref).schema  # looks at the log anew, while `exists` may go by what this session saw in it before
            return True
        except AnalysisException:
            if time.monotonic() > deadline:
                return False
        time.sleep(_LOOK_EVERY_S)


def _clear_empty_log(spark: SparkSession, ref: TableRef, error: Exception) -> str | None:
    """Clear a log without a commit away, as a run leaves it that was killed while it made the table; gives a folder that holds more."""
    parameters = error.getMessageParameters() if isinstance(error, AnalysisException) else None
    folder = ref.name if ref.is_path else (parameters or {}).get("tableLocation")
    if folder is None or is_connect(spark):
        raise error
    log, storage = storage_of(spark, f"{folder}/_delta_log")
    if storage.getContentSummary(log.getParent()).getFileCount():
        return folder
    logger.warning("%s holds a log without a commit, which a killed run left: making the table anew", folder)
    # Folder by folder, which fails where a slow run has written its first commit meanwhile.
    inner = [status.getPath() for status in storage.listStatus(log)] if storage.exists(log) else []
    for path in (*inner, log):
        storage.delete(path, False)
    return None


def literal(text: str) -> str:
    """Write a string as SQL does."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def read(spark: SparkSession, ref: TableRef, version: int | None = None) -> DataFrame:
    """The table's rows, now or as they were at a version."""
    reader = spark.read.format("delta")
    if version is not None:
        reader = reader.option("versionAsOf", version)
    return reader.load(ref.name) if ref.is_path else reader.table(ref.identifier)


def append(rows: DataFrame, ref: TableRef, options: dict[str, str]) -> None:
    """Append rows as one commit."""
    writer = rows.write.format("delta").mode("append").options(**options)
    if ref.is_path:
        writer.save(ref.name)
    else:
        writer.saveAsTable(ref.identifier)


def current_version(table: DeltaTable) -> int:
    """The number of the table's newest commit, after a look at the newest ones.

    Raises:
        EnvironmentFault: One of them says nothing of what it did: a file of the log that was cut off or put there by something
            else than Delta. Delta reads on without an error, and what the commit held is lost.
    """
    newest = table.history(_COMMITS_LOOKED_AT).select("version", "operation").collect()
    if not newest:
        raise InputError("the table has no commit")
    nameless = sorted(row["version"] for row in newest if row["operation"] is None)
    if nameless:
        raise unreadable_commits(nameless)
    version: int = max(row["version"] for row in newest)
    return version


def unreadable_commits(versions: Sequence[int]) -> EnvironmentFault:
    """Say that files of a table's log are none of Delta's."""
    return EnvironmentFault(
        f"{', '.join(f'{version:020d}.json' for version in versions)} in the table's _delta_log is empty or was not written by Delta: "
        "what it held is missing from the table; restore the table or the file, then run the job again"
    )

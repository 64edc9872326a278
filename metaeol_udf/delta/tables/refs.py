"""Table names and paths: which are accepted, how they are opened, and what stands beside them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from delta import DeltaTable
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from metaeol_udf.delta.tables.spark_errors import with_retries
from metaeol_udf.errors import EnvironmentFault, InputError
from metaeol_udf.spark.columns import quoted

_NAME_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_SECRET_IN_PATH = re.compile(r"//[^/@]*:[^/@]*@")  # `s3a://key:secret@bucket`
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:/")
_NEVER_IN_PATH = re.compile(r"[`;\x00-\x1f*?\[\]{}]")  # quoting, statements, and globs, which would open other tables too
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
        if _SECRET_IN_PATH.search(name):
            raise InputError(f"{setting}: a path must not carry a user and a secret, which logs would show: set them in spark.conf instead")
        if _NEVER_IN_PATH.search(name) or not name.strip("/"):
            raise InputError(
                f"{setting}: the path {name!r} must name one folder, without back-ticks, semicolons, wildcards or control characters"
            )
        absolute = name if _SCHEME.match(name) else os.path.abspath(name)  # Delta's catalog takes no relative paths
        return TableRef(absolute.rstrip("/"), is_path=True)
    parts = name.split(".")
    plain = len(parts) <= 3 and all(_NAME_PART.fullmatch(part) for part in parts)
    if not plain or (len(parts) == 2 and parts[0].lower() in _FORMATS):
        raise InputError(
            f"{setting}: {name!r} must be a path with a / in it, or one to three names (letters, digits, _ and -) with dots between"
        )
    return TableRef(name, is_path=False)


def open_table(spark: SparkSession, ref: TableRef, setting: str) -> DeltaTable:
    """Open a Delta table.

    Raises:
        InputError: There is no such table, or it is no Delta table.
    """
    try:
        return DeltaTable.forPath(spark, ref.name) if ref.is_path else DeltaTable.forName(spark, ref.identifier)
    except AnalysisException as error:
        kind = "path" if ref.is_path else "name"
        raise InputError(f"{setting}: no Delta table at the {kind} {ref.name!r} ({error.getCondition() or type(error).__name__})") from None


def exists(spark: SparkSession, ref: TableRef) -> bool:
    """Whether there is a Delta table of that path or name."""
    if ref.is_path:
        return DeltaTable.isDeltaTable(spark, ref.name)
    return spark.catalog.tableExists(ref.identifier)


def create(spark: SparkSession, ref: TableRef, schema: StructType, comment: str, stats: str) -> None:
    """Create a table where there is none; two runs may do so at the same time.

    Args:
        spark: The session.
        ref: Where.
        schema: Its columns.
        comment: For people who find it.
        stats: Columns, with commas between, whose smallest and largest values Delta may write into its log.
    """
    if exists(spark, ref):
        return
    if not ref.is_path:
        statement = _create_statement(ref, schema, comment, stats)
        with_retries(lambda: spark.sql(statement))
        return
    builder = DeltaTable.createIfNotExists(spark).addColumns(schema).comment(comment).property("delta.dataSkippingStatsColumns", stats)
    with_retries(builder.location(ref.name).execute)


def _create_statement(ref: TableRef, schema: StructType, comment: str, stats: str) -> str:
    """SQL, because Delta's builder takes no name of three parts, as tables of Unity Catalog have."""
    columns = ", ".join(f"{quoted(f.name)} {f.dataType.simpleString()}{'' if f.nullable else ' NOT NULL'}" for f in schema.fields)
    properties = f"'delta.dataSkippingStatsColumns' = {_literal(stats)}"
    return f"CREATE TABLE IF NOT EXISTS {ref.identifier} ({columns}) USING delta COMMENT {_literal(comment)} TBLPROPERTIES ({properties})"


def _literal(text: str) -> str:
    """A string as SQL writes it."""
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
        raise EnvironmentFault(
            f"{', '.join(f'{version:020d}.json' for version in nameless)} in the table's _delta_log is empty or was not written by Delta: "
            "what it held is missing from the table; restore the table or the file, then run the job again"
        )
    version: int = max(row["version"] for row in newest)
    return version

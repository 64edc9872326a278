"""Table names and paths: which are accepted, how they are opened, and what stands beside them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from delta import DeltaTable
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession

from metaeol_udf.errors import InputError
from metaeol_udf.spark.udf import quoted

_NAME_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:/")
_NEVER_IN_PATH = re.compile(r"[`;\x00-\x1f*?\[\]{}]")  # quoting, statements, and globs, which would open other tables too
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
    """The number of the table's newest commit."""
    newest = table.history(1).first()
    if newest is None:
        raise InputError("the table has no commit")
    version: int = newest["version"]
    return version

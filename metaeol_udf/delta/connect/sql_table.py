"""A Delta table by statements alone, as a client of Spark Connect has it: no class of Delta's need be on the server beside Delta itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, SparkSession


class SqlTable:
    """The part of Delta's `DeltaTable` that the job needs; its methods mean what Delta's mean."""

    def __init__(self, spark: SparkSession, sql_name: str, identifier: str, *, is_path: bool) -> None:
        """Open the table.

        Args:
            spark: A session of Spark Connect.
            sql_name: The table as a statement names it.
            identifier: The table as a reader takes it.
            is_path: Whether the identifier is a path.

        Raises:
            AnalysisException: There is no such table, or it is none of Delta's.
        """
        self._spark, self._sql, self._identifier, self._is_path = spark, sql_name, identifier, is_path
        self._detail = self._described()
        kind = self._detail["format"]
        if kind != "delta":
            raise AnalysisException(f"{sql_name} is a table of format {kind}, and none of Delta's")

    def toDF(self) -> DataFrame:
        """Read the table as it stands now."""
        reader = self._spark.read.format("delta")
        return reader.load(self._identifier) if self._is_path else reader.table(self._identifier)

    def detail(self) -> DataFrame:
        """Describe the table: one row."""
        return self._spark.sql(f"DESCRIBE DETAIL {self._sql}")

    def history(self, limit: int) -> DataFrame:
        """List the newest commits."""
        return self._spark.sql(f"DESCRIBE HISTORY {self._sql} LIMIT {limit}")

    def delete(self, condition: str) -> None:
        """Delete the rows that a condition in SQL names."""
        self._spark.sql(f"DELETE FROM {self._sql} WHERE {condition}").collect()

    def vacuum(self) -> None:
        """Remove the files that no version within the retention needs."""
        self._spark.sql(f"VACUUM {self._sql}").collect()

    def merge(self, rows: DataFrame, condition: Column) -> SqlMerge:
        """Begin a MERGE of rows into the table; the names of the rows' columns must differ from those of the table's."""
        writer: Any = rows.mergeInto(self._sql, condition)
        return SqlMerge(writer)

    def _described(self) -> Any:
        return self.detail().collect()[0]


class SqlMerge:
    """A MERGE that is being put together, clause by clause; what a clause does stands in Delta's `DeltaMergeBuilder`."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def whenMatchedUpdate(self, condition: Column | None = None, set: Mapping[str, Any] | None = None) -> SqlMerge:
        """Update rows that match."""
        return SqlMerge(self._writer.whenMatched(condition).update(dict(set or {})))

    def whenMatchedDelete(self, condition: Column | None = None) -> SqlMerge:
        """Delete rows that match."""
        return SqlMerge(self._writer.whenMatched(condition).delete())

    def whenNotMatchedInsert(self, condition: Column | None = None, values: Mapping[str, Any] | None = None) -> SqlMerge:
        """Insert rows that match none."""
        return SqlMerge(self._writer.whenNotMatched(condition).insert(dict(values or {})))

    def whenNotMatchedBySourceDelete(self, condition: Column | None = None) -> SqlMerge:
        """Delete rows of the table that no row matches."""
        return SqlMerge(self._writer.whenNotMatchedBySource(condition).delete())

    def execute(self) -> None:
        """Execute the MERGE."""
        self._writer.merge()

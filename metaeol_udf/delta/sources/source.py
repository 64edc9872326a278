"""The source of a job, whatever it is: it has a name, rows, and where it is a Delta table, versions and a log."""

from __future__ import annotations

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from metaeol_udf.config import SourceConfig
from metaeol_udf.delta.sources.files import Files
from metaeol_udf.delta.sources.misplaced import no_table
from metaeol_udf.delta.sources.query import name_of_query, read_query
from metaeol_udf.delta.sources.text import check_text_columns, with_made_key
from metaeol_udf.delta.tables.columns import check_source_columns
from metaeol_udf.delta.tables.commits import TableLog, newest_version
from metaeol_udf.delta.tables.refs import TableRef, exists, open_table, parse_table, read
from metaeol_udf.errors import InputError


class Source:
    """The source of a job. What is learned of its columns is kept, so that all reads of a run see the same ones.

    Attributes:
        config: The settings of the source.
        table: The Delta table; None where the source is none.
        files: The files; None where the source is a table or a query.
    """

    def __init__(self, config: SourceConfig) -> None:
        """Check the names; looks at nothing.

        Raises:
            InputError: The name of the table or the path is not valid.
        """
        self.config = config
        self.table = None if config.table is None else parse_table(config.table, config.place)
        self.files = None if config.path is None else Files.of(config)

    def __str__(self) -> str:
        if self.config.query is not None:
            return name_of_query(self.config.query)
        return str(self.table or self.files)

    @property
    def setting(self) -> str:
        """The setting that says where the rows are."""
        return self.config.place

    @property
    def why_unversioned(self) -> str | None:
        """Why a run cannot look at new commits alone; None for a Delta table."""
        if self.files is not None:
            return f"{self.setting} names {self.files.format} files, which have no commits: rows are compared by content"
        if self.table is not None and self.config.makes_key:
            return "source.key=auto names rows by their content"
        return f"{self.setting} has no commits: rows are compared by content" if self.table is None else None

    def open(self, spark: SparkSession) -> TableRef | None:
        """Open a Delta table, and give its name; None where the source is none.

        Raises:
            InputError: There is no such table; the message says what is there, and which setting takes it.
        """
        if self.table is None:
            return None
        try:
            is_there = exists(spark, self.table)
        except AnalysisException:  # not even the catalog is there
            is_there = False
        if not is_there:
            raise no_table(spark, self.table, self.setting)
        try:
            open_table(spark, self.table, self.setting)
        except InputError as error:
            if self.table.is_path:
                raise
            raise InputError(f"{error}: a view, or a table of another format, goes into source.query, with a target.table") from None
        return self.table

    def read(self, spark: SparkSession, version: int | None = None) -> DataFrame:
        """Read the rows, of a Delta table now or as they were at a version; with the key's column where it is made.

        Raises:
            InputError: The source is not there, or cannot be read.
        """
        return self.read_whole(spark, version)

    def read_whole(self, spark: SparkSession, version: int | None = None) -> DataFrame:
        """Read the rows as they stand in the source, whatever a job's rows are; else as `read`."""
        return with_made_key(self._read(spark, version), self.config, self)

    def read_again(self, spark: SparkSession, rows: DataFrame) -> DataFrame:
        """Read the rows as they are now, at least those with the keys of `rows`."""
        return self.read(spark)

    def read_checked(self, spark: SparkSession) -> DataFrame:
        """Open and read the rows, and check that the key's and the text's columns are there and of their kinds.

        Raises:
            InputError: The source is not there, cannot be read, or a column is not what the settings say.
        """
        self.open(spark)
        rows = self.read_whole(spark)
        check_source_columns(rows, self.config.key, self)
        check_text_columns(self.config, rows.schema, self)
        return rows

    def _read(self, spark: SparkSession, version: int | None) -> DataFrame:
        if self.config.query is not None:
            return read_query(spark, self.config.query)
        if self.files is not None:
            return self.files.read(spark)
        if self.table is None:
            raise InputError(f"{self.setting} names nothing")
        return read(spark, self.table, version)

    def newest_version(self, spark: SparkSession) -> int | None:
        """Find the newest version of a Delta table; None where the source is none."""
        return None if self.table is None else newest_version(spark, self.table, self.setting)

    def log(self, spark: SparkSession) -> TableLog | None:
        """Open the log of a Delta table; None where the source is none, or where this Delta does not show it."""
        return None if self.table is None else TableLog.of(spark, self.table, self.setting)

    def check_readable(self, rows: DataFrame) -> None:
        """Check that each of some rows of the source could be read as its format says; reads them where the format needs that.

        Raises:
            InputError: With the number of those that could not.
        """
        if self.files is not None:
            self.files.check_readable(rows)

    def columns(self, spark: SparkSession) -> StructType:
        """Find the columns of the source without those that are added to them."""
        schema = self._read(spark, None).schema
        return schema if self.files is None else self.files.without_marks(schema)


def check_apart(source: Source, target: TableRef, *, makes_passages: bool) -> None:
    """Check that a target of its own lies beside the source, not among its files, where it must be of its own.

    Raises:
        InputError: It does not.
    """
    if makes_passages and source.table == target:
        raise InputError("target.table must be another table than source.table: passages stand in a table of their own")
    if source.config.makes_key and source.table == target:
        raise InputError("target.table must be another table than source.table: a key that is made stands in a table of its own")
    if source.files is None or not target.is_path:
        return
    inside = f"{target.name}/".startswith(f"{source.files.path}/")
    if inside or f"{source.files.path}/".startswith(f"{target.name}/"):
        raise InputError(f"target.table: {target} lies among the files of source.path, {source.files}, or they in it: name another folder")

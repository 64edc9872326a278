"""Files of other formats than Delta as a source: what their readers are told, and which rows they could not read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from metaeol_udf.config import SourceConfig
from metaeol_udf.delta.tables.refs import parse_path, storage_of
from metaeol_udf.errors import InputError
from metaeol_udf.formatting import shorten
from metaeol_udf.spark.columns import quoted

#: The column in which Spark's readers of text formats leave what they cannot read.
UNREADABLE = "metaeol_unreadable"
_SETTING = "source.path"
_JSON_ADVICE = "there must be one object a line, or else source.options: {multiLine: true}"
_TEXT_FORMATS = ("csv", "json")
#: What a spreadsheet and a database write: a header, line breaks inside quotes, a quote as two. Columns are found by their names, where
#: Spark would go by their places. Files of several lines a record cannot be cut, so that each is read by one task.
_DEFAULTS = {"csv": {"header": "true", "multiLine": "true", "escape": '"', "enforceSchema": "false"}}


@dataclass
class Files:
    """A file, or a folder of files of one format.

    Attributes:
        path: As Spark opens it; for Iceberg it may be the name of a table.
        format: The format, as Spark calls it.
        options: What the reader is told: our defaults, then the user's options, which win.
        schema: The columns, once they were looked at.
    """

    path: str
    format: str
    options: dict[str, str]
    schema: StructType | None = field(default=None, repr=False)

    @classmethod
    def of(cls, config: SourceConfig) -> Files:
        """Take the settings of a source that has a path.

        Raises:
            InputError: The path is not valid.
        """
        kind, path = config.file_format or "", config.path or ""
        is_name = kind == "iceberg" and "/" not in path
        return cls(path if is_name else parse_path(path, _SETTING), kind, {**_DEFAULTS.get(kind, {}), **config.options})

    def __str__(self) -> str:
        return self.path

    def read(self, spark: SparkSession) -> DataFrame:
        """Read the rows as they are now, with the columns that were found at first; of text formats with the mark UNREADABLE.

        Raises:
            InputError: There is no such file or folder, or it is of another format.
        """
        try:
            if self.schema is None:
                self.schema = self._find_schema(spark)
            reader = spark.read.format(self.format).options(**self.options)
            if self.format in _TEXT_FORMATS:
                reader = reader.option("columnNameOfCorruptRecord", UNREADABLE).schema(self.schema)
            return reader.load(self.path)
        except (PySparkException, Py4JJavaError) as error:
            raise self._refused(error) from None

    def stream(self, spark: SparkSession, max_files: int) -> DataFrame:
        """Follow the files that come in, so many in one micro-batch, with the columns of those that are there.

        Raises:
            InputError: As for `read`, or Spark streams no such files.
        """
        if self.format == "iceberg":
            raise InputError("source.format: a stream of Iceberg tables is not supported: run `metaeol embed` each time instead")
        columns = self.without_marks(self.read(spark).schema)
        place, storage = storage_of(spark, self.path)
        if storage.getFileStatus(place).isFile():
            raise InputError(f"{_SETTING}: {self.path} is one file, and a stream follows the files of a folder")
        reader = spark.readStream.format(self.format).options(**self.options).option("maxFilesPerTrigger", max_files)
        return reader.schema(columns).load(self.path)

    def without_marks(self, schema: StructType) -> StructType:
        """Leave out the column that readers add."""
        return StructType([f for f in schema.fields if f.name != UNREADABLE])

    def check_readable(self, rows: DataFrame) -> None:
        """Check that each of some rows could be read: one scan, for text formats alone.

        Raises:
            InputError: With the number of those that could not.
        """
        if UNREADABLE not in rows.columns:
            return
        others = [F.count(F.col(quoted(f.name))) for f in self.without_marks(rows.schema).fields[:1]]  # Spark does not read the mark alone
        n_wrong = rows.agg(F.count(F.when(F.col(UNREADABLE).isNotNull(), True)), *others).collect()[0][0]
        if n_wrong:
            advice = {
                "csv": "they have more or fewer fields than the header, or an open quote; source.options takes sep, quote and escape",
                "json": _JSON_ADVICE,
            }[self.format]
            raise InputError(f"{_SETTING}: {n_wrong:,} of the records of {self.path} cannot be read as {self.format}: {advice}")

    def _find_schema(self, spark: SparkSession) -> StructType:
        """Find the columns, which reads files of text formats: the header of CSV, all records of JSON."""
        if self.format != "iceberg":
            log, storage = storage_of(spark, f"{self.path}/_delta_log")
            if storage.exists(log):  # whose files hold rows that are deleted, too
                raise InputError(f"{_SETTING}: {self.path} is a Delta table: name it in source.table")
        reader = spark.read.format(self.format).options(**self.options).option("columnNameOfCorruptRecord", UNREADABLE)
        columns = self.without_marks(reader.load(self.path).schema)
        if not columns.fields:
            raise InputError(self._why_no_columns(spark))
        self._check_header(spark, columns.names)
        if self.format not in _TEXT_FORMATS:
            return columns
        return StructType([*columns.fields, StructField(UNREADABLE, StringType())])

    def _why_no_columns(self, spark: SparkSession) -> str:
        place, storage = storage_of(spark, self.path)
        if not storage.getContentSummary(place).getLength():
            return f"{_SETTING}: {self.path} is empty" + ("; a CSV file begins with a line of column names" if self.format == "csv" else "")
        advice = f": {_JSON_ADVICE}" if self.format == "json" else ""
        return f"{_SETTING}: no record of {self.path} can be read as {self.format}{advice}"

    def _check_header(self, spark: SparkSession, names: list[str]) -> None:
        """Check that no column of CSV stands there twice: Spark adds its place to each of them, and then finds no such column.

        Raises:
            InputError: One does.
        """
        numbered = [name.removesuffix(str(place)).casefold() for place, name in enumerate(names) if name.endswith(str(place))]
        if self.format != "csv" or max(Counter(numbered).values(), default=1) < 2:
            return
        first = spark.read.format("csv").options(**{**self.options, "header": "false"}).load(self.path).first()
        given = Counter("" if name is None else str(name).strip().casefold() for name in first or ())
        twice = next((name for name, n in given.items() if name and n > 1), None)
        if twice is not None:
            raise InputError(f"{_SETTING}: the column {shorten(twice, 80)!r} stands twice in the header of {self.path}: rename one of them")

    def _refused(self, error: Any) -> InputError:
        """Say why Spark does not read the files. Spark's own words may quote what is in them."""
        condition = error.getCondition() if isinstance(error, AnalysisException) else None
        if condition == "PATH_NOT_FOUND":
            return InputError(f"{_SETTING}: there is no file or folder {self.path}")
        if condition is not None and condition.startswith("UNABLE_TO_INFER_SCHEMA"):
            return InputError(f"{_SETTING}: {self.path} holds no {self.format} file with columns in it")
        if condition in ("DATA_SOURCE_NOT_FOUND", "TABLE_OR_VIEW_NOT_FOUND") or "Failed to find data source" in str(error):
            return InputError(
                f"{_SETTING}: this session reads no {self.format} at {self.path}"
                + (": add its JARs with spark.conf.spark.jars.packages" if self.format == "iceberg" else "")
            )
        return InputError(f"{_SETTING}: {self.path} cannot be read as {self.format} ({condition or 'another format'}): see source.format")

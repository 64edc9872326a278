"""The journal: what was computed, by content, so that a run that is cut off never pays twice.

One row a fingerprint and never a text. It is only appended to, which conflicts with no other writer, and it stands beside
the target until what it holds is published and verified.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, BooleanType, FloatType, IntegerType, LongType, StringType, StructField, StructType

from metaeol_udf.delta.select.selection import FINGERPRINT
from metaeol_udf.delta.tables.fingerprint import of_spec
from metaeol_udf.delta.tables.refs import TableRef, append, create, exists, open_table, read
from metaeol_udf.delta.tables.spark_errors import conflict_in, with_retries

_WAVES_OF_A_SNAPSHOT = 1_000_000  # more than there ever are
KEEP_DAYS = 30  # of what no row needs any more: texts that changed before a killed run could publish

SCHEMA = StructType(
    [
        StructField("fingerprint", StringType()),
        StructField("vector", ArrayType(FloatType())),
        StructField("error", StringType()),
        StructField("trimmed", BooleanType()),
        StructField("tokens_computed", LongType()),
        StructField("tokens_saved", LongType()),
        StructField("load_id", StringType()),
        StructField("run_id", StringType()),
        StructField("wave", IntegerType()),
    ]
)


@dataclass(frozen=True)
class Journal:
    """The journal of one target, seen by one run of one spec.

    Attributes:
        spark: The session.
        ref: The journal's table.
        spec_fingerprint: The digest of the job's spec; the journal shows no rows of other specs.
        run_id: The mark of what this run appends; sorts by time.
        waves_before: The number before that of the first wave: after a second snapshot wave 1 must have a number of its own,
            because Delta leaves out a commit whose number it has seen.
    """

    spark: SparkSession
    ref: TableRef
    spec_fingerprint: str
    run_id: str
    waves_before: int = 0

    def for_another_snapshot(self) -> Journal:
        """Make the journal of the same run for another snapshot, whose waves get numbers of their own."""
        return dataclasses.replace(self, waves_before=self.waves_before + _WAVES_OF_A_SNAPSHOT)

    def open(self) -> str:
        """Open the journal, and make it where it is missing; gives the folder that it stands in."""
        create(self.spark, self.ref, SCHEMA, "Computed embeddings on their way to a table; holds no text", stats="fingerprint,run_id,wave")
        if self.ref.is_path:
            return self.ref.name
        location: str = open_table(self.spark, self.ref, "journal").detail().collect()[0]["location"]
        return location

    def rows(self) -> DataFrame:
        """Read all rows of this spec as they stand now; there are none before the journal is made."""
        if not exists(self.spark, self.ref):
            return self.spark.createDataFrame([], SCHEMA)
        return read(self.spark, self.ref).where(of_spec(self.spec_fingerprint, F.col("fingerprint")))

    def outcomes(self) -> DataFrame:
        """Read the outcomes, one row a fingerprint: a vector wins over an error, and the latest error over earlier errors."""
        return self._best(self.rows(), "vector")

    def digests(self) -> DataFrame:
        """Read the digests: like `outcomes`, with a 64-bit hash instead of the vector: 8 bytes in place of 4 a dimension."""
        return self._best(self.rows().withColumn("digest", digest_of(F.col("vector"))), "digest")

    def _best(self, rows: DataFrame, vector: str) -> DataFrame:
        names = [vector, *[field.name for field in SCHEMA.fields if field.name not in ("fingerprint", "vector")]]
        rank = F.struct(F.col("error").isNull(), F.col("run_id"), F.col("wave"))
        return rows.groupBy("fingerprint").agg(F.max_by(F.struct(*names), rank).alias("best")).select("fingerprint", "best.*")

    def finished(self) -> DataFrame:
        """Read the finished fingerprints, which need no more work: one column, `fingerprint`."""
        return self.rows().where(F.col("error").isNull()).select("fingerprint").distinct()

    def count_wave(self, wave: int) -> tuple[int, int, dict[str, int]]:
        """Count the texts and tokens of one wave of this run, and by reason the texts without a vector.

        Delta skips files of other waves by their statistics.
        """
        mine = self._wave(self.waves_before + wave)
        found = mine.groupBy("error").agg(F.count(F.lit(1)).alias("n"), F.sum("tokens_computed").alias("tokens")).collect()
        failures = {row["error"]: row["n"] for row in found if row["error"] is not None}
        return sum(row["n"] for row in found), sum(row["tokens"] or 0 for row in found), failures

    def count_run(self) -> tuple[int, int, int]:
        """Count the tokens that this run computed in all its waves, those that it saved, and the loads of the model that it caused."""
        mine = self.rows().where(F.col("run_id") == self.run_id)
        loaded_now = F.when(F.col("load_id").endswith(f":{self.run_id}"), F.col("load_id"))
        found = mine.agg(
            F.coalesce(F.sum("tokens_computed"), F.lit(0)).alias("computed"),
            F.coalesce(F.sum("tokens_saved"), F.lit(0)).alias("saved"),
            F.count_distinct(loaded_now).alias("loads"),
        ).collect()[0]
        return found["computed"], found["saved"], found["loads"]

    def append_textless(self, textless: DataFrame) -> None:
        """Append NULL and blank texts, which no model sees."""
        nothing = {field.name: F.lit(None).cast(field.dataType) for field in SCHEMA.fields}
        values = nothing | {"fingerprint": F.col(FINGERPRINT), "error": F.col("error"), "trimmed": F.lit(False)}
        values |= {"tokens_computed": F.lit(0).cast("long"), "tokens_saved": F.lit(0).cast("long")}
        self._append(textless, values, wave=0)

    def append_wave(self, embedded: DataFrame, wave: int) -> None:
        """Append one wave, numbered from 1, as one commit: FINGERPRINT and `result`, a struct of `RESULT_TYPE`."""
        names = ("vector", "error", "trimmed", "tokens_computed", "tokens_saved", "load_id")
        values: dict[str, Column] = {name: F.col(f"result.{name}") for name in names}
        self._append(embedded, {"fingerprint": F.col(FINGERPRINT), **values}, wave)

    def _append(self, rows: DataFrame, values: dict[str, Column], wave: int) -> None:
        wave += self.waves_before
        stamped = values | {"run_id": F.lit(self.run_id), "wave": F.lit(wave).cast("int")}
        # The transaction id lets Delta recognise a commit whose answer was lost; the run id in it is never used again.
        options = {"txnAppId": f"metaeol-{self.run_id}", "txnVersion": str(wave)}
        try:
            append(rows.select(*[column.alias(name) for name, column in stamped.items()]), self.ref, options)
        except Exception as error:
            # Nobody else uses this id: the commit whose answer was lost is in the table, or else the run is over.
            if conflict_in(error) != "ConcurrentTransaction" or self._wave(wave).isEmpty():
                raise

    def _wave(self, number: int) -> DataFrame:
        return self.rows().where((F.col("run_id") == self.run_id) & (F.col("wave") == number))

    def drop_published(self, published: DataFrame) -> None:
        """Drop the runs of which all is published: whole runs, whose files Delta then removes without rewriting them.

        `published` has one column, `fingerprint`, of the vectors that are in the target now. What a killed run computed for rows
        that are not in this run stays for `KEEP_DAYS`, for a run that has these rows.
        """
        if not exists(self.spark, self.ref):
            return
        mine = self.rows().select("fingerprint", "run_id")
        runs = {row["run_id"] for row in mine.select("run_id").distinct().collect()}
        left = mine.join(published.distinct(), "fingerprint", "left_anti").select("run_id").distinct().collect()
        forgotten = time.strftime("%Y%m%dT", time.gmtime(time.time() - KEEP_DAYS * 86_400))
        done = sorted(runs - {row["run_id"] for row in left if row["run_id"] > forgotten})
        if done:
            condition = F.col("run_id").isin(done) & of_spec(self.spec_fingerprint, F.col("fingerprint"))
            with_retries(lambda: open_table(self.spark, self.ref, "journal").delete(condition))


def digest_of(vector: Column) -> Column:
    """Make the digest of a vector: a 64-bit hash; NULL for NULL."""
    return F.when(vector.isNotNull(), F.xxhash64(vector))

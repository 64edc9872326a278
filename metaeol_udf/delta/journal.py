"""The journal: what was computed, by content, so that a run that is cut off never pays twice.

One row a fingerprint and never a text. It is only appended to, which conflicts with no other writer, and it stands beside
the target until what it holds is published and verified.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from delta import DeltaTable
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, BooleanType, FloatType, IntegerType, LongType, StringType, StructField, StructType

from metaeol_udf.delta.fingerprint import of_spec
from metaeol_udf.delta.selection import FINGERPRINT, TEXT
from metaeol_udf.delta.tables import TableRef, append, exists, open_table, read

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
class WaveCounts:
    """What one wave brought.

    Attributes:
        n_texts: Texts that went through the model.
        failures: Of these, texts without a vector, by reason.
        tokens_computed: Tokens that went through the model.
    """

    n_texts: int
    failures: dict[str, int]
    tokens_computed: int


@dataclass(frozen=True)
class Journal:
    """The journal of one target, seen by one run of one spec.

    Attributes:
        spark: The session.
        ref: Where it stands.
        spec_fingerprint: Rows of other specs are not looked at.
        run_id: Marks what this run appends; sorts by time.
    """

    spark: SparkSession
    ref: TableRef
    spec_fingerprint: str
    run_id: str

    def rows(self) -> DataFrame:
        """All rows of this spec as they stand now; none where there is no journal yet."""
        if not exists(self.spark, self.ref):
            return self.spark.createDataFrame([], SCHEMA)
        return read(self.spark, self.ref).where(of_spec(self.spec_fingerprint, F.col("fingerprint")))

    def outcomes(self) -> DataFrame:
        """One row a fingerprint: a vector wins over an error, and the latest error over earlier ones."""
        values = F.struct(*[field.name for field in SCHEMA.fields if field.name != "fingerprint"])
        rank = F.struct(F.col("error").isNull(), F.col("run_id"), F.col("wave"))
        best = self.rows().groupBy("fingerprint").agg(F.max_by(values, rank).alias("best"))
        return best.select("fingerprint", "best.*")

    def finished(self) -> DataFrame:
        """Fingerprints that need no more work: one column, `fingerprint`."""
        return self.rows().where(F.col("error").isNull()).select("fingerprint").distinct()

    def count_wave(self, wave: int) -> WaveCounts:
        """Count what this run journalled in one wave. Files of other waves are skipped by their statistics."""
        mine = self.rows().where((F.col("run_id") == self.run_id) & (F.col("wave") == wave))
        found = mine.groupBy("error").agg(F.count(F.lit(1)).alias("n"), F.sum("tokens_computed").alias("tokens")).collect()
        failures = {row["error"]: row["n"] for row in found if row["error"] is not None}
        return WaveCounts(sum(row["n"] for row in found), failures, sum(row["tokens"] or 0 for row in found))

    def append_textless(self, textless: DataFrame) -> None:
        """Journal NULL and blank texts, which no model sees."""
        nothing = {field.name: F.lit(None).cast(field.dataType) for field in SCHEMA.fields}
        values = nothing | {"fingerprint": F.col(FINGERPRINT), "error": F.col("error"), "trimmed": F.lit(False)}
        values |= {"tokens_computed": F.lit(0).cast("long"), "tokens_saved": F.lit(0).cast("long")}
        self._append(textless, values, wave=0)

    def append_wave(self, embedded: DataFrame, wave: int) -> None:
        """Journal one wave as one commit.

        Args:
            embedded: FINGERPRINT and `result`, a struct of `RESULT_TYPE`.
            wave: From 1.
        """
        names = ("vector", "error", "trimmed", "tokens_computed", "tokens_saved", "load_id")
        values: dict[str, Column] = {name: F.col(f"result.{name}") for name in names}
        self._append(embedded, {"fingerprint": F.col(FINGERPRINT), **values}, wave)

    def _append(self, rows: DataFrame, values: dict[str, Column], wave: int) -> None:
        self._create()
        stamped = values | {"run_id": F.lit(self.run_id), "wave": F.lit(wave).cast("int")}
        # The transaction id lets Delta recognise a commit whose answer was lost; the run id in it is never used again.
        options = {"txnAppId": f"metaeol-{self.run_id}", "txnVersion": str(wave)}
        append(rows.select(*[column.alias(name) for name, column in stamped.items()]), self.ref, options)

    def _create(self) -> None:
        if exists(self.spark, self.ref):
            return
        builder = DeltaTable.createIfNotExists(self.spark).addColumns(SCHEMA)
        builder = builder.location(self.ref.name) if self.ref.is_path else builder.tableName(self.ref.identifier)
        builder.comment("Computed embeddings on their way to a table; holds no text").property(
            "delta.dataSkippingStatsColumns", "fingerprint,run_id,wave"
        ).execute()

    def drop_runs(self, run_ids: Iterable[str]) -> None:
        """Delete what these runs journalled, once it is published. Each wave has files of its own, so few are rewritten."""
        wanted = sorted(run_ids)
        if wanted and exists(self.spark, self.ref):
            condition = F.col("run_id").isin(wanted) & of_spec(self.spec_fingerprint, F.col("fingerprint"))
            open_table(self.spark, self.ref, "journal").delete(condition)


def wave_of(fingerprint: Column, n_waves: int) -> Column:
    """The wave that a fingerprint belongs to, from 1: by content, so that a repeated task finds the same rows."""
    return (F.pmod(F.xxhash64(fingerprint), F.lit(n_waves)) + 1).cast("int")


__all__ = ["FINGERPRINT", "SCHEMA", "TEXT", "Journal", "wave_of"]

"""The journal: what was computed, by content, so that a run that is cut off never pays twice.

One row a fingerprint and never a text. A wave is appended by a commit that reads no table, so that it conflicts with no other
writer. It stands beside the target until it is published and verified. Each run's rows are a partition: dropping them is a commit
that touches no file, and VACUUM takes the files away later.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, BooleanType, FloatType, IntegerType, LongType, StringType, StructField, StructType

from metaeol_udf.delta.base.small_files import SmallFile
from metaeol_udf.delta.select.selection import FINGERPRINT
from metaeol_udf.delta.select.stored_vector import digest_of, is_whole
from metaeol_udf.delta.tables.alter_table import alter_table
from metaeol_udf.delta.tables.commits import TableLog
from metaeol_udf.delta.tables.fingerprint import of_spec, spec_part, spec_part_sql
from metaeol_udf.delta.tables.refs import TableDefinition, TableRef, append, create, exists, literal, open_table, read, replace
from metaeol_udf.delta.tables.spark_errors import conflict_in, with_retries
from metaeol_udf.encoder.gpu.device_work import DeviceWork
from metaeol_udf.spark.cluster.connect import is_connect

_WAVES_OF_A_SNAPSHOT = 1_000_000  # more than there ever are
_VACUUMED = "_vacuumed"  # a file that says when VACUUM ran last; Delta leaves it alone
_VACUUMED_AT = "metaeol.vacuumed"  # a property that says so
_VACUUM_EVERY_S = 86_400.0
_LOAD_ID_PARTS = 5  # host, process, count, runner, run: `LoadedEncoder`
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
        StructField("spec_fingerprint", StringType()),
    ]
)
_PARTITIONS = ("spec_fingerprint", "run_id")
_COMMENT = "Computed embeddings on their way to a table; holds no text"
Run = tuple[str, str]  # the fingerprint of its spec, its id


@dataclass(frozen=True)
class WaveCounts:
    """What a wave journalled.

    Attributes:
        n_texts: Texts.
        tokens_computed: Tokens that went through the model.
        tokens_saved: Tokens that one pass a prompt would have computed beyond those.
        loads: Ids of the loads of the model that the run caused.
        runners: Names of the runners that computed the texts.
        failures: Texts without a vector, by reason.
        work: What each device did, by the load of its model.
    """

    n_texts: int
    tokens_computed: int
    tokens_saved: int
    loads: frozenset[str]
    runners: frozenset[str]
    failures: dict[str, int]
    work: dict[str, DeviceWork]


@dataclass(frozen=True)
class Journal:
    """The journal of one target, seen by one run of one spec.

    Attributes:
        spark: The session.
        ref: The journal's table.
        spec_fingerprint: The digest of the job's spec; the journal shows no rows of other specs.
        run_id: The mark of what this run appends; sorts by time.
        length: Values of a vector.
        retention_hours: Hours that files stay in storage after their rows are dropped.
        waves_before: The number before that of the first wave: after a second snapshot wave 1 must have a number of its own,
            because Delta leaves out a commit whose number it has seen.
    """

    spark: SparkSession
    ref: TableRef
    spec_fingerprint: str
    run_id: str
    length: int
    retention_hours: int = 168
    waves_before: int = 0

    def for_another_snapshot(self) -> Journal:
        """Make the journal of the same run for another snapshot, whose waves get numbers of their own."""
        return dataclasses.replace(self, waves_before=self.waves_before + _WAVES_OF_A_SNAPSHOT)

    def open(self) -> str:
        """Open the journal, and make it where it is missing; gives the folder that it stands in."""
        create(self.spark, self.ref, self._definition())
        if self.ref.is_path:
            return self.ref.name
        location: str = open_table(self.spark, self.ref, "journal").detail().collect()[0]["location"]
        return location

    def _definition(self) -> TableDefinition:
        properties = {
            "delta.deletedFileRetentionDuration": f"interval {self.retention_hours} hours",
            "delta.enableDeletionVectors": "false",
        }
        return TableDefinition(SCHEMA, _COMMENT, "fingerprint,wave", properties, _PARTITIONS)

    def rows(self) -> DataFrame:
        """Read all rows of this spec as they stand now; there are none before the journal is made."""
        if not exists(self.spark, self.ref):
            return self.spark.createDataFrame([], SCHEMA)
        stored = self._read()
        if self._is_partitioned(stored):
            return stored.where(F.col("spec_fingerprint") == self.spec_fingerprint)
        return stored.where(of_spec(self.spec_fingerprint, F.col("fingerprint")))

    def _read(self) -> DataFrame:
        return read(self.spark, self.ref)

    @staticmethod
    def _is_partitioned(stored: DataFrame) -> bool:
        """Tell whether the journal has its partitions; those of earlier versions had none."""
        return "spec_fingerprint" in stored.columns

    def _good(self) -> DataFrame:
        """Read the rows that count: an error, or a vector that is whole."""
        return self.rows().where(F.col("error").isNotNull() | is_whole(F.col("vector"), self.length))

    def outcomes(self, *, own: bool = False) -> DataFrame:
        """Read the outcomes, one row a fingerprint: a vector wins over an error, and the latest error over earlier errors.

        With `own` only the rows of this run are read. No fingerprint stands twice there, so no vector is grouped.
        """
        if own:
            return self._good().where(F.col("run_id") == self.run_id)
        return self._best(self._good(), "vector")

    def digests(self, *, own: bool = False) -> DataFrame:
        """Read the digests: like `outcomes`, with a 64-bit hash instead of the vector: 8 bytes in place of 4 a dimension."""
        rows = self._good().withColumn("digest", digest_of(F.col("vector")))
        if own:
            return rows.where(F.col("run_id") == self.run_id)
        return self._best(rows, "digest")

    def _best(self, rows: DataFrame, vector: str) -> DataFrame:
        names = [vector, *[field.name for field in SCHEMA.fields if field.name not in ("fingerprint", "vector", "spec_fingerprint")]]
        rank = F.struct(F.col("error").isNull(), F.col("run_id"), F.col("wave"))
        return rows.groupBy("fingerprint").agg(F.max_by(F.struct(*names), rank).alias("best")).select("fingerprint", "best.*")

    def is_empty(self) -> bool:
        """Tell whether the journal holds nothing of the spec."""
        return self.has_no_file() or self.rows().isEmpty()

    def has_no_file(self) -> bool:
        """Tell, without a Spark job, whether the journal is known to hold nothing at all."""
        log = TableLog.of(self.spark, self.ref)
        return log is not None and log.is_empty

    def finished(self) -> DataFrame:
        """Find the finished fingerprints, which need no more work: one column, `fingerprint`, each once."""
        return self._good().where(F.col("error").isNull()).select("fingerprint").distinct()

    def count(self, journalled: DataFrame) -> WaveCounts:
        """Count the rows of a wave that was appended: FINGERPRINT and `result`, a struct of `RESULT_TYPE`."""
        names = ("error", "load_id", "tokens_computed", "tokens_saved", "work")
        rows = journalled.select(*[F.col(f"result.{name}").alias(name) for name in names])
        sums = (
            F.count(F.lit(1)).alias("n"),
            F.sum("tokens_computed").alias("computed"),
            F.sum("tokens_saved").alias("saved"),
            F.collect_list("work").alias("work"),
        )
        found = rows.groupBy("error", "load_id").agg(*sums).collect()
        failures: dict[str, int] = {}
        for row in found:
            if row["error"] is not None:
                failures[row["error"]] = failures.get(row["error"], 0) + row["n"]
        n_texts, computed, saved = (sum(row[name] or 0 for row in found) for name in ("n", "computed", "saved"))
        loads = frozenset(row["load_id"] for row in found if (row["load_id"] or "").endswith(f":{self.run_id}"))
        parts = [(row["load_id"] or "").split(":") for row in found]
        runners = frozenset(part[-2] for part in parts if len(part) == _LOAD_ID_PARTS)
        work: dict[str, DeviceWork] = {}
        for row in found:
            for counted in row["work"]:
                work.setdefault(row["load_id"], DeviceWork()).add_json(counted)
        return WaveCounts(n_texts, computed, saved, loads, runners, failures, work)

    def append_wave(self, embedded: DataFrame, wave: int) -> None:
        """Append one wave, numbered from 1, as one commit: FINGERPRINT and `result`, a struct of `RESULT_TYPE`.

        `embedded` must read no table, so that the commit depends on none, and must give the same rows when it is read again: a commit
        that fails because of another writer is tried again.
        """
        names = ("vector", "error", "trimmed", "tokens_computed", "tokens_saved", "load_id")
        self._append(embedded, {"fingerprint": F.col(FINGERPRINT), **{name: F.col(f"result.{name}") for name in names}}, wave)

    def append_reused(self, vectors: DataFrame) -> None:
        """Append vectors that a table held, FINGERPRINT and `vector`, as wave 0."""
        values = {field.name: F.lit(None).cast(field.dataType) for field in SCHEMA.fields}
        values |= {"fingerprint": F.col(FINGERPRINT), "vector": F.col("vector"), "trimmed": F.lit(False)}
        self._append(vectors, values, 0)

    def _append(self, computed: DataFrame, values: dict[str, Column], wave: int) -> None:
        wave += self.waves_before
        values = values | {"run_id": F.lit(self.run_id), "wave": F.lit(wave).cast("int")}
        if self._is_partitioned(self._read()):
            values["spec_fingerprint"] = F.lit(self.spec_fingerprint)
        else:
            values.pop("spec_fingerprint", None)
        rows = computed.select(*[column.alias(name) for name, column in values.items()])
        # The transaction id lets Delta recognise a commit whose answer was lost; the run id in it is never used again.
        options = {"txnAppId": f"metaeol-{self.run_id}", "txnVersion": str(wave), "optimizeWrite": "false"}
        try:
            with_retries(lambda: append(rows, self.ref, options))
        except Exception as error:
            # Nobody else uses this id: the commit whose answer was lost is in the table, or else the run is over.
            if conflict_in(error) != "ConcurrentTransaction" or self._wave(wave).isEmpty():
                raise

    def _wave(self, number: int) -> DataFrame:
        return self.rows().where((F.col("run_id") == self.run_id) & (F.col("wave") == number))

    def runs(self) -> set[Run]:
        """Find the runs, of any spec, of which the journal holds rows."""
        if not exists(self.spark, self.ref):
            return set()
        stored = self._read()
        spec = F.col("spec_fingerprint") if self._is_partitioned(stored) else spec_part(F.col("fingerprint"))
        return {(row["spec"], row["run_id"]) for row in stored.select(spec.alias("spec"), "run_id").distinct().collect()}

    def unpublished(self, runs: Iterable[Run], held: DataFrame) -> set[Run]:
        """Find which of some runs of this spec computed something that no row holds, of whose fingerprints `held` has one column."""
        mine = self.rows().where(F.col("run_id").isin([run_id for _, run_id in runs])).select("fingerprint", "run_id")
        left = mine.join(held.distinct(), "fingerprint", "left_anti").select("run_id").distinct().collect()
        return {(self.spec_fingerprint, row["run_id"]) for row in left}

    def forget(self, mine: set[Run], runs: set[Run], needed: Callable[[], DataFrame]) -> None:
        """Drop the rows of those of some runs that nobody needs: of `mine`, of old runs, and of runs whose rows are all published.

        `needed` gives one column, `fingerprint`: those that rows hold, or that were worked on.
        """
        done = {run for run in runs if run in mine or run[1] < forgotten_before()}
        others = {run for run in runs - done if run[0] == self.spec_fingerprint}
        if others:
            done |= others - self.unpublished(others, needed())
        self.drop(done)

    def drop(self, runs: Iterable[Run]) -> None:
        """Drop the rows of some runs: whole partitions, so that no file is read or rewritten."""
        by_partition = self._is_partitioned(self._read())
        by_spec: dict[str, list[str]] = {}
        for spec_fingerprint, run_id in sorted(runs):
            by_spec.setdefault(spec_fingerprint, []).append(run_id)
        spec = "spec_fingerprint" if by_partition else spec_part_sql("fingerprint")
        parts = [f"({spec} = {literal(of)} AND run_id IN ({', '.join(map(literal, run_ids))}))" for of, run_ids in by_spec.items()]
        if parts:
            condition = " OR ".join(parts)
            with_retries(lambda: open_table(self.spark, self.ref, "journal").delete(condition))

    def tidy_up(self, location: str) -> None:
        """Remove the files of dropped rows whose retention is over, once in a while; `location` is the journal's folder.

        An empty journal of an earlier version gets its partitions. Only a run that is alone may call this.
        """
        stored = self._read()
        if not self._is_partitioned(stored) and stored.isEmpty():
            replace(self.spark, self.ref, self._definition())
        if is_connect(self.spark):  # without a file system of Spark's the journal itself says when it was cleaned up last
            self._tidy_up_by_property()
            return
        file, now = SmallFile(self.spark, f"{location}/{_VACUUMED}"), time.time()
        last = file.read()
        if last is None:
            file.write(f"{now:.0f}")
        elif now - _seconds_in(last) > min(self.retention_hours * 3600, _VACUUM_EVERY_S):
            open_table(self.spark, self.ref, "journal").vacuum()
            file.write(f"{now:.0f}")

    def _tidy_up_by_property(self) -> None:
        table, now = open_table(self.spark, self.ref, "journal"), time.time()
        last = table.detail().collect()[0]["properties"].get(_VACUUMED_AT)
        is_due = last is not None and now - _seconds_in(last) > min(self.retention_hours * 3600, _VACUUM_EVERY_S)
        if is_due:
            table.vacuum()
        if last is None or is_due:
            with_retries(lambda: alter_table(self.spark, self.ref, [], {}, {_VACUUMED_AT: f"{now:.0f}"}))


def _seconds_in(content: str) -> float:
    """Read when VACUUM ran; 0 where a kill or somebody else left something else."""
    try:
        seconds = float(content)
    except ValueError:
        return 0.0
    return seconds if math.isfinite(seconds) else 0.0


def forgotten_before() -> str:
    """Make the smallest run id that is not forgotten yet, however little of it was published."""
    return time.strftime("%Y%m%dT", time.gmtime(time.time() - KEEP_DAYS * 86_400))

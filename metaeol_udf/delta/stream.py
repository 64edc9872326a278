"""`metaeol stream`: follow the source's commits with Structured Streaming, through the same run as the main job.

A micro-batch only says which keys to look at. The run reads texts from the source as it stands then, so that a batch which is
repeated, late or outdated writes no stale vector; a row that is current costs nothing. That makes repeats free, and Spark's
checkpoint brings each commit at least once: together, each text is embedded and published exactly once.

Commits of ours in a source that holds its own vectors come back in the stream; their rows are current, so that their batch
names no key, starts no run and commits nothing.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from pyspark.errors import StreamingQueryException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.streaming.readwriter import DataStreamWriter

from metaeol_udf.config import GivenConfig, as_config
from metaeol_udf.delta.base.context import Job
from metaeol_udf.delta.base.progress import Between, Progress
from metaeol_udf.delta.base.run_report import Report
from metaeol_udf.delta.base.shutdown import check_termination, was_requested
from metaeol_udf.delta.base.small_files import SmallFile
from metaeol_udf.delta.checkpoint import StartingPoint, find_checkpoint
from metaeol_udf.delta.job import conclude, known_errors, prepare_job, refusal_reported, reported, write_reports
from metaeol_udf.delta.pipeline import EmbedRun
from metaeol_udf.delta.select.looking import take_snapshot
from metaeol_udf.delta.select.proof import (
    ProofStore,
    noted_commits,
    why_columns_are_unproven,
    why_source_is_unproven,
    why_target_is_unproven,
)
from metaeol_udf.delta.select.row_scope import RowScope, row_scope_of_keys
from metaeol_udf.delta.select.selection import DONE, HELD, select
from metaeol_udf.delta.select.snapshot import open_checked, wanted_by
from metaeol_udf.delta.sources.passages import PassageSource
from metaeol_udf.delta.sources.text import with_made_key
from metaeol_udf.delta.tables.commits import TableLog, newest_version
from metaeol_udf.delta.tables.refs import exists, open_table
from metaeol_udf.delta.tables.where_clause import asks_time, filtered
from metaeol_udf.delta.write.deletions import sweep_orphans
from metaeol_udf.delta.write.prepare import prepare_tables
from metaeol_udf.errors import InputError
from metaeol_udf.spark.columns import quoted

logger = logging.getLogger(__name__)

POLL_EVERY_S = 1


def run_stream(
    config: GivenConfig, spark: SparkSession | None = None, progress: Progress | None = None, *, between: Between | None = None
) -> dict[str, Any]:
    """Embed what the source's new commits bring, and write the vectors where `run_embed` would.

    A first run, and the first after a change of the settings that say what is embedded, begins with a run of the main job
    over the whole table (unless `stream.start` says otherwise and no row holds a vector of another spec), then follows the
    commits made since.

    Takes what `run_embed` takes; `between` is called for the first run over the whole table and for that of each micro-batch.

    Returns:
        The report of all micro-batches together. With an interval as trigger this returns only by an error.

    Raises:
        MetaEOLError: As for `run_embed`; a micro-batch that raised is looked at again by the next run.
    """
    with known_errors():
        config = as_config(config)
        with refusal_reported([config]):
            job = prepare_job(config, spark)
        with reported(job) as report:
            _Stream(job, report, progress, between).run()
        return conclude(job, report)


def describe_stream(job: Job) -> dict[str, Any]:
    """Describe where a stream would begin; writes nothing.

    Returns:
        `checkpoint`, its folder, or None while there is no target; `follows_from`, the version of the source that the stream
        began from, or None before its first run; `start` and `trigger`, as configured.
    """
    check_followed(job)
    settings = {"start": job.config.stream.start, "trigger": job.config.stream.trigger}
    if not exists(job.spark, job.target):
        return {"checkpoint": None, "follows_from": None} | settings
    folder = _Stream(job, job.new_report()).checkpoint()[0]
    return {"checkpoint": folder, "follows_from": StartingPoint(job.spark, folder).version} | settings


def check_followed(job: Job) -> None:
    """Check that Spark can follow the source, before anything is written.

    Raises:
        InputError: It is a query, or files that Spark does not stream, `stream.start` asks for what files cannot tell, rows are
            passages, or the condition asks for the time.
    """
    source = job.source
    if isinstance(source, PassageSource):
        raise InputError("embedding.long_texts: passages are no stream: run `metaeol embed` each time instead")
    if source.table is not None:
        _check_condition(job)
        return
    if source.files is None:
        raise InputError(f"{source.setting}: a query cannot be followed as a stream: run `metaeol embed` each time instead")
    if job.config.stream.start != "earliest":
        raise InputError("stream.start: files have no versions, so that a stream of them begins with all of them: set earliest")
    source.files.stream(job.spark, job.config.stream.max_files)
    _check_condition(job)


def _check_condition(job: Job) -> None:
    where = job.config.source.where
    rows = job.source.read(job.spark)
    filtered(rows, where)  # sees that it is a condition at all
    if asks_time(rows, where):
        said = "source.where asks for the time, and a stream looks at a row once, when it comes in"
        raise InputError(f"{said}: run `metaeol embed` each time instead")


class _Stream:
    """One command: the settings, the report of all its batches, and what stopped it."""

    def __init__(self, job: Job, report: Report, progress: Progress | None = None, between: Between | None = None) -> None:
        self._job, self._report, self._progress, self._between = job, report, progress, between
        self._config = job.config.stream
        self._failure: Exception | None = None
        self._swept: StartingPoint | None = None

    def run(self) -> None:
        """Bring the table up to date, then follow it."""
        check_followed(self._job)
        # What must pass the quality gate first does not change the label of the vectors that the table holds.
        is_gated = self._forget_other_specs() and self._job.config.quality.gate
        self._look_again()
        # Before the query starts: it fails when a column is added under it.
        prepare_tables(self._job, open_checked(self._job, RowScope()), with_metadata=not is_gated)
        checkpoint, feed = self.checkpoint()
        start = StartingPoint(self._job.spark, checkpoint)
        if start.version is None:
            start.set(self._begin())
        if is_gated:
            prepare_tables(self._job, open_checked(self._job, RowScope()))
        self._swept = StartingPoint(self._job.spark, checkpoint, "swept")
        if self._swept.version is None and start.version is not None:
            self._swept.set(start.version)
        self._follow(self._writer(self._read(feed, start), checkpoint))
        self._sweep(self._job)
        if not self._report.delta_versions:  # no batch
            version = self._job.source.newest_version(self._job.spark)
            versions = {} if version is None else {"source": version}
            self._report.delta_versions = versions | {"target": newest_version(self._job.spark, self._job.target)}

    def _look_again(self) -> None:
        """Look at the whole table once more, and follow it from there, where its commits do not show all that there is to do.

        Somebody else wrote into the stored vectors, or a column was dropped or renamed, over which Delta follows no table.
        """
        job = self._job
        why = self._why_look_again()
        if why is None:
            return
        logger.info("looking at the whole table first: %s", why)
        prepare_tables(job, open_checked(job, RowScope()), with_metadata=False)
        version = job.source.newest_version(job.spark) or 0
        self._run_part(job, None)
        checkpoint = self.checkpoint()[0]
        SmallFile(job.spark, checkpoint).delete(recursive=True)
        StartingPoint(job.spark, checkpoint).set(version)

    def _why_look_again(self) -> str | None:
        """Say what happened since the last proof that a stream cannot go on from; None without a proof, too."""
        job, proof = self._job, ProofStore(self._job).load()
        source, target = job.source.log(job.spark), TableLog.of(job.spark, job.target)
        if proof is None or source is None or target is None:
            return None
        if (proof.source_id, proof.target_id) != (source.table_id, target.table_id):
            return "it is another table than before"
        return (
            why_source_is_unproven(job, source.commits_since(proof.source_version))
            or why_columns_are_unproven(job, proof, job.source.read(job.spark))
            or why_target_is_unproven(job, target.commits_since(proof.target_version))
        )

    def _sweep(self, job: Job) -> None:
        """Remove from a target of its own the keys that left the source since the last sweep."""
        log = None if job.in_place else job.source.log(job.spark)
        if log is None or self._swept is None or self._swept.version in (None, log.version):
            return
        commits = log.commits_since(self._swept.version)
        if commits is None or any(commit.removes_rows for commit in commits):
            with noted_commits(job, self._report.run_id):
                self._report.rows_deleted += sweep_orphans(job, self._report.run_id)
        self._swept.set(log.version)

    def _forget_other_specs(self) -> bool:
        """Forget where the stream is if another spec wrote into the target since: going on would leave its vectors beside ours.

        The stream does so before it brings the properties up to date, so that a run that is killed in between begins anew, too.
        Tells whether another spec is known to have written last.
        """
        if not exists(self._job.spark, self._job.target):
            return False
        detail = open_table(self._job.spark, self._job.target, "target.table").detail().collect()[0]
        written_by = detail["properties"].get(f"metaeol.{self._job.columns.vector}.fingerprint")
        if written_by != self._report.fingerprint:
            StartingPoint(self._job.spark, self.checkpoint()[0]).forget()
        return written_by not in (None, self._report.fingerprint)

    def checkpoint(self) -> tuple[str, bool]:
        """Find the folder of this stream's checkpoint, and whether the source has a change feed."""
        job = self._job
        return find_checkpoint(job.spark, job.config, job.source, job.target, job.columns.vector, job.fingerprints.label)

    def _begin(self) -> int:
        """Begin a stream with the main job, where `stream.start` says so; gives the version to follow from.

        The newest version is taken first: the stream looks once more at what is committed while the main job runs.
        """
        start, newest = self._config.start, self._job.source.newest_version(self._job.spark)
        if newest is None:
            logger.info("first run of this stream: all rows, then the files that come in")
            self._run_part(self._job, None)
            return 0
        if start != "earliest" and not take_snapshot(self._job, RowScope(), check_keys=False).counts.rows_of_other_specs:
            version = newest if start == "latest" else int(start)
            if version > newest:
                raise InputError(f"stream.start is {version}, but the newest version of {self._job.source} is {newest}")
            return version
        logger.info("first run of this stream: the whole table, then its commits from version %d on", newest)
        self._run_part(self._job, None)
        return newest

    def _read(self, feed: bool, start: StartingPoint) -> DataFrame:
        source = self._job.source
        if source.files is not None:
            return source.files.stream(self._job.spark, self._config.max_files)
        # Once there is a checkpoint, Spark goes on from that and not from the starting version.
        options: dict[str, Any] = {"maxFilesPerTrigger": self._config.max_files, "startingVersion": start.version}
        # Without a change feed, rewritten files are read whole: their unchanged rows are current and fall away, while leaving
        # out such commits (skipChangeCommits) would leave the vectors of updated texts as they were.
        options |= {"readChangeFeed": "true"} if feed else {"ignoreChanges": "true"}
        reader, ref = self._job.spark.readStream.format("delta").options(**options), source.open(self._job.spark)
        if ref is None:
            raise InputError(f"{source.setting} cannot be followed as a stream")
        rows = reader.load(ref.name) if ref.is_path else reader.table(ref.identifier)
        return rows.where(F.col("_change_type").isin("insert", "update_postimage")) if feed else rows

    def _writer(self, rows: DataFrame, checkpoint: str) -> DataStreamWriter:
        writer = rows.writeStream.option("checkpointLocation", checkpoint).queryName(f"metaeol-{self._report.run_id}")
        trigger = self._config.trigger
        writer = writer.trigger(availableNow=True) if trigger == "availableNow" else writer.trigger(processingTime=trigger)
        return writer.foreachBatch(self._process)

    def _follow(self, writer: DataStreamWriter) -> None:
        """Follow the source until the stream ends by itself, by SIGTERM or by a failed batch."""
        logging.getLogger("py4j.clientserver").setLevel(logging.CRITICAL)  # it would log the stack trace of a batch that ends the query
        query = writer.start()
        try:
            while not query.awaitTermination(POLL_EVERY_S):
                if was_requested() and not query.status["isTriggerActive"]:
                    break
        except StreamingQueryException as error:
            raise self._failure or _explained(error) from error
        finally:
            query.stop()
        check_termination()

    def _process(self, batch: DataFrame, batch_id: int) -> None:
        """Process a micro-batch, on the driver, in a thread of Spark's.

        The stream keeps an error for its caller. Spark gets the error's name alone, which ends the query: Spark writes what it gets to
        the log and the event log, and the message of an error that is not ours may quote a text.
        """
        try:
            with known_errors():
                self._embed_batch(batch, batch_id)
        except Exception as error:  # noqa: BLE001 - raised again by the thread that waits for the query
            self._failure = error
            raise RuntimeError(type(error).__name__) from None

    def _embed_batch(self, batch: DataFrame, batch_id: int) -> None:
        check_termination()
        job = dataclasses.replace(self._job, spark=batch.sparkSession)  # a stream works in a session of its own
        source = job.config.source
        batch = with_made_key(batch, source, job.source)
        if not job.in_place:
            due = filtered(batch, source.where)
        else:  # the job's own commits come back: their rows are current
            due = select(batch, wanted_by(job), None, in_place=True).rows.where(~F.col(DONE) & F.col(HELD).isNull())
        keys = due.select(*[F.col(quoted(name)) for name in source.key]).distinct().persist()
        try:
            scope, n_keys = row_scope_of_keys(keys)
            if n_keys:
                logger.info("micro-batch %d: %d keys", batch_id, n_keys)
                self._run_part(job, scope)
        finally:
            keys.unpersist()
        if self._config.trigger != "availableNow":
            self._sweep(job)
            write_reports(self._report, job.config, job)
            job.budget.check_endless(self._report.rows_failed, self._report.rows_selected)

    def _run_part(self, job: Job, batch: RowScope | None) -> None:
        """Run a part of the stream, and add it to the report. A batch with nothing to embed (for example a replayed one) is not counted."""
        part = job.new_report()
        try:
            EmbedRun(job, self._progress, part, batch, self._between).run()
        finally:
            if part.rows_selected > part.rows_skipped or batch is None:
                self._report.add(part)
                self._report.batches += batch is not None


def _explained(error: StreamingQueryException) -> Exception:
    """Make an explained error of what stopped a stream and is no failed batch: mostly, the commits to go on from are gone."""
    text = str(error)
    gone = (
        "DELTA_FILE_NOT_FOUND",
        "DELTA_VERSION_NOT_CONTIGUOUS",
        "DELTA_LOG_FILE_NOT_FOUND",
        "failOnDataLoss",
        "FILE_NOT_EXIST",
        "DELTA_MISSING_CHANGE_DATA",
    )
    if any(mark in text for mark in gone):
        return InputError(
            "source.table: commits or files that the stream has not read yet are gone (log clean-up or VACUUM): delete the folder of "
            "stream.checkpoint and run again; that looks at the whole table once, and embeds only what has no vector"
        )
    if "DELTA_SCHEMA_CHANGED" in text or ("DELTA_STREAMING" in text and "SCHEMA" in text):
        return InputError("source.table: its columns changed while the stream ran: run the same command again")
    return error

"""What all runs of one command share: settings, the resolved spec, the session and the tables' names."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyspark.sql import SparkSession

from metaeol_udf.config import JobConfig
from metaeol_udf.delta.base.failure_budget import FailureBudget
from metaeol_udf.delta.base.run_report import Report, begin_report, check_writable
from metaeol_udf.delta.sources.passages import PassageSource
from metaeol_udf.delta.sources.source import Source, check_apart
from metaeol_udf.delta.tables.columns import VectorColumns
from metaeol_udf.delta.tables.fingerprint import HashKey, RowFingerprints
from metaeol_udf.delta.tables.refs import TableRef, parse_table
from metaeol_udf.encoder.checkpoint.resolve import ResolvedSpec
from metaeol_udf.errors import EnvironmentFault
from metaeol_udf.spark.cluster.catalog import check_catalog
from metaeol_udf.spark.cluster.connect import connect_session, is_connect, remote_of, without_secret
from metaeol_udf.spark.cluster.finding import Level
from metaeol_udf.spark.cluster.resolve import resolve
from metaeol_udf.spark.cluster.session import clone_session, get_session
from metaeol_udf.spark.worker.encoder_cache import EncoderRequest
from metaeol_udf.spec import EmbeddingSpec

if TYPE_CHECKING:
    from metaeol_udf.evaluation.labelled_pairs import LabelledPairs

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What all runs of one command share: settings, the resolved spec and the session.

    Where rows are passages, `config` is `JobConfig.of_rows` of the settings, and the source's own `config` is that of the texts.
    """

    config: JobConfig
    resolved: ResolvedSpec
    spark: SparkSession
    source: Source
    target: TableRef
    columns: VectorColumns
    pairs: LabelledPairs | None = None  # for the quality gate
    hash_key: HashKey | None = None  # of the texts' hashes

    @classmethod
    def prepare(
        cls, config: JobConfig, spark: SparkSession | None, *, writes: bool = True, connect: bool = False, beside: Job | None = None
    ) -> Job:
        """Check what can be checked without a table, and start the session.

        Args:
            config: All settings.
            spark: The session; None takes the active one or starts one.
            writes: Whether a run follows. Without one, no folder of a report is made.
            connect: Whether a session of Spark Connect will do, too.
            beside: The job of another column of the same run, whose session this one shares, and whose model's files are not read again.

        Raises:
            ConfigError: The spec names something that does not exist, or the labelled pairs cannot be read.
            InputError: A table's name is not valid.
            EnvironmentFault: Spark does not start, or the report cannot be written.
        """
        source, target = Source(config.source), parse_table(config.target_table, "target.table")
        check_apart(source, target, makes_passages=config.makes_passages)
        hash_key = None if config.target.fingerprint_key is None else HashKey.read(config.target.fingerprint_key)
        for setting in ("report", "report_page", "prometheus") if writes else ():
            check_writable(getattr(config.runtime, setting), f"runtime.{setting}")
        pairs = _load_pairs(config)
        if connect and wants_connect(config, spark):  # first of all: a client may have to ask the server for the model
            check_over_connect(config)
            spark = get_session(config.spark, spark, connect=True)
        if beside is not None and beside.config.embedding == config.embedding:
            resolved = beside.resolved
        else:
            resolved = resolve(config.embedding.of_one_passage(), lambda: get_session(config.spark, spark, connect=connect))
        if config.makes_passages:
            request = EncoderRequest(resolved, config.runtime.device, model_cache=config.runtime.model_cache)
            source = PassageSource(config.source, config.embedding.passage, request)
        master = config.spark.master and without_secret(config.spark.master)
        settings = dataclasses.replace(config.spark, conf=dict.fromkeys(config.spark.conf, "…"), master=master)  # values may be secrets
        shown = dataclasses.replace(config.source, options=dict.fromkeys(config.source.options, "…"))
        logger.info("%s", dataclasses.replace(config, spark=settings, source=shown))
        # Of its own: what the job writes on its commits must not come to stand on those of the caller.
        session = clone_session(get_session(config.spark, spark, connect=connect)) if beside is None else beside.spark
        catalog = check_catalog(session, [table.name for table in (source.table, target) if table is not None and not table.is_path])
        if writes and beside is None and catalog.level is not Level.OK:
            logger.warning("%s", catalog)
        return cls(config.of_rows(), resolved, session, source, target, VectorColumns(config.column), pairs, hash_key)

    @property
    def spec(self) -> EmbeddingSpec:
        """The settings of the embedding, with the content of all that they name."""
        return self.resolved.spec

    @property
    def written_spec(self) -> EmbeddingSpec:
        """The same with `long_texts` as the user wrote it, where a text may become several rows."""
        source = self.source
        return dataclasses.replace(self.spec, long_texts="passages", passage=source.by) if isinstance(source, PassageSource) else self.spec

    @property
    def fingerprints(self) -> RowFingerprints:
        """How the fingerprints of rows are made."""
        return RowFingerprints(self.resolved.fingerprint, self.hash_key)

    @property
    def in_place(self) -> bool:
        """Whether vectors go into the source itself."""
        return self.source.table == self.target

    @property
    def budget(self) -> FailureBudget:
        """How many rows may fail."""
        return FailureBudget(self.config.runtime.max_failed_fraction)

    def new_report(self) -> Report:
        """Make an empty report with a run id of its own, which sorts by time."""
        return begin_report(self.resolved.fingerprint, str(self.target), self.columns.vector, self.config.embedding.model)

    def request(self, origin: str = "") -> EncoderRequest:
        """Say what workers load; `origin` names the run in its load ids."""
        runtime = self.config.runtime
        return EncoderRequest(self.resolved, runtime.device, runtime.max_batch_tokens, origin, runtime.model_cache)


def wants_connect(config: JobConfig, spark: SparkSession | None) -> bool:
    """Tell whether a job is to run over Spark Connect: in a session of it, or in one that the settings ask for."""
    if spark is not None:
        return is_connect(spark)
    active = SparkSession.getActiveSession() or connect_session()
    return is_connect(active) if active is not None else remote_of(config.spark.conf, config.spark.master) is not None


def check_over_connect(config: JobConfig) -> None:
    """Check that a job needs nothing that cannot be done over Spark Connect.

    Raises:
        EnvironmentFault: It does.
    """
    needs = {
        "source.path": config.source.path and "a client sees no files, and cannot tell which of them are damaged",
        "source.query": config.source.query and "a query's plan cannot be looked at, so that it might call any code",
        "source.where": config.source.where and "a condition cannot be looked at, and one that fails would quote texts in Spark's log",
        "embedding.long_texts=passages": config.makes_passages and "it was not tried there",
        "quality.gate": config.quality.gate and "it was not tried there",
        "runtime.task_gpus": config.runtime.task_gpus and "a client makes no resource profiles for waves",
    }
    for setting, reason in needs.items():
        if reason:
            raise EnvironmentFault(
                f"{setting} cannot be used over Spark Connect: {reason}. Run the job where the driver is (spark-submit jobs/embed_table.py "
                "CONF, or a notebook of a Databricks cluster with dedicated access)"
            )


def _load_pairs(config: JobConfig) -> LabelledPairs | None:
    """Read the labelled pairs of the quality gate, where it is on and has some."""
    if not (config.quality.gate and config.quality.pairs):
        return None
    from metaeol_udf.evaluation.labelled_pairs import load_pairs

    return load_pairs(config.quality.pairs, config.source.key, of_answers=config.quality.pairs_figure == "ndcg")

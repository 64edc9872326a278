"""The table that holds a job's vectors, and what stands beside it: opened without the model, which may be gone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone

from pyspark.sql import SparkSession

from metaeol_udf.config import GivenConfig, JobConfig, as_config
from metaeol_udf.delta.base.run_report import new_run_id
from metaeol_udf.delta.select.proof import RunNote, noted
from metaeol_udf.delta.sources.source import Source, check_apart
from metaeol_udf.delta.tables.columns import VectorColumns
from metaeol_udf.delta.tables.refs import TableRef, exists, open_table, parse_table
from metaeol_udf.delta.write.journal import Journal
from metaeol_udf.delta.write.run_lock import RunLock
from metaeol_udf.spark.cluster.session import clone_session, get_session


@dataclass(frozen=True)
class VectorTable:
    """The table that holds a job's vectors.

    Attributes:
        config: The job's settings.
        spark: A session of its own.
        source: Where the texts are.
        target: The table.
        columns: The vectors' columns.
        makes_passages: Whether each row of the table is a passage of a text; `config` is that of the rows then, `JobConfig.of_rows`.
    """

    config: JobConfig
    spark: SparkSession
    source: Source
    target: TableRef
    columns: VectorColumns
    makes_passages: bool = False

    @classmethod
    def of(cls, config: GivenConfig, spark: SparkSession | None) -> VectorTable:
        """Read the settings, check the names, and start the session; looks at no table.

        Raises:
            ConfigError: A setting is wrong.
            InputError: A table's name is not valid.
            EnvironmentFault: Spark does not start.
        """
        config = as_config(config)
        source, target = Source(config.source), parse_table(config.target_table, "target.table")
        check_apart(source, target, makes_passages=config.makes_passages)
        session, columns = clone_session(get_session(config.spark, spark)), VectorColumns(config.column)
        return cls(config.of_rows(), session, source, target, columns, config.makes_passages)

    @property
    def in_place(self) -> bool:
        """Whether the vectors stand in the source itself."""
        return self.source.table == self.target

    @property
    def journal(self) -> TableRef:
        """The journal beside the table."""
        return self.target.beside("journal")

    @property
    def quarantine(self) -> TableRef:
        """The quarantine beside the table."""
        return self.target.beside("quarantine")

    def exists(self) -> bool:
        """Tell whether the table is there."""
        return exists(self.spark, self.target)

    def properties(self) -> dict[str, str]:
        """Read the table's properties."""
        return dict(open_table(self.spark, self.target, "target.table").detail().collect()[0]["properties"])

    @contextmanager
    def alone(self, command: str) -> Iterator[tuple[str, str]]:
        """Hold the run lock on the whole table while the block runs, and note the command on each commit.

        Gives the run's id, and the folder of the journal, which is made where it is missing: it holds the lock.

        Raises:
            ConflictError: A run is at work.
        """
        run_id = new_run_id(datetime.now(timezone.utc))
        location = Journal(self.spark, self.journal, "", run_id, 0).open()
        with RunLock(self.spark, location, run_id).hold_alone(), noted(self.spark, RunNote(run_id, self.columns.vector, command)):
            yield run_id, location

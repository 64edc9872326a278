"""What the last run proved, so that the next one looks at what was changed since, and not at the whole table.

A proof says: at these versions of the tables, each selected row held the vector of its text, or an error that the quarantine lists.
It is a small file beside the journal's data. A table property would be a change of metadata, at which every other writer's
transaction fails, and a commit of its own each night.

Where anything happened since that the proof cannot answer for, the run looks at the whole table, and says why.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from typing import get_type_hints

from py4j.protocol import Py4JError
from pyspark.sql import DataFrame, SparkSession

from metaeol_udf.delta.base.context import Job
from metaeol_udf.delta.base.small_files import SmallFile
from metaeol_udf.delta.tables.commits import Commit, TableLog
from metaeol_udf.delta.tables.refs import exists
from metaeol_udf.delta.tables.where_clause import columns_of
from metaeol_udf.files import parse_json
from metaeol_udf.setting_types import fits
from metaeol_udf.spark.cluster.connect import is_connect
from metaeol_udf.spark.columns import find_field

_FOLDER = "_proofs"  # Delta leaves alone what begins with an underscore, VACUUM too
_MOST_LONG = 2**63 - 1  # Delta's versions and counts are 64-bit integers
_USER_METADATA = "spark.databricks.delta.commitInfo.userMetadata"
_NOTE = re.compile(r"metaeol_udf (\S+) (\S+) (\S+)$")
#: Commits that change no row and none of the columns that a proof speaks of.
_HARMLESS = frozenset(
    {
        "SET TBLPROPERTIES", "UNSET TBLPROPERTIES", "ADD COLUMNS", "CHANGE COLUMN", "ADD CONSTRAINT", "DROP CONSTRAINT", "UPGRADE PROTOCOL",
        "CLUSTER BY", "OPTIMIZE", "REORG", "VACUUM START", "VACUUM END", "ANALYZE", "COMPUTE STATS",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Proof:
    """What was proved.

    Attributes:
        run_id: The run that proved it.
        source_id: The id of the source table.
        source_version: Its version whose rows were looked at.
        target_id: The id of the table that was written to.
        target_version: A version of it since which the proof answers for every commit of this job.
        columns: The source's columns that a run reads, with their types.
        rows_selected: Rows that the condition selected.
        quarantine_id: The id of the quarantine; None where there was none.
        quarantine_version: Its version.
    """

    run_id: str
    source_id: str
    source_version: int
    target_id: str
    target_version: int
    columns: str
    rows_selected: int
    quarantine_id: str | None
    quarantine_version: int

    @classmethod
    def parse(cls, content: str) -> Proof | None:
        """Parse the file of a proof; None where it was cut off by a kill, is of another version or none of ours."""
        try:
            found = cls(**parse_json(content))
        except (ValueError, TypeError):
            return None
        values = vars(found).values()
        is_long = all(-1 <= value <= _MOST_LONG for value in values if isinstance(value, int))
        return found if is_long and all(fits(getattr(found, name), hint) for name, hint in get_type_hints(cls).items()) else None


class ProofStore:
    """The proofs of one target, of which this job's is one."""

    def __init__(self, job: Job) -> None:
        """Find the folder of the proofs; reads nothing."""
        self._spark = job.spark
        tables = (job.config.source, str(job.source), str(job.target), job.config.target.deleted)
        parts = [*tables, job.columns.vector, job.fingerprints.label]
        if job.config.source.where is not None:  # which may read a time in it
            parts.append(job.spark.conf.get("spark.sql.session.timeZone"))
        self._name = f"{hashlib.sha256(repr(tuple(parts)).encode()).hexdigest()[:32]}.json"
        self._journal = job.target.beside("journal")

    def load(self) -> Proof | None:
        """Load the job's proof; None where there is none that can be read."""
        try:
            file = self._file()
            content = None if file is None else file.read()
            return None if content is None else Proof.parse(content)
        except Py4JError:  # refused by the storage
            return None

    def save(self, proof: Proof) -> bool:
        """Save the job's proof; tells whether the storage took it."""
        try:
            file = self._file()
            if file is None:
                return False
            file.write(json.dumps(asdict(proof)))
        except Py4JError:
            return False
        return True

    def _file(self) -> SmallFile | None:
        """Find the file of the proof; None while there is no journal, and over Spark Connect, which has no file systems."""
        if is_connect(self._spark) or not exists(self._spark, self._journal):
            return None
        log = None if self._journal.is_path else TableLog.of(self._spark, self._journal)
        if log is None and not self._journal.is_path:
            return None
        return SmallFile(self._spark, f"{self._journal.name if log is None else log.location}/{_FOLDER}/{self._name}")


@dataclass(frozen=True)
class RunNote:
    """What stands on a commit of this package.

    Attributes:
        run_id: The run that made it.
        column: The vectors' column.
        spec: The label of the run's fingerprints; of other commands than runs, what the command is called.
    """

    run_id: str
    column: str
    spec: str

    @classmethod
    def parse(cls, user_metadata: str | None) -> RunNote | None:
        """Parse the text that a writer gave to a commit; None where it is no note of ours."""
        found = _NOTE.search(user_metadata or "")
        return None if found is None else cls(*found.groups())


def noted_commits(job: Job, run_id: str) -> AbstractContextManager[None]:
    """Write on every commit that the block makes which run, column and spec it is of; people see it in the table's history."""
    return noted(job.spark, RunNote(run_id, job.columns.vector, job.fingerprints.label))


@contextmanager
def noted(spark: SparkSession, by: RunNote) -> Iterator[None]:
    """Write a note on every commit that the block makes."""
    before = spark.conf.get(_USER_METADATA, None)
    note = f"metaeol_udf {by.run_id} {by.column} {by.spec}"
    spark.conf.set(_USER_METADATA, f"{before} {note}" if before else note)
    try:
        yield
    finally:
        if before is None:
            spark.conf.unset(_USER_METADATA)
        else:
            spark.conf.set(_USER_METADATA, before)


def is_answered_for(job: Job, commit: Commit) -> bool:
    """Tell whether a commit is by a run of this package that leaves the job's own vectors right: of the same spec or another column."""
    note = RunNote.parse(commit.user_metadata)
    return note is not None and (note.column != job.columns.vector or note.spec == job.fingerprints.label)


def wrote_after(job: Job, proof: Proof, commits: Sequence[Commit]) -> bool:
    """Tell whether another run than the proving one wrote the job's vectors since: a stream, a retry, or a run that was killed."""
    notes = [RunNote.parse(commit.user_metadata) for commit in commits if commit.changes_data]
    return any(note is not None and note.column == job.columns.vector and note.run_id != proof.run_id for note in notes)


def columns_read(job: Job, source: DataFrame) -> str:
    """List the columns of the source that a run reads, with their types: those of the key, the text and the condition.

    A column of a wider type has other values, as text, in rows that no commit touched.
    """
    config = job.config.source
    names = [*config.key, *config.text_columns, *sorted(columns_of(source, config.where))]
    fields = [find_field(source.schema, name) for name in names]
    return json.dumps([[field.name, field.dataType.simpleString()] for field in fields if field is not None])


def why_target_is_unproven(job: Job, commits: Sequence[Commit] | None) -> str | None:
    """Say what happened to the stored vectors since the proof that it cannot answer for; None where nothing did.

    `commits` are those of the table that was written to; for vectors in the source itself, rows that others wrote are no reason.
    """
    why = _why_altered(job.target, commits)
    if why is not None or job.in_place:
        return why
    foreign = [commit for commit in commits or () if commit.changes_data and not is_answered_for(job, commit)]
    return f"another writer changed {job.target} by {foreign[0].operation} in version {foreign[0].version}" if foreign else None


def why_source_is_unproven(job: Job, commits: Sequence[Commit] | None) -> str | None:
    """Say why the files that were added to the source since the proof are not all that changed; None where they are."""
    return _why_altered(job.source, commits)


def why_columns_are_unproven(job: Job, proof: Proof, source: DataFrame) -> str | None:
    """Say that a column which a run reads has another type than at the proof; None where each has the same."""
    return None if proof.columns == columns_read(job, source) else f"columns of {job.source} that are read have another type than before"


def _why_altered(table: object, commits: Sequence[Commit] | None) -> str | None:
    """Say which commit did more to a table than bring and take rows; None where none did."""
    if commits is None:
        return f"the commits of {table} since the last proof cannot be read"
    for commit in commits:
        is_harmless = commit.operation in _HARMLESS and not commit.changes_data
        if not is_harmless and (commit.alters or commit.operation in ("RESTORE", "CLONE", None)):
            return f"{commit.operation or 'an unknown writer'} changed {table} in version {commit.version}"
    return None

"""What the commits of a Delta table did since a version, and the rows of the files that they added.

The commits are read on the driver, file by file: no Spark job, whatever the size of the table. Delta has no public interface for
this in a batch, so a Spark whose Delta hides its log (see `TableLog.of`) looks at whole tables instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import NoneType
from typing import Any

from py4j.protocol import Py4JError
from pyspark.sql import DataFrame, SparkSession

from metaeol_udf.delta.tables.refs import TableRef, current_version, exists, open_table, unreadable_commits
from metaeol_udf.files import parse_json
from metaeol_udf.spark.cluster.connect import is_connect

MOST_BYTES = 64 << 20  # of the commits that are looked at; beyond that a look at the whole table is no dearer
MOST_COMMITS = 2_000
_HEAD = 4_096
_HIDE_ROWS = ("DELETE", "UPDATE", "MERGE")  # operations that only ever add rows to a file's deletion vector
_OPERATION = re.compile(r'"commitInfo"\s*:\s*\{[^{}]*"operation"\s*:\s*"')


@dataclass(frozen=True)
class Commit:
    """One commit of a table.

    Attributes:
        version: Its number.
        operation: What Delta calls it, for example `MERGE`; None where the commit does not say.
        user_metadata: The text that the writer gave to the commit.
        alters: Whether it changes columns, properties or the protocol.
        added: By path, the actions that add files, as the log holds them.
        removed: Paths of removed files.
        thinned: Paths of files of both kinds: the same file, of which a larger deletion vector hides more rows than before.
        changes_data: Whether rows come or go, rather than move between files.
    """

    version: int
    operation: str | None
    user_metadata: str | None
    alters: bool
    added: dict[str, str] = field(repr=False)
    removed: frozenset[str] = field(repr=False)
    thinned: frozenset[str] = field(repr=False)
    changes_data: bool

    @classmethod
    def parse(cls, version: int, text: str) -> Commit:
        """Parse the file of a commit.

        Raises:
            ValueError: It is none.
        """
        try:
            return cls._parse(version, text)
        except (LookupError, AttributeError, TypeError, ArithmeticError):
            raise ValueError(f"version {version} is no commit") from None

    @classmethod
    def _parse(cls, version: int, text: str) -> Commit:
        info: dict[str, Any] = {}
        added, hidden, changes_data, alters = {}, {}, False, False
        removed: dict[str, int] = {}
        for line in text.split("\n"):  # a name may hold other ends of lines
            if not line.strip():
                continue
            action = parse_json(line)
            if "commitInfo" in action:
                info = action["commitInfo"]
            for kind in ("add", "remove"):
                if kind in action:
                    changes_data |= action[kind].get("dataChange", True)
            if "add" in action:
                added[action["add"]["path"]] = line
                hidden[action["add"]["path"]] = _n_hidden(action["add"])
            if "remove" in action:
                removed[action["remove"]["path"]] = _n_hidden(action["remove"])
            alters |= "metaData" in action or "protocol" in action
        operation, note = info.get("operation"), info.get("userMetadata")
        if not (isinstance(operation, (str, NoneType)) and isinstance(note, (str, NoneType))):
            raise ValueError("the operation and its note are text")
        thinned = {path for path in added.keys() & removed.keys() if operation in _HIDE_ROWS and hidden[path] > removed[path]}
        return cls(version, operation, note, alters, added, frozenset(removed), frozenset(thinned), bool(changes_data))

    @property
    def removes_rows(self) -> bool:
        """Whether rows of an earlier version may be gone or changed."""
        return self.changes_data and bool(self.removed)


def _n_hidden(action: dict[str, Any]) -> int:
    """Count the rows of a file that its deletion vector hides."""
    return int((action.get("deletionVector") or {}).get("cardinality", 0))


@dataclass(frozen=True)
class Added:
    """What came into a table.

    Attributes:
        rows: The rows; None where no file came in.
        has_others: Whether there may be others among them, beside which they were written anew.
        files: The actions that added the files which hold them, as the log holds these.
    """

    rows: DataFrame | None = field(default=None, compare=False)
    has_others: bool = False
    files: frozenset[str] = field(default=frozenset(), repr=False)


class TableLog:
    """The log of a table at one version.

    Attributes:
        table_id: The id that Delta gave to the table when it was made.
        version: The version.
        location: The table's folder.
    """

    def __init__(self, spark: SparkSession, log: Any) -> None:
        self._spark, self._log = spark, log
        none = self._jvm.scala.Option.empty()
        self._snapshot: Any = log.update(False, none, none)
        self.table_id: str = self._snapshot.metadata().id()
        self.version: int = self._snapshot.version()
        self.location: str = log.dataPath().toString()

    @classmethod
    def of(cls, spark: SparkSession, ref: TableRef, setting: str = "target.table") -> TableLog | None:
        """Open the newest version of a table's log; None where there is no such table, or where this Delta does not show it.

        Over Spark Connect no Delta does.
        """
        if is_connect(spark) or not exists(spark, ref):
            return None
        table: Any = open_table(spark, ref, setting)
        try:
            return cls(spark, table._jdt.deltaLog())
        except (Py4JError, TypeError):  # a name that Java does not know is no function
            return None

    def check_newest(self, n_commits: int = 20) -> None:
        """Check that the newest commits say what they did.

        Raises:
            EnvironmentFault: One does not: a file of the log that was cut off or put there by something else than Delta. Delta reads on
                without an error, and what the commit held is lost.
        """
        nameless = [n for n in range(max(0, self.version - n_commits + 1), self.version + 1) if not self._says_what_it_did(n)]
        if nameless:
            raise unreadable_commits(nameless)

    def _says_what_it_did(self, number: int) -> bool:
        """Tell whether the file of a commit names an operation; a file that is cleaned up is no matter."""
        head = self._read(number, _HEAD)
        if head is None or _OPERATION.search(head):
            return True
        try:  # not every writer says it first
            return Commit.parse(number, self._read(number) or "").operation is not None
        except ValueError:
            return False

    def _read(self, number: int, most: int | None = None) -> str | None:
        """Read the file of a commit, or so many bytes of it; None where it is cleaned up, or kept elsewhere by the catalog."""
        jvm = self._jvm
        try:
            stream = self._files().open(self._file(number))
        except Py4JError:
            return None
        try:
            source = stream if most is None else jvm.org.apache.commons.io.input.BoundedInputStream(stream, most)
            text: str = jvm.org.apache.commons.io.IOUtils.toString(source, "UTF-8")
            return text
        finally:
            stream.close()

    def _file(self, number: int) -> Any:
        return self._jvm.org.apache.hadoop.fs.Path(self._log.logPath(), f"{number:020d}.json")

    def _files(self) -> Any:
        return self._log.logPath().getFileSystem(self._spark._jsparkSession.sessionState().newHadoopConf())

    @property
    def _jvm(self) -> Any:
        return self._spark._jvm

    @property
    def is_empty(self) -> bool:
        """Whether the table has no file."""
        return bool(self._snapshot.numOfFiles() == 0)

    def properties(self) -> dict[str, str]:
        """Read the table's properties."""
        return dict(self._jvm.scala.jdk.javaapi.CollectionConverters.asJava(self._snapshot.metadata().configuration()))

    def properties_at(self, version: int) -> dict[str, str] | None:
        """Read the properties that the table had at a version; None where that version is not there, or this Delta does not show it."""
        none = self._jvm.scala.Option.empty()
        try:
            snapshot = self._log.getSnapshotAt(version, none, none, False)
        except (Py4JError, TypeError):
            return None
        return dict(self._jvm.scala.jdk.javaapi.CollectionConverters.asJava(snapshot.metadata().configuration()))

    def commits_since(self, version: int) -> list[Commit] | None:
        """Read the commits after a version, oldest first; None where they are too many, or some of them are gone."""
        if not 0 <= self.version - version <= MOST_COMMITS:
            return None
        left, commits = MOST_BYTES, []
        for number in range(version + 1, self.version + 1):
            try:
                left -= self._files().getFileStatus(self._file(number)).getLen()
            except Py4JError:
                return None
            text = self._read(number) if left >= 0 else None
            if text is None:
                return None
            try:
                commits.append(Commit.parse(number, text))
            except ValueError:  # whoever wrote it, a look at the whole table says what is there
                return None
        return commits

    def read_added(self, commits: Iterable[Commit], but: Callable[[Commit], bool] = lambda commit: False) -> Added:
        """Read the rows of the files that commits added and that are there still.

        Args:
            commits: All commits since a version, oldest first.
            but: Tells of which commits the added files are left out. A file into which rows of others moved, by such a commit or by
                OPTIMIZE, is read all the same.
        """
        live: dict[str, str] = {}
        has_others = False
        for commit in commits:
            moved = bool(commit.removed & live.keys())
            has_others |= moved
            thinned = {path: commit.added[path] for path in commit.thinned & live.keys()}
            for path in commit.removed:
                live.pop(path, None)
            if moved or (commit.changes_data and not but(commit)):
                # The rows that are left in a file of which more rows are hidden were there before.
                live |= {path: line for path, line in commit.added.items() if path not in commit.thinned}
            live |= thinned
        if not live:
            return Added(None, has_others)
        parse = self._jvm.org.apache.spark.sql.delta.actions.Action.fromJson
        files = self._jvm.PythonUtils.toSeq([parse(line) for line in live.values()])
        rows = self._log.createDataFrame(self._snapshot, files, False, self._jvm.scala.Option.empty())
        return Added(DataFrame(rows, self._spark), has_others, frozenset(live.values()))


def newest_version(spark: SparkSession, ref: TableRef, setting: str = "target.table") -> int:
    """Find the number of a table's newest commit, after a look at the newest ones; starts no Spark job where the log can be read.

    Raises:
        InputError: There is no such table.
        EnvironmentFault: As in `TableLog.check_newest`.
    """
    log = TableLog.of(spark, ref, setting)
    if log is None:
        return current_version(open_table(spark, ref, setting))
    log.check_newest()
    return log.version

"""The machine: what people and other programs do to the tables between runs, and the runs, each followed by the checks of `model`."""

from __future__ import annotations

import itertools
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from delta import DeltaTable
from hypothesis import HealthCheck, Phase, reject, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from pyspark.sql import SparkSession

from metaeol_udf.config import JobConfig
from metaeol_udf.delta import run_embed
from metaeol_udf.delta.pipeline import PHASES
from metaeol_udf.delta.retry import run_retry
from metaeol_udf.delta.stream import run_stream
from metaeol_udf.delta.tables import spark_errors
from metaeol_udf.delta.write import waves
from metaeol_udf.encoder.checkpoint.resolve import resolve_local
from metaeol_udf.errors import InputError
from metaeol_udf.spec import EmbeddingSpec
from tests.delta.state_machine import model
from tests.delta.state_machine.model import GARBLED, OURS, Embedding, Row, Run, Seen, by_key
from tests.delta.state_machine.stand_in import Calls
from tests.table_bench import POISON, Before, Silence, TableBench

STEPS = 5  # of a random sequence, before its last run

#: The rows that every sequence begins with; the job has been over them once.
SCHEMA = "id long, title string, body string, note string, size int"
ROWS = [
    (0, "one", "two", "kept", 0),
    (1, "one", None, None, 1),
    (2, None, "one", "kept", 2),
    (3, "\u00a0 ", "three", "kept", 3),
    (4, "four", f"the {POISON}", "kept", None),
    (5, "five", "one", "kept", 5),
]
TEXTS = ["one", "two", "two.", "ein längerer Text", "", "\u00a0 ", None, f"a {POISON} here"]

#: What may be embedded: the text column, the vector column, and the layer that makes another spec of it.
EMBEDDINGS = {"title": ("title", "embedding", -1), "body": ("body", "body_embedding", -1), "title by layer 0": ("title", "embedding", 0)}
#: What people set up on a table; {n} is another number each time, {key} the column of the key.
SET_UP = {
    "a property": "SET TBLPROPERTIES ('team' = 'team {n}')",
    "a constraint": "ADD CONSTRAINT constraint_{n} CHECK ({key} IS NOT NULL)",
    "a column": "ADD COLUMN (added_{n} string)",
    "deletion vectors": "SET TBLPROPERTIES ('delta.enableDeletionVectors' = 'true')",
    "a change feed": "SET TBLPROPERTIES ('delta.enableChangeDataFeed' = 'true')",
    "row tracking": "SET TBLPROPERTIES ('delta.enableRowTracking' = 'true')",
    "clustering": "CLUSTER BY ({key})",
    "column mapping": "SET TBLPROPERTIES ('delta.columnMapping.mode' = 'name')",
}
MAINTAINED = {"optimize": "OPTIMIZE {table}", "vacuum": "VACUUM {table} RETAIN 0 HOURS"}

#: Of the session, while sequences run.
CONF = {
    "spark.databricks.delta.retentionDurationCheck.enabled": "false",  # VACUUM at once
    "spark.sql.sources.parallelPartitionDiscovery.parallelism": "2",  # not 10,000 tasks of a VACUUM
    # To compile a plan for eight rows takes longer than to run it.
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
}

tables = st.sampled_from(["source", "target"])  # in place these are one table
thirds = st.integers(0, 2)  # of the rows, by what the key leaves divided by 3
texts = st.sampled_from(TEXTS)
embeddings = st.sampled_from(sorted(EMBEDDINGS))


class Killed(Exception):
    """Ends a run where it stands."""


def die() -> None:
    raise Killed


class AnyChange(RuleBasedStateMachine):
    """One sequence: changes and runs in any order, and at the end a whole run and one more that finds nothing to do.

    Each rule is also a plain method, so that the steps which Hypothesis prints for a sequence that failed can be kept as a test.
    """

    is_one = False  # whether several embeddings are one run rather than several at once

    def __init__(self, bench: TableBench, calls: Calls, *, in_place: bool) -> None:
        """Begin with the tables that stand in the bench's folder."""
        super().__init__()
        self._bench, self._spark, self._calls, self._in_place = bench, bench.spark, calls, in_place
        self._numbers = itertools.count(10)  # new keys and names, none of them twice
        self._oldest: dict[str, int] = {}  # by path: the first version that can still be restored
        self._journalled: set[str] = set()  # texts that a killed run has journalled, until the next run

    @initialize(number=st.integers(0, 1_000_000))
    def begin(self, number: int) -> None:
        """Reject the simplest sequence, with which Hypothesis begins: one change, made over and over."""
        if not number:
            reject()

    # What happens to rows of the source.

    @rule(rows=st.lists(st.tuples(texts, texts), min_size=1, max_size=2))
    def insert(self, rows: list[tuple[str | None, str | None]]) -> None:
        values = [(next(self._numbers), self._text(title), self._text(body), "inserted") for title, body in rows]
        frame = self._spark.createDataFrame(values, "id long, title string, body string, note string")
        frame.write.format("delta").mode("append").save(self._path("source"))

    @rule(column=st.sampled_from(["title", "body"]), third=thirds, text=texts)
    def update(self, column: str, third: int, text: str | None) -> None:
        self._sql(f"UPDATE {{source}} SET {column} = {_literal(self._text(text))}, note = 'updated' WHERE id % 3 = {third}")

    @rule(key=st.integers(0, 5), text=texts)
    def merge(self, key: int, text: str | None) -> None:
        rows = f"SELECT explode(array({key}L, {next(self._numbers)}L)) AS id, {_literal(self._text(text))} AS title"
        known, new = "UPDATE SET title = rows.title", "INSERT (id, title) VALUES (rows.id, rows.title)"
        merge = f"MERGE INTO {{source}} AS t USING ({rows}) AS rows ON t.id = rows.id"
        self._sql(f"{merge} WHEN MATCHED THEN {known} WHEN NOT MATCHED THEN {new}")

    @rule(how=st.sampled_from(["overwrite", "create or replace"]), but=thirds)
    def rebuild(self, how: str, but: int) -> None:
        """Write the source anew from its own rows, without a third of them, as a nightly job of somebody else does."""
        names = ("id", "title", "body", "note", "size")
        rows = self._spark.read.format("delta").load(self._path("source")).select(*names).where(f"id % 3 <> {but}")
        if how == "overwrite":
            rows.write.format("delta").mode("overwrite").save(self._path("source"))
        else:
            rows.writeTo(f"delta.`{self._path('source')}`").using("delta").createOrReplace()

    # What happens to either table.

    @rule(table=tables, third=thirds)
    def delete(self, table: str, third: int) -> None:
        self._sql(f"DELETE FROM {{{table}}} WHERE {self._third(table, third)}")

    @rule(table=tables, what=st.sampled_from(sorted(SET_UP)))
    def set_up(self, table: str, what: str) -> None:
        written = SET_UP[what].replace("{n}", str(next(self._numbers))).replace("{key}", self._key(table))
        self._sql(f"ALTER TABLE {{{table}}} {written}")

    @rule()
    def widen(self) -> None:
        self._sql("ALTER TABLE {source} SET TBLPROPERTIES ('delta.enableTypeWidening' = 'true')")
        self._sql("ALTER TABLE {source} ALTER COLUMN size TYPE bigint")

    @rule(table=tables, what=st.sampled_from(sorted(MAINTAINED)))
    def maintain(self, table: str, what: str) -> None:
        self._sql(MAINTAINED[what].replace("{table}", f"{{{table}}}"))
        if what == "vacuum":
            self._forget_versions(table)

    @rule(table=tables, back=st.integers(1, 3))
    def restore(self, table: str, back: int) -> None:
        if self._is_there(table):
            version = max(self._oldest.get(self._path(table), 0), self._version(table) - back)
            self._sql(f"RESTORE TABLE {{{table}}} TO VERSION AS OF {version}")

    @rule()
    def clone_source(self) -> None:
        """Put a shallow clone in the place of the source."""
        source, origin = Path(self._path("source")), self._bench.folder / f"origin_{next(self._numbers)}"
        source.rename(origin)
        self._forget_logs()
        self._sql(f"CREATE TABLE {{source}} SHALLOW CLONE delta.`{origin}`")
        self._oldest.pop(self._path("source"), None)

    # What happens to our columns and tables.

    @rule(what=st.sampled_from(sorted(GARBLED)), third=thirds)
    def garble(self, what: str, third: int) -> None:
        if set(OURS) <= self._columns():
            self._sql(f"UPDATE {{target}} SET {GARBLED[what]} WHERE {self._third('target', third)}")

    @rule(column=st.sampled_from(OURS), how=st.sampled_from(["drop", "rename", "drop and add"]))
    def lose_column(self, column: str, how: str) -> None:
        if column not in self._columns():
            return
        self.set_up("target", "column mapping")  # without it no column can go
        self._forget_versions("target")
        if how == "rename":
            self._sql(f"ALTER TABLE {{target}} RENAME COLUMN {column} TO old_{column}_{next(self._numbers)}")
            return
        self._sql(f"ALTER TABLE {{target}} DROP COLUMN {column}")
        if how == "drop and add":
            self._sql(f"ALTER TABLE {{target}} ADD COLUMN ({column} {'array<float>' if column == 'embedding' else 'string'})")

    @rule(column=st.sampled_from(OURS), place=st.sampled_from(["FIRST", "AFTER {key}"]))
    def move_column(self, column: str, place: str) -> None:
        if column in self._columns():
            place = place.replace("{key}", self._key("target"))
            self._sql(f"ALTER TABLE {{target}} ALTER COLUMN {column} {place}")

    @rule(what=st.sampled_from(["journal", "quarantine", "checkpoint", "target"]))
    def remove(self, what: str) -> None:
        """Remove a folder of ours by hand."""
        if what == "target" and self._in_place:
            return
        target = self._path("target")
        shutil.rmtree(target if what == "target" else f"{target}__metaeol_{what}", ignore_errors=True)
        self._forget_logs()
        if what == "target":
            self._oldest.pop(target, None)
        if what == "journal":
            self._journalled = set()

    # Runs.

    @rule(command=st.sampled_from(["embed", "retry", "stream"]), what=embeddings)
    def run(self, command: str, what: str) -> None:
        if command == "embed":
            self._run_whole(what)
        elif command == "retry":
            with self._checked(what) as run:
                run_retry(self._config(what), self._spark, Silence())
            complain(model.complaints_of_quarantine(self._embedding(what), run, [self._embedding(what)]))
        else:
            with self._checked(what, is_stream=True):
                try:
                    run_stream(self._config(what), self._spark, Silence())
                except InputError:  # commits to go on from are gone, or columns changed: begin anew, as its message says
                    self.remove("checkpoint")

    @rule(what=st.sampled_from(["title", "title by layer 0"]))
    def run_two_at_once(self, what: str) -> None:
        """Run over both text columns at once; both runs end by themselves."""
        self._run_whole(what, "body")

    @rule(what=embeddings, phase=st.sampled_from([phase for phase in PHASES if phase != "gate"]))
    def kill(self, what: str, phase: str) -> None:
        """Begin a run that ends before a phase, or by itself where it does not come to that."""
        before, is_killed = Before(phase, die), False
        with self._checked(what) as run:
            try:
                run_embed(self._config(what, wave_rows=2), self._spark, Silence(), between=before)
            except Killed:
                is_killed = True
        if is_killed and phase != "report":  # which comes after the journal's clean-up
            self._journalled = set(run.calls) - self._embedding(what).failing(run.before)

    def teardown(self) -> None:
        """End the sequence: whatever happened, one run puts all right and the next one finds nothing to do."""
        if sys.exc_info()[0] is not None:  # a step failed
            return
        self._run_whole("title")
        version = self._version("target")
        run, report = self._run_whole("title")
        wanted = self._embedding("title").failing(run.before)
        assert set(run.calls) == wanted, f"the last run computed {run.calls}, and {wanted} are the texts without a vector"
        if not wanted:
            assert report["status"] == "nothing_to_do", f"the last run found work: {report}"
            assert self._version("target") == version, "the last run found nothing to do, and committed"

    def _run_whole(self, *names: str) -> tuple[Run, dict[str, Any]]:
        """Run over all rows, for several embeddings at once, and check all that must hold then; gives the first one's report."""
        with self._checked(*names) as run:
            report = self._embed(*names)
        at_once = [self._embedding(name) for name in names]
        for embedding in at_once:
            complain(model.complaints_of_whole_run(embedding, run, at_once))
        complain(model.complaints_of_report(at_once[0], run, report))
        return run, report

    def _embed(self, *names: str) -> dict[str, Any]:
        """Embed several embeddings by runs at once; gives the first one's report."""
        with ThreadPoolExecutor(len(names)) as pool:
            reports = list(pool.map(lambda name: run_embed(self._config(name), self._spark, Silence()), names))
        return reports[0]

    @contextmanager
    def _checked(self, *names: str, is_stream: bool = False) -> Iterator[Run]:
        """Look at the tables before and after a run, and check what holds for any run."""
        run, journalled = Run(before=self._look(names[0])), self._journalled
        self._journalled = set()  # a run may clean it of what is published
        self._calls.take()
        yield run
        run.after, run.calls = self._look(names[0]), self._calls.take()
        embeddings, is_one = [self._embedding(name) for name in names], self.is_one or len(names) == 1
        complain(model.complaints_of_any_run(embeddings, run, is_one=is_one, is_stream=is_stream))
        again = journalled & set(run.calls)
        complain([f"texts were computed again that a killed run had journalled: {sorted(again)}"] if again else [])

    # The tables.

    def _text(self, text: str | None) -> str | None:
        """Give the text that stands in the table for one of `TEXTS`."""
        return text

    def _key(self, table: str) -> str:
        """Name the first column of a table's key."""
        return "id"

    def _third(self, table: str, third: int) -> str:
        """Write the condition that chooses a third of a table's rows by their key."""
        return f"id % 3 = {third}"

    def _path(self, table: str) -> str:
        return self._bench.path if self._in_place or table == "source" else str(self._bench.folder / "vectors")

    def _is_there(self, table: str) -> bool:
        return Path(self._path(table), "_delta_log").is_dir()

    def _sql(self, statement: str) -> None:
        """Run a statement on {source} or {target}; a target that is not there is let be."""
        if "{target}" in statement and not self._is_there("target"):
            return
        names = {table: f"delta.`{self._path(table)}`" for table in ("source", "target")}
        self._spark.sql(statement.format(**names))

    def _version(self, table: str) -> int:
        version: int = DeltaTable.forPath(self._spark, self._path(table)).history(1).collect()[0]["version"]
        return version

    def _forget_versions(self, table: str) -> None:
        """Remember that only later versions of a table can be restored."""
        if self._is_there(table):
            self._oldest[self._path(table)] = self._version(table)

    def _forget_logs(self) -> None:
        """Let Delta forget the tables that it knows, as another driver would not know them."""
        jvm: Any = self._spark._jvm
        jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()

    def _columns(self) -> set[str]:
        """Name the columns of the table that vectors are written to; none where it is not there."""
        return set(self._spark.read.format("delta").load(self._path("target")).columns) if self._is_there("target") else set()

    def _look(self, name: str) -> Seen:
        """Look at the tables as a run over an embedding sees them."""
        source = by_key(self._rows(self._path("source")))
        stored = source if self._in_place else by_key(self._rows(self._path("target")))
        return Seen(source, stored, self._rows(f"{self._path('target')}__metaeol_quarantine"))

    def _rows(self, path: str) -> list[Row]:
        if not Path(path, "_delta_log").is_dir():
            return []
        return [row.asDict() for row in self._spark.read.format("delta").load(path).collect()]

    # The settings.

    def _config(self, name: str, wave_rows: int = 50_000) -> JobConfig:
        text, vector, layer = EMBEDDINGS[name]
        return self._bench.config(
            source={"text": text},
            target={"table": self._path("target"), "max_deleted_fraction": 1.0},
            embedding={"column": vector, "layer": layer},
            runtime={"report": None, "wave_rows": wave_rows},
        )

    def _embedding(self, name: str) -> Embedding:
        text, vector, _ = EMBEDDINGS[name]
        resolved = resolve_local(self._config(name).embedding)
        return Embedding(text, vector, resolved.fingerprint, resolved.vector_length)


def _literal(text: str | None) -> str:
    """Write a text that has no quote in SQL."""
    return "CAST(NULL AS string)" if text is None else f"'{text}'"


def complain(complaints: Iterable[str]) -> None:
    """Fail with all complaints, where there are any."""
    text = "\n".join(complaints)
    assert not text, text


@contextmanager
def any_change(
    spark: SparkSession, folder: Path, spec: EmbeddingSpec, *, in_place: bool, kind: type[AnyChange] | None = None
) -> Iterator[Callable[[], AnyChange]]:
    """Make machines, each with tables of its own: copies of tables that the job has been over once, for a first run takes long.

    Args:
        spark: The session.
        folder: An empty folder.
        spec: A spec whose model is there; no model is loaded.
        in_place: Whether vectors go into the source, rather than into a target of its own.
        kind: The machine; None is one of columns of vectors, a vector a row.
    """
    calls, numbers = Calls(folder / "calls"), itertools.count()

    def machine(of: Path) -> AnyChange:
        return (kind or AnyChange)(TableBench(spark, of, spec), calls, in_place=in_place)

    def machine_on_a_copy() -> AnyChange:
        copy = shutil.copytree(folder / "start", folder / f"sequence_{next(numbers)}")
        state = machine(copy)
        if not in_place:  # the copy of the source takes the source's place
            spark.sql(f"ALTER TABLE delta.`{copy / 'vectors'}` UNSET TBLPROPERTIES ('metaeol.embedding.source')")
            state._forget_versions("target")  # those whose source is another table
        return state

    before = {name: spark.conf.get(name, None) for name in CONF}
    try:
        for name, value in CONF.items():
            spark.conf.set(name, value)
        with mock.patch.object(waves, "result_udf", calls.result_udf), mock.patch.object(spark_errors, "MAX_PAUSE_S", 0.2):
            (folder / "start").mkdir()
            spark.createDataFrame(ROWS, SCHEMA).coalesce(1).write.format("delta").save(str(folder / "start" / "table"))
            machine(folder / "start").run("embed", "title")
            yield machine_on_a_copy
    finally:
        for name, earlier in before.items():
            spark.conf.unset(name) if earlier is None else spark.conf.set(name, earlier)
        spark.catalog.clearCache()


def run_random_sequences(machine: Callable[[], AnyChange], n: int, number: int) -> None:
    """Run `n` random sequences, the same ones for the same number; raises at the first that breaks, with its steps."""
    run_state_machine_as_test(
        seed(number)(lambda: machine()),  # type: ignore[arg-type]  # its hint names a class, its text any function
        settings=settings(
            max_examples=n,
            stateful_step_count=STEPS + 1,  # `begin` is one
            phases=[Phase.generate],  # to find a shorter sequence would take as long as hundreds of others
            report_multiple_bugs=False,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )

"""Faults 18 to 25 and 45: others who write to the same tables, and time that runs backwards."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from bench import Bench
from delta import DeltaTable
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from metaeol_udf.delta import run_embed
from metaeol_udf.delta.base import run_report
from metaeol_udf.delta.tables import spark_errors
from metaeol_udf.delta.write import journal, run_lock
from metaeol_udf.delta.write.journal import Journal
from metaeol_udf.delta.write.run_lock import RunLock
from metaeol_udf.errors import ConflictError, EnvironmentFault, MetaEOLError
from tests.table_bench import Before, Silence

TEXTS = {n: f"text number {n}" for n in range(12)}
TARGET = "vectors"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses between tries."""
    monkeypatch.setattr(spark_errors, "MAX_PAUSE_S", 0.2)


def _table(bench: Bench) -> DeltaTable:
    return DeltaTable.forPath(bench.spark, bench.path)


def test_fault_18_of_two_runs_at_once_one_works_and_the_other_exits_with_4(bench: Bench) -> None:
    bench.write(list(TEXTS.items()))
    ends: list[Any] = []
    ready = threading.Barrier(2)

    def run() -> None:
        ready.wait()
        try:
            ends.append(run_embed(bench.config(runtime={"report": None}), bench.spark, Silence()))
        except MetaEOLError as error:
            ends.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    errors = [end for end in ends if isinstance(end, MetaEOLError)]
    reports = [end for end in ends if isinstance(end, dict)]
    assert all(isinstance(error, ConflictError) and error.exit_code == 4 for error in errors), errors
    assert len(reports) >= 1
    assert sum(report["unique_texts"] for report in reports) == len(TEXTS)
    bench.check_all_right(TEXTS)
    assert bench.run()["status"] == "nothing_to_do"


def test_fault_18_runs_over_different_rows_work_at_once_and_leave_each_other_the_journal(bench: Bench) -> None:
    bench.write([(n, f"text {n % 6}") for n in range(24)])  # both halves hold the same texts
    ends: list[Any] = []

    def run(where: str) -> None:
        try:
            ends.append(run_embed(bench.config(source={"where": where}, runtime={"report": None, "wave_rows": 2}), bench.spark, Silence()))
        except MetaEOLError as error:
            ends.append(error)

    threads = [threading.Thread(target=run, args=(where,)) for where in ("id < 12", "id >= 12")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [end for end in ends if not isinstance(end, dict)] == []
    assert sum(end["rows_embedded"] for end in ends) == 24
    bench.check_all_right()
    bench.run(source={"where": "id < 12"})


def test_fault_18_rows_that_another_run_dropped_from_the_journal_are_found_and_computed(bench: Bench) -> None:
    bench.write(list(TEXTS.items()))
    drop = Before("publish", lambda: DeltaTable.forPath(bench.spark, f"{bench.path}__metaeol_journal").delete())
    report = bench.run(between=drop)
    assert drop.phases.count("snapshot") == 2
    assert report["rows_embedded"] == len(TEXTS)
    bench.check_all_right(TEXTS)


def test_fault_18_a_run_lock_elsewhere_counts_while_it_beats_and_not_after(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "BEAT_EVERY_S", 0.5)
    monkeypatch.setattr(run_lock, "DEAD_AFTER_S", 4.0)
    here = RunLock(bench.spark, str(bench.folder), "20200101T000002-here")
    other = RunLock(bench.spark, str(bench.folder), "20200101T000000-other", ("elsewhere", 1, 1))
    with other.hold("a_job"):
        with pytest.raises(ConflictError, match="20200101T000000-other") as caught, here.hold("a_job"):
            pass
        assert caught.value.exit_code == 4
        assert not here.is_alone()
    with here.hold("a_job"):
        assert here.is_alone()
    left = bench.folder / "_claims" / "a_job" / other.holder.name  # killed, it leaves its file
    left.touch()
    with here.hold("a_job"):
        assert not left.exists()
    assert list(left.parent.glob("*~*")) == []


def test_fault_18_the_run_lock_of_a_killed_process_of_this_machine_is_free_at_once(bench: Bench) -> None:
    machine, pid, _ = run_lock.this_process()
    folder = bench.folder / "_claims" / "a_job"
    folder.mkdir(parents=True)
    (folder / f"20200101T000000-killed~{machine}~{pid}~1").touch()  # this process's id, which another process had
    (folder / f"20200101T000000-gone~{machine}~{2**22 + 1}~1").touch()
    started = time.monotonic()
    with RunLock(bench.spark, str(bench.folder), "20200101T000002-here").hold("a_job"):
        assert time.monotonic() - started < run_lock.SETTLE_S


def _others(bench: Bench) -> dict[str, Callable[[], None]]:
    """What another writer may do while the job publishes."""
    table = _table(bench)
    return {
        "append": lambda: bench.write([(100, "appended meanwhile")], mode="append"),
        "update": lambda: table.update(F.col("id") == 1, {"text": F.lit("updated meanwhile")}),
        "delete": lambda: table.delete(F.col("id") == 2),
        "optimize": lambda: table.optimize().executeCompaction(),
    }


class _Gate:
    """Holds a job's MERGE between its reading and its commit until another writer has committed."""

    def __init__(self, bench: Bench, patch: pytest.MonkeyPatch, other: Callable[[], None]) -> None:
        self.tries = 0
        real = Journal.outcomes

        def gated(journal: Journal, **kind: bool) -> DataFrame:
            self.tries += 1
            outcomes = real(journal, **kind)
            if self.tries > 1:
                return outcomes
            go, stop = bench.folder / "go", bench.folder / "stop"

            @F.udf("string")
            def wait(value):  # type: ignore[no-untyped-def]  # Spark would take annotations for another kind of UDF
                import os
                import time

                open(str(go), "w").close()
                while not os.path.exists(str(stop)):
                    time.sleep(0.05)
                return value

            def meddle() -> None:
                deadline = time.monotonic() + 120
                while not go.exists() and time.monotonic() < deadline:
                    time.sleep(0.05)
                try:
                    other()
                finally:
                    stop.touch()

            threading.Thread(target=meddle).start()
            return outcomes.withColumn("fingerprint", wait.asNondeterministic()("fingerprint"))

        patch.setattr(Journal, "outcomes", gated)


@pytest.mark.parametrize("what", ["append", "update", "delete"])
def test_fault_19_a_commit_of_another_during_the_merge_is_kept_and_so_are_the_vectors(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    bench.write(list(TEXTS.items()))
    gate = _Gate(bench, monkeypatch, _others(bench)[what])
    report = bench.run()
    assert gate.tries > 1, "the other writer did not make the MERGE lose"
    texts = {row["id"]: row["text"] for row in bench.table().collect()}
    expected = dict(TEXTS)
    if what == "append":
        expected[100] = "appended meanwhile"
    elif what == "update":
        expected[1] = "updated meanwhile"
        assert bench.rows()[1]["embedding"] is None
    else:
        del expected[2]
    assert texts == expected
    assert report["rows_stale"] == (0 if what == "append" else 1)
    bench.run()
    bench.check_all_right(expected)


def test_fault_20_optimize_during_the_merge_is_only_a_second_try(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write(list(TEXTS.items()))
    bench.write([(50, "another file")], mode="append")
    gate = _Gate(bench, monkeypatch, _others(bench)["optimize"])
    assert bench.run()["rows_embedded"] == len(TEXTS) + 1
    assert gate.tries > 1
    bench.check_all_right(TEXTS | {50: "another file"})


def _alter(bench: Bench, statement: str) -> None:
    bench.spark.sql(f"ALTER TABLE delta.`{bench.path}` {statement}")


@pytest.mark.parametrize("statement", ["SET TBLPROPERTIES ('team' = 'somebody')", "ADD COLUMN (note string)"])
def test_fault_21_a_harmless_alter_during_the_merge_costs_one_more_try(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    bench.write(list(TEXTS.items()))
    gate = _Gate(bench, monkeypatch, lambda: _alter(bench, statement))
    bench.run()
    assert gate.tries > 1
    bench.check_all_right(TEXTS)


@pytest.mark.parametrize("column", ["text", "embedding"])
def test_fault_21_a_column_that_is_dropped_meanwhile_is_a_conflict_and_nothing_is_published(bench: Bench, column: str) -> None:
    bench.spark.createDataFrame(list(TEXTS.items()), "id long, text string").write.format("delta").option(
        "delta.columnMapping.mode", "name"
    ).save(bench.path)
    drop = Before("journal", lambda: _alter(bench, f"DROP COLUMN {column}"))
    with pytest.raises(ConflictError, match=f"'{column}'.*dropped") as caught:
        bench.run(between=drop)
    assert caught.value.exit_code == 4
    assert bench.table().where("embedding_fingerprint IS NOT NULL").isEmpty()


def test_fault_22_a_text_changed_or_deleted_after_it_was_read_gets_no_vector_and_is_counted(bench: Bench) -> None:
    target = {"table": str(bench.folder / TARGET)}
    bench.write(list(TEXTS.items()))

    def meddle() -> None:
        table = _table(bench)
        table.update(F.col("id") == 1, {"text": F.lit("changed")})
        table.delete(F.col("id") == 2)

    report = bench.run(between=Before("journal", meddle), target=target)
    assert report["rows_stale"] == 2
    assert 1 not in bench.rows(TARGET)
    assert 2 not in bench.rows(TARGET)
    assert bench.run(target=target)["rows_embedded"] == 1
    bench.check_all_right({n: "changed" if n == 1 else text for n, text in TEXTS.items() if n != 2}, TARGET)


def test_fault_23_vacuum_of_the_pinned_version_is_got_over_and_nothing_is_computed_twice(bench: Bench) -> None:
    target = {"table": str(bench.folder / TARGET)}
    bench.write([(n, f"text {n}") for n in range(40)])

    def vacuum() -> None:
        bench.spark.catalog.clearCache()  # as when the executors that hold the rows are lost
        _table(bench).update(F.col("id") == 0, {"text": F.lit("rewritten")})
        bench.spark.read.format("delta").load(bench.path).repartition(1).write.format("delta").mode("overwrite").save(bench.path)
        _table(bench).vacuum(0)

    hook = Before("journal", vacuum)
    report = bench.run(between=hook, target=target, runtime={"wave_rows": 10})
    assert hook.phases.count("snapshot") == 2
    assert report["rows_embedded"] == 40
    assert _computed(bench) in (40, 41)  # each text once; the changed one in its old form too, where that was in the first wave
    bench.check_all_right(target=TARGET)


def _computed(bench: Bench) -> int:
    """Texts that went through the model, by what was ever appended to the journal."""
    history = DeltaTable.forPath(bench.spark, str(bench.folder / f"{TARGET}__metaeol_journal")).history()
    return sum(int(row["operationMetrics"]["numOutputRows"]) for row in history.where("operation = 'WRITE'").collect())


@pytest.mark.parametrize("in_place", [True, False])
def test_fault_24_a_restored_target_is_filled_again(bench: Bench, in_place: bool) -> None:
    bench.write(list(TEXTS.items()))
    name = "table" if in_place else TARGET
    target = {} if in_place else {"target": {"table": str(bench.folder / TARGET)}}
    bench.run(**target)
    bench.check_all_right(TEXTS, name)
    table = DeltaTable.forPath(bench.spark, str(bench.folder / name))
    before = next(row["version"] for row in table.history().collect() if row["operation"] == "MERGE") - 1
    table.restoreToVersion(before)
    assert bench.table(name).where("embedding IS NOT NULL").isEmpty()
    assert bench.run(**target)["rows_embedded"] == len(TEXTS)
    bench.check_all_right(TEXTS, name)


def test_fault_25_a_clock_that_was_set_back_has_no_effect(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write(list(TEXTS.items()))
    bench.run()
    set_back = type("SetBack", (datetime,), {"now": classmethod(lambda cls, tz=None: datetime.fromtimestamp(0, tz))})
    monkeypatch.setattr(run_report, "datetime", set_back)
    more = {n: f"after the clock {n}" for n in range(100, 105)}
    bench.write(list(more.items()), mode="append")
    _table(bench).update(F.col("id") == 1, {"text": F.lit("changed")})
    report = bench.run()
    assert report["run_id"].startswith("1970")
    assert report["rows_embedded"] == len(more) + 1
    bench.check_all_right(TEXTS | more | {1: "changed"})


@pytest.mark.parametrize("content", ["", '{"commitInfo":{}}\n', "not JSON\n"])
def test_fault_45_an_empty_or_foreign_commit_file_ends_the_job_loudly(bench: Bench, content: str) -> None:
    bench.write(list(TEXTS.items()))
    bench.run()
    log = bench.folder / "table" / "_delta_log"
    newest = max(int(path.stem) for path in log.glob("*.json"))
    (log / f"{newest + 1:020d}.json").write_text(content)
    if content == "not JSON\n":
        with pytest.raises(Exception, match=re.compile("json|delta|unrecognized|token", re.I)):
            bench.run()
        return
    with pytest.raises(EnvironmentFault, match=rf"{newest + 1:020d}\.json") as caught:
        bench.run()
    assert caught.value.exit_code == 5


def test_a_wrong_vector_a_lost_row_and_a_doubled_key_are_found_by_the_proof(bench: Bench) -> None:
    target = {"table": str(bench.folder / TARGET)}
    bench.write(list(TEXTS.items()))
    zeros = F.array(*[F.lit(0.0).cast("float")] * 32)
    spoilers: list[tuple[Callable[[DeltaTable], None], str]] = [
        (lambda table: table.update(F.col("id") == 3, {"embedding": zeros}), "1 rows hold another vector"),
        (lambda table: table.delete(F.col("id") == 3), "1 rows do not hold the vector"),
        (lambda table: table.toDF().where("id = 4").write.format("delta").mode("append").save(target["table"]), "1 keys stand in several"),
    ]
    for spoil, complaint in spoilers:

        def spoil_table(spoil: Callable[[DeltaTable], None] = spoil) -> None:
            spoil(DeltaTable.forPath(bench.spark, target["table"]))

        with pytest.raises(MetaEOLError, match=complaint):
            bench.run(between=Before("verify", spoil_table, at=None), target=target)
        DeltaTable.forPath(bench.spark, target["table"]).delete()


def test_a_wave_whose_answer_was_lost_after_its_commit_is_not_computed_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    class ConcurrentTransactionException(Exception):
        pass

    bench.write(list(TEXTS.items()))
    real, answers = journal.append, []

    def append(*args: Any) -> None:
        real(*args)
        answers.append(1)
        if len(answers) == 1:
            raise ConcurrentTransactionException("this query has been committed already")

    monkeypatch.setattr(journal, "append", append)
    assert bench.run()["rows_embedded"] == len(TEXTS)
    assert len(answers) == 1
    bench.check_all_right(TEXTS)

"""Faults 11 to 14, 30, 41 and 42: Python workers and how Spark shares out the work."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest
from bench import Bench
from crash import start
from injection import meddle, once
from pyspark.sql import functions as F

from metaeol_udf.delta.write import waves
from metaeol_udf.errors import EnvironmentFault
from metaeol_udf.spark import with_embeddings
from metaeol_udf.spark.cluster.session import DAEMON_MODULE
from metaeol_udf.spark.udf import result_udf
from metaeol_udf.spark.worker.encoder_cache import EncoderRequest
from tests.specs import without_files

TEXTS = {n: f"text number {n}" for n in range(30)}


def test_fault_11_a_killed_worker_costs_a_task_and_no_row(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write(list(TEXTS.items()))
    meddle(monkeypatch, before=once(bench.folder / "mark", "kill"))
    report = bench.run()
    assert (bench.folder / "mark").exists()
    assert report["rows_embedded"] == len(TEXTS)
    bench.check_all_right(TEXTS)


def test_fault_12_a_segmentation_fault_costs_a_task_and_no_row(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write(list(TEXTS.items()))
    meddle(monkeypatch, before=once(bench.folder / "mark", "segfault"))
    bench.spark.conf.set("spark.sql.execution.pyspark.udf.faulthandler.enabled", "true")
    try:
        report = bench.run()
    finally:
        bench.spark.conf.unset("spark.sql.execution.pyspark.udf.faulthandler.enabled")
    assert (bench.folder / "mark").exists()
    assert report["rows_embedded"] == len(TEXTS)
    bench.check_all_right(TEXTS)


def test_fault_13_a_killed_executor_costs_its_tasks_and_no_row(bench: Bench) -> None:
    bench.write(list(TEXTS.items()))
    status, log = start(bench, "losing_job.py", "executor", master="local-cluster[2,1,1024]")
    assert status == 0, log[-2000:]
    report = bench.report()
    assert (report["rows_embedded"], report["unique_texts"]) == (len(TEXTS), len(TEXTS))
    # One an executor, and one for the executor that came in its place. Spark ends a worker that was idle for a minute, and the next one
    # loads again: a slow machine may do so.
    assert report["model_loads"] <= 3 + report["seconds"]["embed"] // 60
    bench.check_all_right(TEXTS)


def test_the_end_of_the_drivers_java_process_is_named_and_what_it_journalled_is_kept(bench: Bench) -> None:
    bench.write(list(TEXTS.items()))
    status, log = start(bench, "losing_job.py", "driver", master="local[2]")
    assert status == EnvironmentFault.exit_code, log[-2000:]
    assert "metaeol: Spark's Java process has ended" in log
    report = bench.run()
    assert (report["rows_embedded"], report["status"]) == (len(TEXTS), "done")
    assert report["unique_texts"] < len(TEXTS)
    bench.check_all_right(TEXTS)


def test_fault_14_a_worker_that_hangs_is_killed_and_its_task_done_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write(list(TEXTS.items()))
    bench.run(target={"table": str(bench.folder / "warm")})  # the model is loaded: the timeout has to exceed that
    meddle(monkeypatch, before=once(bench.folder / "mark", "hang"))
    settings = {
        "spark.sql.execution.pyspark.udf.idleTimeoutSeconds": "40",
        "spark.sql.execution.pyspark.udf.killOnIdleTimeout": "true",
    }
    for key, value in settings.items():
        bench.spark.conf.set(key, value)
    started = time.monotonic()
    try:
        report = bench.run()
    finally:
        for key in settings:
            bench.spark.conf.unset(key)
    assert (bench.folder / "mark").exists()
    assert time.monotonic() - started < 300  # a hung task sleeps for ten minutes
    assert report["rows_embedded"] == len(TEXTS)
    bench.check_all_right(TEXTS)


def test_fault_30_empty_partitions_load_no_model_and_a_skewed_one_is_split(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    n = 4 * waves.ROWS_PER_TASK
    texts = {i: f"text {i}" for i in range(n)}
    bench.write(list(texts.items()))  # one file: one scan task holds them all
    notes = bench.folder / "notes"
    notes.mkdir()
    meddle(monkeypatch, before=_count_rows(str(notes)))
    assert bench.run()["rows_embedded"] == n
    seen = [sum(map(int, note.read_text().split())) for note in notes.iterdir()]
    assert len(seen) == 4
    assert max(seen) < n / 2
    bench.check_all_right(texts)
    # A model that does not exist: whoever loads it fails.
    empty = bench.spark.createDataFrame([], "text string").repartition(4)
    missing = without_files(dataclasses.replace(bench.spec, model="no/such/model"))
    assert empty.select(result_udf(EncoderRequest(missing, "cpu"))("text")).collect() == []


def _count_rows(folder: str) -> Callable[[list[str]], None]:
    """Note, in a file a task, how many rows each of its Arrow batches has."""

    def note(texts: list[str]) -> None:
        from pyspark import TaskContext

        context = TaskContext.get()
        assert context is not None
        with open(f"{folder}/{context.partitionId()}", "a") as file:
            file.write(f"{len(texts)}\n")

    return note


def _rows_through_the_model(bench: Bench) -> int:
    """Of the last query, by Spark's own metrics."""
    store: Any = bench.spark._jsparkSession.sharedState().statusStore()  # type: ignore[attr-defined]
    execution = store.executionsList().last()
    metrics = store.executionMetrics(execution.executionId())
    nodes = store.planGraph(execution.executionId()).allNodes()
    total = 0
    for node in (nodes.apply(i) for i in range(nodes.size())):
        if node.name() == "ArrowEvalPython":
            named = {node.metrics().apply(j).name(): node.metrics().apply(j) for j in range(node.metrics().size())}
            value = metrics.get(named["number of output rows"].accumulatorId())
            total += int(value.get().replace(",", "")) if value.isDefined() else 0
    return total


def test_fault_41_filter_and_size_on_the_embedding_embed_each_row_once(bench: Bench) -> None:
    rows = bench.spark.createDataFrame(list(TEXTS.items()), "id long, text string").repartition(2)
    embedded = with_embeddings(rows, bench.spec, device="cpu")
    assert len(embedded.where(F.size("embedding") > 0).where(F.col("embedding_error").isNull()).collect()) == len(TEXTS)
    assert _rows_through_the_model(bench) == len(TEXTS)
    bench.write(list(TEXTS.items()))
    report = bench.run()  # the job journals first, so that no sort and no MERGE can meet the model
    assert report["unique_texts"] == len(TEXTS)
    assert len(bench.table().where(F.size("embedding") > 0).orderBy("embedding").collect()) == len(TEXTS)
    assert _rows_through_the_model(bench) == 0


def test_fault_42_a_worker_that_went_away_between_runs_is_replaced_and_the_load_counted(bench: Bench) -> None:
    bench.write(list(TEXTS.items()))
    bench.run()
    _end_workers()  # as Spark does after a minute without work
    more = {n: f"later text {n}" for n in range(100, 130)}
    bench.write(list(more.items()), mode="append")
    report = bench.run()
    assert report["model_loads"] >= 1
    assert report["rows_embedded"] == len(more)
    bench.check_all_right(TEXTS | more)


def _end_workers() -> None:
    """End this session's Python workers, the children of its daemon."""
    for process in psutil.Process().children(recursive=True):
        parent = process.parent()
        if parent is not None and DAEMON_MODULE in parent.cmdline():
            process.kill()

"""Whatever a run asks of Spark, it says what it is doing: no job runs between two phases."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from metaeol_udf.delta import run_embed
from metaeol_udf.delta.base.progress import PHASE_WORDS
from metaeol_udf.spec import EmbeddingSpec
from tests.table_bench import Silence, TableBench

_GROUP = "spark.jobGroup.id"


class _Shown(Silence):
    """Puts the jobs that run while something is shown into a job group; the waves have one of their own."""

    def __init__(self, spark: SparkSession) -> None:
        super().__init__()
        self._context, self.words = spark.sparkContext, list[str]()

    @contextmanager
    def phase(self, words: str) -> Iterator[None]:
        self.words.append(words)
        self._context.setLocalProperty(_GROUP, "shown")
        try:
            yield
        finally:
            self._context.setLocalProperty(_GROUP, None)  # type: ignore[arg-type]  # None unsets it

    def start(self, total: int) -> None:
        super().start(total)
        self._context.setLocalProperty(_GROUP, "shown")

    def finish(self) -> None:
        super().finish()
        self._context.setLocalProperty(_GROUP, None)  # type: ignore[arg-type]  # None unsets it


@dataclasses.dataclass
class _Watched(TableBench):
    """A table whose runs tell which of their jobs nobody was told of."""

    def run_watched(self, **sections: Any) -> tuple[dict[str, Any], list[str], list[str]]:
        shown, tracker = _Shown(self.spark), self.spark.sparkContext.statusTracker()
        before = set(tracker.getJobIdsForGroup(None))
        report = run_embed({**self.blocks(), **sections}, self.spark, shown)
        jobs = self.spark.sparkContext._jsc.sc().statusStore()
        unseen = [jobs.job(job) for job in sorted(set(tracker.getJobIdsForGroup(None)) - before)]
        return report, shown.words, [f"{job.name()}, {job.description()}" for job in unseen]


@pytest.mark.parametrize("has_target", [pytest.param(False, marks=pytest.mark.slow), True], ids=["inplace", "target"])
def test_every_job_of_a_run_belongs_to_a_phase_that_is_shown(
    spark: SparkSession, tmp_path: Path, spec: EmbeddingSpec, has_target: bool
) -> None:
    bench = _Watched(spark, tmp_path, spec)
    sections = {"target": {"table": str(tmp_path / "own"), "max_deleted_fraction": 1.0}} if has_target else {}
    bench.write([(1, "a text"), (2, None), (3, "another text")])
    report, words, unseen = bench.run_watched(**sections)
    assert (report["status"], report["rows_embedded"], unseen) == ("done", 2, [])
    assert set(words) >= {PHASE_WORDS[phase] for phase in ("snapshot", "preflight", "publish", "quarantine", "report")}
    spark.sql(f"DELETE FROM delta.`{bench.path}` WHERE id = 1")
    bench.write([(4, "a new text"), (5, " ")], mode="append")
    report, _, unseen = bench.run_watched(**sections)
    assert (report["status"], report["rows_embedded"], unseen) == ("done", 1, [])
    report, _, unseen = bench.run_watched(**sections)
    assert (report["status"], unseen) == ("nothing_to_do", [])


@pytest.mark.slow
def test_every_job_of_a_run_over_two_columns_is_shown_too(spark: SparkSession, tmp_path: Path, spec: EmbeddingSpec) -> None:
    bench = _Watched(spark, tmp_path, spec)
    bench.write([(1, "a text"), (2, None)])
    report, _, unseen = bench.run_watched(embeddings=[{"text": "text", "column": "last"}, {"text": "text", "column": "first", "layer": 1}])
    assert (report["status"], len(report["columns"]), unseen) == ("done", 2, [])

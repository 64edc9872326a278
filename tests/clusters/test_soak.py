"""Twenty runs in a row on a standalone cluster whose tables stand on S3, while executors, workers and drivers are killed.

Beside them somebody writes to the source, and a proxy before S3 answers 503, cuts connections and loses answers.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clusters.remote_bench import S3Bench
from tests.clusters.s3 import S3, Request
from tests.clusters.services import Service
from tests.clusters.standalone import Standalone
from tests.clusters.submitter import Submitter
from tests.faults.other_writer import Writer, check_nothing_is_stale

SERVICE = "Spark standalone with tables on S3, by moto"
ROUNDS, SEED = 20, 2402_18458
PHASES = ("snapshot", "preflight", "select", "embed", "embed", "journal", "publish", "verify", "quarantine", "cleanup")
_MEDDLED = 0.02  # of the requests
_PATIENCE_S = 600


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Standalone]:
    (tmp_path / "cluster").mkdir()
    made = Standalone(tmp_path / "cluster")
    yield made
    made.stop()


class Soak:
    """Drivers that are started as they are needed, and the runs that they are told to do."""

    def __init__(self, submitter: Submitter, bench: S3Bench, store: S3) -> None:
        self.submitter, self.bench, self.chance = submitter, bench, random.Random(SEED)
        self.folder = bench.folder / "runs"
        self.folder.mkdir()
        self.driver: Service | None = None
        self.meddled: Counter[str] = Counter()
        store.meddle = self._meddle
        self._of_requests = random.Random(SEED)

    def _meddle(self, request: Request) -> str | None:
        if self._of_requests.random() > _MEDDLED:
            return None
        verdict = self._of_requests.choice(("slow down", "cut", "lose"))
        self.meddled[verdict] += 1
        return verdict

    def run(self, number: int, fault: str, phase: str) -> dict[str, Any] | None:
        """Run the job, with a fault in a phase of it; gives what became of it, None where its driver was killed."""
        answer = self.folder / f"{number}.json"
        (self.folder / "told").write_text(str(number))
        if self.driver is None:
            target = {"table": self.bench.uri("vectors")}
            self.driver = self.submitter.start(arguments=[str(self.folder)], target=target, runtime={"wave_rows": 20})
        driver = self.driver
        if fault != "none":
            driver.wait_for(lambda: answer.exists() or f"run {number}: {phase}" in driver.written(), phase, _PATIENCE_S)
            time.sleep(self.chance.uniform(0, 1))
            if fault == "driver":
                self.stop()
                return None
            self.submitter.cluster.kill_executor() if fault == "executor" else self.submitter.cluster.kill_worker()
            while len(self.submitter.cluster.workers) < 2:
                self.submitter.cluster.start_worker()
        driver.wait_for(answer.exists, f"the end of run {number}", _PATIENCE_S)
        found: dict[str, Any] = json.loads(answer.read_text())
        return found

    def stop(self) -> None:
        """Kill the driver, if one runs."""
        if self.driver is not None:
            self.driver.kill()
        self.driver = None


@pytest.mark.timeout(3600)
def test_twenty_rounds_of_kills_lose_double_and_confuse_nothing(
    s3_bench: S3Bench, store: S3, cluster: Standalone, s3_jars: list[Path], wheel: Path, python: Path
) -> None:
    writer = Writer(s3_bench, seed=SEED, n_texts=40)
    conf = {f"spark.hadoop.{key}": value for key, value in store.settings().items()}
    script = Path(__file__).with_name("soaking_driver.py")
    soak = Soak(Submitter(cluster, s3_bench, wheel, python, jars=s3_jars, conf=conf, script=script), s3_bench, store)
    faults = ["none", "driver", "executor", "worker", "executor"] * (ROUNDS // 5)
    soak.chance.shuffle(faults)
    try:
        for number, fault in enumerate(faults):
            phase = soak.chance.choice(PHASES)
            answer = soak.run(number, fault, phase)
            assert answer is None or answer.get("status") in ("done", "nothing_to_do"), f"round {number}, {fault} in {phase}: {answer}"
            if answer is not None:
                s3_bench.check_all_right(writer.texts, "vectors")
                check_nothing_is_stale(s3_bench, "vectors")
            writer.write_once()
        soak.run(ROUNDS, "none", "")
        last = soak.run(ROUNDS + 1, "none", "")
    finally:
        soak.stop()
    assert last is not None
    assert last.get("status") == "nothing_to_do"
    s3_bench.check_all_right(writer.texts, "vectors")
    assert {row["id"] for row in s3_bench.table("vectors").select("id").collect()} == writer.texts.keys()
    assert s3_bench.table("vectors__metaeol_journal").isEmpty()
    assert min(soak.meddled[verdict] for verdict in ("slow down", "cut", "lose")) > 0, soak.meddled

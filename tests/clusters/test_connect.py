"""The job over Spark Connect: a server in a process of its own, and clients that have no Java."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyspark
import pytest
import yaml
from delta import DeltaTable
from pyspark.sql import functions as F

from metaeol_udf.spark.cluster.session import DELTA_SETTINGS
from metaeol_udf.spark.cluster.startup import resolved_delta_jars
from tests.clusters.services import Service, wait_for_wave
from tests.clusters.standalone import QUICK, ROOT
from tests.faults.bench import Bench
from tests.spark.cluster.connect_server import ConnectServer, running_server

SERVICE = f"Spark Connect, a server with Delta ({pyspark.__version__})"
TEXTS: dict[int, str | None] = {n: f"text number {n}" for n in range(60)}
RETRY = ("-m", "metaeol_udf.cli", "retry")


@pytest.fixture(scope="module")
def server(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConnectServer]:
    quick = {**QUICK, "spark.databricks.delta.snapshotPartitions": "1"}
    delta = {**DELTA_SETTINGS, "spark.jars": ",".join(resolved_delta_jars())}
    with running_server(tiny_model_dir, tmp_path_factory.mktemp("connect"), quick | delta) as running:
        yield running


@dataclass
class Client:
    """The job on a bench's table, in a process that has no Java."""

    server: ConnectServer
    bench: Bench
    n_started: int = 0

    def start(self, command: Sequence[str] = ("jobs/embed_table.py",), **sections: dict[str, Any]) -> Service:
        """Start a program of Python, by default the job's file; sections of the configuration are laid over those of all tests."""
        self.n_started += 1
        file = self.bench.folder / "connect.yaml"
        blocks: dict[str, dict[str, Any]] = {
            "target": {"table": str(self.bench.folder / "vectors")},
            "runtime": {"wave_rows": 20},
            "spark": {"master": f"sc://127.0.0.1:{self.server.port}"},
        }
        for name, section in sections.items():
            blocks[name] = blocks.get(name, {}) | section
        file.write_text(yaml.safe_dump(self.bench.blocks(**blocks)))
        left_out = ("JAVA_HOME", "SPARK_HOME", "PYSPARK_GATEWAY_PORT", "PYSPARK_GATEWAY_SECRET")
        kept = {name: value for name, value in os.environ.items() if name not in left_out}
        env = kept | {"PATH": str(Path(sys.executable).parent), "PYTHONPATH": str(ROOT)}
        words = [str(ROOT / word) if word.endswith(".py") else word for word in command]
        return Service([sys.executable, *words, str(file)], self.bench.folder, f"client-{self.n_started}", env)

    def run(self, command: Sequence[str] = ("jobs/embed_table.py",), **sections: dict[str, Any]) -> dict[str, Any]:
        """Run a program to its end, which must be good; gives the job's report."""
        client = self.start(command, **sections)
        status = client.finish()
        assert status == 0, client.written()[-6000:]
        return self.bench.report()


@pytest.fixture
def client(server: ConnectServer, bench: Bench) -> Client:
    bench.write(list(TEXTS.items()))
    return Client(server, bench)


def test_vectors_are_those_of_the_encoder_and_follow_the_source(client: Client) -> None:
    report = client.run()
    assert (report["status"], report["rows_embedded"], report["waves"]) == ("done", len(TEXTS), 3)
    client.bench.check_all_right(TEXTS, "vectors")
    assert client.run()["status"] == "nothing_to_do"
    table = DeltaTable.forPath(client.bench.spark, client.bench.path)
    table.update(F.col("id") == 1, {"text": F.lit("a changed text")})
    table.update(F.col("id") == 2, {"text": F.lit(None).cast("string")})
    table.delete(F.col("id") == 3)
    report = client.run()
    assert (report["rows_embedded"], report["rows_failed"], report["rows_deleted"], report["unique_texts"]) == (1, 1, 1, 1)
    changed = {**TEXTS, 1: "a changed text", 2: None}
    del changed[3]
    client.bench.check_all_right(changed, "vectors")
    assert sorted(client.bench.rows("vectors")) == sorted(changed)
    (failed,) = client.bench.table("vectors__metaeol_quarantine").collect()
    assert (failed["id"], failed["reason"], failed["attempts"]) == (2, "null_text", 1)
    assert client.bench.table("vectors__metaeol_journal").count() == 0


def test_vectors_come_into_the_source_itself(client: Client) -> None:
    assert client.run(target={"table": None})["rows_embedded"] == len(TEXTS)
    client.bench.check_all_right(TEXTS)
    assert client.run(target={"table": None})["status"] == "nothing_to_do"


def test_a_retry_embeds_what_can_be_cured_alone(client: Client) -> None:
    client.run()
    vectors = client.bench.rows("vectors")
    lost = {"embedding": F.lit(None), "embedding_error": F.lit("oom")}
    DeltaTable.forPath(client.bench.spark, str(client.bench.folder / "vectors")).update(F.col("id").isin(1, 2), lost)
    report = client.run(RETRY)
    assert (report["status"], report["rows_embedded"], report["unique_texts"]) == ("done", 2, 2)
    client.bench.check_all_right(TEXTS, "vectors")
    assert {n: row for n, row in client.bench.rows("vectors").items() if n > 2} == {n: row for n, row in vectors.items() if n > 2}
    assert client.run(RETRY)["status"] == "nothing_to_do"


def test_a_client_that_is_killed_leaves_its_waves_to_the_next_run(client: Client) -> None:
    killed = client.start()
    wait_for_wave(killed)
    killed.kill()
    report = client.run()
    assert report["status"] == "done"
    assert report["unique_texts"] < len(TEXTS)  # the journal had the others
    client.bench.check_all_right(TEXTS, "vectors")


def test_of_two_runs_of_one_job_one_is_refused(client: Client) -> None:
    first = client.start(runtime={"wave_rows": 5})
    wait_for_wave(first)
    second = client.start(runtime={"wave_rows": 5})
    assert second.finish() == 4, second.written()[-3000:]
    assert "of the same job is at work" in second.written()
    assert first.finish() == 0, first.written()[-3000:]
    client.bench.check_all_right(TEXTS, "vectors")

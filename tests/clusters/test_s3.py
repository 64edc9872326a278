"""Tables, model and checkpoint on S3: moto's server with Hadoop's file system, and what a store may do to requests."""

from __future__ import annotations

import json
import random
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from metaeol_udf.delta import run_embed
from metaeol_udf.delta.stream import run_stream
from metaeol_udf.delta.write.run_lock import WHOLE_TARGET, RunLock
from metaeol_udf.doctor import Finding, Level, examine
from metaeol_udf.errors import ConflictError
from tests.clusters.packages import HADOOP_AWS
from tests.clusters.remote_bench import S3Bench
from tests.clusters.s3 import BUCKET, QUICK_BUCKET, S3, Request
from tests.table_bench import Silence

SERVICE = f"S3 by moto, with hadoop-aws ({HADOOP_AWS[0].rpartition(':')[2]})"
TEXTS = {n: f"text number {n}" for n in range(30)}


@pytest.fixture
def bench(s3_bench: S3Bench, store: S3) -> S3Bench:
    s3_bench.write(list(TEXTS.items()))
    store.seen.clear()
    return s3_bench


def test_the_job_runs_and_a_second_run_finds_nothing_to_do(bench: S3Bench) -> None:
    report = bench.embed()
    assert (report["status"], report["rows_embedded"], report["waves"]) == ("done", len(TEXTS), 3)
    bench.check_all_right(TEXTS, "vectors")
    assert bench.embed()["status"] == "nothing_to_do"
    bench.write([(99, "a text that came later")], mode="append")
    assert bench.embed()["rows_embedded"] == 1
    bench.check_all_right(TEXTS | {99: "a text that came later"}, "vectors")


def test_the_job_runs_in_place(bench: S3Bench) -> None:
    assert run_embed(bench.config(), bench.spark, Silence())["rows_embedded"] == len(TEXTS)
    bench.check_all_right(TEXTS)


def test_the_model_comes_from_s3(bench: S3Bench, store: S3) -> None:
    store.upload(Path(bench.spec.model), f"{bench.prefix}/model")
    report = bench.embed(embedding={"model": bench.uri("model")})
    assert report["status"] == "done"
    bench.check_all_right(TEXTS, "vectors")
    assert any(request.path.endswith("model.safetensors") for request in store.seen)


def test_a_store_that_is_slow_cuts_connections_and_loses_answers_costs_no_row(bench: S3Bench, store: S3) -> None:
    chance, done = random.Random(24), dict.fromkeys(("slow down", "cut", "lose"), 0)

    def meddle(request: Request) -> str | None:
        if chance.random() > 0.06:
            return None
        verdict = chance.choice(sorted(done))
        done[verdict] += 1
        return verdict

    store.meddle = meddle
    report = bench.embed()
    store.meddle = lambda request: None
    assert min(done.values()) > 0, done
    assert report["rows_embedded"] == len(TEXTS)
    bench.check_all_right(TEXTS, "vectors")
    assert bench.embed()["status"] == "nothing_to_do"


def commit_of_another(version: int) -> bytes:
    """The commit of another driver, which changes nothing but is one."""
    info = {"timestamp": int(time.time() * 1000), "operation": "WRITE", "operationParameters": {}, "isBlindAppend": True}
    return json.dumps({"commitInfo": info | {"userMetadata": f"another driver, version {version}"}}).encode() + b"\n"


class OtherDriver:
    """Commits a version of the target between the moment when the job sees that it is free and the moment when the job writes it.

    Attributes:
        path: Of the commit.
        commit: What it holds.
    """

    def __init__(self, store: S3, bench: S3Bench) -> None:
        self.store, self.log, self.path, self.commit = store, f"{bench.bucket}/{bench.prefix}/vectors/_delta_log/", "", b""

    def __call__(self, request: Request) -> str | None:
        name = request.path.removeprefix(self.log)
        if request.method == "PUT" and name.removesuffix(".json").isdigit() and int(name[:-5]) > 0 and not self.path:
            self.path, self.commit = request.path, commit_of_another(int(name[:-5]))
            self.store.put(self.path, self.commit)
        return None


def finding_of(bench: S3Bench) -> Finding:
    """What the doctor says of commits."""
    config = bench.config(target={"table": bench.uri("vectors")})
    return next(finding for finding in examine(config, bench.spark) if finding.check == "commits")


@pytest.mark.parametrize("bucket", [BUCKET, QUICK_BUCKET])
def test_two_drivers_lose_a_commit_and_the_doctor_says_so(bench: S3Bench, store: S3, bucket: str) -> None:
    """Not of this package, but of Delta on S3: if this fails one day, the warning can go."""
    if bucket != bench.bucket:
        bench.bucket = bucket
        bench.write(list(TEXTS.items()))
    store.meddle = other = OtherDriver(store, bench)
    bench.embed()
    assert other.commit
    assert store.get(other.path) != other.commit
    finding = finding_of(bench)
    assert (finding.level, finding.setting.startswith("spark.delta.logStore.s3a.impl=")) == (Level.WARNING, True)


def test_a_run_of_another_driver_on_the_same_table_is_refused(bench: S3Bench) -> None:
    bench.embed()
    bench.write([(99, "a text that came later")], mode="append")
    with at_work_elsewhere(bench), pytest.raises(ConflictError, match="another driver is at work on the same table"):
        bench.embed()


def at_work_elsewhere(bench: S3Bench) -> AbstractContextManager[None]:
    """A run of another driver that holds the whole target."""
    lock = RunLock(bench.spark, bench.uri("vectors__metaeol_journal"), "20200101T000000-elsewhere", process=("elsewhere", 1, 1))
    return lock.hold(WHOLE_TARGET)


def test_a_stream_follows_a_table_with_its_checkpoint_on_s3(bench: S3Bench) -> None:
    sections: dict[str, Any] = {"target": {"table": bench.uri("vectors")}, "stream": {"checkpoint": bench.uri("checkpoint")}}
    assert run_stream(bench.config(**sections), bench.spark, Silence())["rows_embedded"] == len(TEXTS)
    bench.write([(99, "a text that came later")], mode="append")
    assert run_stream(bench.config(**sections), bench.spark, Silence())["rows_embedded"] == 1
    bench.check_all_right(TEXTS | {99: "a text that came later"}, "vectors")
    assert run_stream(bench.config(**sections), bench.spark, Silence())["rows_embedded"] == 0

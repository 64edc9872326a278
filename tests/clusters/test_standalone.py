"""The job on a standalone cluster, submitted as docs/platforms/spark-submit.md says; executors, workers and drivers that are killed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pyspark
import pytest

from metaeol_udf.spark.cluster.startup import delta_package
from tests.clusters.services import wait_for_wave
from tests.clusters.standalone import Standalone, make_gpus
from tests.clusters.submitter import Submitter
from tests.faults.bench import Bench

SERVICE = f"Spark standalone, a master and two workers ({pyspark.__version__})"
TEXTS = {n: f"text number {n}" for n in range(60)}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standalone]:
    """Its workers have a pretended GPU each, which only jobs that ask for GPUs see."""
    folder = tmp_path_factory.mktemp("standalone")
    made = Standalone(folder, worker_settings={**make_gpus(folder), "spark.decommission.enabled": "true"})
    yield made
    made.stop()


@pytest.fixture
def submitter(cluster: Standalone, bench: Bench, wheel: Path, python: Path) -> Submitter:
    while len(cluster.workers) < 2:
        cluster.start_worker()
    bench.write(list(TEXTS.items()))
    return Submitter(cluster, bench, wheel, python)


def test_the_job_runs_as_the_page_says_and_a_second_run_finds_nothing_to_do(submitter: Submitter) -> None:
    report = submitter.run(packages=["--packages", delta_package()])
    assert (report["status"], report["rows_embedded"], report["executors"]) == ("done", len(TEXTS), 2)
    submitter.bench.check_all_right(TEXTS, "vectors")
    assert submitter.run()["status"] == "nothing_to_do"


def test_a_wrong_setting_gives_its_status_and_its_reason(submitter: Submitter) -> None:
    driver = submitter.start(source={"text": "no_such_column"})
    assert driver.finish() == 2
    assert "no_such_column" in driver.written()


def test_an_executor_that_is_killed_costs_no_row(submitter: Submitter) -> None:
    driver = submitter.start()
    wait_for_wave(driver)
    submitter.cluster.kill_executor()
    assert driver.finish() == 0, driver.written()[-4000:]
    assert "Lost executor" in driver.written()
    submitter.bench.check_all_right(TEXTS, "vectors")


def test_a_worker_that_is_killed_costs_no_row(submitter: Submitter) -> None:
    driver = submitter.start()
    wait_for_wave(driver)
    submitter.cluster.kill_worker()
    assert driver.finish() == 0, driver.written()[-4000:]
    assert "Lost executor" in driver.written()
    submitter.bench.check_all_right(TEXTS, "vectors")


def test_a_driver_that_is_killed_leaves_its_waves_to_the_next_run(submitter: Submitter) -> None:
    driver = submitter.start()
    wait_for_wave(driver)
    driver.kill()
    report = submitter.run()
    assert report["status"] == "done"
    assert report["unique_texts"] < len(TEXTS)  # the journal had the others
    submitter.bench.check_all_right(TEXTS, "vectors")


def test_executors_have_the_gpus_and_the_packed_environment_that_the_page_gives_them(submitter: Submitter, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    shutil.copytree(submitter.python.parents[1], packed, symlinks=True)
    (packages,) = packed.glob("lib/python*/site-packages")
    shutil.unpack_archive(submitter.wheel, packages)
    archive = Path(shutil.make_archive(str(tmp_path / "environment"), "gztar", packed))
    gpus = ["--conf", "spark.executor.resource.gpu.amount=1", "--conf", "spark.task.resource.gpu.amount=1"]
    report = submitter.run(archive=archive, options=gpus)
    assert (report["rows_embedded"], report["executors"]) == (len(TEXTS), 2)
    submitter.bench.check_all_right(TEXTS, "vectors")
    unpacked = [place for worker in submitter.cluster.workers for place in (submitter.cluster.folder / worker.name).glob("*/*/environment")]
    assert len(unpacked) == 2  # an executor on each worker
    too_many = submitter.start(options=[*gpus, "--conf", "spark.executor.resource.gpu.amount=2"], runtime={"device": "cpu"})
    too_many.wait_for(
        lambda: "Initial job has not accepted any resources" in too_many.written(), "Spark's word that no worker has two GPUs"
    )
    too_many.kill()


def test_a_worker_that_is_taken_away_in_order_costs_no_row(submitter: Submitter) -> None:
    decommission = ["--conf", "spark.decommission.enabled=true", "--conf", "spark.storage.decommission.enabled=true"]
    driver = submitter.start(options=decommission)
    wait_for_wave(driver)
    submitter.cluster.decommission_worker()
    assert driver.finish() == 0, driver.written()[-4000:]
    assert "ecommission" in submitter.cluster.workers[0].written()
    submitter.bench.check_all_right(TEXTS, "vectors")
    submitter.cluster.kill_worker()


def test_executors_that_come_and_go_cost_no_row(submitter: Submitter) -> None:
    service = submitter.cluster.start_shuffle_service()
    allocation = {
        "spark.dynamicAllocation.enabled": "true",
        "spark.dynamicAllocation.minExecutors": "0",
        "spark.dynamicAllocation.maxExecutors": "2",
        "spark.dynamicAllocation.executorIdleTimeout": "1s",
        "spark.shuffle.service.enabled": "true",
        "spark.shuffle.service.port": str(service),
    }
    driver = submitter.start(options=[word for key, value in allocation.items() for word in ("--conf", f"{key}={value}")])
    assert driver.finish() == 0, driver.written()[-4000:]
    submitter.bench.check_all_right(TEXTS, "vectors")
    assert submitter.bench.report()["status"] == "done"

"""The job on YARN with its tables, model and checkpoint on HDFS, as docs/platforms/spark-submit.md says; a node that is lost."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyspark.sql import SparkSession

from metaeol_udf import MetaEOLEncoder
from metaeol_udf.delta.stream import run_stream
from metaeol_udf.spark.cluster.startup import resolved_delta_jars
from metaeol_udf.spec import EmbeddingSpec
from tests.clusters.hadoop import Hadoop
from tests.clusters.packages import HADOOP_MINICLUSTER, Unavailable
from tests.clusters.remote_bench import RemoteBench
from tests.clusters.services import Service, wait_for_wave
from tests.clusters.standalone import QUICK, ROOT
from tests.table_bench import Silence

SERVICE = f"YARN and HDFS, Hadoop's mini clusters ({HADOOP_MINICLUSTER[0].rpartition(':')[2]})"
TEXTS = {n: f"text number {n}" for n in range(60)}


@pytest.fixture(scope="module")
def hadoop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hadoop]:
    try:
        made = Hadoop(tmp_path_factory.mktemp("hadoop"))
    except (Unavailable, subprocess.TimeoutExpired) as error:
        pytest.skip(str(error))
    yield made
    made.stop()


class HadoopBench(RemoteBench):
    """One on HDFS."""

    def upload(self, folder: Path, name: str) -> str:
        """Copy a folder into the file system; gives its address."""
        jvm: Any = self.spark.sparkContext._jvm
        hadoop: Any = self.spark.sparkContext._jsc.hadoopConfiguration()
        target = jvm.org.apache.hadoop.fs.Path(self.uri(name))
        target.getFileSystem(hadoop).copyFromLocalFile(jvm.org.apache.hadoop.fs.Path(folder.as_uri()), target)
        return self.uri(name)


@pytest.fixture
def bench(spark: SparkSession, tmp_path: Path, spec: EmbeddingSpec, encoder: MetaEOLEncoder, hadoop: Hadoop) -> Iterator[HadoopBench]:
    made = HadoopBench(spark, tmp_path, spec, encoder=encoder)
    made.root = f"{hadoop.files}/{tmp_path.name}"
    made.write(list(TEXTS.items()))
    yield made
    spark.catalog.clearCache()


@dataclass
class Submitter:
    """The job on a bench's table, on YARN, with the wheel as a Python file."""

    hadoop: Hadoop
    bench: HadoopBench
    wheel: Path
    python: Path
    n_started: int = 0

    def start(self, mode: str = "client", **sections: dict[str, Any]) -> Service:
        self.n_started += 1
        file = self.bench.folder / "cluster.yaml"
        settings = {"spark.sql.shuffle.partitions": "2", "spark.databricks.delta.snapshotPartitions": "1", "spark.log.level": "WARN"}
        blocks = {
            "target": {"table": self.bench.uri("vectors")},
            "runtime": {"wave_rows": 20},
            "spark": {"conf": settings | QUICK},
        }
        for name, section in sections.items():
            blocks[name] = blocks.get(name, {}) | section
        file.write_text(yaml.safe_dump(self.bench.blocks(**blocks)))
        options = ["--py-files", str(self.wheel), "--jars", ",".join(resolved_delta_jars()), "--num-executors", "2"]
        options += ["--driver-memory", "1g", "--executor-memory", "1g", "--executor-cores", "1", "--files", str(file)]
        arguments = [str(ROOT / "jobs" / "embed_table.py"), file.name if mode == "cluster" else str(file)]
        name = f"{self.bench.folder.name}-{self.n_started}"
        return self.hadoop.submit(mode, options, arguments, str(self.python), self.python, name)

    def run(self, mode: str = "client", **sections: dict[str, Any]) -> dict[str, Any]:
        """Run the job to its end, which must be good; gives its report."""
        driver = self.start(mode, **sections)
        status = driver.finish()
        assert status == 0, driver.written()[-4000:] + self.hadoop.logs()[-4000:]
        return self.bench.report()


@pytest.fixture
def submitter(hadoop: Hadoop, bench: HadoopBench, wheel: Path, python: Path) -> Submitter:
    return Submitter(hadoop, bench, wheel, python)


def test_the_job_runs_in_deploy_mode_client_and_a_second_run_finds_nothing_to_do(submitter: Submitter) -> None:
    report = submitter.run()
    assert (report["status"], report["rows_embedded"], report["executors"]) == ("done", len(TEXTS), 2)
    submitter.bench.check_all_right(TEXTS, "vectors")
    assert submitter.run()["status"] == "nothing_to_do"


def test_the_job_runs_in_deploy_mode_cluster_with_its_model_on_hdfs(submitter: Submitter) -> None:
    model = submitter.bench.upload(Path(submitter.bench.spec.model), "model")
    report = submitter.run("cluster", embedding={"model": model})
    assert (report["status"], report["rows_embedded"]) == ("done", len(TEXTS))
    submitter.bench.check_all_right(TEXTS, "vectors")


@pytest.mark.parametrize(("mode", "status"), [("client", 2), ("cluster", 1)])
def test_a_wrong_setting_gives_a_status_and_its_reason(submitter: Submitter, mode: str, status: int) -> None:
    driver = submitter.start(mode, source={"text": "no_such_column"})
    assert driver.finish() == status
    assert "no_such_column" in driver.written() + submitter.hadoop.logs()


def test_a_stream_follows_a_table_with_its_checkpoint_on_hdfs(bench: HadoopBench) -> None:
    sections: dict[str, Any] = {"target": {"table": bench.uri("vectors")}, "stream": {"checkpoint": bench.uri("checkpoint")}}
    run_stream(bench.config(**sections), bench.spark, Silence())
    bench.check_all_right(TEXTS, "vectors")
    bench.write([(99, "a text that came later")], mode="append")
    report = run_stream(bench.config(**sections), bench.spark, Silence())
    assert report["rows_embedded"] == 1
    bench.check_all_right(TEXTS | {99: "a text that came later"}, "vectors")


def test_a_node_that_is_lost_costs_no_row(submitter: Submitter) -> None:
    driver = submitter.start()
    wait_for_wave(driver)
    submitter.hadoop.lose_node()
    assert driver.finish() == 0, driver.written()[-4000:]
    assert "Lost executor" in driver.written()
    submitter.bench.check_all_right(TEXTS, "vectors")

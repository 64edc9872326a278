"""Real services that tests start here, and the table of them in docs/platforms/tested.md."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from metaeol_udf import MetaEOLEncoder
from metaeol_udf.spark.cluster.startup import resolved_delta_jars
from metaeol_udf.spec import EmbeddingSpec
from tests.clusters.packages import HADOOP_AWS, Unavailable, jars_of
from tests.clusters.remote_bench import S3Bench
from tests.clusters.s3 import S3, running_s3
from tests.clusters.standalone import QUICK, make_python
from tests.clusters.tested_table import Recorder
from tests.faults.bench import Bench
from tests.installations import build_wheel
from tests.sessions import run_session


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--services-table", metavar="PATH", help="write the table of services, versions and seconds into this page")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Recorder(config.getoption("--services-table")))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Time for jobs on a machine that may be busy."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(1800))


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Only where they are asked for: `make test-clusters`. Services take minutes, and packages of hundreds of megabytes."""
    return None if any("clusters" in argument for argument in config.args) else True


@pytest.fixture(scope="session")
def s3_jars(tmp_path_factory: pytest.TempPathFactory) -> list[Path] | str:
    """The JARs of Hadoop's file system for S3, or why there are none."""
    try:
        return jars_of(HADOOP_AWS, tmp_path_factory.mktemp("packages"))
    except (Unavailable, subprocess.TimeoutExpired) as error:
        return str(error)


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory, s3_jars: list[Path] | str) -> Iterator[SparkSession]:
    """The session of the tests themselves, which makes and reads tables; where S3's JARs can be had, on S3, too."""
    conf = dict(QUICK)
    if not isinstance(s3_jars, str):
        conf["spark.jars"] = ",".join([*resolved_delta_jars(), *map(str, s3_jars)])
    yield from run_session(tmp_path_factory.mktemp("warehouse"), **conf)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, s3_jars: list[Path] | str, spark: SparkSession) -> Iterator[S3]:
    """S3 for one module of tests; the tests' own session finds it."""
    if isinstance(s3_jars, str):
        pytest.skip(s3_jars)
    try:
        with running_s3(tmp_path_factory.mktemp("s3")) as store:
            hadoop: Any = spark.sparkContext._jsc.hadoopConfiguration()
            for key, value in store.settings().items():
                hadoop.set(key, value)
            yield store
    except Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture
def bench(spark: SparkSession, tmp_path: Path, spec: EmbeddingSpec, encoder: MetaEOLEncoder) -> Iterator[Bench]:
    """A folder with a table for one test, and the invariants of the fault checks."""
    yield Bench(spark, tmp_path, spec, encoder=encoder)
    spark.catalog.clearCache()


@pytest.fixture
def s3_bench(spark: SparkSession, tmp_path: Path, spec: EmbeddingSpec, encoder: MetaEOLEncoder, store: S3) -> Iterator[S3Bench]:
    """A bench on S3 under a prefix of its own, without a table; the proxy lets all requests pass afterwards."""
    made = S3Bench(spark, tmp_path, spec, encoder=encoder)
    made.prefix = tmp_path.name
    yield made
    store.meddle = lambda request: None
    spark.catalog.clearCache()


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's wheel under a name that Spark puts on the path of executors."""
    folder = tmp_path_factory.mktemp("wheel")
    return build_wheel(folder).rename(folder / "metaeol_udf.zip")


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of driver and executors: without our package, which only the wheel brings."""
    return make_python(tmp_path_factory.mktemp("python") / "worker")

"""Starts the real Spark with Delta that tests work with."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from pyspark.sql import SparkSession

from metaeol_udf.config import SparkConfig
from metaeol_udf.spark.cluster.session import get_session

ROOT = Path(__file__).resolve().parent.parent


def run_session(warehouse: Path, master: str = "local[2]", **conf: str) -> Iterator[SparkSession]:
    """Start a session with two Python workers, and stop it after its use; named tables live in `warehouse`."""
    os.environ["PYSPARK_PYTHON"] = sys.executable  # workers import what the tests import
    # A worker unpickles functions of the installed package only, yet needs to find it when tests run from a bare checkout.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    small = {
        "spark.sql.warehouse.dir": str(warehouse),
        "spark.sql.shuffle.partitions": "2",  # not 200: ten rows
        "spark.databricks.delta.snapshotPartitions": "1",
    }
    session = get_session(SparkConfig(master=master, conf={**small, **conf}))
    yield session
    session.stop()

"""An application for spark-submit: runs the job of the configuration it is given, and says which Python and package each side had."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from pyspark.sql import SparkSession

import metaeol_udf
from metaeol_udf.cli import run


def on_executor(_rows: Any) -> Iterator[dict[str, str]]:
    """Where this worker's interpreter and package stand."""
    import metaeol_udf as package

    yield {"python": sys.executable, "prefix": sys.prefix, "package": str(package.__file__)}


if __name__ == "__main__":
    status = run(["embed", sys.argv[1]])
    session = SparkSession.getActiveSession() or SparkSession.builder.getOrCreate()
    found = {
        "status": status,
        "driver": {"python": sys.executable, "package": metaeol_udf.__file__},
        "executors": session.sparkContext.parallelize([0], 1).mapPartitions(on_executor).collect(),
    }
    sys.stdout.write("\n" + json.dumps(found) + "\n")
    session.stop()

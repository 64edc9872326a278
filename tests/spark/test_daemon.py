"""The daemon that imports the engine before it forks Spark's Python workers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import psutil
import pytest
from pyspark.sql import SparkSession

from metaeol_udf.spark.cluster import session
from metaeol_udf.spark.cluster.session import DAEMON_MODULE


def test_preloading_starts_no_thread_and_prints_nothing() -> None:
    script = (
        "import os, sys; from metaeol_udf.spark.daemon import preload; preload(); n = len(os.listdir('/proc/self/task')); "
        "print(n, *sorted({'pandas', 'pyarrow', 'torch', 'transformers'} & set(sys.modules)), file=sys.stderr)"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as Spark sets it
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == ""
    assert "1 torch transformers" in done.stderr.splitlines()


def test_workers_fork_from_it_with_torch_imported(spark: SparkSession) -> None:
    def look(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for _ in batches:
            parent = psutil.Process(os.getppid()).cmdline()
            yield pd.DataFrame({"module": [parent[parent.index("-m") + 1]], "has_torch": ["torch" in sys.modules]})

    rows = spark.range(0, 1, 1, 1).mapInPandas(look, "module string, has_torch boolean").collect()
    assert [tuple(row) for row in rows] == [(DAEMON_MODULE, True)]


@pytest.mark.parametrize(("master", "is_ours"), [("local[2]", True), ("local-cluster[2,1,2048]", False), ("yarn", False), (None, False)])
def test_only_workers_of_this_machine_are_sure_to_have_it(master: str | None, is_ours: bool) -> None:
    assert ("spark.python.daemon.module" in session._defaults(master, submitted=False)) == is_ours


def test_what_cannot_be_imported_is_left_to_the_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "metaeol_broken.py").write_text("print('chatter')\nimport nothing_of_that_name\n")
    script = (
        "from metaeol_udf.spark import daemon; daemon.PRELOADED = ('metaeol_broken', 'this'); daemon.preload(); "
        "import gc; assert gc.get_freeze_count() > 0"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert (done.stdout, done.stderr) == ("", "chatter\n")

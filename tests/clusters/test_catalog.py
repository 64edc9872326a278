"""Tables by name in a Hive metastore that outlives its processes; each run is a process of its own, with Derby as the metastore's store."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyspark
import pytest
import yaml

from metaeol_udf.spark.cluster.startup import resolved_delta_jars
from tests.clusters.standalone import QUICK, ROOT
from tests.faults.bench import Bench

SERVICE = f"Hive metastore in Derby ({pyspark.__version__})"
SOURCE, TARGET = "spark_catalog.shop.reviews", "shop.vectors"
TEXTS: dict[int, str | None] = {**{n: f"text number {n}" for n in range(20)}, 20: None}
_PATIENCE_S = 600

# What another process does to the tables: statements, one after the other.
_STATEMENTS = """
import json, sys
from metaeol_udf.config import SparkConfig
from metaeol_udf.spark.cluster.session import get_session

spark = get_session(SparkConfig(master="local[1]", conf=json.loads(sys.argv[1])))
for statement in sys.argv[2:]:
    found = [row.asDict() for row in spark.sql(statement).collect()]
print(json.dumps(found, default=str))
"""


@dataclass
class Metastore:
    """A metastore and the warehouse of its tables."""

    bench: Bench
    folder: Path
    is_plain_user: bool = False

    @property
    def conf(self) -> dict[str, str]:
        return {
            **QUICK,
            "spark.sql.catalogImplementation": "hive",
            "spark.sql.warehouse.dir": str(self.folder / "warehouse"),
            "spark.hadoop.javax.jdo.option.ConnectionURL": f"jdbc:derby:;databaseName={self.folder / 'metastore'};create=true",
            "spark.sql.shuffle.partitions": "2",
            "spark.databricks.delta.snapshotPartitions": "1",
            "spark.driver.memory": "1g",
            "spark.jars": ",".join(resolved_delta_jars()),
        }

    def execute(self, *statements: str) -> list[dict[str, Any]]:
        """Execute statements in a process of its own; gives the rows of the last one."""
        ended = self._run([sys.executable, "-c", _STATEMENTS, json.dumps(self.conf), *statements])
        assert ended.returncode == 0, ended.stderr[-4000:]
        found: list[dict[str, Any]] = json.loads(ended.stdout.splitlines()[-1])
        return found

    def embed(self, **sections: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        """Run the job in a process of its own."""
        file = self.folder / "embed.yaml"
        blocks: dict[str, dict[str, Any]] = {
            "source": {"table": SOURCE},
            "target": {"table": TARGET},
            "runtime": {"report": str(self.folder / "report.json")},
            "spark": {"master": "local[1]", "conf": self.conf},
        }
        for name, section in sections.items():
            blocks[name] = blocks.get(name, {}) | section
        file.write_text(yaml.safe_dump(self.bench.blocks(**blocks)))
        return self._run([sys.executable, str(ROOT / "jobs" / "embed_table.py"), str(file)])

    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "report.json").read_text())
        return found

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": str(ROOT), "SPARK_LOCAL_IP": "127.0.0.1"}
        plain = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if self.is_plain_user and os.geteuid() == 0 else []
        return subprocess.run(
            [*plain, *command], cwd=self.folder, env=env, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
        )


@pytest.fixture
def metastore(bench: Bench) -> Metastore:
    """One with the source, which another process made."""
    bench.write(list(TEXTS.items()))
    folder = bench.folder / "hive"
    folder.mkdir()
    made = Metastore(bench, folder)
    made.execute("CREATE DATABASE shop", f"CREATE TABLE {SOURCE} USING delta AS SELECT * FROM delta.`{bench.path}`")
    return made


def _warehouse(metastore: Metastore, name: str) -> str:
    return str((metastore.folder / "warehouse" / "shop.db" / name).relative_to(metastore.bench.folder))


def test_names_of_source_target_journal_and_quarantine_outlive_the_process(metastore: Metastore) -> None:
    ended = metastore.embed()
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert (metastore.report()["rows_embedded"], metastore.report()["rows_failed"]) == (20, 1)
    assert "catalog is in memory" not in ended.stderr
    metastore.bench.check_all_right(TEXTS, _warehouse(metastore, "vectors"))
    assert metastore.embed().returncode == 0
    assert metastore.report()["status"] == "nothing_to_do"
    tables = metastore.execute(f"UPDATE {SOURCE} SET text = 'a changed text' WHERE id = 1", "SHOW TABLES IN shop")
    names = ["reviews", "vectors", "vectors__metaeol_journal", "vectors__metaeol_quarantine"]
    assert sorted(row["tableName"] for row in tables) == names
    ended = metastore.embed()
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert (metastore.report()["rows_embedded"], metastore.report()["unique_texts"]) == (1, 1)
    assert metastore.execute("SELECT id, attempts FROM shop.vectors__metaeol_quarantine") == [{"id": 20, "attempts": 1}]


def test_a_view_hands_out_no_path_and_goes_into_a_query(metastore: Metastore) -> None:
    metastore.execute(f"CREATE VIEW shop.few AS SELECT * FROM {SOURCE} WHERE id < 5")
    ended = metastore.embed(source={"table": "shop.few"})
    assert ended.returncode == 2, ended.stderr[-4000:]
    assert "a view, or a table of another format, goes into source.query, with a target.table" in ended.stderr
    ended = metastore.embed(source={"table": None, "query": "SELECT * FROM shop.few"})
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert metastore.report()["rows_embedded"] == 5


def test_a_reader_who_may_not_write_the_source_writes_a_target_of_its_own(metastore: Metastore) -> None:
    """Root may write anywhere, but for a process without the capability to do so."""
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("setpriv is missing, so that root cannot be kept out of a folder")
    metastore.execute(f"CREATE DATABASE mine LOCATION '{metastore.folder / 'mine'}'")
    shop = metastore.folder / "warehouse" / "shop.db"
    closed = [folder for folder in (shop, *shop.rglob("*")) if folder.is_dir()]
    for folder in closed:
        folder.chmod(0o555)
    metastore.is_plain_user = True
    try:
        ended = metastore.embed()
        assert ended.returncode == 5, ended.stderr[-4000:]
        assert "permission denied" in ended.stderr.lower()
        ended = metastore.embed(target={"table": None})
        assert ended.returncode == 5, ended.stderr[-4000:]
        ended = metastore.embed(target={"table": "mine.vectors"})
        assert ended.returncode == 0, ended.stderr[-4000:]
    finally:
        for folder in closed:
            folder.chmod(0o755)
    assert [path.name for path in shop.iterdir()] == ["reviews"]
    metastore.bench.check_all_right(TEXTS, str((metastore.folder / "mine" / "vectors").relative_to(metastore.bench.folder)))

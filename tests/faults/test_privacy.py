"""Fault 43: a canary in the texts, the keys and the secrets is looked for in everything that a job leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from bench import ROOT, Bench

TEXT, KEY, SECRET = "canarytext9f3b7", "canarykey5d2e1", "canarysecret8c4a6"


def _find(folder: Path, canary: str) -> list[str]:
    """Files that hold a canary; Parquet files of our tables are looked into as they are, for they are small and not compressed away."""
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and canary.encode() in path.read_bytes()]


def _run(bench: Bench, *overrides: str, log_level: str = "INFO", **sections: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, with Spark's event log and Spark's own log turned up."""
    events = bench.folder / "events"
    events.mkdir(exist_ok=True)
    settings = {
        "spark.eventLog.enabled": "true",
        "spark.eventLog.dir": events.as_uri(),
        "spark.eventLog.compress": "false",
        "spark.log.level": log_level,
        "spark.databricks.delta.snapshotPartitions": "1",
        "spark.sql.shuffle.partitions": "1",
        "spark.hadoop.fs.s3a.secret.key": SECRET,
    }
    conf = bench.folder / "job.yaml"
    conf.write_text(yaml.safe_dump(bench.blocks(spark={"master": "local[1]", "conf": settings}, **sections)))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(bench.folder / "tmp")}
    (bench.folder / "tmp").mkdir(exist_ok=True)
    command = [sys.executable, "-m", "metaeol_udf.cli", "--verbose", "embed", str(conf), *overrides]
    done = subprocess.run(command, cwd=bench.folder, env=env, capture_output=True, text=True, timeout=900, check=False)
    conf.unlink()  # the user's own file holds the secret
    (bench.folder / "output.log").write_text(done.stdout + done.stderr)
    return done


ROWS = [(f"{KEY}-{n}", f"{TEXT} sings {n}") for n in range(5)]


def test_fault_43_no_text_and_no_secret_is_left_anywhere_by_a_good_run(bench: Bench) -> None:
    nasty = f"{TEXT} \x00 \u202e \U0001f600 {{text}} " + "x" * 5000
    others = [(f"{KEY}-null", None), (f"{KEY}-blank", "  "), (f"{KEY}-nasty", nasty)]
    bench.write([*ROWS, *others], "id string, text string")
    done = _run(bench, "runtime.report_page=page.html", target={"table": str(bench.folder / "vectors")})
    assert done.returncode == 0, done.stderr[-2000:]
    assert list((bench.folder / "events").iterdir()), "no event log was written"
    assert _find(bench.folder / "table", TEXT), "the canary is not where it must be: the search is blind"
    found = [path for path in _find(bench.folder, TEXT) if not path.startswith("table/")]
    assert found == []
    assert _find(bench.folder, SECRET) == []
    # Keys are in the target and the quarantine, whose columns they are, and in the smallest and largest values of their statistics.
    # The page names points and pairs by key; it was asked for.
    allowed = ("table/", "vectors/", "vectors__metaeol_quarantine/", "page.html")
    assert "page.html" in _find(bench.folder, KEY)
    assert [path for path in _find(bench.folder, KEY) if not path.startswith(allowed)] == []


@pytest.mark.parametrize(
    ("what", "status"),
    [("duplicate", 2), ("condition", 1), ("constraint", 2), ("unexpected", 1)],
)
def test_fault_43_no_text_and_no_secret_is_left_by_a_run_that_fails(bench: Bench, what: str, status: int) -> None:
    rows = [*ROWS, ROWS[0]] if what == "duplicate" else ROWS
    bench.write(rows, "id string, text string")
    sections: dict[str, dict[str, Any]] = {}
    if what == "condition":
        sections["source"] = {"where": "length(text) + id > 3"}  # a text that is no number: ANSI quotes it
    elif what == "constraint":
        bench.run(source={"where": "false"})
        table = f"delta.`{bench.path}`"
        bench.spark.sql(f"ALTER TABLE {table} ADD CONSTRAINT kept CHECK (embedding IS NULL OR length(text) < 3)")
    elif what == "unexpected":
        log = bench.folder / "table" / "_delta_log"
        (log / f"{bench.versions():020d}.json").write_text(f'{{"add": {{"path": "{TEXT}" broken\n')
    done = _run(bench, log_level="FATAL", **sections)
    assert done.returncode == status, done.stdout + done.stderr
    leaks = [path for path in _find(bench.folder, TEXT) if not path.startswith("table/")]
    # An error that nobody foresaw leaves its trace in a file that only its owner reads, and the message says so.
    allowed = [path for path in leaks if path.endswith(".trace") and (bench.folder / path).stat().st_mode & 0o077 == 0]
    assert [path for path in leaks if path not in allowed and not path.startswith("events/")] == []
    if what != "unexpected":
        assert [path for path in leaks if path not in allowed] == []
    assert _find(bench.folder, SECRET) == []
    assert KEY not in (bench.folder / "output.log").read_text()


_SPILLING = """
import sys
from pathlib import Path
from pyspark import StorageLevel
from metaeol_udf.config import SparkConfig
from metaeol_udf.spark.cluster.session import get_session

folder, text, *encrypted = sys.argv[1:]
plain = {"spark.local.dir": folder, "spark.shuffle.compress": "false", "spark.rdd.compress": "false"}
spark = get_session(SparkConfig(master="local[1]", conf=plain | dict(pair.split("=") for pair in encrypted)))
rows = spark.range(500).selectExpr(f"concat('{text}', id) AS text").repartition(3).persist(StorageLevel.DISK_ONLY)
assert rows.count() == 500
print(sum(text.encode() in path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()))
"""


def test_what_a_local_session_spills_and_shuffles_is_encrypted(tmp_path: Path) -> None:
    def count(*settings: str) -> int:
        folder = tmp_path / f"scratch{len(settings)}"
        folder.mkdir()
        command = [sys.executable, "-c", _SPILLING, str(folder), TEXT, *settings]
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True, timeout=120)
        return int(done.stdout)

    assert count("spark.io.encryption.enabled=false") > 0  # the test would see it
    assert count() == 0

"""Fault 43: a canary in the texts, the keys and the secrets is looked for in everything that a job leaves behind."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from bench import ROOT, Bench

from metaeol_udf.delta.tables.fingerprint import HashKey

TEXT, KEY, SECRET, HASH_KEY = "canarytext9f3b7", "canarykey5d2e1", "canarysecret8c4a6", "canaryhashkey7e2d9"


def _write(bench: Bench, rows: list[tuple[str, str | None]]) -> None:
    """Write the table without statistics of the texts: with them, Delta itself prints them in Spark's log."""
    properties = "TBLPROPERTIES ('delta.dataSkippingStatsColumns' = 'id')"
    bench.spark.sql(f"CREATE TABLE delta.`{bench.path}` (id STRING, text STRING) USING delta {properties}")
    bench.write(rows, "id string, text string", "append")


def _find(folder: Path, canary: str) -> list[str]:
    """Files that hold a canary; Parquet files of our tables are looked into as they are, for they are small and not compressed away."""
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and canary.encode() in path.read_bytes()]


#: Makes a function raise in Python workers, with a message that quotes a text: FAIL_AT is `module:name`.
_FAILING = """
import importlib.abc, importlib.util, os, sys

module, _, name = os.environ.get("FAIL_AT", "").partition(":")

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path, target=None):
        if fullname != module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        execute = spec.loader.exec_module

        def patched(loaded):
            execute(loaded)
            *holders, last = name.split(".")
            holder = loaded
            for part in holders:
                holder = getattr(holder, part)
            real = getattr(holder, last)

            def fail(*given, **named):
                if "pyspark.worker" not in sys.modules:
                    return real(*given, **named)
                raise ValueError(os.environ["CANARY"] + repr(given)[:500])

            setattr(holder, last, fail)

        spec.loader.exec_module = patched
        return spec

if module:
    sys.meta_path.insert(0, Finder())
"""


def _run(
    bench: Bench, *overrides: str, log_level: str = "INFO", command: str = "embed", fail_at: str = "", stop_after: str = "",
    **sections: dict[str, Any],
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """Run a command in a process of its own, with Spark's event log and Spark's own log turned up.

    Args:
        bench: Its tables.
        overrides: Arguments after the configuration.
        log_level: Of Spark.
        command: Of `metaeol`.
        fail_at: A function, as `module:name`, that raises in workers and quotes a text.
        stop_after: Words of the output after which SIGTERM is sent.
        sections: Of the configuration.
    """
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
    (bench.folder / "tmp").mkdir(exist_ok=True)
    hooks = bench.folder / "hooks"
    hooks.mkdir(exist_ok=True)
    (hooks / "sitecustomize.py").write_text(_FAILING)
    env = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{hooks}",
        "TMPDIR": str(bench.folder / "tmp"),
        "FAIL_AT": fail_at,
        "CANARY": TEXT,
        "HASH_KEY": HASH_KEY,
    }
    arguments = [sys.executable, "-m", "metaeol_udf.cli", "--verbose", command, str(conf), *overrides]
    with open(bench.folder / "output.log", "w+") as output:
        process = subprocess.Popen(arguments, cwd=bench.folder, env=env, stdout=output, stderr=output)
        deadline = time.monotonic() + 900
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
            if stop_after and stop_after in (bench.folder / "output.log").read_text():
                process.send_signal(signal.SIGTERM)
                stop_after = ""
        assert process.poll() is not None, "the command does not end"
    conf.unlink()  # the user's own file holds the secret
    return subprocess.CompletedProcess(arguments, process.returncode, (bench.folder / "output.log").read_text(), "")


def _check_no_key_is_left(bench: Bench) -> None:
    """Check that the hashes have their key, and that no file holds it, nor what HMAC makes of it, as it is or in digits."""
    key = HashKey(HASH_KEY.encode())
    stored = {row["embedding_fingerprint"].rpartition("-")[2] for row in bench.table("vectors").collect()}
    assert hmac.new(key.secret, f"{TEXT} sings 1".encode(), hashlib.sha256).hexdigest()[:32] in stored
    for secret in (key.secret, *key.pads()):
        used = secret[: len(HASH_KEY)]
        signed = ", ".join(str(byte - 256 if byte > 127 else byte) for byte in used)  # as the JVM writes bytes
        for shown in (used, used.hex().encode(), used.hex().upper().encode(), base64.b64encode(secret)[:20], signed.encode()):
            assert [path for path in bench.folder.rglob("*") if path.is_file() and shown in path.read_bytes()] == []


ROWS = [(f"{KEY}-{n}", f"{TEXT} sings {n}") for n in range(5)]


def test_fault_43_no_text_and_no_secret_is_left_anywhere_by_a_good_run(bench: Bench) -> None:
    nasty = f"{TEXT} \x00 \u202e \U0001f600 {{text}} " + "x" * 5000
    others = [(f"{KEY}-null", None), (f"{KEY}-blank", "  "), (f"{KEY}-nasty", nasty)]
    _write(bench, [*ROWS, *others])
    target = {"table": str(bench.folder / "vectors"), "fingerprint_key": "env:HASH_KEY"}
    done = _run(bench, "runtime.report_page=page.html", log_level="DEBUG", target=target)
    assert done.returncode == 0, done.stdout[-2000:]
    _check_no_key_is_left(bench)
    assert list((bench.folder / "events").iterdir()), "no event log was written"
    assert _find(bench.folder / "table", TEXT), "the canary is not where it must be: the search is blind"
    found = [path for path in _find(bench.folder, TEXT) if not path.startswith("table/")]
    assert found == []
    # At DEBUG Spark itself prints the settings that it was given.
    assert [path for path in _find(bench.folder, SECRET) if path != "output.log"] == []
    assert all(" DEBUG SharedState: " in line for line in done.stdout.splitlines() if SECRET in line)
    # Keys are in the target and the quarantine, whose columns they are, and in the smallest and largest values of their statistics.
    # The page names points and pairs by key; it was asked for.
    allowed = ("table/", "vectors/", "vectors__metaeol_quarantine/", "page.html")
    assert "page.html" in _find(bench.folder, KEY)
    assert [path for path in _find(bench.folder, KEY) if not path.startswith((*allowed, "output.log"))] == []
    # At DEBUG Delta itself prints those statistics.
    assert all(" INFO DeltaLog: " in line or " INFO Snapshot: " in line for line in done.stdout.splitlines() if KEY in line)


@pytest.mark.parametrize(
    ("what", "status"),
    [("duplicate", 2), ("condition", 2), ("constraint", 2), ("unexpected", 1)],
)
def test_fault_43_no_text_and_no_secret_is_left_by_a_run_that_fails(bench: Bench, what: str, status: int) -> None:
    rows = [*ROWS, ROWS[0]] if what == "duplicate" else ROWS
    bench.write(rows, "id string, text string")
    sections: dict[str, dict[str, Any]] = {}
    if what == "condition":
        sections["source"] = {"where": "length(text) + id > 3"}  # a text that is no number: ANSI would quote it
    elif what == "constraint":
        bench.run(source={"where": "false"})
        table = f"delta.`{bench.path}`"
        bench.spark.sql(f"ALTER TABLE {table} ADD CONSTRAINT kept CHECK (embedding IS NULL OR length(text) < 3)")
    elif what == "unexpected":
        log = bench.folder / "table" / "_delta_log"
        (log / f"{bench.versions():020d}.json").write_text(f'{{"add": {{"path": "{TEXT}" broken\n')
    done = _run(bench, log_level="FATAL", **sections)
    assert done.returncode == status, done.stdout
    leaks = [path for path in _find(bench.folder, TEXT) if not path.startswith("table/")]
    # An error that nobody foresaw leaves its trace in a file that only its owner reads, and the message says so.
    allowed = [path for path in leaks if path.endswith(".trace") and (bench.folder / path).stat().st_mode & 0o077 == 0]
    assert [path for path in leaks if path not in allowed and not path.startswith("events/")] == []
    if what != "unexpected":
        assert [path for path in leaks if path not in allowed] == []
    assert _find(bench.folder, SECRET) == []
    assert KEY not in (bench.folder / "output.log").read_text()


def _leaks(bench: Bench, canary: str = TEXT) -> list[str]:
    """Files with the canary, but for the table and traces that only their owner reads."""
    leaks = [path for path in _find(bench.folder, canary) if not path.startswith("table/")]
    return [path for path in leaks if not (path.endswith(".trace") and (bench.folder / path).stat().st_mode & 0o077 == 0)]


@pytest.mark.parametrize(
    ("place", "status"),
    [
        ("metaeol_udf.encoder.preparation:clean_text", 3),  # the rows fail
        ("metaeol_udf.prompts.tokenizer:PromptTokenizer.trim", 3),
        ("metaeol_udf.encoder.forward.trie_forward:TriePass.run", 0),  # another runner is taken
        ("metaeol_udf.encoder.batch_runner:add_states", 1),
        ("metaeol_udf.encoder.encoder:finish_vectors", 1),
        ("metaeol_udf.spark.worker.embed_column:vector_column", 1),
    ],
)
def test_fault_43_an_error_that_quotes_a_text_at_any_stage_is_named_without_it(place: str, status: int, bench: Bench) -> None:
    _write(bench, ROWS)
    done = _run(bench, fail_at=place, runtime={"max_failed_fraction": 0.0})
    assert done.returncode == status, done.stdout[-2000:]
    assert "ValueError" in done.stdout + json.dumps(bench.report() if (bench.folder / "report.json").exists() else {})
    assert _leaks(bench) == []


def test_fault_43_a_migration_through_the_gate_a_stream_and_a_search_leave_no_text(bench: Bench) -> None:
    _write(bench, [(f"{KEY}-{n}", f"{TEXT} sings {n}") for n in range(60)])
    target = {"table": str(bench.folder / "vectors")}
    assert _run(bench, target=target).returncode == 0
    gated = _run(bench, "embedding.templates=metaeol-fast", target=target, quality={"gate": True, "sample": 50})
    assert gated.returncode in (0, 6), gated.stdout[-2000:]
    assert "agreement" in json.dumps(bench.report()["quality"])
    stream = _run(
        bench, command="stream", target={"table": str(bench.folder / "streamed")}, stream={"checkpoint": str(bench.folder / "point")}
    )
    assert stream.returncode == 0, stream.stdout[-2000:]
    assert _leaks(bench) == []
    search = _run(bench, "who sings", "embedding.templates=metaeol-fast", "--k", "2", command="search", target=target)
    assert search.returncode == 0, search.stdout[-2000:]
    assert TEXT in search.stdout  # what was asked for
    assert [path for path in _leaks(bench) if path != "output.log"] == []


def test_fault_43_a_run_that_sigterm_ends_leaves_no_text(bench: Bench) -> None:
    _write(bench, [(f"{KEY}-{n}", f"{TEXT} sings {n}") for n in range(200)])
    done = _run(
        bench, stop_after="wave 1 of", log_level="DEBUG", runtime={"wave_rows": 20}, target={"table": str(bench.folder / "vectors")}
    )
    assert done.returncode == 143, done.stdout[-2000:]
    assert _leaks(bench) == []
    assert [path for path in _find(bench.folder, SECRET) if path != "output.log"] == []


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

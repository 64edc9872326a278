"""SIGTERM to a job: it ends soon with status 143, and the next run goes on from the journal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyspark.sql import functions as F
from pyspark.sql.types import IntegerType

from metaeol_udf.delta.base import shutdown
from metaeol_udf.delta.job import known_errors
from metaeol_udf.errors import TerminatedError
from tests.table_bench import Bench

pytestmark = pytest.mark.slow  # `make test-slow`
ROOT = Path(__file__).resolve().parents[3]
N_TEXTS = 60


def start(bench: Bench, command: str, **sections: dict[str, Any]) -> subprocess.Popen[str]:
    conf = bench.folder / "job.yaml"
    blocks: dict[str, dict[str, Any]] = {
        "source": {"table": bench.path, "key": ["id"]},
        "embedding": {"model": bench.spec.model, "dtype": "float32", "max_tokens": bench.spec.max_tokens},
        "runtime": {"device": "cpu", "wave_rows": 4, "report": str(bench.folder / "report.json")},
        "spark": {"master": "local[1]"},
    }
    conf.write_text(yaml.safe_dump(blocks | sections))
    arguments = [sys.executable, "-m", "metaeol_udf.cli", command, str(conf)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(arguments, cwd=bench.folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for(process: subprocess.Popen[str], condition: Any) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def terminate(process: subprocess.Popen[str]) -> str:
    """Ask a process to end, see that it does so in time and with the right status; gives what it said."""
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, (out, err)
    assert time.monotonic() - asked < 30
    assert "Traceback" not in out + err
    return err


def test_a_job_that_is_asked_to_end_finishes_its_wave_and_the_next_run_goes_on(bench: Bench) -> None:
    bench.write([(n, f"text number {n}") for n in range(N_TEXTS)])
    process = start(bench, "embed")
    wait_for(process, lambda: bench.versions("table__metaeol_journal") >= 3)  # the table itself and two waves
    message = terminate(process)
    assert "run the same command again" in message
    stopped = json.loads((bench.folder / "report.json").read_text())
    assert stopped["status"] == "terminated"
    journalled = bench.table("table__metaeol_journal").count()
    assert journalled == stopped["unique_texts"]
    assert 0 < journalled < N_TEXTS
    assert bench.table().where("embedding IS NOT NULL").count() == 0
    report = bench.run()
    assert report["unique_texts"] == N_TEXTS - journalled
    assert report["rows_embedded"] == N_TEXTS


def test_a_stream_without_an_end_is_ended_by_sigterm(bench: Bench) -> None:
    bench.write([(1, "one")])
    process = start(bench, "stream", stream={"trigger": "1 second"})
    wait_for(process, lambda: bench.versions() >= 2 and bench.versions("table__metaeol_journal") >= 2)
    bench.spark.createDataFrame([(2, "two")], "id long, text string").write.format("delta").mode("append").save(bench.path)
    wait_for(process, lambda: bench.table().where("embedding IS NOT NULL").count() == 2)
    terminate(process)
    assert json.loads((bench.folder / "report.json").read_text())["rows_embedded"] == 2


def test_a_wave_that_takes_longer_than_the_grace_period_is_dropped(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutdown, "GRACE_S", 1.0)
    running = str(bench.folder / "running")

    def sleep(n: int) -> int:
        open(running, "w").close()
        time.sleep(300)
        return n

    def terminate_when_running() -> None:
        while not os.path.exists(running):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    previous = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=terminate_when_running, daemon=True).start()  # long before the first task runs, the handler is there
    with pytest.raises(TerminatedError, match="SIGTERM"), shutdown.end_on_sigterm(), known_errors():
        bench.spark.range(1).select(F.udf(lambda n: sleep(n), IntegerType())("id")).collect()
    assert signal.getsignal(signal.SIGTERM) is previous
    assert not shutdown.was_requested()
    assert bench.spark.range(3).count() == 3  # the session lives on

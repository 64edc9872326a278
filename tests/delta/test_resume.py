"""The job as a process of its own: killed in the middle and run again, and its exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from metaeol_udf import MetaEOLEncoder
from metaeol_udf.spec import EmbeddingSpec
from tests.table_bench import Bench

ROOT = Path(__file__).resolve().parents[2]
N_TEXTS = 60


def _start(bench: Bench, *overrides: str) -> subprocess.Popen[str]:
    conf = bench.folder / "job.yaml"
    conf.write_text(
        yaml.safe_dump(
            {
                "source": {"table": bench.path, "key": ["id"]},
                "embedding": {"model": bench.spec.model, "dtype": "float32", "max_tokens": bench.spec.max_tokens},
                "runtime": {"device": "cpu", "wave_rows": 5},
                "spark": {"master": "local[1]"},
            }
        )
    )
    command = [sys.executable, str(ROOT / "jobs" / "embed_table.py"), str(conf), *overrides]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=bench.folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def test_a_job_killed_in_the_middle_computes_only_what_was_not_journalled_when_it_runs_again(bench: Bench) -> None:
    bench.write([(n, f"text number {n % N_TEXTS}") for n in range(N_TEXTS + 10)])
    process = _start(bench)
    deadline = time.monotonic() + 300
    while bench.versions("table__metaeol_journal") < 4:  # the table itself and three waves
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    time.sleep(3)  # the JVM's last commit, if one was under way

    journal = bench.table("table__metaeol_journal")
    journalled = journal.select("fingerprint").distinct().count()
    assert journalled == journal.count()
    assert 3 <= journalled < N_TEXTS
    assert bench.table().where("embedding IS NOT NULL").count() == 0

    report = bench.run()
    assert report["unique_texts"] == N_TEXTS - journalled
    assert report["rows_embedded"] == N_TEXTS + 10
    rows = bench.rows()
    encoder = MetaEOLEncoder.from_spec(bench.spec, device="cpu")
    expected = encoder.encode([rows[n]["text"] for n in sorted(rows)])
    np.testing.assert_allclose(np.array([rows[n]["embedding"] for n in sorted(rows)], np.float32), expected, atol=2e-5)
    assert bench.run()["rows_skipped"] == N_TEXTS + 10


@pytest.mark.parametrize(
    ("override", "status", "message"),
    [
        ("embedding.templates=nope", 2, "embedding.templates: no built-in set"),
        ("runtime.max_batch_token=1", 2, "max_batch_tokens"),
        ("source.table=a;b", 2, "source.table"),
    ],
)
def test_a_refused_job_ends_with_its_status_and_one_clear_message(bench: Bench, override: str, status: int, message: str) -> None:
    process = _start(bench, override)
    out, err = process.communicate(timeout=500)
    assert process.returncode == status
    assert message in err
    assert "Traceback" not in out + err


@pytest.mark.slow
def test_a_run_imports_the_gate_the_page_and_the_exporters_only_where_they_are_on(bench: Bench) -> None:
    bench.write([(1, None)])  # no model needs to be loaded
    script = """
import json, sys
from metaeol_udf.config import parse_config
from metaeol_udf.delta import run_embed
phases = []
print(run_embed(parse_config(json.loads(sys.argv[1])), between=phases.append)["status"], *phases)
print(*(name for name in sys.modules if name.startswith("metaeol_udf")))
"""
    blocks = bench.blocks(spark={"master": "local[1]"})
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, json.dumps(blocks)]
    done = subprocess.run(command, cwd=bench.folder, env=env, text=True, capture_output=True, check=True, timeout=500)
    phases, modules = done.stdout.splitlines()[-2:]
    assert phases == "done snapshot preflight prepare select publish verify quarantine report"  # nothing was journalled
    optional = ("metaeol_udf.delta.gate", "metaeol_udf.delta.report", "metaeol_udf.evaluation", "metaeol_udf.report_page")
    assert not [name for name in modules.split() if name.startswith(optional)]


@pytest.mark.slow
def test_the_demo_model_gives_the_same_vectors_through_the_job_as_by_itself(bench: Bench, model_dir: Path) -> None:
    texts = ["The river rose by two metres overnight.", "Who wrote this?", 'She said "no", twice.', "word " * 700]
    bench.write(list(enumerate(texts)))
    report = bench.run(embedding={"model": str(model_dir), "max_tokens": 128, "layer": 0.85})
    assert (report["rows_embedded"], report["rows_trimmed"]) == (4, 1)
    rows = bench.rows()
    found = np.array([rows[n]["embedding"] for n in range(4)], np.float32)
    spec = EmbeddingSpec(model=str(model_dir), dtype="float32", max_tokens=128, layer=0.85)
    expected = MetaEOLEncoder.from_spec(spec, device="cpu").encode(texts)
    cosine = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert found.shape == (4, 576)
    assert cosine.min() >= 0.99999

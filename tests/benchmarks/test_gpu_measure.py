"""The measuring script for a machine with a GPU runs to its end on a CPU, without Spark."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from metaeol_udf.encoder.forward.decoder import Linear
from metaeol_udf.encoder.forward.quantization import Float8Linear, QuantizedLinear

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_script_runs_all_stages_and_leaves_their_figures(tmp_path: Path) -> None:
    env = {**os.environ, "OUT": str(tmp_path), "DEVICE": "cpu", "TINY": "--tiny", "EACH": "0.1", "PYTHON": sys.executable}
    done = subprocess.run(["bash", "benchmarks/gpu_measure.sh"], cwd=ROOT, env=env, text=True, capture_output=True, check=True, timeout=590)
    stages = ("speed-8B", "speed-135M", "exact", "profile", "exact-rest")
    assert [line.partition(",")[0] for line in done.stdout.splitlines() if ": status" in line] == [f"{stage}: status 0" for stage in stages]
    rows = json.loads((tmp_path / "speed-135M.json").read_text())["rows"]
    assert [row["text tokens"] for row in rows] == [12, 30, 100, 500, "mix"]
    assert all(row["texts/s"] > 0 and row["times published loop"] > 0 and row["times careful loop"] > 0 for row in rows)
    assert all(row["fp8, texts/s"] > 0 and row["fp8 cosine"] > 0.99 for row in rows)
    exact = [json.loads(line) for line in (tmp_path / "exact.jsonl").read_text().splitlines()]
    least = {"float32": 0.99999, "bfloat16": 0.9995}
    assert all(row["worst cosine"] >= least[row["dtype"]] for row in exact)
    assert {row["model"].split()[0] for row in exact} == {"llama", "gemma3", "qwen3", "gemma2", "gpt2", "mistral"}
    assert "Self CPU" in (tmp_path / "profiles.txt").read_text()


def test_the_script_is_short_and_its_benchmark_imports_no_spark() -> None:
    assert (ROOT / "benchmarks" / "gpu_measure.sh").stat().st_size < 2_000
    script = "import sys; sys.modules['pyspark'] = None; import benchmarks.gpu, benchmarks.gpu_probe"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=200)


@pytest.mark.parametrize("kind", [Linear, QuantizedLinear, Float8Linear])
def test_linear_layers_are_compared_by_identity(kind: type[Linear]) -> None:
    # The compiler of torch 2.11 hashes them before their fields are there.
    assert kind.__hash__ is object.__hash__
    assert kind.__eq__ is object.__eq__

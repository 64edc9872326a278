"""`with_embeddings` reads an Iceberg table and writes another one, where Iceberg's JAR resolves and this Spark loads it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyspark
import pytest

from metaeol_udf import MetaEOLEncoder
from metaeol_udf.spec import EmbeddingSpec

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "org.apache.iceberg:iceberg-spark-runtime-4.1_2.13:1.12.0"  # none is built for Spark 4.2 yet


def test_a_table_of_iceberg_gets_its_vectors(tmp_path: Path, spec: EmbeddingSpec) -> None:
    settings = tmp_path / "spec.yaml"
    settings.write_text(f"model: {spec.model}\ndtype: float32\nmax_tokens: {spec.max_tokens}\n")
    command = [sys.executable, str(Path(__file__).with_name("iceberg_session.py")), str(tmp_path / "lake"), PACKAGE, str(settings)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYSPARK_PYTHON": sys.executable}
    env.pop("PYSPARK_GATEWAY_PORT", None)
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=400)
    if "READY" not in done.stdout:
        why = [line for line in done.stderr.splitlines() if "Error" in line or "unresolved" in line or "Exception" in line]
        pytest.skip(f"{PACKAGE} does not resolve here, or Spark {pyspark.__version__} does not load it: {(why or ['no message'])[0][:200]}")
    assert done.returncode == 0, done.stderr[-4000:]
    rows = json.loads(done.stdout.splitlines()[-1])
    assert [(row[0], row[2]) for row in rows] == [(1, None), (2, "null_text"), (3, None)]
    expected = MetaEOLEncoder.from_spec(spec, device="cpu").encode(["a lamp", "a parcel"])
    np.testing.assert_allclose(np.array([rows[0][1], rows[2][1]], np.float32), expected, atol=2e-5)

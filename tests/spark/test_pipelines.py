"""The example of a Spark Declarative Pipeline runs: its streaming table embeds each row once, its view finds the nearest rows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.dataset as pads
import pyspark
import pytest

from metaeol_udf import MetaEOLEncoder
from metaeol_udf.spec import EmbeddingSpec

pytestmark = pytest.mark.slow  # a process of its own, with a Connect server in it
ROOT = Path(__file__).resolve().parents[2]
COMMAND = Path(pyspark.__file__).parent / "bin" / "spark-pipelines"
TICKETS = [
    ("a", "waiting", "I cannot log in"),
    ("b", "solved", "the parcel is open"),
    ("c", "solved", "no way to log in"),
    ("d", "solved", None),
]


def run_pipeline(folder: Path) -> None:
    settings = {name: value for name, value in os.environ.items() if name not in ("SPARK_REMOTE", "PYSPARK_GATEWAY_PORT")}
    settings |= {"PYSPARK_PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "SPARK_HOME": str(Path(pyspark.__file__).parent)}
    done = subprocess.run([COMMAND, "run"], cwd=folder, env=settings, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.mark.skipif(not COMMAND.exists(), reason="this Spark has no spark-pipelines (it came with 4.1)")
def test_the_pipeline_of_the_example_runs(tmp_path: Path, spec: EmbeddingSpec) -> None:
    folder = tmp_path / "pipeline"
    shutil.copytree(ROOT / "examples" / "pipelines", folder)
    settings = (folder / "spark-pipeline.yml").read_text(encoding="utf-8").replace("/tmp/ticket-embeddings", f"{tmp_path}/storage")
    (folder / "spark-pipeline.yml").write_text(settings.replace('"8"', '"2"'), encoding="utf-8")
    (folder / "spec.yaml").write_text(f"model: {spec.model}\ndtype: float32\nmax_tokens: {spec.max_tokens}\n")
    incoming = folder / "incoming"
    incoming.mkdir()
    names = ("ticket", "state", "body")
    lines = [json.dumps(dict(zip(names, row, strict=True))) for row in TICKETS]
    (incoming / "1.json").write_text("\n".join(lines))
    run_pipeline(folder)

    (vectors,) = folder.rglob("ticket_vectors")
    rows = {row["ticket"]: row["embedding"] for row in pads.dataset(vectors, ignore_prefixes=["_", "."]).to_table().to_pylist()}
    assert rows.keys() == set("abcd")
    assert rows["d"] is None
    found = np.array([rows[name] for name in "abc"], np.float32)
    expected = MetaEOLEncoder.from_spec(spec, device="cpu").encode([body for _, _, body in TICKETS[:3] if body])
    np.testing.assert_allclose(found, expected, atol=2e-5)
    (nearest,) = folder.rglob("nearest_tickets")
    hits = pads.dataset(nearest, ignore_prefixes=["_", "."]).to_table().to_pylist()
    cosines = MetaEOLEncoder.similarity(expected[0], expected[1:])[0]
    assert {(hit["ticket"], hit["nearest"]): pytest.approx(hit["score"], abs=1e-4) for hit in hits} == {
        ("a", "b"): cosines[0], ("a", "c"): cosines[1],
    }  # fmt: skip

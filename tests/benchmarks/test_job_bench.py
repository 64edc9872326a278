from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from transformers import AutoModel

from benchmarks.job import JobBench, PeakMemory, measure_rates, weight_bytes
from metaeol_udf import MetaEOLEncoder, TemplateSet

MIB = 1 << 20


def test_the_peak_of_a_process_below_is_seen_from_outside() -> None:
    code = "import time; block = b'x' * (200 << 20); del block; print('done', flush=True); time.sleep(30)"
    with PeakMemory(interval_s=0.05) as memory, subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.5)
        child.kill()
        time.sleep(0.5)  # the process is dead and not yet waited for: the system gives no peak any more
    assert 200 * MIB < memory.by_process[child.pid] < 400 * MIB
    assert memory.worst >= memory.by_process[child.pid]


def test_weights_are_counted_from_the_files(tiny_model_dir: Path) -> None:
    n_values = sum(parameter.numel() for parameter in AutoModel.from_pretrained(tiny_model_dir).parameters())
    assert weight_bytes(tiny_model_dir, "bfloat16") == 2 * n_values
    assert weight_bytes(tiny_model_dir, "float32") == 4 * n_values


@pytest.mark.slow
def test_a_job_is_set_against_the_bare_encoder(spark: object, tiny_model_dir: Path, tmp_path: Path) -> None:
    from pyspark.sql import SparkSession

    assert isinstance(spark, SparkSession)
    model = str(tiny_model_dir)
    encoder = MetaEOLEncoder.from_pretrained(model, templates=TemplateSet.load("metaeol-fast"), dtype="float32", device="cpu")
    bench = JobBench(spark, tmp_path, {"model": model, "templates": "metaeol-fast", "dtype": "float32"})
    with PeakMemory() as memory:
        row = measure_rates(bench, encoder, [f"Text number {i} of many." for i in range(400)], (20, 400), 1)
    assert row["rows"] == "20 and 400"
    assert row["encoder_rows_per_second"] > 0
    assert memory.worst > 50 * MIB

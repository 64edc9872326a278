"""The way of a text through a Python worker: few modules, in the order in which they run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

MOST_MODULES = 14

#: What a worker does: the function of the Pandas UDF over two columns, of which the first loads the model. Every thread is watched from the
#: start, because threads that run batches begin with the first text.
WORKER = """
import os, sys, threading
import pandas as pd

watching, passed = False, []

def watch(frame, event, argument):
    name = frame.f_code.co_filename
    if watching and event == "call" and name.startswith(root):
        module = os.path.relpath(name, root)
        if module not in passed:
            passed.append(module)

threading.setprofile(watch)
sys.setprofile(watch)
import metaeol_udf
root = os.path.dirname(metaeol_udf.__file__) + os.sep
from metaeol_udf.spark.udf import make_request
from metaeol_udf.spark.worker.embed_column import column_function
from metaeol_udf.spec import EmbeddingSpec

spec = EmbeddingSpec.load(sys.argv[1])
embed = column_function(make_request(spec, "auto"))
(first,) = embed(iter([pd.Series(["a first text"])]))
watching = True
(second,) = embed(iter([pd.Series(["a second text", "a third, and a longer one"])]))
watching = False
assert first["error"].tolist() + second["error"].tolist() == [None] * 3
print(*passed, sep="\\n")
"""


@pytest.mark.slow
def test_the_second_text_passes_few_modules_in_the_order_of_its_stages(tiny_model_dir: Path, tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(f"model: {tiny_model_dir}\ndtype: float32\nnormalize: true\n")
    done = subprocess.run([sys.executable, "-c", WORKER, str(spec)], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    passed = done.stdout.split()
    assert len(passed) <= MOST_MODULES, passed
    stages = [
        "spark/worker/embed_column.py",
        "encoder/preparation.py",
        "prompts/trie.py",
        "encoder/forward/batching.py",
        "encoder/batch_runner.py",
        "encoder/forward/trie_forward.py",
        "encoder/vectors/output.py",
    ]
    assert sorted(stages, key=passed.index) == stages

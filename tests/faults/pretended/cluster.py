"""A Spark application on a small cluster of its own with pretended GPUs; a program, for a process of its own.

`python cluster.py MASTER SCENARIO FOLDER MODEL [SETTING=VALUE ...]` writes what happened as JSON, in its last line.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyspark
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from metaeol_udf.config import SparkConfig, parse_config
from metaeol_udf.delta import run_embed
from metaeol_udf.spark import with_embeddings
from metaeol_udf.spark.cluster.session import get_session, slot_count
from metaeol_udf.spec import EmbeddingSpec

HERE = Path(__file__).resolve().parent


def start(master: str, folder: Path, settings: dict[str, str]) -> SparkSession:
    """A session whose executors get one GPU address each: 0, 1, … in the order in which they ask."""
    home = folder / "spark"  # executors make their folders in SPARK_HOME/work, which must not be the installation
    home.mkdir()
    for entry in Path(pyspark.__file__).parent.iterdir():
        (home / entry.name).symlink_to(entry)
    os.environ["SPARK_HOME"] = str(home)
    (folder / "addresses").mkdir()
    script = folder / "discover.sh"
    taken = f'mkdir "{folder}/addresses/$n" 2>/dev/null'
    answer = """echo '{"name": "gpu", "addresses": ["'$n'"]}'"""
    script.write_text(f"#!/bin/sh\nfor n in 0 1; do if {taken}; then {answer}; exit 0; fi; done\nexit 1\n")
    script.chmod(0o755)
    conf = {
        "spark.executor.memory": "768m",
        "spark.worker.resource.gpu.amount": "1",
        "spark.worker.resource.gpu.discoveryScript": str(script),
        "spark.executor.resource.gpu.amount": "1",
        "spark.task.resource.gpu.amount": "1",
        "spark.python.daemon.module": "pretended_gpu_daemon",
        "spark.executorEnv.PYTHONPATH": os.pathsep.join([str(HERE), os.environ["PYTHONPATH"]]),
        "spark.executorEnv.PRETENDED_UUID": os.environ["PRETENDED_UUID"],
        "spark.executorEnv.PRETENDED_OPENED": str(folder / "opened"),
        "spark.sql.shuffle.partitions": "2",
        "spark.databricks.delta.snapshotPartitions": "1",
    }
    return get_session(SparkConfig(master=master, conf=conf | settings))


def opened(folder: Path) -> dict[int, int]:
    """How often each process has opened the weights."""
    log = folder / "opened"
    return dict(Counter(map(int, log.read_text().split()))) if log.exists() else {}


def run_job(spark: SparkSession, folder: Path, model: str, **runtime: Any) -> dict[str, Any]:
    """The main job in two waves."""
    table = str(folder / "table")
    rows = spark.range(400).select("id", F.concat(F.lit("A plain text, number "), "id").alias("text"))
    rows.write.format("delta").save(table)
    blocks: dict[str, Any] = {
        "source": {"table": table, "key": ["id"]},
        "embedding": {"model": model, "dtype": "float32", "max_tokens": 64},
        "runtime": {"device": "cuda", "wave_rows": 200, **runtime},
    }
    report = run_embed(parse_config(blocks), spark)
    vectors = spark.read.format("delta").load(table).where("size(embedding) = 32").count()
    return {"report": report, "vectors": vectors, "opened": opened(folder)}


def run_in_stage(spark: SparkSession, folder: Path, model: str) -> dict[str, Any]:
    """The same with a resource profile for the embedding, beside the session's own, which is number 0."""
    found = run_job(spark, folder, model, task_gpus=1)
    manager: Any = spark.sparkContext._jsc.sc().resourceProfileManager()
    amounts = {n: manager.resourceProfileFromId(n).taskResources().apply("gpu").amount() for n in (0, 1)}
    return {**found, "gpus_of_a_task": amounts, "slots": [slot_count(spark), slot_count(spark, task_gpus=1)]}


def share(spark: SparkSession, folder: Path, model: str) -> dict[str, Any]:
    """Two tasks at a time on one GPU; then the process that owns the model is killed, and both go on."""
    spec = EmbeddingSpec(model=model, dtype="float32", max_tokens=64)
    texts = spark.range(0, 240, 1, 6).select("id", F.concat(F.lit("Some text "), "id").alias("text"))

    def embed() -> tuple[int, list[int]]:
        from metaeol_udf.spark.udf import make_request, result_udf

        result = result_udf(make_request(spec, "cuda"))
        embedded = texts.select("id", result("text").alias("r")).select("id", "r.*").collect()
        owners = {int(row["load_id"].split(":")[1]) for row in embedded if row["vector"] is not None}
        return len([row for row in embedded if row["vector"] is not None]), sorted(owners)

    first, owners = embed()
    before = opened(folder)
    os.kill(owners[0], signal.SIGKILL)
    second, later_owners = embed()
    columns = with_embeddings(texts, spec, device="cuda").columns
    return {
        "vectors": [first, second],
        "owners": [owners, later_owners],
        "opened": [before, opened(folder)],
        "columns": columns,
    }


SCENARIOS: dict[str, Callable[[SparkSession, Path, str], dict[str, Any]]] = {"job": run_job, "stage": run_in_stage, "share": share}


if __name__ == "__main__":
    master, scenario, place, model_dir, *given = sys.argv[1:]
    session = start(master, Path(place), dict(setting.split("=", 1) for setting in given))
    try:
        outcome = SCENARIOS[scenario](session, Path(place), model_dir)
    finally:
        session.stop()
    sys.stdout.write(json.dumps(outcome) + "\n")

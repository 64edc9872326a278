"""The recipes of docs/platforms/spark-submit.md on a real executor process: a packed environment, and the wheel as a Python file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml

from metaeol_udf.spark.session import delta_package
from metaeol_udf.spark.startup import resolved_delta_jars

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ["A man is playing a guitar.", "The bank raised its interest rates.", None]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, timeout=300)
    (built,) = folder.glob("metaeol_udf-*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small environment with our package; torch and Spark are seen from here, for they would make gigabytes."""
    folder = tmp_path_factory.mktemp("environment") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=300)
    python = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, timeout=300)
    asked = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], check=True, text=True, capture_output=True, timeout=60
    )
    import torch

    seen = {sysconfig.get_path("purelib"), str(Path(torch.__file__).parents[1])}
    Path(asked.stdout.strip(), "seen.pth").write_text("\n".join(seen) + "\n")
    return folder


def submit(
    folder: Path, model: Path, driver_python: Path, executor_python: str, *options: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run the job with spark-submit on one executor process; gives what the application said, and the report."""
    import pyspark

    home = folder / "spark"
    home.mkdir()
    for entry in Path(pyspark.__file__).parent.iterdir():  # executors write below SPARK_HOME, which must not be the installation
        (home / entry.name).symlink_to(entry)
    conf = folder / "job.yaml"
    blocks = {
        "source": {"table": str(folder / "table"), "key": ["id"]},
        "embedding": {"model": str(model), "dtype": "float32"},
        "runtime": {"device": "cpu", "max_failed_fraction": 1.0, "report": str(folder / "report.json")},
        "spark": {"conf": {"spark.sql.shuffle.partitions": "1", "spark.databricks.delta.snapshotPartitions": "1"}},
    }
    conf.write_text(yaml.safe_dump(blocks))
    jars = resolved_delta_jars()
    delta = ["--jars", ",".join(jars)] if jars else ["--packages", delta_package()]
    command = [str(home / "bin" / "spark-submit"), "--master", "local-cluster[1,1,1024]", "--conf", "spark.executor.memory=1g"]
    command += ["--conf", "spark.ui.enabled=false", *delta, *options, str(Path(__file__).with_name("submitted_job.py")), str(conf)]
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYSPARK_GATEWAY_PORT")}
    env |= {"SPARK_HOME": str(home), "PYSPARK_DRIVER_PYTHON": str(driver_python), "PYSPARK_PYTHON": executor_python}
    ended = subprocess.run(command, cwd=folder, env=env, text=True, capture_output=True, timeout=550, check=False)
    assert ended.returncode == 0, ended.stderr[-4000:]
    said: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    assert said["status"] == 0, ended.stderr[-4000:]
    return said, json.loads((folder / "report.json").read_text())


@pytest.fixture
def table(spark: Any, tmp_path: Path) -> Path:
    rows = list(enumerate(TEXTS))
    spark.createDataFrame(rows, "id long, text string").coalesce(1).write.format("delta").save(str(tmp_path / "table"))
    return tmp_path


def test_executors_run_the_packed_environments_interpreter_and_package(table: Path, tiny_model_dir: Path, environment: Path) -> None:
    venv_pack = pytest.importorskip("venv_pack")
    archive = table / "environment.tar.gz"
    venv_pack.pack(prefix=str(environment), output=str(archive))
    assert archive.stat().st_size < 50e6
    options = ["--archives", f"{archive}#environment"]
    said, report = submit(table, tiny_model_dir, environment / "bin" / "python", "./environment/bin/python", *options)
    (executor,) = said["executors"]
    unpacked = Path(executor["prefix"])
    assert unpacked.name == "environment"
    assert unpacked.is_relative_to(table / "spark" / "work")  # the executor's own folder
    assert Path(executor["package"]).is_relative_to(unpacked / "lib")
    assert Path(said["driver"]["package"]).is_relative_to(environment)
    assert (report["rows_embedded"], report["rows_failed"], report["executors"]) == (2, 1, 1)


def test_the_wheel_alone_reaches_executors_as_a_python_file(table: Path, tiny_model_dir: Path, wheel: Path) -> None:
    said, report = submit(table, tiny_model_dir, Path(sys.executable), sys.executable, "--py-files", str(wheel))
    (executor,) = said["executors"]
    assert wheel.name in executor["package"]
    assert wheel.name in said["driver"]["package"]
    assert (report["rows_embedded"], report["rows_failed"]) == (2, 1)

"""The recipes of docs/platforms/spark-submit.md on a real executor process: a packed environment, and the wheel as a Python file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metaeol_udf import EmbeddingSpec, MetaEOLEncoder
from tests.installations import build_wheel, packages_of

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ["A man is playing a guitar.", "The bank raised its interest rates."]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small environment with our package; torch and Spark are seen from here, for they would make gigabytes."""
    folder = tmp_path_factory.mktemp("environment") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=300)
    python = folder / "bin" / "python"
    # --ignore-installed: a checkout on PYTHONPATH would count as the package.
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--ignore-installed",
        "--no-deps",
        "--no-index",
        str(wheel),
    ]
    subprocess.run(install, check=True, timeout=300)
    import torch

    seen = {sysconfig.get_path("purelib"), str(Path(torch.__file__).parents[1])}  # the same folder, or two
    # A bare path would be an editable package to venv-pack, which it refuses.
    (packages_of(python) / "seen.pth").write_text(f"import sys; sys.path.extend({sorted(seen)!r})\n")
    return folder


def submit(folder: Path, model: Path, driver_python: Path, executor_python: str, *options: str) -> dict[str, Any]:
    """Run the application with spark-submit on one executor process; gives what it said."""
    import pyspark

    home = folder / "spark"
    home.mkdir()
    for entry in Path(pyspark.__file__).parent.iterdir():  # executors write below SPARK_HOME, which must not be the installation
        (home / entry.name).symlink_to(entry)
    command = [str(home / "bin" / "spark-submit"), "--master", "local-cluster[1,1,1024]", "--conf", "spark.executor.memory=1g"]
    command += ["--conf", "spark.ui.enabled=false", *options, str(Path(__file__).with_name("submitted_job.py")), str(model)]
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYSPARK_GATEWAY_PORT")}
    env |= {"SPARK_HOME": str(home), "PYSPARK_DRIVER_PYTHON": str(driver_python), "PYSPARK_PYTHON": executor_python}
    ended = subprocess.run(command, cwd=folder, env=env, text=True, capture_output=True, timeout=570, check=False)
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-4000:]
    said: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return said


def check_vectors(said: dict[str, Any], model: Path) -> None:
    """They are those of an encoder in this process."""
    assert said["errors"] == [None, None, "null_text"]
    encoder = MetaEOLEncoder.from_spec(EmbeddingSpec(model=str(model), dtype="float32"), device="cpu")
    np.testing.assert_allclose(np.array(said["vectors"][:2]), encoder.encode(TEXTS), rtol=0, atol=1e-4)


def test_executors_run_the_packed_environments_interpreter_and_package(tmp_path: Path, tiny_model_dir: Path, environment: Path) -> None:
    venv_pack = pytest.importorskip("venv_pack")
    archive = tmp_path / "environment.tar.gz"
    venv_pack.pack(prefix=str(environment), output=str(archive))
    assert archive.stat().st_size < 50e6
    options = ["--archives", f"{archive}#environment"]
    said = submit(tmp_path, tiny_model_dir, environment / "bin" / "python", "./environment/bin/python", *options)
    (executor,) = said["executors"]
    unpacked = Path(executor["prefix"])
    assert unpacked.name == "environment"
    assert unpacked.is_relative_to(tmp_path / "spark" / "work")  # the executor's own folder
    assert Path(executor["package"]).is_relative_to(unpacked / "lib")
    assert Path(said["driver"]).is_relative_to(environment)
    check_vectors(said, tiny_model_dir)


def test_the_wheel_under_another_name_reaches_executors_as_a_python_file(tmp_path: Path, tiny_model_dir: Path, wheel: Path) -> None:
    archive = tmp_path / "metaeol_udf.zip"  # Spark leaves files that end in .whl off the path of executors
    shutil.copy(wheel, archive)
    said = submit(tmp_path, tiny_model_dir, Path(sys.executable), sys.executable, "--py-files", str(archive))
    (executor,) = said["executors"]
    assert f"{archive.name}/metaeol_udf/" in executor["package"]
    assert f"{archive.name}/metaeol_udf/" in said["driver"]
    check_vectors(said, tiny_model_dir)

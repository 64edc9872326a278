"""The image's recipe carried out into a folder, without Docker and a registry, and the command of Spark's entry point run there."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pyspark
import pytest
import yaml

from metaeol_udf.spark.cluster.startup import resolved_delta_jars
from tests.clusters.standalone import ROOT, make_python
from tests.faults.bench import Bench
from tests.installations import make_spark_home, packages_of

SERVICE = f"Kubernetes image, its files without a cluster ({pyspark.__version__})"
FOLDER = ROOT / "examples" / "kubernetes"
TEXTS: dict[int, str | None] = {n: f"text number {n}" for n in range(12)}
_JAR = re.compile(r"ADD --chmod=644 --checksum=sha256:([0-9a-f]{64}) \\\s+\$\{MAVEN_REPOSITORY\}/\S+/(\S+\.jar) (\S+)/")


@pytest.fixture
def image(tmp_path: Path, wheel: Path) -> Path:
    """What the recipe puts into an image, below a folder: Spark with Delta's JARs, a Python with the package, the jobs."""
    recipe, root = (FOLDER / "Dockerfile").read_text(encoding="utf-8"), tmp_path / "image"
    (root / "opt").mkdir(parents=True)
    home = make_spark_home(root / "opt" / "spark")
    linked = (home / "jars").resolve()
    (home / "jars").unlink()
    (home / "jars").mkdir()
    for jar in linked.iterdir():
        (home / "jars" / jar.name).symlink_to(jar)
    wanted = _JAR.findall(recipe)
    assert len(wanted) == recipe.count("ADD ") == 2
    # Spark's resolver puts the group before the name.
    kept = {Path(place).name.partition("_")[2]: Path(place) for place in resolved_delta_jars()}
    for digest, name, place in wanted:
        content = kept[name].read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
        (root / place.lstrip("/") / name).write_bytes(content)
    shutil.unpack_archive(wheel, packages_of(make_python(root / "python")))
    (copied,) = re.findall(r"^COPY jobs/ /(\S+)/$", recipe, re.MULTILINE)
    shutil.copytree(ROOT / "jobs", root / copied)
    return root


def _application() -> dict[str, Any]:
    documents = yaml.safe_load_all((FOLDER / "sparkapplication.yaml").read_text(encoding="utf-8"))
    found: dict[str, Any] = next(document for document in documents if document["kind"] == "SparkApplication")["spec"]
    return found


def test_the_driver_of_the_image_runs_the_job_with_what_the_recipe_brings(image: Path, bench: Bench) -> None:
    bench.write(list(TEXTS.items()))
    file = bench.folder / "embed.yaml"
    file.write_text(yaml.safe_dump(bench.blocks(target={"table": str(bench.folder / "vectors")})))
    application = _application()
    conf = {key: value for key, value in application["sparkConf"].items() if not key.startswith(("spark.executor.resource", "spark.task"))}
    place = application["mainApplicationFile"].removeprefix("local://")
    # Spark's entry point calls this for the role `driver`; the operator's submission writes the properties. Of the manifest's settings
    # those of GPUs are left out, and the executor is the driver.
    settings = {**conf, "spark.master": "local[1]", "spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1"}
    properties = bench.folder / "spark.properties"
    properties.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
    command = [str(image / "opt/spark/bin/spark-submit"), "--deploy-mode", "client", "--properties-file", str(properties)]
    python = str(image / "python" / "bin" / "python")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYSPARK", "SPARK"))}
    # No repository is asked: a JAR that the recipe lacks would be missing.
    env = kept | {
        "SPARK_HOME": str(image / "opt/spark"),
        "PYSPARK_PYTHON": python,
        "PYSPARK_DRIVER_PYTHON": python,
        "SPARK_LOCAL_IP": "127.0.0.1",
    }
    ended = subprocess.run(
        [*command, f"local://{image}{place}", str(file)],
        cwd=bench.folder, env=env, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert (bench.report()["status"], bench.report()["rows_embedded"]) == ("done", len(TEXTS))
    bench.check_all_right(TEXTS, "vectors")

"""The example jobs of standalone clusters, YARN, EMR and Dataproc: options and settings that exist and fit, and files that are there."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pyspark
import pytest
import yaml

from metaeol_udf.config import load_config
from metaeol_udf.spark.cluster.cluster_settings import ClusterSettings
from metaeol_udf.spark.cluster.rules import broken_rules
from metaeol_udf.spark.cluster.startup import delta_package

ROOT = Path(__file__).resolve().parents[2]
CONF = "conf/platforms/cluster.yaml"


def script(name: str) -> list[str]:
    """The words of a script's spark-submit, as its shell gives them for the example's settings."""
    path = ROOT / "examples" / name
    text = path.read_text(encoding="utf-8")
    echoing = 'spark-submit() { printf "%s\\n" "$@"; }\n' + text.replace("exec spark-submit", "spark-submit")
    done = subprocess.run(
        ["bash", "-c", echoing, name, CONF], cwd=ROOT, env={"MASTER": "spark://host:7077", "PATH": "/usr/bin:/bin"},
        check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return done.stdout.splitlines()


def step() -> list[str]:
    """The words behind spark-submit of EMR's step."""
    (made,) = json.loads((ROOT / "examples/emr/steps.json").read_text(encoding="utf-8"))
    assert (made["Type"], made["Jar"], made["Args"][0]) == ("CUSTOM_JAR", "command-runner.jar", "spark-submit")
    words: list[str] = made["Args"][1:]
    return words


def workflow() -> list[str]:
    """Dataproc's job, in the words of spark-submit."""
    (made,) = yaml.safe_load((ROOT / "examples/dataproc/workflow.yaml").read_text(encoding="utf-8"))["jobs"]
    job = made["pysparkJob"]
    conf = [word for key, value in job["properties"].items() for word in ("--conf", f"{key}={value}")]
    return [
        *("--files", ",".join(job["fileUris"]), "--archives", ",".join(job["archiveUris"])), *conf,
        *("--packages", job["properties"]["spark.jars.packages"], job["mainPythonFileUri"]), *job["args"],
    ]  # fmt: skip


EXAMPLES = {
    "standalone": script("standalone/embed.sh"),
    "yarn": script("yarn/embed.sh"),
    "emr": step(),
    "dataproc": workflow(),
}


def parse(words: list[str]) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Options, Spark settings, and what comes from the application on; every option here takes one value."""
    options: dict[str, str] = {}
    conf: dict[str, str] = {}
    rest = list(words)
    while rest[0].startswith("--"):
        name, value = rest.pop(0), rest.pop(0)
        if name == "--conf":
            key, _, conf[key] = value.partition("=")
        else:
            options[name] = value
    return options, conf, rest


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_starts_the_job_with_valid_settings_and_this_delta(name: str) -> None:
    options, conf, (application, settings, *overrides) = parse(EXAMPLES[name])
    assert application.endswith("jobs/embed_table.py")
    assert Path(settings).name == Path(CONF).name
    config = load_config(ROOT / CONF, overrides)
    merged = {**config.spark.conf, **conf, "spark.master": options.get("--master", "yarn")}
    assert broken_rules(ClusterSettings(settings=merged, device=config.runtime.device, task_gpus=config.runtime.task_gpus)) == []
    assert options["--packages"] == delta_package()
    if settings == Path(CONF).name:  # the driver finds the file in its own folder, where it is sent
        assert settings in {Path(file).name for file in options["--files"].split(",")}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_interpreter_of_an_example_comes_from_its_archive(name: str) -> None:
    options, conf, _ = parse(EXAMPLES[name])
    folder = options["--archives"].partition("#")[2]
    interpreters = [value for key, value in conf.items() if key.endswith("PYSPARK_PYTHON")]
    if name == "standalone":
        interpreters = re.findall(r"PYSPARK_PYTHON=(\S+)", (ROOT / "examples/standalone/embed.sh").read_text(encoding="utf-8"))
    assert interpreters
    assert set(interpreters) == {f"./{folder}/bin/python"}


@pytest.mark.parametrize("name", ["standalone", "yarn", "emr"])
def test_an_example_has_only_options_that_spark_submit_knows(name: str) -> None:
    options, _, _ = parse(EXAMPLES[name])
    known = subprocess.run(
        [str(Path(pyspark.__file__).parent / "bin" / "spark-submit"), "--help"], capture_output=True, text=True, timeout=120, check=False
    )
    listed = set(re.findall(r"--[a-z-]+", known.stdout + known.stderr))
    assert set(options) <= listed


def test_the_page_names_the_examples() -> None:
    page = (ROOT / "docs/platforms/emr-dataproc.md").read_text(encoding="utf-8")
    blocks: list[Any] = re.findall(r"```console\n(.*?)```", page, flags=re.DOTALL)
    files = [word.removeprefix("file://") for block in blocks for word in shlex.split(block) if "examples/" in word]
    assert files
    assert all((ROOT / file).is_file() for file in files)

"""The pages on platforms: every command is one that exists, with settings that are valid, and every file they name is there."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from metaeol_udf import cli
from metaeol_udf.config import load_config
from metaeol_udf.spark.cluster.cluster_settings import ClusterSettings
from metaeol_udf.spark.cluster.rules import broken_rules
from tests.notebooks.runner import read_cells
from tests.platforms.bundle import joined

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs/platforms").glob("*.md"))
FOLDERS = ("jobs", "conf", "examples", "notebooks", "resources", "requirements")


def commands(path: Path, program: str) -> list[list[str]]:
    """Arguments of a program's calls in a page's console blocks."""
    blocks = re.findall(r"```console\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [words[1:] for words in map(shlex.split, lines) if words and words[0] == program]


def submits() -> list[list[str]]:
    return [arguments for path in PAGES for arguments in commands(path, "spark-submit")]


def options(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """Spark settings of a spark-submit, and what comes from the application on; every option here takes one value."""
    conf, rest = {}, list(arguments)
    while rest[0].startswith("--"):
        name, value = rest.pop(0), rest.pop(0)
        if name == "--conf":
            key, _, conf[key] = value.partition("=")
    return conf, rest


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_file_and_page_that_is_named_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = re.findall(rf"(?<![\w/.-])((?:{'|'.join(FOLDERS)})/[\w./-]*\w)", text)
    assert [name for name in named if not (ROOT / name).exists() and "/src/main/" not in name] == []
    linked = [target for target in re.findall(r"\]\(([^)]+)\)", text) if "://" not in target]
    assert [target for target in linked if not (path.parent / target.split("#")[0]).is_file()] == []


@pytest.mark.parametrize("arguments", submits(), ids=lambda arguments: arguments[1])
def test_every_spark_submit_starts_the_job_with_valid_settings(arguments: list[str]) -> None:
    conf, (application, settings, *overrides) = options(arguments)
    assert (ROOT / application.removeprefix("local:///opt/metaeol/")).is_file()
    if settings.startswith("/"):  # a path inside a pod
        settings = "conf/platforms/cluster.yaml"
    config = load_config(ROOT / settings, overrides)
    merged = {**config.spark.conf, **conf, "spark.master": "yarn"}
    assert broken_rules(ClusterSettings(settings=merged, device=config.runtime.device, task_gpus=config.runtime.task_gpus)) == []


def test_there_is_a_spark_submit_for_every_kind_of_cluster() -> None:
    masters = {arguments[arguments.index("--master") + 1].split(":")[0] for arguments in submits()}
    assert masters == {"spark", "yarn", "k8s"}


@pytest.mark.parametrize("arguments", [each for path in PAGES for each in commands(path, "metaeol")], ids=" ".join)
def test_every_metaeol_command_is_one_that_parses(arguments: list[str]) -> None:
    group: Any = typer.main.get_command(cli.app)
    while arguments[0] in getattr(group, "commands", {}):
        group, arguments = group.commands[arguments[0]], arguments[1:]
    assert group.make_context("metaeol", list(arguments)).params


def test_the_bundles_variables_are_those_of_the_page() -> None:
    page = ROOT / "docs/platforms/databricks.md"
    table = page.read_text(encoding="utf-8").partition("| variable |")[2].partition("```")[0]
    variables = joined()["variables"]
    assert set(variables) <= set(re.findall(r"`([a-z_]+)`", table))
    given = [word.partition("=")[0] for call in commands(page, "databricks") for flag, word in itertools.pairwise(call) if flag == "--var"]
    assert set(given) <= set(variables)
    deployed = {call[call.index("--target") + 1] for call in commands(page, "databricks") if "--target" in call}
    assert deployed == set(joined()["targets"])


def test_the_page_runs_a_notebook_with_widgets_that_it_has() -> None:
    (call,) = [c for c in commands(ROOT / "docs/platforms/databricks.md", "python") if "tests.notebooks.runner" in c]
    notebook, given = call[2], dict(word.split("=") for word in call[3:])
    source = "\n".join(cell.source for cell in read_cells(ROOT / notebook))
    declared = set(re.findall(r'dbutils\.widgets\.(?:text|dropdown)\("(\w+)"', source))
    assert set(given) <= declared


def test_the_manifest_and_the_page_on_spark_submit_name_one_image() -> None:
    manifest = (ROOT / "examples/kubernetes/sparkapplication.yaml").read_text(encoding="utf-8")
    (application,) = [each for each in yaml.safe_load_all(manifest) if each["kind"] == "SparkApplication"]
    images = {options(a)[0]["spark.kubernetes.container.image"] for a in submits() if "k8s" in " ".join(a)}
    assert images == {application["spec"]["image"]}

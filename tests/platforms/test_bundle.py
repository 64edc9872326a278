"""The Databricks asset bundle, as far as it can be checked without a workspace."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from metaeol_udf import cli
from metaeol_udf.config import JobConfig, load_config
from metaeol_udf.spark.cluster.cluster_settings import ClusterSettings
from metaeol_udf.spark.cluster.rules import broken_rules
from tests.notebooks.runner import read_cells
from tests.platforms.bundle import ROOT, references, resolved, variables

BUNDLE = yaml.safe_load((ROOT / "databricks.yml").read_text(encoding="utf-8"))
TARGETS = sorted(BUNDLE["targets"])


def job(target: str) -> dict[str, Any]:
    found: dict[str, Any] = resolved(target)["resources"]["jobs"]["metaeol_embed"]
    return found


def task(target: str, key: str) -> dict[str, Any]:
    return next(each for each in job(target)["tasks"] if each["task_key"] == key)


def spark_conf() -> dict[str, str]:
    conf: dict[str, str] = job("prod")["job_clusters"][0]["new_cluster"]["spark_conf"]
    return conf


def parsed(target: str, key: str) -> tuple[str, JobConfig]:
    """The command of a task and the configuration it reads, both as our command line understands them."""
    arguments = [each for each in task(target, key)["python_wheel_task"]["parameters"] if each != "--verbose"]
    name, *rest = arguments
    group: Any = typer.main.get_command(cli.app)
    given = group.commands[name].make_context(name, list(rest)).params
    return name, load_config(given["conf"], given["overrides"])


def test_every_variable_is_defined_and_every_one_is_used() -> None:
    used = {name.removeprefix("var.") for name in references() if name.startswith("var.")}
    assert used == set(BUNDLE["variables"])
    others = {name for name in references() if not name.startswith("var.")}
    assert others <= {"bundle.name", "bundle.target", "workspace.file_path"}
    assert all(set(settings.get("variables", {})) <= used for settings in BUNDLE["targets"].values())
    assert all(variable["description"] for variable in BUNDLE["variables"].values())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("key", ["doctor", "embed"])
def test_the_parameters_of_a_task_are_a_command_with_a_valid_configuration(target: str, key: str) -> None:
    name, config = parsed(target, key)
    names = variables(target)
    assert name == key
    assert config.source.table == f"{names['catalog']}.{names['schema']}.{names['table']}"
    assert config.source.key == ("id",)
    assert config.embedding.model == names["model"]
    assert config.runtime.device == "cuda"
    assert config.quality.gate


def test_the_doctor_and_the_job_look_at_the_same_configuration() -> None:
    (_, looked_at), (_, run) = parsed("prod", "doctor"), parsed("prod", "embed")
    assert (looked_at.source, looked_at.embedding, looked_at.quality) == (run.source, run.embedding, run.quality)
    assert task("prod", "embed")["depends_on"] == [{"task_key": "doctor"}]
    assert "max_retries" not in task("prod", "doctor")


def test_several_key_columns_can_be_given_as_one_variable() -> None:
    config = load_config(ROOT / "conf/platforms/databricks.yaml", ["source.key=[id, lang]"])
    assert config.source.key == ("id", "lang")


def test_the_entry_point_of_the_tasks_is_one_of_the_wheel() -> None:
    for each in job("prod")["tasks"]:
        wheel = each["python_wheel_task"]
        distribution = importlib.metadata.distribution(wheel["package_name"])
        (entry,) = [point for point in distribution.entry_points if point.name == wheel["entry_point"]]
        assert entry.load() is cli.main


def test_the_entry_point_returns_where_all_is_well_and_leaves_with_the_status_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["metaeol", "--version"])
    cli.main()  # Databricks takes any SystemExit for a failure
    monkeypatch.setattr("sys.argv", ["metaeol", "embed", "nowhere.yaml"])
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    assert leaving.value.code == 2


def test_the_spark_settings_are_what_the_doctor_asks_for() -> None:
    conf = spark_conf()
    assert broken_rules(ClusterSettings(settings={**conf, "spark.master": "spark://driver:7077"}, device="cuda")) == []
    assert all(isinstance(value, str) for value in conf.values())
    without_gpus = {name: value for name, value in conf.items() if "gpu" not in name}
    assert broken_rules(ClusterSettings(settings={**without_gpus, "spark.master": "spark://driver:7077"}, device="cuda")) != []


def test_the_notebook_names_the_same_runtime_and_spark_settings() -> None:
    cells = read_cells(ROOT / "notebooks/nightly_job.py")
    words = "\n".join(cell.source for cell in cells if cell.kind == "md")
    shown = dict(line.split() for line in re.findall(r"^spark\.\S+ \S+$", words, flags=re.MULTILINE))
    assert shown == spark_conf()
    assert job("prod")["job_clusters"][0]["new_cluster"]["spark_version"] in words


def test_every_file_that_the_bundle_names_exists_or_is_built() -> None:
    assert list(ROOT.glob("resources/*.yml"))
    for each in job("prod")["tasks"]:
        (library,) = each["libraries"]
        assert library == {"whl": "../dist/*.whl"}
        (conf,) = [word for word in each["python_wheel_task"]["parameters"] if word.endswith(".yaml")]
        assert Path(conf).is_file()
    assert "--wheel-dir dist" in BUNDLE["artifacts"]["wheel"]["build"]
    left_out = tuple(pattern.removesuffix("/**") for pattern in BUNDLE["sync"]["exclude"])
    assert all((ROOT / folder).is_dir() for folder in left_out)
    assert "conf" not in left_out


def test_only_production_runs_on_its_own_and_failures_are_heard_of() -> None:
    assert {target: variables(target)["pause_status"] for target in TARGETS} == {"dev": "PAUSED", "prod": "UNPAUSED"}
    assert BUNDLE["targets"]["dev"]["mode"] == "development"
    assert BUNDLE["targets"]["prod"]["mode"] == "production"
    assert job("prod")["email_notifications"]["on_failure"] == [variables("prod")["notify"]]
    assert job("prod")["max_concurrent_runs"] == 1


@pytest.mark.parametrize("path", sorted((ROOT / "conf/platforms").glob("*.yaml")), ids=lambda path: path.name)
def test_every_platform_configuration_can_be_read(path: Path) -> None:
    config = load_config(path)
    assert config.runtime.device == "cuda"
    conf = dict(config.spark.conf) or spark_conf()
    assert broken_rules(ClusterSettings(settings={**conf, "spark.master": "yarn"}, device="cuda")) == []

"""The example DAGs in a real Airflow, which lives in an environment of its own.

METAEOL_AIRFLOW_PYTHON names its interpreter: one into which `pip install --no-deps -r requirements/airflow.txt` went.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from metaeol_udf.config import load_config
from metaeol_udf.spark.cluster.cluster_settings import ClusterSettings
from metaeol_udf.spark.cluster.rules import broken_rules
from tests.platforms.bundle import ROOT, resolved

DAGS = ROOT / "examples/airflow"


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process of Airflow's interpreter found."""
    python = os.environ.get("METAEOL_AIRFLOW_PYTHON")
    if not python:
        pytest.skip("METAEOL_AIRFLOW_PYTHON names no interpreter with Airflow: `make test-integrations` makes one")
    import pyspark

    folder = tmp_path_factory.mktemp("airflow")
    application = folder / "ending.py"
    application.write_text("import sys\n\nstatus = int(sys.argv[1])\nif status:\n    sys.exit(status)\n")
    spark = Path(pyspark.__file__).parent
    settings = {
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW_CONN_SPARK_DEFAULT": json.dumps({"conn_type": "spark", "host": "local[1]"}),
        "SPARK_HOME": str(spark),
        "PYSPARK_PYTHON": sys.executable,
        "PATH": os.pathsep.join([str(spark / "bin"), os.environ["PATH"]]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [python, str(Path(__file__).with_name("airflow_probe.py")), str(DAGS), str(application)]
    ended = subprocess.run(command, cwd=folder, env={**os.environ, **settings}, text=True, capture_output=True, timeout=900, check=False)
    assert ended.returncode == 0, ended.stderr[-4000:]
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def test_airflow_parses_and_serializes_every_dag(probed: dict[str, Any]) -> None:
    assert probed["import_errors"] == {}
    assert set(probed["dags"]) == {"metaeol_spark_submit", "metaeol_databricks"}
    assert {dag["dag"]["timetable"]["__var"]["expression"] for dag in probed["dags"].values()} == {"0 2 * * *"}
    assert all(dag["dag"]["max_active_runs"] == 1 and not dag["dag"].get("catchup", False) for dag in probed["dags"].values())


def test_every_task_is_a_plain_operator_with_retries_by_exit_status(probed: dict[str, Any]) -> None:
    tasks = {name: task for dag in probed["tasks"].values() for name, task in dag.items()}
    assert {name: task["operator"] for name, task in tasks.items()} == {
        "embed": "SparkSubmitOperator",
        "run_bundle_job": "DatabricksRunNowOperator",
        "submit_run": "DatabricksSubmitRunOperator",
    }
    assert {(task["retries"], task["policy"]) for task in tasks.values()} == {(2, "ByExitStatus")}


def test_exit_statuses_of_real_spark_submits_stand_in_the_operators_message(probed: dict[str, Any]) -> None:
    runs = probed["runs"]
    assert runs["0"] is None
    for status in ("3", "4", "143"):
        assert f"Error code is: {status}." in runs[status]


def test_what_no_retry_cures_fails_and_everything_else_is_tried_again(probed: dict[str, Any]) -> None:
    assert probed["decided"] == {
        "1": ["default", None],
        "2": ["fail", None],
        "3": ["fail", None],
        "4": ["default", None],
        "5": ["default", None],
        "6": ["fail", None],
        "143": ["retry", 0.0],
    }
    assert probed["decided_databricks"] == ["fail", None]
    assert probed["decided_unknown"] == ["default", None]


def test_the_submitted_job_has_valid_settings(probed: dict[str, Any]) -> None:
    task = probed["tasks"]["metaeol_spark_submit"]["embed"]
    conf = task["conf"]
    assert broken_rules(ClusterSettings(settings={**conf, "spark.master": "yarn"}, device="cuda")) == []
    path, *overrides = task["arguments"]
    config = load_config(ROOT / Path(path).relative_to("/opt/metaeol"), overrides)
    assert config.runtime.report is not None


def test_the_databricks_run_is_the_bundles_job(probed: dict[str, Any]) -> None:
    job = resolved("prod")["resources"]["jobs"]["metaeol_embed"]
    (task,) = probed["tasks"]["metaeol_databricks"]["submit_run"]["json"]["tasks"]
    assert task["new_cluster"] == job["job_clusters"][0]["new_cluster"]
    wheel = job["tasks"][1]["python_wheel_task"]
    assert {key: task["python_wheel_task"][key] for key in ("package_name", "entry_point")} == {
        key: wheel[key] for key in ("package_name", "entry_point")
    }
    _, command, _, *overrides = task["python_wheel_task"]["parameters"]
    config = load_config(ROOT / "conf/platforms/databricks.yaml", overrides)
    assert command == "embed"
    assert config.source.table == "main.default.reviews"

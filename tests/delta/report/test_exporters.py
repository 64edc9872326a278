"""A run's figures in a Prometheus textfile and an MLflow run, read back with the libraries' own readers."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

import pytest

from metaeol_udf.config import JobConfig, RuntimeConfig, parse_config
from metaeol_udf.delta.base.run_report import Report
from metaeol_udf.delta.report import exporters
from metaeol_udf.errors import BudgetError, ConfigError
from tests.table_bench import Before, Bench


@pytest.mark.slow
def test_every_wave_is_one_log_line(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.write([(n, f"text number {n}") for n in range(12)])
    with caplog.at_level(logging.INFO, logger="metaeol_udf"):
        report = bench.run(runtime={"wave_rows": 4})
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("monitor")]
    assert len(lines) == report["waves"] == 3
    assert lines[-1].startswith("wave 3 of 3: ")
    assert sum(int(line.split(": ")[1].split(" texts")[0]) for line in lines) == 12
    assert "text number" not in caplog.text


@pytest.mark.slow
def test_the_textfile_holds_the_figures_of_the_last_run(bench: Bench) -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    bench.write([(1, "one"), (2, "two"), (3, None)])
    path = bench.folder / "metrics" / "metaeol.prom"
    settings = {"prometheus": str(path), "max_failed_fraction": 0.1}
    with pytest.raises(BudgetError):
        bench.run(runtime=settings)

    def samples() -> dict[tuple[str, str], float]:
        families = parser.text_string_to_metric_families(path.read_text())
        found = [sample for family in families for sample in family.samples]
        assert {(s.labels["table"], s.labels["column"]) for s in found} == {(bench.path, "embedding")}
        return {(s.name, next(iter(set(s.labels.values()) - {bench.path, "embedding"}), "")): s.value for s in found}

    found = samples()
    assert (found["metaeol_rows", "embedded"], found["metaeol_rows", "failed"], found["metaeol_rows", "selected"]) == (2, 1, 3)
    assert found["metaeol_failures", "null_text"] == 1
    assert found["metaeol_unique_texts", ""] == 2
    assert found["metaeol_last_run_success", ""] == 0
    assert found["metaeol_last_run_timestamp_seconds", ""] > 1.7e9
    bench.run(runtime=settings)
    found = samples()
    assert (found["metaeol_rows", "skipped"], found["metaeol_last_run_success", ""]) == (3, 1)


@pytest.mark.slow
def test_an_mlflow_run_holds_settings_figures_and_the_report(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # the full package would keep its runs in a database instead
    mlflow.set_tracking_uri((bench.folder / "mlruns").as_uri())
    bench.write([(1, "one"), (2, None)])
    report = bench.run(runtime={"mlflow": "nightly embeddings"})
    bench.run(runtime={"mlflow": "nightly embeddings"})
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("nightly embeddings")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert len(runs) == 2
    run = runs[report["run_id"]]
    assert run.info.status == "FINISHED"
    assert run.data.params["model"] == bench.spec.model
    assert run.data.params["layer"] == "-1"
    assert (run.data.metrics["rows_embedded"], run.data.metrics["failures.null_text"]) == (1, 1)
    assert run.data.metrics["seconds.embed"] > 0
    assert (run.data.tags["metaeol.status"], run.data.tags["metaeol.fingerprint"]) == ("done", report["fingerprint"])
    assert mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/report.json") == report


@pytest.mark.parametrize(
    ("status", "expected"), [("nothing_to_do", "FINISHED"), ("failed", "FAILED"), ("over_budget", "FAILED"), ("terminated", "KILLED")]
)
def test_mlflow_shows_what_became_of_a_run_and_leaves_an_open_one_open(
    status: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    config = _mlflow_config()
    with mlflow.start_run() as own:
        exporters.publish_metrics(Report("run 1", "spec", status=status), config, None)
        assert mlflow.active_run().info.run_id == own.info.run_id
    experiment = mlflow.get_experiment_by_name("nights")
    (run,) = mlflow.MlflowClient().search_runs([experiment.experiment_id])
    assert (run.info.status, run.data.tags["metaeol.status"]) == (expected, status)


def test_an_mlflow_run_that_lacks_figures_is_failed_and_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())

    def lose(*_: object) -> None:
        raise ConnectionError("the server went away")

    monkeypatch.setattr(mlflow, "log_dict", lose)
    exporters.publish_metrics(Report("run 1", "spec", status="done"), _mlflow_config(), None)
    experiment = mlflow.get_experiment_by_name("nights")
    (run,) = mlflow.MlflowClient().search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"
    assert "runtime.mlflow: the run's figures could not be written (ConnectionError)" in caplog.text


def _mlflow_config() -> JobConfig:
    source = {"table": "a", "key": "id", "text": "t"}
    return parse_config({"source": source, "target": {"table": "b"}, "embedding": {"model": "m"}, "runtime": {"mlflow": "nights"}})


def test_figures_within_figures_have_names_with_dots() -> None:
    report = Report(
        "run", "spec", failures={"error: X": 2}, quality={"verdict": "passed", "agreement": 0.5, "old": {"dim": 8, "score": None}}
    )
    found = exporters._figures(report.as_dict())
    assert (found["failures.error X"], found["quality.agreement"], found["quality.old.dim"]) == (2, 0.5, 8)
    assert not {"quality.verdict", "quality.old.score", "run_id"} & found.keys()


def test_a_missing_package_is_found_before_the_job_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    exporters.check_installed(RuntimeConfig())
    with pytest.raises(ConfigError, match=r"runtime\.mlflow needs a package .* pip install 'metaeol-udf\[mlflow\]'"):
        exporters.check_installed(RuntimeConfig(mlflow=True))
    with pytest.raises(ConfigError, match=r"pip install 'metaeol-udf\[prometheus\]'"):
        exporters.check_installed(RuntimeConfig(prometheus="x.prom"))


@pytest.mark.parametrize("path", ["metrics.txt", "metrics"])
def test_a_file_that_the_collector_would_not_read_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match=r"runtime\.prometheus must be a path that ends in \.prom"):
        RuntimeConfig(prometheus=path)


@pytest.mark.slow
def test_a_monitor_that_cannot_be_reached_is_a_warning_and_the_job_is_done(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("prometheus_client")
    bench.write([(1, "one")])
    folder = tmp_path / "x.prom"
    assert bench.run(runtime={"prometheus": str(folder)}, between=Before("report", folder.mkdir))["status"] == "done"
    assert "runtime.prometheus: the run's figures could not be written (Is a directory)" in caplog.text

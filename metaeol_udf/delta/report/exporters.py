"""A report's figures for those who watch many jobs: a Prometheus textfile and an MLflow run, through their own libraries.

Both are optional packages. A job whose vectors are published has done its work, so a monitoring system that cannot be
reached is a warning in the log, not a failed job; a package that is missing is found before the job begins.
"""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Mapping
from typing import Any

from metaeol_udf.config import JobConfig, RuntimeConfig
from metaeol_udf.delta.base.run_report import Report
from metaeol_udf.errors import ConfigError
from metaeol_udf.formatting import flatten
from metaeol_udf.spec import EmbeddingSpec

logger = logging.getLogger(__name__)

_HELP = {
    "rows": "Rows of the last run, by what became of them",
    "failures": "Rows of the last run without an embedding, by reason",
    "seconds": "Seconds of the last run, by phase",
    "quality": "Figures of the quality gate, old and new vectors, where the last run was a migration that it looked at",
    "run_time": "When the last run ended, in seconds since 1970",
    "success": "Whether the last run did all that it was asked to: 1 or 0",
}

#: Statuses of a run that did all that it was asked to.
_SUCCESSFUL = ("done", "nothing_to_do")


def check_installed(runtime: RuntimeConfig) -> None:
    """See that the packages which the settings need are there.

    Raises:
        ConfigError: One is not; the message says how to install it.
    """
    needed = (("mlflow", bool(runtime.mlflow), "mlflow"), ("prometheus", runtime.prometheus is not None, "prometheus_client"))
    for extra, is_asked, module in needed:
        if is_asked and importlib.util.find_spec(module) is None:
            raise ConfigError(f"runtime.{extra} needs a package that is not installed: pip install 'metaeol-udf[{extra}]'")


def publish_metrics(report: Report, config: JobConfig, spec: EmbeddingSpec | None) -> None:
    """Give a run's figures to whatever the settings name.

    Args:
        report: Of the run, which ended.
        config: The run's settings.
        spec: The spec; None: the run was refused before there was one.
    """
    for setting, publish in (("prometheus", _write_textfile), ("mlflow", _log_to_mlflow)):
        if getattr(config.runtime, setting):
            try:
                publish(report, config, spec)
            except Exception as error:  # noqa: BLE001 - each library has errors of its own, and the vectors are published
                reason = error.strerror if isinstance(error, OSError) else None  # other messages may quote an address with its password
                logger.warning("runtime.%s: the run's figures could not be written (%s)", setting, reason or type(error).__name__)


def _write_textfile(report: Report, config: JobConfig, spec: EmbeddingSpec | None) -> None:
    from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

    registry = CollectorRegistry()
    job = {"table": config.target_table, "column": config.column}

    def gauge(name: str, words: str, values: dict[str, float], label: str | None = None) -> None:
        family = Gauge(f"metaeol_{name}", words, [*job, *([label] if label else [])], registry=registry)
        for key, value in values.items():
            family.labels(**job, **({label: key} if label else {})).set(value)

    outcomes = ("selected", "embedded", "failed", "skipped", "without_vector", "trimmed")
    gauge("rows", _HELP["rows"], {name: getattr(report, f"rows_{name}") for name in outcomes}, "outcome")
    gauge("failures", _HELP["failures"], dict(report.failures), "reason")
    gauge("phase_seconds", _HELP["seconds"], {k: v for k, v in report.seconds.items() if k != "total"}, "phase")
    gauge("quality", _HELP["quality"], _figures(report.quality or {}), "figure")
    gauge("last_run_timestamp_seconds", _HELP["run_time"], {"": time.time()})
    gauge("last_run_success", _HELP["success"], {"": float(report.status in _SUCCESSFUL)})
    for name in ("unique_texts", "tokens_computed", "tokens_saved", "model_loads", "waves", "texts_per_second"):
        gauge(name, f"{name.replace('_', ' ').capitalize()} of the last run", {"": getattr(report, name)})
    if report.device_busy is not None:
        gauge("device_busy", "Share of the time from first to last batch in which devices ran batches", {"": report.device_busy})
    gauge("seconds", "Seconds of the last run in all", {"": report.seconds.get("total", 0.0)})
    write_to_textfile(str(config.runtime.prometheus), registry)  # by a rename: no half file is read


def _log_to_mlflow(report: Report, config: JobConfig, spec: EmbeddingSpec | None) -> None:
    import mlflow

    tags = {"status": report.status, "fingerprint": report.fingerprint, "table": config.target_table, "column": config.column}
    is_nested = mlflow.active_run() is not None  # a notebook may have a run of its own open
    mlflow.start_run(experiment_id=_experiment_id(config.runtime.mlflow), run_name=report.run_id, nested=is_nested)
    try:
        mlflow.set_tags({f"metaeol.{name}": value for name, value in tags.items()})
        mlflow.log_params({} if spec is None else spec.settings())
        mlflow.log_metrics(_figures(report.as_dict()))
        mlflow.log_dict(report.as_dict(), "report.json")
    except BaseException:
        mlflow.end_run("FAILED")  # not all figures are there
        raise
    mlflow.end_run(_mlflow_status(report))


def _mlflow_status(report: Report) -> str:
    """Name the status that MLflow shows for the run."""
    if report.status == "terminated":
        return "KILLED"
    return "FINISHED" if report.status in _SUCCESSFUL else "FAILED"


def _experiment_id(setting: bool | str | None) -> str | None:
    """The experiment of that name, made if it is not there; None, for MLflow's current one, where the setting is `true`."""
    import mlflow

    if not isinstance(setting, str):
        return None
    found = mlflow.get_experiment_by_name(setting)
    return str(mlflow.create_experiment(setting) if found is None else found.experiment_id)


def _figures(values: Mapping[str, Any]) -> dict[str, float]:
    """Pick the numbers out of nested mappings, under names that MLflow and Prometheus accept."""
    return {name.replace(":", ""): value for name, value in flatten(values) if isinstance(value, (int, float))}

"""All checks in order."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from metaeol_udf.config import GivenConfig, JobConfig, as_config, load_configs
from metaeol_udf.doctor import executors, machine, model, resources, settings, tables
from metaeol_udf.doctor.plan import Plan
from metaeol_udf.errors import MetaEOLError
from metaeol_udf.spark.cluster.finding import Finding, Level, ok, refused, warning, wrong_setting
from metaeol_udf.spark.cluster.session import get_session


def diagnose(path: str | Path, overrides: Iterable[str] = (), *, all_keys: bool = False) -> Iterator[Finding]:
    """`examine` for a configuration that may itself be wrong, which then is the one finding."""
    try:
        configs = load_configs(path, overrides)
    except MetaEOLError as error:
        yield refused("configuration", error, f"{path}, or a key=value after it")
        return
    yield ok("configuration", f"{path} can be read")
    said = set()
    for config in configs:
        for finding in examine(config, all_keys=all_keys):
            if finding not in said:  # of several columns, what is true of all is said once
                yield finding
            said.add(finding)


def examine(config: GivenConfig, spark: SparkSession | None = None, *, all_keys: bool = False) -> Iterator[Finding]:
    """Examine everything that a run needs, and change nothing: no table, file or setting is written.

    Args:
        config: The job, its path, or nested mappings.
        spark: The session; None takes the active one or starts one, and where none starts, that is a finding.
        all_keys: Whether to look for NULL and repeated keys in all rows, as the job does, rather than in the first 100,000.

    Yields:
        Findings, as they are made. A check that goes wrong by itself is a finding too.
    """
    config = as_config(config)
    java = machine.check_java_version()
    yield java
    yield machine.check_versions()
    running = spark
    if running is None and java.level is not Level.PROBLEM:
        try:
            running = get_session(config.spark)
        except MetaEOLError as error:
            yield refused("session", error, "spark.master and spark.conf")
    started, fixed = executors.session_settings(running, config) if running is not None else ({}, frozenset())
    yield settings.check_ignored(config.spark.conf, started, fixed)
    plan = make_plan(config, started, running)
    yield machine.check_worker_python(plan.is_local)
    for check in (*resources.CHECKS, *settings.CHECKS, model.check_dtype):
        yield from _guarded(check, plan)
    yield model.check_templates(config.embedding)
    yield from model.check_model(plan)
    for setting in ("report", "report_page", "prometheus"):
        file = getattr(config.runtime, setting)
        if file is not None:
            yield tables.check_file(Path(file).resolve(), f"runtime.{setting}")
    if running is None:
        yield warning("tables", "no Spark, so the tables were not looked at", "fix the java or session finding first")
        return
    yield executors.check_workers(running, plan)
    try:
        yield from tables.check_tables(running, plan, all_keys)
    except Exception as error:  # noqa: BLE001 - Delta's own refusals come as bare Java exceptions
        found = f"a table cannot be read: {_condition(error)}"
        yield wrong_setting("tables", found, "source.table or target.table=<a table that the installed Delta reads>")


def exit_code(findings: Sequence[Finding]) -> int:
    """Exit status for findings: 0 without a problem, else 5 if the environment is at fault, else 2."""
    return max((finding.exit_code for finding in findings), default=0)


def make_plan(config: JobConfig, started: Mapping[str, str], spark: SparkSession | None = None) -> Plan:
    """Make the plan of a run, from the settings of a session that runs already, where one does; the session finds the model, too."""
    asked = dict(config.spark.conf)
    if config.spark.master is not None:
        asked["spark.master"] = config.spark.master
    folder = model.find_model(config.embedding, spark)
    weights = folder.glob("*.safetensors") if isinstance(folder, Path) else ()
    return Plan(
        config=config,
        settings={**started, **asked},
        model=folder,
        device=config.runtime.device,
        task_gpus=config.runtime.task_gpus,
        weight_bytes=sum(file.stat().st_size for file in weights) or None,
        has_gpu=executors.sees_gpu(),
    )


def _guarded(check: Callable[[Plan], Finding], plan: Plan) -> Iterator[Finding]:
    """A check whose setting cannot even be read says so."""
    try:
        yield check(plan)
    except MetaEOLError as error:
        yield refused(check.__name__.removeprefix("check_").replace("_", " "), error, "spark.conf")


def _condition(error: Exception) -> str:
    """The name of an error's condition; never its message, which may quote the table."""
    condition: Any = error.getCondition() if isinstance(error, PySparkException) else None
    named = re.search(r"\b(DELTA_[A-Z_]+|[A-Z]+_[A-Z_]{6,})\b", str(error))
    return condition or (named.group(1) if named else type(error).__name__)

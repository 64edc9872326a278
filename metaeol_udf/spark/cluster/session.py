"""The Spark session that a job runs in."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.logger import PySparkLogger
from pyspark.sql import SparkSession

from metaeol_udf.config import SparkConfig
from metaeol_udf.errors import EnvironmentFault
from metaeol_udf.spark.cluster.cluster_settings import ClusterSettings
from metaeol_udf.spark.cluster.connect import has_delta, is_connect, parallelism, remote_of, require_jvm, require_no_remote, start_remote
from metaeol_udf.spark.cluster.startup import check_java, delta_package, quiet_start, resolved_delta_jars
from metaeol_udf.terminal import waiting

DELTA_SETTINGS = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
}


#: Spark's Python daemon with torch imported, by the name that users may also write into their own configuration.
DAEMON_MODULE = "metaeol_udf.spark.daemon"


def get_session(config: SparkConfig, given: SparkSession | None = None, *, connect: bool = False) -> SparkSession:
    """The session that a caller gave, else the active one, or a new one with Delta configured.

    Settings in `config.conf` win over every default of ours. A session that runs already is taken as it is: only settings
    that a session may change at run time are applied to it, the others cannot be.

    Args:
        config: The settings.
        given: The caller's session.
        connect: Whether a session of Spark Connect will do, too.

    Raises:
        EnvironmentFault: Java is missing or too old, Spark does not start, or the session has no Delta or is one of Spark Connect.
    """
    if given is not None:
        if is_connect(_checked(given, connect=connect)):
            _require_delta(given)
        return given
    active = SparkSession.getActiveSession()
    if active is not None:
        _require_delta(_checked(active, connect=connect))
        for key, value in config.conf.items():
            if active.conf.isModifiable(key):
                active.conf.set(key, value)
        return active
    remote = remote_of(config.conf, config.master) if connect else None
    if remote is not None:
        session = start_remote(remote[0], config.conf)
        _keep_quiet()
        _require_delta(session)
        return session
    require_no_remote(config.conf, config.master)
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ  # spark-submit has started the JVM already
    if not submitted:
        check_java()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # workers import what the driver imports
    session = _build(config, submitted)
    _keep_quiet()
    _require_delta(session)
    return session


def _keep_quiet() -> None:
    """Keep pyspark from writing failed queries to standard error as JSON: the exception says it, and a plan may quote a text."""
    for name in ("DataFrameQueryContextLogger", "SQLQueryContextLogger"):
        PySparkLogger.getLogger(name).setLevel(logging.CRITICAL + 1)


def _checked(session: SparkSession, *, connect: bool) -> SparkSession:
    if not connect:
        require_jvm(session)
    return session


def _build(config: SparkConfig, submitted: bool) -> SparkSession:
    builder = SparkSession.builder.appName("metaeol")
    master = config.master or config.conf.get("spark.master") or (None if submitted else "local[*]")
    if master is not None:
        builder = builder.master(master)
    settings = {**_defaults(master, submitted), **_with_delta(config.conf)}
    if not submitted:
        settings = _with_jars(settings)
    for key, value in settings.items():
        builder = builder.config(key, value)
    with waiting("starting Spark"), quiet_start() as held:
        try:
            return builder.getOrCreate()
        except Exception as error:  # py4j, pyspark and the launcher each have their own class for this
            words = " | ".join([line.strip() for line in held if "WARN" not in line and line.strip()][-5:])
            reason = f"Spark does not start: {root_cause(error)}"
            raise EnvironmentFault(f"{reason}; its last words: {words}" if words else reason) from error


def root_cause(error: Exception) -> str:
    """Find the line of a failure that names its origin: of an error from Java the last cause, else the first line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    causes = [line.removeprefix("Caused by: ").removeprefix(": ") for line in lines if line.startswith(("Caused by: ", ": "))]
    return [lines[0], *causes][-1]


def _defaults(master: str | None, submitted: bool) -> dict[str, str]:
    """Settings of ours, each with its reason; a user's `spark.conf` wins over them."""
    settings = {"spark.speculation": "false"}  # a speculative copy of a task would embed its texts twice
    if submitted or master is None or not master.startswith("local"):
        return settings
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")  # the JVM warns on machines whose name maps to a loopback address
    cores = str(max(2, os.cpu_count() or 2))
    # Executors of a local-cluster may have packages of their own; macOS does not fork a process that has loaded its libraries.
    if sys.platform == "linux" and not master.startswith("local-cluster"):
        settings["spark.python.daemon.module"] = DAEMON_MODULE  # workers find torch imported
    return settings | {
        "spark.driver.bindAddress": "127.0.0.1",  # nobody else has business with a local driver
        "spark.driver.host": "127.0.0.1",
        "spark.io.encryption.enabled": "true",  # what Spark spills and shuffles holds texts, and others may read the folder
        "spark.driver.memory": "2g",  # a local driver is the executor too
        "spark.ui.enabled": "false",  # no port, quicker start
        "spark.ui.showConsoleProgress": "false",  # the job draws its own bar
        "spark.log.level": "FATAL",  # errors come back as exceptions; the log would repeat them with stack traces
        "spark.sql.shuffle.partitions": cores,  # not 200
        "spark.databricks.delta.snapshotPartitions": "2",  # not 50 tasks for each read of a small log
    }


def _with_delta(conf: Mapping[str, str]) -> dict[str, str]:
    """The user's settings, with Delta's extension added to other extensions rather than lost to them."""
    settings = {**DELTA_SETTINGS, **conf}
    extensions = settings["spark.sql.extensions"]
    if DELTA_SETTINGS["spark.sql.extensions"] not in extensions:
        settings["spark.sql.extensions"] = f"{extensions},{DELTA_SETTINGS['spark.sql.extensions']}"
    return settings


def _with_jars(settings: dict[str, str]) -> dict[str, str]:
    """Add the Delta JARs, from files where an earlier start left them, else through Ivy."""
    if any("delta-spark" in settings.get(key, "") for key in ("spark.jars.packages", "spark.jars")):
        return settings
    jars = resolved_delta_jars()
    key, added = ("spark.jars", jars) if jars else ("spark.jars.packages", [delta_package()])
    return settings | {key: ",".join(filter(None, [settings.get(key), *added]))}


def _require_delta(session: SparkSession) -> None:
    if is_connect(session):
        if not has_delta(session):
            settings = " and ".join(f"{key}={value}" for key, value in DELTA_SETTINGS.items())
            raise EnvironmentFault(f"the server of Spark Connect has no Delta; start it with --packages {delta_package()}, {settings}")
        return
    missing = [f"{key}={value}" for key, value in DELTA_SETTINGS.items() if value not in (session.conf.get(key, "") or "")]
    if missing and not os.environ.get("DATABRICKS_RUNTIME_VERSION"):
        raise EnvironmentFault(
            f"the running Spark session has no Delta; start it with {' and '.join(missing)} "
            f"(and the JARs, for example --packages {delta_package()})"
        )
    jvm: Any = session._jvm
    try:  # Databricks has its own extension, but this class, too
        jvm.java.lang.Thread.currentThread().getContextClassLoader().loadClass("io.delta.tables.DeltaTable")
    except Py4JJavaError:
        raise EnvironmentFault(f"the running Spark session lacks Delta's JARs; start it with --packages {delta_package()}") from None


def clone_session(spark: SparkSession) -> SparkSession:
    """Make a session with the same settings, views and catalog, whose settings may be changed without a change to the given one.

    A session of Spark Connect is taken as it is: what a client brought for the job, such as a model, is the session's own.
    """
    if is_connect(spark):
        return spark
    session: Any = spark
    return SparkSession(spark.sparkContext, session._jsparkSession.cloneSession())


def executor_count(spark: SparkSession) -> int:
    """Executors of the session; in local mode the driver is the one. Spark Connect does not count them: there the settings say how many."""
    if is_connect(spark):
        settings = settings_of(spark)
        return 1 if ClusterSettings(settings=settings).is_local else max(1, int(settings.get("spark.executor.instances", 2)))
    context: Any = spark.sparkContext._jsc
    return max(1, len(context.sc().statusTracker().getExecutorInfos()) - 1)


def slot_count(spark: SparkSession, task_gpus: int | None = None) -> int:
    """Count the slots of the session: tasks that it runs at a time, each with a Python worker. `task_gpus` None is the session's own."""
    settings = ClusterSettings(settings=settings_of(spark), task_gpus=task_gpus)
    n_cores = parallelism(spark) if is_connect(spark) else spark.sparkContext.defaultParallelism
    return settings.slots_of(n_cores, executor_count(spark))


def settings_of(spark: SparkSession) -> dict[str, str]:
    """List the settings that the application was started with; over Spark Connect, as far as the server shows them."""
    return dict(spark.conf.getAll) if is_connect(spark) else dict(spark.sparkContext.getConf().getAll())

"""What differs in a Spark Connect client: its process has no JVM."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pyspark.sql import SparkSession, is_remote

from metaeol_udf.errors import EnvironmentFault


def connect_session() -> SparkSession | None:
    """The active session if it is one of Spark Connect; None with a JVM in this process, and without a session."""
    return SparkSession.getActiveSession() if is_remote() else None


def require_jvm(session: SparkSession) -> None:
    """Require a session whose driver is this process, or raise EnvironmentFault: Delta tables need its transactions and file systems."""
    if type(session).__module__.startswith("pyspark.sql.connect"):
        raise _no_jvm("the session is one of Spark Connect")


def require_no_remote(conf: Mapping[str, str], master: str | None = None) -> None:
    """Require that a session which is about to start is no remote one of Spark Connect, or raise EnvironmentFault."""
    named = master or conf.get("spark.master") or ""
    if named.lower().startswith("sc://"):  # its query may hold a token
        raise _no_jvm("spark.master asks for Spark Connect")
    if conf.get("spark.remote") or conf.get("spark.api.mode") == "connect":
        raise _no_jvm("spark.conf asks for Spark Connect")
    if os.environ.get("SPARK_REMOTE"):
        raise _no_jvm("the environment variable SPARK_REMOTE asks for Spark Connect")


def _no_jvm(found: str) -> EnvironmentFault:
    return EnvironmentFault(
        f"{found}, through which no command that works on Delta tables can run: run it where the driver is (spark-submit "
        "jobs/embed_table.py CONF, or a notebook of a Databricks cluster with dedicated access); over Spark Connect use with_embeddings, "
        "embed_udf, MetaEOLEmbedder or register_sql"
    )

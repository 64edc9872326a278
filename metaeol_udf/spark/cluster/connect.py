"""What differs in a client of Spark Connect: its process has no JVM, and its driver is the server."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from pyspark.sql import SparkSession, is_remote

from metaeol_udf.errors import EnvironmentFault

_PORT = 15002  # of a server of Spark Connect where an address names none
_ANSWER_S = 20.0


def connect_session() -> SparkSession | None:
    """The active session if it is one of Spark Connect; None with a JVM in this process, and without a session."""
    return SparkSession.getActiveSession() if is_remote() else None


def is_connect(session: SparkSession) -> bool:
    """Tell whether a session is one of Spark Connect."""
    return type(session).__module__.startswith("pyspark.sql.connect")


def require_jvm(session: SparkSession) -> None:
    """Require a session whose driver is this process, or raise EnvironmentFault: Delta tables need its transactions and file systems."""
    if is_connect(session):
        raise _no_jvm("the session is one of Spark Connect")


def require_no_remote(conf: Mapping[str, str], master: str | None = None) -> None:
    """Require that a session which is about to start is no remote one of Spark Connect, or raise EnvironmentFault."""
    if conf.get("spark.api.mode") == "connect" and not conf.get("spark.remote"):
        raise _no_jvm("spark.conf asks for Spark Connect")
    found = remote_of(conf, master)
    if found is not None:
        raise _no_jvm(found[1])


def remote_of(conf: Mapping[str, str], master: str | None = None) -> tuple[str, str] | None:
    """Find the address of the Connect server that settings ask for, which may hold a token, and words for who asks; None: for none."""
    named = master or conf.get("spark.master") or ""
    if named.lower().startswith("sc://"):
        return named, "spark.master asks for Spark Connect"
    if conf.get("spark.remote"):
        return conf["spark.remote"], "spark.conf asks for Spark Connect"
    if os.environ.get("SPARK_REMOTE"):
        return os.environ["SPARK_REMOTE"], "the environment variable SPARK_REMOTE asks for Spark Connect"
    return None


def start_remote(address: str, conf: Mapping[str, str]) -> SparkSession:
    """Start a session of Spark Connect; `conf` gives settings that a session may change.

    Raises:
        EnvironmentFault: The packages of a client are missing, or the server does not answer.
    """
    _require_answer(address)
    try:
        builder: Any = SparkSession.builder
        session: SparkSession = builder.remote(address).getOrCreate()
        for key, value in conf.items():
            if key not in ("spark.remote", "spark.master", "spark.api.mode") and session.conf.isModifiable(key):
                session.conf.set(key, value)
    except ImportError as error:
        raise EnvironmentFault(f"a client of Spark Connect needs metaeol-udf[connect]: {error}") from error
    except Exception as error:  # noqa: BLE001 - grpc and pyspark each have their own class for this
        secret = address.partition(";")[2]
        reason = str(error).strip().splitlines()[0]
        shown = reason.replace(secret, "…") if secret else reason
        raise EnvironmentFault(f"Spark Connect: no session at {without_secret(address)}: {shown}") from None
    return session


def _require_answer(address: str) -> None:
    """Require that somebody listens at a server's address: Spark's client would try for ten minutes. Behind a proxy nobody can tell."""
    if any(os.environ.get(name) or os.environ.get(name.upper()) for name in ("grpc_proxy", "https_proxy", "http_proxy")):
        return
    parts = urlsplit(without_secret(address))
    try:
        socket.create_connection((parts.hostname or "", parts.port or _PORT), timeout=_ANSWER_S).close()
    except (OSError, ValueError) as error:
        raise EnvironmentFault(f"Spark Connect: nobody answers at {without_secret(address)} ({error}): see that the server runs") from None


def without_secret(address: str) -> str:
    """Give a server's address as logs may show it: without its parameters, of which one may be a token."""
    return address.partition(";")[0]


def has_delta(session: SparkSession) -> bool:
    """Tell whether the server of a session of Spark Connect has Delta: Databricks always has."""
    databricks = session.conf.get("spark.databricks.clusterUsageTags.sparkVersion", None) or os.environ.get("DATABRICKS_RUNTIME_VERSION")
    return bool(databricks) or "DeltaSparkSessionExtension" in (session.conf.get("spark.sql.extensions", "") or "")


def parallelism(session: SparkSession) -> int:
    """Count the tasks that a server of Spark Connect runs at a time, by a small job: into so many partitions it cuts a range."""
    from pyspark.sql import functions as F

    return session.range(1 << 12).select(F.spark_partition_id()).distinct().count()


def _no_jvm(found: str) -> EnvironmentFault:
    return EnvironmentFault(
        f"{found}, through which embed and retry alone, of the commands that work on Delta tables, can run: run this where the driver is "
        "(spark-submit "
        "jobs/embed_table.py CONF, or a notebook of a Databricks cluster with dedicated access); over Spark Connect use with_embeddings, "
        "embed_udf, MetaEOLEmbedder or register_sql"
    )

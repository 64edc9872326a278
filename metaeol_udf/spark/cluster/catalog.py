"""Whether tables by name are there for the next process, too: without a metastore Spark keeps names in memory."""

from __future__ import annotations

import os
from collections.abc import Iterable

from pyspark.sql import SparkSession

from metaeol_udf.spark.cluster.finding import Finding, ok, warning

_KIND = "spark.sql.catalogImplementation"
_SESSION = "spark_catalog"


def check_catalog(spark: SparkSession, names: Iterable[str]) -> Finding:
    """See that the catalog keeps the names of tables when the session ends.

    Args:
        spark: The session.
        names: Names of tables, with dots between their parts; no paths.
    """
    check = "catalog"
    lost = sorted({name for name in names if in_memory(spark, name)})
    if not lost:
        return ok(check, "the names of tables outlive this process")
    found = (
        f"this session's catalog is in memory and ends with the process, and with it the name {' and '.join(lost)}: the next process finds "
        "no such table, and embeds every row again"
    )
    return warning(check, found, f"target.table=./{lost[0].rpartition('.')[2]}, which is a path, or {_KIND}=hive with a metastore")


def in_memory(spark: SparkSession, name: str) -> bool:
    """Tell whether a table's name is one in a catalog that lives in memory."""
    if os.environ.get("DATABRICKS_RUNTIME_VERSION") or spark.conf.get(_KIND, "in-memory") != "in-memory":
        return False
    parts = name.split(".")
    return (parts[0] if len(parts) == 3 else spark.catalog.currentCatalog()) == _SESSION

"""Whether two drivers may commit to one Delta table on S3, where Delta itself only keeps apart the writers of one driver.

A commit is a file whose name is the version. On other storages, making a file that is there already fails. On S3 Delta looks whether the
file is there and then writes it, so the commit of a driver that came between is lost, with its rows. No setting of Hadoop's file system
changes that: `fs.s3a.create.performance` does not, though Hadoop can ask S3 to keep what is there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from pyspark.sql import SparkSession

from metaeol_udf.spark.cluster.finding import Finding, ok, warning

_SINGLE_DRIVER = "S3SingleDriverLogStore"
_SCHEMES = ("s3", "s3a", "s3n")


def check_commits(location: str, setting: Callable[[str], str | None]) -> Finding:
    """See that the storage refuses the commit of a version that another driver has committed.

    Args:
        location: Of a table, as Spark names it.
        setting: Gives the value of a setting of Spark; None where it is not set.
    """
    check, scheme, bucket = "commits", *_parts(location)
    if scheme not in _SCHEMES:
        return ok(check, "the storage of the table is not S3: no commit takes the place of another")
    key = f"spark.delta.logStore.{scheme}.impl"
    for name in (key, "spark.delta.logStore.class"):
        store = setting(name)
        if store is not None and _SINGLE_DRIVER not in store:
            return ok(check, f"{name} is {store}, which is taken to keep drivers apart")
    found = f"the table is on {scheme}://{bucket}, where of two drivers that commit at once one loses its rows in silence"
    return warning(check, found, f"{key}=<a log store that keeps drivers apart>, or let one driver at a time write the table")


def check_session_commits(spark: SparkSession, location: str) -> Finding:
    """See the same of a session that runs; on Databricks the platform keeps drivers apart."""
    if os.environ.get("DATABRICKS_RUNTIME_VERSION"):
        return ok("commits", "Databricks keeps the commits of drivers apart")
    return check_commits(location, lambda key: spark.conf.get(key, None))


def _parts(location: str) -> tuple[str, str]:
    """Scheme and bucket of a location; neither where it has none."""
    found = re.match(r"([a-z0-9+.-]+)://(?:[^/@]*@)?([^/]*)", location, re.IGNORECASE)
    return (found[1].lower(), found[2]) if found else ("", "")

"""What stands on this machine: Java, the versions of Spark and Delta, the workers' Python, free disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from metaeol_udf.doctor.plan import Plan
from metaeol_udf.errors import EnvironmentFault
from metaeol_udf.spark.cluster.cluster_settings import GIB
from metaeol_udf.spark.cluster.finding import Finding, ok, refused, warning, wrong_environment
from metaeol_udf.spark.cluster.startup import check_java

#: The platform brings a Spark, a Delta and a catalog of its own.
ON_DATABRICKS = "DATABRICKS_RUNTIME_VERSION" in os.environ

#: Wheels whose JARs were never published, with the release to install in their place.
_WITHOUT_JARS = {"4.4.1": "4.4.0"}


def check_java_version() -> Finding:
    """Spark 4 starts on Java 17 and newer."""
    try:
        check_java()
    except EnvironmentFault as error:
        return refused("java", error, "JAVA_HOME=<folder of a JDK 17 or newer>")
    return ok("java", "Java is new enough for Spark 4")


def check_versions() -> Finding:
    """The delta-spark wheel names the pyspark releases it was built for; its JARs are fetched by its own version."""
    if ON_DATABRICKS:
        return ok("versions", "the Databricks runtime brings Spark and Delta")
    try:
        spark, delta = metadata.version("pyspark"), metadata.version("delta-spark")
    except metadata.PackageNotFoundError as error:
        return wrong_environment("versions", f"the package {error.name} is not installed", "pip install 'metaeol-udf[spark]'")
    instead = _WITHOUT_JARS.get(delta)
    if instead is not None:
        return wrong_environment("versions", f"the JARs of delta-spark {delta} were never published", f"pip install delta-spark=={instead}")
    wanted = [Requirement(line) for line in metadata.requires("delta-spark") or ()]
    rule = next((requirement.specifier for requirement in wanted if requirement.name == "pyspark"), None)
    if rule is not None and not rule.contains(spark, prereleases=True):
        return wrong_environment("versions", f"delta-spark {delta} needs pyspark{rule}, found {spark}", f"pip install 'pyspark{rule}'")
    return ok("versions", f"pyspark {spark} and delta-spark {delta} fit together")


def check_worker_python(is_local: bool) -> Finding:
    """See that the workers' Python is the driver's: values are pickled. Not `is_local`, it may be a path that only executors have."""
    python = os.environ.get("PYSPARK_PYTHON", sys.executable)
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    program = "import sys; print('%d.%d' % sys.version_info[:2])"
    way_out = f"PYSPARK_PYTHON={sys.executable}"
    try:
        shown = subprocess.run([python, "-c", program], capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        if not is_local:
            return ok("worker python", f"PYSPARK_PYTHON is {python}, which is for the executors to have: see workers")
        return wrong_environment("worker python", f"PYSPARK_PYTHON is {python}, which does not run here ({type(error).__name__})", way_out)
    if shown != here:
        return wrong_environment("worker python", f"PYSPARK_PYTHON is Python {shown}, the driver is Python {here}", way_out)
    return ok("worker python", f"driver and workers on this machine are Python {here}")


def check_disk(plan: Plan, target: Path | None, n_rows: int, dim: int, rewritten_bytes: int) -> Finding:
    """See that the disk has room for the journal and for what the MERGE writes, `rewritten_bytes` of them old files of the source.

    `target` is the nearest folder of the target that exists, None where it is not on this machine.
    """
    scratch = Path(plan.settings.get("spark.local.dir", "/tmp").split(",")[0])  # where Spark spills and keeps staged texts
    vectors = n_rows * dim * 4
    if target is not None:
        free, needed = shutil.disk_usage(target).free, 2 * vectors + rewritten_bytes
        if free < needed:
            needs = f"journal and vectors of {n_rows:,} rows need up to {needed / GIB:.1f} GiB"
            found = f"{free / GIB:.1f} GiB are free beside the target; {needs}"
            return wrong_environment("disk", found, "target.table=<a place with more room>")
    if scratch.is_dir() and shutil.disk_usage(scratch).free < GIB:
        return warning("disk", f"less than 1 GiB is free in {scratch}, where Spark spills", "spark.local.dir=<a folder with room>")
    return ok("disk", f"{vectors / GIB:.2f} GiB of vectors fit")

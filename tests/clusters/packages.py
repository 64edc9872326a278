"""The packages of the services, pinned: what the tests of this folder load beside `.venv`.

Every coordinate stands here and nowhere else. Maven's packages come through Spark's own resolver, as they come to a user, and stay where
Spark keeps them. `requirements/clusters.txt` pins what comes from PyPI.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pyspark

#: Hadoop's file system for S3, and all that it needs beside the Hadoop client of pyspark.
HADOOP_AWS = (
    "org.apache.hadoop:hadoop-aws:3.5.0",
    "software.amazon.awssdk:bundle:2.35.4",
    "software.amazon.s3.analyticsaccelerator:analyticsaccelerator-s3:1.3.1",
    "org.wildfly.openssl:wildfly-openssl:2.2.5.Final",
)
#: Hadoop's mini clusters, and what they need beside the Hadoop client of pyspark.
HADOOP_MINICLUSTER = (
    "org.apache.hadoop:hadoop-client-minicluster:3.5.0",
    "org.junit.jupiter:junit-jupiter-api:5.12.2",
    "org.junit.platform:junit-platform-commons:1.12.2",
    "org.opentest4j:opentest4j:1.3.0",
    "org.bouncycastle:bcpkix-jdk18on:1.82",
    "org.bouncycastle:bcprov-jdk18on:1.82",
    "org.bouncycastle:bcutil-jdk18on:1.82",
)
#: What pyspark's Hadoop client holds already.
IN_PYSPARK = "org.apache.hadoop:hadoop-common"
_PATIENCE_S = 900  # the bundle has 686 MB


class Unavailable(Exception):
    """A package cannot be had on this machine."""


def jars_of(packages: tuple[str, ...], folder: Path) -> list[Path]:
    """Find the JARs of packages, which Spark's resolver fetches where they are missing; `folder` is for its application.

    Raises:
        Unavailable: The resolver does not find them.
    """
    jars = _kept(packages)
    if jars is None:
        _fetch(packages, folder)
        jars = _kept(packages)
    if jars is None:
        raise Unavailable(f"{packages[0]} was fetched, but not all of its JARs are where Spark keeps them")
    return jars


def _kept(packages: tuple[str, ...]) -> list[Path] | None:
    names = ["{}_{}-{}.jar".format(*package.split(":")) for package in packages]
    for folder in sorted(Path.home().glob(".ivy2*/jars"), reverse=True):
        if all((folder / name).is_file() for name in names):
            return [folder / name for name in names]
    return None


def _fetch(packages: tuple[str, ...], folder: Path) -> None:
    """Start an application that does nothing, with the packages."""
    application = folder / "nothing.py"
    application.write_text("")
    submit = Path(pyspark.__file__).parent / "bin" / "spark-submit"
    command = [str(submit), "--master", "local[1]", "--packages", ",".join(packages), "--exclude-packages", IN_PYSPARK, str(application)]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "PYSPARK_GATEWAY"))}
    ended = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    if ended.returncode != 0:
        reasons = [line.strip() for line in ended.stderr.splitlines() if "unresolved dependency" in line or "Exception" in line]
        raise Unavailable(f"{packages[0]} cannot be had: {(reasons or ['no reason given'])[0]}")

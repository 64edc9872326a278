"""What stands before a Spark driver: a Java that can run it, the Delta JARs, and a terminal free of start-up chatter."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import pyspark

from metaeol_udf.errors import EnvironmentFault
from metaeol_udf.versions import ask_java, find_java

MINIMUM_JAVA = 17  # Spark 4 starts on nothing older


def check_java() -> None:
    """Check that the Java which Spark will pick is there, runs and is new enough, or raise EnvironmentFault."""
    way_out = f"install a JDK {MINIMUM_JAVA} or newer (Debian and Ubuntu: apt-get install openjdk-17-jre-headless) or set JAVA_HOME to one"
    java = find_java()
    if java is None:
        raise EnvironmentFault(f"Spark needs Java {MINIMUM_JAVA}, and no java is on the PATH: {way_out}")
    try:
        version = ask_java(java)
    except (OSError, subprocess.SubprocessError) as error:
        source = "JAVA_HOME" if os.environ.get("JAVA_HOME") else "PATH"
        raise EnvironmentFault(f"Spark needs Java {MINIMUM_JAVA}, and {java} (from {source}) does not run: {error}; {way_out}") from None
    release = re.match(r"(?:1\.)?(\d+)", version or "")
    if release is None or int(release.group(1)) < MINIMUM_JAVA:
        found = release.group(1) if release else version or "unknown"
        raise EnvironmentFault(f"Spark needs Java {MINIMUM_JAVA} or newer, and {java} is version {found}: {way_out}")


def delta_package() -> str:
    """Name the Maven coordinates of the Delta JARs that fit the installed pyspark and delta-spark."""
    return f"io.delta:delta-spark_{'.'.join(pyspark.__version__.split('.')[:2])}_2.13:{metadata.version('delta-spark')}"


def resolved_delta_jars() -> list[str]:
    """Paths of the Delta JARs that an earlier start resolved, or nothing where one of them is missing.

    Given as files they spare Ivy its look-ups: seconds at every start, and the network altogether.
    """
    _, artifact, version = delta_package().split(":")
    artifacts = (artifact, "delta-storage", "delta-kernel-api", "delta-kernel-defaults", "delta-kernel-unitycatalog")
    for folder in sorted(Path.home().glob(".ivy2*/jars"), reverse=True):
        jars = [folder / f"io.delta_{name}-{version}.jar" for name in artifacts]
        if all(jar.is_file() and jar.stat().st_size > 0 for jar in jars):
            return [str(jar) for jar in jars]
    return []


@contextmanager
def quiet_start() -> Iterator[list[str]]:
    """Hold back what the JVM writes to the terminal while it starts, and pass on all that it writes later.

    The JVM inherits the standard error of this process, so the one way to keep its start-up lines off the terminal is to
    lend it another. Yields the held lines, which make the message when the start fails. The relay lives as long as the JVM.
    """
    held: list[str] = []
    terminal = os.dup(2)
    reader, writer = os.pipe()
    os.dup2(writer, 2)
    os.close(writer)
    started = threading.Event()
    threading.Thread(target=_relay, args=(reader, terminal, held, started), daemon=True, name="jvm-stderr").start()
    try:
        yield held
    finally:
        os.dup2(terminal, 2)
        started.set()


def _relay(reader: int, terminal: int, held: list[str], started: threading.Event) -> None:
    with os.fdopen(reader, "rb") as lines:
        for line in lines:
            if started.is_set():
                os.write(terminal, line)
            else:
                held.append(line.decode(errors="replace"))

"""HDFS and YARN on this machine: Hadoop's mini clusters in one Java process, and applications that spark-submit brings to them."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pyspark

from tests.clusters.packages import HADOOP_MINICLUSTER, jars_of
from tests.clusters.services import HOST, Service
from tests.clusters.standalone import ROOT

_EXECUTOR = "YarnCoarseGrainedExecutorBackend"


class Hadoop:
    """A NameNode, a DataNode, a ResourceManager and two NodeManagers."""

    def __init__(self, folder: Path) -> None:
        """Start all, and wait until they are ready.

        Args:
            folder: A folder for all that they write.

        Raises:
            Unavailable: A package cannot be had on this machine.
        """
        jars = [str(jar) for jar in jars_of(HADOOP_MINICLUSTER, folder)]
        self.folder, self.conf = folder, folder / "conf"
        command = [sys.executable, "-m", "tests.clusters.hadoop_process", str(folder), os.pathsep.join(jars)]
        self._service = Service(command, folder, "hadoop", os.environ | {"PYTHONPATH": str(ROOT)})
        self._service.wait_for(lambda: self._address.is_file(), "its address")

    @property
    def _address(self) -> Path:
        return self.folder / "address"

    @property
    def files(self) -> str:
        """The address of the file system, such as `hdfs://localhost:9000`."""
        return self._address.read_text()

    def lose_node(self) -> None:
        """Stop the NodeManager of the newest executor, and kill what runs on it: the machine is gone."""
        newest = self.executors()[-1]
        node = _node_of(newest)
        self._ask(f"lose {node}")
        for process in self.executors():
            if _node_of(process) == node:
                process.send_signal(signal.SIGKILL)

    def executors(self) -> list[psutil.Process]:
        """The executors' Java processes, the oldest first."""
        found = [process for process in self._running() if _EXECUTOR in _words(process) and process.name() == "java"]
        return sorted(found, key=lambda process: process.create_time())

    def stop(self) -> None:
        """Stop all, containers too: these are in sessions of their own."""
        self._service.kill()
        for process in self._running():
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def _running(self) -> list[psutil.Process]:
        """Processes that name the folder."""
        return [process for process in psutil.process_iter() if str(self.folder) in _words(process) and process.pid != os.getpid()]

    def submit(self, mode: str, options: Sequence[str], arguments: Sequence[str], python: str, driver_python: Path, name: str) -> Service:
        """Start an application.

        Args:
            mode: Where the driver runs: `client` (the process that is given back) or `cluster`.
            options: Of spark-submit.
            arguments: The application and what it is told.
            python: The interpreter of executors, and of the driver on the cluster.
            driver_python: The interpreter of a driver in deploy mode `client`.
            name: Of the log.
        """
        home = Path(pyspark.__file__).parent
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PYSPARK", "SPARK"))}
        env = kept | {"SPARK_HOME": str(home), "SPARK_LOCAL_IP": HOST, "HADOOP_CONF_DIR": str(self.conf), "PYSPARK_PYTHON": python}
        if mode == "client":
            env["PYSPARK_DRIVER_PYTHON"] = str(driver_python)
        settings = {
            "spark.yarn.jars": f"local:{home}/jars/*",  # or 400 MB are sent for each application
            "spark.yarn.appMasterEnv.PYSPARK_PYTHON": python,
            "spark.yarn.appMasterEnv.SPARK_LOCAL_IP": HOST,
            "spark.executorEnv.SPARK_LOCAL_IP": HOST,
        }
        conf = [word for key, value in settings.items() for word in ("--conf", f"{key}={value}")]
        command = [str(home / "bin" / "spark-submit"), "--master", "yarn", "--deploy-mode", mode, *conf, *options, *arguments]
        return Service(command, self.folder, name, env)

    def logs(self) -> str:
        """What the containers of all applications wrote."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.rglob("std???")) if path.is_file())

    def _ask(self, words: str) -> None:
        """Have the Java process do something, and wait until it is done."""
        order = self.folder / "order"
        order.with_suffix(".new").write_text(words)
        order.with_suffix(".new").rename(order)
        self._service.wait_for(lambda: not order.exists(), f"«{words}»")


def _node_of(process: psutil.Process) -> str:
    """The number of the NodeManager that started a container: the container's folder is named by it."""
    found = re.search(r"localDir-nm-(\d+)", process.cwd())
    assert found, process.cwd()
    return found.group(1)


def _words(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return " ".join(process.cmdline())
    return ""

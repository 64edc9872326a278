"""A standalone cluster of Spark: a master and workers out of pyspark's own JARs, and applications that spark-submit brings to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from tests.clusters.services import HOST, Service, free_port
from tests.installations import make_spark_home, packages_of

ROOT = Path(__file__).resolve().parents[2]
#: For a table of some rows, to compile a plan takes longer than to run it. The run as the page says has what users have.
QUICK = {
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
}
_EXECUTOR = "CoarseGrainedExecutorBackend"


def make_gpus(folder: Path) -> dict[str, str]:
    """Make the settings of workers with one pretended GPU each, which a discovery script finds."""
    script = folder / "discover.sh"
    script.write_text("""#!/bin/sh\necho '{"name": "gpu", "addresses": ["0"]}'\n""")
    script.chmod(0o755)
    return {"spark.worker.resource.gpu.amount": "1", "spark.worker.resource.gpu.discoveryScript": str(script)}


def make_python(folder: Path) -> Path:
    """Make a Python that has torch, transformers and Spark, yet not our package, as executors have it that get the wheel.

    It is found by relative paths alone, so that its folder can be packed.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=300)
    python = folder / "bin" / "python"
    seen = sysconfig.get_path("purelib")  # as a path alone: what .pth files there name, such as this checkout, is not seen
    (packages_of(python) / "seen.pth").write_text(f"import sys; sys.path.append({seen!r})\n")
    return python


class Standalone:
    """A master and its workers, one core each."""

    def __init__(self, folder: Path, n_workers: int = 2, worker_settings: Mapping[str, str] | None = None) -> None:
        """Start the master and the workers, and wait for both.

        Args:
            folder: A folder for all that they write.
            n_workers: How many workers.
            worker_settings: Spark's settings of a worker, such as the GPUs that it has.
        """
        self.folder, self.home = folder, make_spark_home(folder / "spark")
        self._settings = dict(worker_settings or {})
        self._port, self.n_started = free_port(), 0
        self._others: list[Service] = []
        web = free_port()
        arguments = ["--host", HOST, "--port", str(self._port), "--webui-port", str(web)]
        self.master = self._start("org.apache.spark.deploy.master.Master", arguments, "master")
        self.master.wait_for_port(self._port)
        self.workers: list[Service] = []
        for _ in range(n_workers):
            self.start_worker()

    @property
    def url(self) -> str:
        """The address for `--master`."""
        return f"spark://{HOST}:{self._port}"

    def start_worker(self) -> Service:
        """Start one more worker."""
        self.n_started += 1
        name = f"worker{self.n_started}"
        place = ["--host", HOST, "--port", str(free_port()), "--webui-port", str(free_port()), "--work-dir", str(self.folder / name)]
        arguments = ["--cores", "1", "--memory", "2g", *place, self.url]
        options = " ".join(f"-D{key}={value}" for key, value in self._settings.items())
        worker = self._start("org.apache.spark.deploy.worker.Worker", arguments, name, {"SPARK_WORKER_OPTS": options})
        worker.wait_for(lambda: "Successfully registered with master" in worker.written(), "its registration")
        self.workers.append(worker)
        return worker

    def start_shuffle_service(self) -> int:
        """Start the external shuffle service of the machine, which keeps the shuffles of executors that are gone; gives its port."""
        port = free_port()
        options = f"-Dspark.shuffle.service.enabled=true -Dspark.shuffle.service.port={port}"
        service = self._start("org.apache.spark.deploy.ExternalShuffleService", [], "shuffle", {"SPARK_SHUFFLE_OPTS": options})
        service.wait_for_port(port)
        self._others.append(service)
        return port

    def executors(self) -> list[psutil.Process]:
        """The executors' processes, the oldest first."""
        found = [process for worker in self.workers if worker.is_running for process in worker.children(_EXECUTOR)]
        return sorted(found, key=lambda process: process.create_time())

    def kill_executor(self) -> None:
        """Kill the newest executor, and with it its Python workers."""
        self.executors()[-1].send_signal(signal.SIGKILL)

    def kill_worker(self) -> None:
        """Kill the first worker with its executors."""
        self.workers.pop(0).kill()

    def decommission_worker(self) -> None:
        """Tell the first worker, by a signal, that its machine will be taken away."""
        self.workers[0].process.send_signal(signal.SIGPWR)

    def stop(self) -> None:
        """Stop all, the workers first."""
        for service in (*self.workers, *self._others, self.master):
            service.kill()

    def submit(
        self, arguments: Sequence[str], options: Sequence[str], python: Path, name: str = "driver", env: Mapping[str, str] | None = None
    ) -> Service:
        """Start an application in deploy mode client, whose driver is the process that is given back."""
        command = [
            str(self.home / "bin" / "spark-submit"),
            "--master",
            self.url,
            "--conf",
            f"spark.driver.host={HOST}",
            *options,
            *arguments,
        ]
        return Service(command, self.folder, name, self._env(python) | dict(env or {}))

    def _start(self, main: str, arguments: Sequence[str], name: str, env: Mapping[str, str] | None = None) -> Service:
        command = [str(self.home / "bin" / "spark-class"), main, *arguments]
        return Service(command, self.folder, name, self._env(Path(sys.executable)) | dict(env or {}))

    def _env(self, python: Path) -> dict[str, str]:
        """An environment without this checkout, and without the session of the tests."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYSPARK", "SPARK"))}
        ours = {"SPARK_HOME": str(self.home), "SPARK_LOCAL_IP": HOST, "SPARK_DAEMON_MEMORY": "256m", "SPARK_NO_DAEMONIZE": "1"}
        return kept | ours | {"PYSPARK_DRIVER_PYTHON": str(python), "PYSPARK_PYTHON": str(python)}

"""A real server of Spark Connect, and clients in processes of their own that have no Java."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyspark
import pytest

ROOT = Path(__file__).resolve().parents[3]
START_S = 240


@dataclass(frozen=True)
class ConnectServer:
    """A server of Spark Connect and what its clients need to know.

    Attributes:
        port: On this machine's loopback address.
        archive: The tiny model's folder as a `.tar.gz`.
    """

    port: int
    folder: Path
    archive: Path

    #: The tiny model under a hub id that only the server's workers find, in a hub cache of theirs.
    hub_id = "tiny/llama"

    def run(self, code: str, timeout_s: float = 540) -> str:
        """What Python prints that has neither Java nor the server's hub cache."""
        environment = self._client_environment()
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout_s)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    def ask(self, task: str, **arguments: Any) -> Any:
        """What a task of `connect_client.py` finds, run as `run` does."""
        call = {"port": self.port, **arguments}
        printed = self.run(f"import sys; from tests.spark.cluster import connect_client; connect_client.main({task!r}, {call!r})")
        return json.loads(printed.splitlines()[-1])

    def _client_environment(self) -> dict[str, str]:
        left_out = ("JAVA_HOME", "SPARK_REMOTE", "SPARK_HOME", "PYSPARK_GATEWAY_PORT", "PYSPARK_GATEWAY_SECRET")
        kept = {name: value for name, value in os.environ.items() if name not in left_out}
        return kept | {"PATH": str(Path(sys.executable).parent), "PYTHONPATH": str(ROOT), "HF_HUB_CACHE": str(self.folder / "empty")}


@contextmanager
def running_server(model: Path, folder: Path, settings: Mapping[str, str] | None = None) -> Iterator[ConnectServer]:
    """A server that is stopped at the end, whatever happens; `spark-submit` becomes the JVM, so that one process is all there is.

    Args:
        model: The tiny model.
        folder: An empty folder for the server's log, warehouse and hub cache.
        settings: More Spark settings of the server.
    """
    server = ConnectServer(_free_port(), folder, _packed(model, folder))
    _fill_hub_cache(model, folder / "hub")
    with open(folder / "server.log", "wb") as log:
        command = _command(server, settings or {})
        process = subprocess.Popen(command, cwd=folder, env=_server_environment(folder), stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_for(server, process)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _command(server: ConnectServer, more: Mapping[str, str]) -> Sequence[str]:
    conf = {
        "spark.connect.grpc.binding.address": "127.0.0.1",
        "spark.connect.grpc.binding.port": str(server.port),
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.memory": "1g",
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": "2",  # not 200: ten rows
        "spark.sql.warehouse.dir": str(server.folder / "warehouse"),
    }
    settings = [part for key, value in (conf | dict(more)).items() for part in ("--conf", f"{key}={value}")]
    submit = Path(pyspark.__file__).parent / "bin" / "spark-submit"
    entry = ["--class", "org.apache.spark.sql.connect.service.SparkConnectServer", "spark-internal"]
    return [str(submit), "--master", "local[1]", *settings, *entry]


def _server_environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYSPARK", "SPARK"))}
    return kept | {"PYSPARK_PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "HF_HUB_CACHE": str(folder / "hub")}


def _wait_for(server: ConnectServer, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", server.port)) == 0:
                return
        if process.poll() is not None:
            break
        time.sleep(0.5)
    pytest.fail(f"the Connect server does not answer: {(server.folder / 'server.log').read_text()[-3000:]}", pytrace=False)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _packed(model: Path, folder: Path) -> Path:
    archive = folder / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for path in sorted(model.iterdir()):
            tar.add(path, path.name)
    return archive


def _fill_hub_cache(model: Path, cache: Path) -> None:
    repository = cache / f"models--{ConnectServer.hub_id.replace('/', '--')}"
    shutil.copytree(model, repository / "snapshots" / "0123abcd")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abcd")

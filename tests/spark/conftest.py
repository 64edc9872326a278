"""One server of Spark Connect for all tests that need it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.spark.cluster.connect_server import ConnectServer, running_server


@pytest.fixture(scope="session")
def connect_server(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConnectServer]:
    with running_server(tiny_model_dir, tmp_path_factory.mktemp("connect")) as server:
        yield server

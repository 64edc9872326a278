"""A spec over the tiny model, and one server of Spark Connect for all tests that need it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from metaeol_udf.spec import EmbeddingSpec
from tests.surfaces.connect_server import ConnectServer, running_server


@pytest.fixture(scope="session")
def spec(tiny_model_dir: Path) -> EmbeddingSpec:
    return EmbeddingSpec(model=str(tiny_model_dir), dtype="float32", max_tokens=64)


@pytest.fixture(scope="session")
def connect_server(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConnectServer]:
    with running_server(tiny_model_dir, tmp_path_factory.mktemp("connect")) as server:
        yield server

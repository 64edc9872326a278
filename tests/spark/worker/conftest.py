"""A GPU that is pretended, for tests of what workers share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from metaeol_udf.spark.worker import shared_encoder
from metaeol_udf.spark.worker.devices import Gpu


@pytest.fixture
def gpu(tmp_path: Path) -> Iterator[Gpu]:
    gpu = Gpu("cpu", f"pretended {tmp_path}")
    yield gpu
    path = shared_encoder.lease_path(gpu)
    path.unlink(missing_ok=True)
    path.with_suffix(".sock").unlink(missing_ok=True)

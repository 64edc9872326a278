"""How the engine's tests run."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Threads that wait for each other cost more than a tiny model computes."""
    torch.set_num_threads(1)

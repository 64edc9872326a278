"""Checks against other people's tools, which need an environment of their own."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Only where they are asked for: `make test-integrations`. The tools are not among what developing needs."""
    return None if any(Path(argument).resolve() == Path(__file__).parent for argument in config.args) else True

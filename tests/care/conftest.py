"""A job on a table whose vectors come from a stand-in for the model: no worker loads one."""

from __future__ import annotations

from pathlib import Path

import pytest

from metaeol_udf.delta.write import waves
from tests.delta.state_machine.stand_in import Calls


@pytest.fixture(autouse=True)
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """The texts that the stand-in was called with."""
    calls = Calls(tmp_path / "calls")
    monkeypatch.setattr(waves, "result_udf", calls.result_udf)
    return calls

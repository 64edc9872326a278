"""A run asks once which model folder is meant, and everything below takes the answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metaeol_udf.encoder.checkpoint import resolve as resolving
from tests.table_bench import Bench


def test_a_command_looks_for_its_model_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write([(1, "one"), (2, "two")])
    asked: list[str] = []
    find = resolving.model_folder

    def watched(model: str, revision: str | None = None) -> Path:
        asked.append(model)
        return find(model, revision)

    monkeypatch.setattr(resolving, "model_folder", watched)
    report: dict[str, Any] = bench.run()
    assert report["rows_embedded"] == 2
    assert asked == [bench.spec.model]


def test_one_module_knows_where_models_lie() -> None:
    package = Path(resolving.__file__).parents[2]
    defining = {
        path.relative_to(package).as_posix() for path in package.rglob("*.py") if "HF_HUB_CACHE" in path.read_text(encoding="utf-8")
    }
    assert defining == {"encoder/checkpoint/location.py"}

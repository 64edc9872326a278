"""One table and the job on it, with the check of what must hold whatever happened."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from metaeol_udf import MetaEOLEncoder
from tests.table_bench import TableBench

ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(kw_only=True)
class Bench(TableBench):
    """One that holds vectors against the engine's own."""

    encoder: MetaEOLEncoder

    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads((self.folder / "report.json").read_text())
        return report

    def check_all_right(self, texts: dict[Any, str | None] | None = None, target: str | None = None) -> None:
        """The invariant: every key of the source once, each with the vector of its present text; nothing lost, doubled or stale.

        Args:
            texts: What the source must hold, where the test knows.
            target: Folder of a target of its own.
        """
        source = self.table().collect()
        present = {row["id"]: row["text"] for row in source}
        assert len(source) == len(present), "a key stands in several rows"
        assert texts is None or present == texts
        stored = self.table(target or "table").collect()
        assert len(stored) == len({row["id"] for row in stored}), "a key is stored twice"
        held = {row["id"]: row for row in stored}
        assert held.keys() >= present.keys(), "a row is lost"
        good = [key for key, text in present.items() if text is not None and text.strip()]
        assert {key: held[key]["embedding_error"] for key in good} == dict.fromkeys(good)
        assert all(held[key]["embedding"] is None and held[key]["embedding_error"] for key in present.keys() - set(good))
        found = np.array([held[key]["embedding"] for key in good], np.float32)
        np.testing.assert_allclose(found, self.encoder.encode([present[key] for key in good]), atol=2e-5)

"""One table and the job on it, with the check of what must hold whatever happened."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from pyspark.sql import DataFrame, Row, SparkSession

from metaeol_udf import MetaEOLEncoder
from metaeol_udf.config import JobConfig, parse_config
from metaeol_udf.delta import run_embed
from metaeol_udf.spec import EmbeddingSpec

ROOT = Path(__file__).resolve().parents[2]


class Silence:
    """A progress that says nothing."""

    def start(self, total: int) -> None:
        pass

    def update(self, done: int, detail: str) -> None:
        pass

    def finish(self) -> None:
        pass


@dataclasses.dataclass
class Bench:
    """One table and the job on it."""

    spark: SparkSession
    folder: Path
    spec: EmbeddingSpec
    encoder: MetaEOLEncoder

    @property
    def path(self) -> str:
        return str(self.folder / "table")

    def write(self, rows: list[tuple[Any, ...]], schema: str = "id long, text string", mode: str = "error") -> None:
        self.spark.createDataFrame(rows, schema).coalesce(1).write.format("delta").mode(mode).save(self.path)

    def blocks(self, **sections: dict[str, Any]) -> dict[str, Any]:
        base: dict[str, dict[str, Any]] = {
            "source": {"table": self.path, "key": ["id"]},
            "embedding": {"model": self.spec.model, "dtype": "float32", "max_tokens": self.spec.max_tokens},
            "runtime": {"device": "cpu", "max_failed_fraction": 1.0, "report": str(self.folder / "report.json")},
        }
        for name, section in sections.items():
            base[name] = base.get(name, {}) | section
        return base

    def config(self, **sections: dict[str, Any]) -> JobConfig:
        return parse_config(self.blocks(**sections))

    def run(self, **sections: dict[str, Any]) -> dict[str, Any]:
        return run_embed(self.config(**sections), self.spark, Silence())

    def table(self, name: str = "table") -> DataFrame:
        return self.spark.read.format("delta").load(str(self.folder / name))

    def rows(self, name: str = "table") -> dict[Any, Row]:
        return {row["id"]: row for row in self.table(name).collect()}

    def versions(self, name: str = "table") -> int:
        return len(list((self.folder / name / "_delta_log").glob("*.json")))

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

"""A folder with one table for one test, and the job on it; the folders of tests build on it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, Row, SparkSession

from metaeol_udf.config import JobConfig, parse_config
from metaeol_udf.delta import run_embed
from metaeol_udf.delta.base.progress import Between
from metaeol_udf.spec import EmbeddingSpec
from tests.specs import with_own_model

#: A text with this word has no embedding by the fixture `poisoned_model`.
POISON = "zebra"

#: Each is a passage of its own where passages have 16 tokens.
SENTENCES = [
    "The lamp was broken when it came in.",
    "Nobody signed for the large open box.",
    "The guitar plays a quiet old song to us.",
]


class Before:
    """A hook of a run that does something before a phase: once, at its n-th time, or every time.

    Attributes:
        phases: The phases that the run announced, in order.
    """

    def __init__(self, phase: str, action: Callable[[], object], at: int | None = 1) -> None:
        self._phase, self._action, self._at = phase, action, at
        self.phases: list[str] = []

    def __call__(self, phase: str) -> None:
        self.phases.append(phase)
        if phase == self._phase and self._at in (None, self.phases.count(phase)):
            self._action()


class Silence:
    """A progress that keeps what it is told."""

    def __init__(self) -> None:
        self.total: int | None = None
        self.done: list[int] = []
        self.finished = False

    def start(self, total: int) -> None:
        self.total = total

    def update(self, done: int, detail: str) -> None:
        self.done.append(done)

    def finish(self) -> None:
        self.finished = True


@dataclasses.dataclass
class TableBench:
    """One table and the job on it."""

    spark: SparkSession
    folder: Path
    spec: EmbeddingSpec
    progress: Silence = dataclasses.field(default_factory=Silence)

    @property
    def path(self) -> str:
        return str(self.folder / "table")

    def write(self, rows: list[tuple[Any, ...]], schema: str = "id long, text string", mode: str = "error") -> None:
        self.spark.createDataFrame(rows, schema).coalesce(1).write.format("delta").mode(mode).save(self.path)

    def blocks(self, **sections: dict[str, Any]) -> dict[str, Any]:
        """What a configuration's file would hold; sections are laid over the defaults, setting by setting."""
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

    def run(self, *, between: Between | None = None, **sections: dict[str, Any]) -> dict[str, Any]:
        return run_embed(self.config(**sections), self.spark, self.progress, between=between)

    def table(self, name: str = "table") -> DataFrame:
        return self.spark.read.format("delta").load(str(self.folder / name))

    def rows(self, name: str = "table") -> dict[Any, Row]:
        return {row["id"]: row for row in self.table(name).collect()}

    def versions(self, name: str = "table") -> int:
        """Commits of a table; 0 where there is none."""
        return len(list((self.folder / name / "_delta_log").glob("*.json")))


class Bench(TableBench):
    """One whose reports are those on disk."""

    def take_own_model(self) -> None:
        """Take a model that no other test has, so that the test's run loads it."""
        self.spec = with_own_model(self.spec, self.folder / "own_model")

    def run(self, *, between: Between | None = None, **sections: dict[str, Any]) -> dict[str, Any]:
        report = super().run(between=between, **sections)
        assert json.loads((self.folder / "report.json").read_text()) == report
        return report

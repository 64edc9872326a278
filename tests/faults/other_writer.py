"""Somebody who appends, updates, deletes, optimizes and alters all the time, beside the job."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import numpy as np
from delta import DeltaTable
from pyspark.sql import functions as F

from metaeol_udf.delta.tables import spark_errors
from metaeol_udf.delta.tables.fingerprint import row_fingerprint
from tests.faults.bench import Bench


class Writer:
    """The other writer; keeps what the table's texts must be, and repeats what loses to the job.

    Attributes:
        texts: The texts that the table must hold, by their keys.
        counts: How often it did what.
    """

    def __init__(self, bench: Bench, seed: int, n_texts: int = 10) -> None:
        """Begin with a table of so many texts."""
        self.bench, self.random = bench, random.Random(seed)
        self.texts: dict[int, str] = {n: f"text number {n}" for n in range(n_texts)}
        self.next_id = n_texts
        self.counts: dict[str, int] = {}
        bench.write(list(self.texts.items()))

    def write_until(self, ended: threading.Event) -> None:
        """Write a few times, with pauses, until the event is set."""
        for _ in range(self.random.randint(2, 4)):
            self.write_once()
            if ended.wait(self.random.uniform(0.0, 1.5)):
                return

    def write_once(self) -> None:
        """Append, update or delete rows, compact the table, or change its properties."""
        name = self.random.choice(["append", "append", "update", "update", "delete", "optimize", "alter"])
        action = getattr(self, f"_{name}")()
        while True:
            try:
                action()
                break
            except Exception as error:
                if spark_errors.conflict_in(error) is None:
                    raise
                time.sleep(0.1)
        self.counts[name] = self.counts.get(name, 0) + 1

    @property
    def _table(self) -> DeltaTable:
        return DeltaTable.forPath(self.bench.spark, self.bench.path)

    def _append(self) -> Any:
        rows = {n: f"text number {self.random.randint(0, 200)}" for n in range(self.next_id, self.next_id + self.random.randint(1, 3))}
        self.next_id += len(rows)
        self.texts |= rows
        return lambda: self.bench.write(list(rows.items()), mode="append")

    def _update(self) -> Any:
        key, text = self.random.choice(sorted(self.texts)), f"changed text {self.random.randint(0, 200)}"
        self.texts[key] = text
        return lambda: self._table.update(F.col("id") == key, {"text": F.lit(text)})

    def _delete(self) -> Any:
        if len(self.texts) < 5:
            return self._append()
        key = self.random.choice(sorted(self.texts))
        del self.texts[key]
        return lambda: self._table.delete(F.col("id") == key)

    def _optimize(self) -> Any:
        return lambda: self._table.optimize().executeCompaction()

    def _alter(self) -> Any:
        value = self.random.randint(0, 1000)
        return lambda: self.bench.spark.sql(f"ALTER TABLE delta.`{self.bench.path}` SET TBLPROPERTIES ('round' = '{value}')")


def check_nothing_is_stale(bench: Bench, name: str) -> None:
    """After every round: a row whose fingerprint is that of its present text has that text's vector, and no key is there twice."""
    held = bench.table(name)
    assert held.count() == held.select("id").distinct().count()
    texts = {row["id"]: row["text"] for row in bench.table().collect()}
    spec = bench.report()["fingerprint"]
    present = bench.table().select("id", row_fingerprint(spec, F.col("text")).alias("now"))
    current = [row for row in held.join(present, "id").where("embedding_fingerprint = now").collect() if row["id"] in texts]
    assert current
    expected = bench.encoder.encode([texts[row["id"]] for row in current])
    np.testing.assert_allclose(np.array([row["embedding"] for row in current], np.float32), expected, atol=2e-5)

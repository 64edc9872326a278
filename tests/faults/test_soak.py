"""Two writers on one table: the job, and somebody who appends, updates, deletes, optimizes and alters all the time."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import numpy as np
import pytest
from bench import Bench
from delta import DeltaTable
from pyspark.sql import functions as F

from metaeol_udf.delta.tables import spark_errors
from metaeol_udf.delta.tables.fingerprint import row_fingerprint
from metaeol_udf.errors import ConflictError

ROUNDS = 20


class _Writer:
    """The other writer; keeps what the table's texts must be, and repeats what loses to the job."""

    def __init__(self, bench: Bench, seed: int) -> None:
        self.bench, self.random = bench, random.Random(seed)
        self.texts: dict[int, str] = {n: f"text number {n}" for n in range(10)}
        self.next_id = 10
        self.counts: dict[str, int] = {}

    def write_until(self, ended: threading.Event) -> None:
        for _ in range(self.random.randint(2, 4)):
            self._write_once()
            if ended.wait(self.random.uniform(0.0, 1.5)):
                return

    def _write_once(self) -> None:
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


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("in_place", [True, False])
def test_soak_of_two_writers_loses_doubles_and_confuses_nothing(bench: Bench, in_place: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spark_errors, "MAX_PAUSE_S", 0.5)
    writer = _Writer(bench, seed=2402_18458)
    bench.write(list(writer.texts.items()))
    target = {} if in_place else {"target": {"table": str(bench.folder / "vectors")}}
    lost_to_the_other = 0
    for _ in range(ROUNDS // 2):
        ended = threading.Event()
        failures: list[BaseException] = []

        def write(ended: threading.Event = ended, failures: list[BaseException] = failures) -> None:
            try:
                writer.write_until(ended)
            except BaseException as error:  # noqa: BLE001 - shown by the test's own thread
                failures.append(error)

        thread = threading.Thread(target=write)
        thread.start()
        try:
            bench.run(**target)
        except ConflictError:
            lost_to_the_other += 1
        finally:
            ended.set()
            thread.join()
        assert failures == []
        _check_nothing_is_stale(bench, "table" if in_place else "vectors")
    assert lost_to_the_other < ROUNDS // 4
    bench.run(**target)
    if in_place:
        bench.check_all_right(writer.texts)
    else:
        stored = bench.table("vectors")
        assert stored.count() == stored.select("id").distinct().count()
        bench.check_all_right(writer.texts, "vectors")
    assert set(writer.counts) == {"append", "update", "delete", "optimize", "alter"}


def _check_nothing_is_stale(bench: Bench, name: str) -> None:
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

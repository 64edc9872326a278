"""Two writers on one table: the job, and somebody who appends, updates, deletes, optimizes and alters all the time."""

from __future__ import annotations

import threading

import pytest
from bench import Bench

from metaeol_udf.delta.tables import spark_errors
from metaeol_udf.errors import ConflictError
from tests.faults.other_writer import Writer, check_nothing_is_stale

ROUNDS = 20


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("in_place", [True, False])
def test_soak_of_two_writers_loses_doubles_and_confuses_nothing(bench: Bench, in_place: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spark_errors, "MAX_PAUSE_S", 0.5)
    writer = Writer(bench, seed=2402_18458)
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
        check_nothing_is_stale(bench, "table" if in_place else "vectors")
    assert lost_to_the_other < ROUNDS // 4
    bench.run(**target)
    if in_place:
        bench.check_all_right(writer.texts)
    else:
        stored = bench.table("vectors")
        assert stored.count() == stored.select("id").distinct().count()
        bench.check_all_right(writer.texts, "vectors")
    assert set(writer.counts) == {"append", "update", "delete", "optimize", "alter"}

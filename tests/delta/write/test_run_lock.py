"""The run lock where the storage takes no files; what it does between runs is in `tests/faults/test_writers.py`."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from py4j.protocol import Py4JError
from pyspark.sql import SparkSession

from metaeol_udf.delta.write import run_lock
from metaeol_udf.delta.write.run_lock import RunLock
from metaeol_udf.errors import ConflictError


def test_a_storage_that_is_closed_to_us_takes_no_lock_files_and_stops_no_run(spark: SparkSession, caplog: pytest.LogCaptureFixture) -> None:
    lock = RunLock(spark, "nosuch://bucket/journal", "20200101T000000-here")
    with caplog.at_level(logging.INFO, logger="metaeol_udf"), lock.hold("a_job"):
        assert lock.is_alone()
    assert "this storage takes no lock files" in caplog.text


def test_a_storage_that_shows_no_lock_files_shows_no_other_run(
    spark: SparkSession, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Closed:
        def exists(self, path: object) -> bool:
            raise Py4JError("access denied")

    lock = RunLock(spark, str(tmp_path), "20200101T000000-here")
    with caplog.at_level(logging.INFO, logger="metaeol_udf"), lock.hold("a_job"):
        assert lock.is_alone()
        real, lock.storage = lock.storage, Closed()
        assert lock.is_alone()
        lock.storage = real
    assert "this storage shows no lock files" in caplog.text
    assert not list(tmp_path.rglob("20200101*"))


def test_files_that_are_no_locks_are_left_alone_and_stop_no_run(
    spark: SparkSession, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stray = ["_claims/README", "_claims/a_job/notes.txt", "_claims/a_job/a~b~c~d", "_claims/a_job/20200101T000000-x~here~1~2~3"]
    for name in stray:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    (tmp_path / "_claims" / "a_job" / "20200101T000000-x~here~1~2").mkdir()
    lock = RunLock(spark, str(tmp_path), "20200101T000000-here")
    with caplog.at_level(logging.INFO, logger="metaeol_udf"), lock.hold("a_job"):
        assert lock.is_alone()
    assert "notes.txt is no lock file of a run" in caplog.text
    assert [(tmp_path / name).read_text() for name in stray] == ["mine"] * len(stray)
    assert (tmp_path / "_claims" / "a_job" / "20200101T000000-x~here~1~2").is_dir()


def test_the_lock_on_a_whole_target_keeps_out_other_drivers_and_no_run_of_this_one(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "BEAT_EVERY_S", 0.2)
    mine, beside = (RunLock(spark, str(tmp_path), f"20200101T000000-{name}") for name in ("mine", "beside"))
    with mine.hold(run_lock.WHOLE_TARGET), beside.hold(run_lock.WHOLE_TARGET):
        assert len(list(tmp_path.rglob("20200101*"))) == 2
    elsewhere = RunLock(spark, str(tmp_path), "20190101T000000-first", process=("elsewhere", 1, 1))
    refusal = pytest.raises(ConflictError, match="of another driver is at work on the same table")
    with elsewhere.hold(run_lock.WHOLE_TARGET), refusal, mine.hold(run_lock.WHOLE_TARGET):
        pytest.fail("two drivers hold the lock")
    with mine.hold(run_lock.WHOLE_TARGET):
        assert mine.is_alone()

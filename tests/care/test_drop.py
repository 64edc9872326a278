"""`metaeol drop`: all of ours goes, nothing else does, and never while a run is at work."""

from __future__ import annotations

from pathlib import Path

import pytest

from metaeol_udf.care import DropItem, run_drop
from metaeol_udf.delta.stream import run_stream
from metaeol_udf.delta.write.run_lock import RunLock
from metaeol_udf.errors import ConflictError, InputError
from tests.table_bench import POISON, Bench

ROWS = [(1, "a text"), (2, "another"), (3, f"a {POISON}"), (4, None)]


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.slow
def test_a_target_goes_with_all_that_stands_beside_it_and_can_be_made_again(bench: Bench) -> None:
    own = {"target": {"table": str(bench.folder / "vectors")}}
    bench.write(ROWS)
    before = names_in(bench.folder)
    embedded = bench.run(**own)["rows_embedded"]
    config, shown = bench.config(**own), list[DropItem]()
    journal = str(bench.folder / "vectors__metaeol_journal")
    with (
        RunLock(bench.spark, journal, "20200101T000000-another").hold("0123"),
        pytest.raises(ConflictError, match="20200101T000000-another is at work"),
    ):
        run_drop(config, bench.spark)
    assert bench.table("vectors").count() == 4
    assert not run_drop(config, bench.spark, lambda items: bool(shown.extend(items)))["dropped"]
    assert [item.kind for item in shown] == ["quarantine", "target", "journal"]
    assert bench.table("vectors").count() == 4
    assert run_drop(config, bench.spark)["dropped"]
    assert names_in(bench.folder) - before == {"report.json"}
    assert run_drop(config, bench.spark) == {"table": str(bench.folder / "vectors"), "column": "embedding", "items": [], "dropped": False}
    assert bench.run(**own)["rows_embedded"] == embedded
    (bench.folder / "vectors" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds 'notes\.txt', which is no file of the table"):
        run_drop(config, bench.spark)
    assert bench.table("vectors").count() == 4


def test_a_run_does_not_begin_while_the_whole_table_is_locked(bench: Bench) -> None:
    lock = RunLock(bench.spark, str(bench.folder / "journal"), "20200101T000000-drop")
    other = RunLock(bench.spark, str(bench.folder / "journal"), "20210101T000000-run")
    with lock.hold_alone(), pytest.raises(ConflictError, match="20200101T000000-drop is at work on the table"), other.hold("0123"):
        raise AssertionError
    with other.hold("0123"), pytest.raises(ConflictError, match="20210101T000000-run"), lock.hold_alone():
        raise AssertionError
    with lock.hold_alone():
        assert lock.is_alone()


@pytest.mark.slow
def test_columns_in_the_source_are_emptied_or_dropped_and_another_column_stays(bench: Bench) -> None:
    bench.write(ROWS)
    other = {"embedding": {"column": "other", "layer": 1}}
    bench.run()
    bench.run(**other)
    held = {key: row["other"] for key, row in bench.rows().items()}
    found = run_drop(bench.config(), bench.spark)
    assert [item["kind"] for item in found["items"]] == ["quarantine rows", "empty columns", "label"]
    rows = bench.rows()
    assert all(row[name] is None for row in rows.values() for name in ("embedding", "embedding_error", "embedding_fingerprint"))
    assert {key: row["other"] for key, row in rows.items()} == held
    assert run_drop(bench.config(), bench.spark)["items"] == []
    quarantine = bench.table("table__metaeol_quarantine").collect()
    assert {row["vector_column"] for row in quarantine} == {"other"}
    report = bench.run(**other)
    assert report["rows_embedded"] == 0
    bench.spark.sql(f"ALTER TABLE delta.`{bench.path}` SET TBLPROPERTIES ('delta.columnMapping.mode' = 'name')")
    assert [item["kind"] for item in run_drop(bench.config(**other), bench.spark)["items"]] == ["quarantine", "columns", "label", "journal"]
    assert not [name for name in bench.table().columns if name.startswith("other")]
    assert bench.run()["rows_embedded"] == 2


def test_columns_that_no_run_made_are_refused(bench: Bench) -> None:
    bench.write([(1, "a text", [0.5])], "id long, text string, embedding array<float>")
    with pytest.raises(InputError, match="no run of this package made it"):
        run_drop(bench.config(), bench.spark)
    assert bench.rows()[1]["embedding"] == [0.5]


@pytest.mark.slow
def test_the_checkpoint_of_a_stream_goes_too(bench: Bench) -> None:
    own = {"target": {"table": str(bench.folder / "vectors")}}
    bench.write(ROWS)
    run_stream(bench.config(**own), bench.spark, bench.progress)
    bench.write([(5, "a fifth")], mode="append")
    run_stream(bench.config(**own), bench.spark, bench.progress)
    assert "vectors__metaeol_checkpoint" in names_in(bench.folder)
    kinds = [item["kind"] for item in run_drop(bench.config(**own), bench.spark)["items"]]
    assert kinds == ["checkpoint", "quarantine", "target", "journal"]
    assert not [name for name in names_in(bench.folder) if name.startswith("vectors")]
    elsewhere = {**own, "stream": {"checkpoint": str(bench.folder / "streams")}}
    run_stream(bench.config(**elsewhere), bench.spark, bench.progress)
    (bench.folder / "streams" / "notes").mkdir()
    run_drop(bench.config(**elsewhere), bench.spark)
    assert [name for name in names_in(bench.folder / "streams") if not name.endswith(".crc")] == ["notes"]

"""Waves that share partitions, and a publication in pieces, give what one wave and one MERGE give."""

from __future__ import annotations

import pytest
from delta import DeltaTable

from metaeol_udf.delta.write import merge, waves
from tests.table_bench import Before, Bench

ROWS = [(n, f"text number {n % 15}" if n else None) for n in range(18)]


@pytest.mark.slow
def test_more_waves_than_partitions_embed_each_text_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waves, "MOST_PARTITIONS", 2)
    bench.write(ROWS)
    report = bench.run(runtime={"wave_rows": 3})
    assert report["unique_texts"] == 15
    assert 2 < report["waves"] <= 6  # two groups of three waves, none of which is empty by need
    assert report["rows_embedded"] == 17


@pytest.mark.slow
def test_a_target_is_published_in_pieces_of_whole_waves(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "PIECE_ROWS", 6)
    bench.write(ROWS)
    target = {"table": str(bench.folder / "vectors")}
    report = bench.run(target=target, runtime={"wave_rows": 3})
    assert (report["rows_embedded"], report["rows_failed"], report["unique_texts"]) == (17, 1, 15)
    operations = [row["operation"] for row in DeltaTable.forPath(bench.spark, target["table"]).history().collect()]
    assert operations.count("MERGE") == 3
    assert all((row["embedding"] is None) == (key == 0) for key, row in bench.rows("vectors").items())


@pytest.mark.slow
def test_a_piece_that_meets_another_writer_is_cut_in_halves(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    class ConcurrentAppendException(Exception):
        pass

    merges: list[int] = []
    real = merge.open_table

    def busy(*args: object) -> DeltaTable:
        merges.append(1)
        if len(merges) in (1, 2):
            raise ConcurrentAppendException
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("metaeol_udf.delta.tables.spark_errors.MAX_PAUSE_S", 0.1)
    bench.write(ROWS)
    report = bench.run(between=Before("publish", lambda: monkeypatch.setattr(merge, "open_table", busy)))
    assert report["rows_embedded"] == 17
    operations = [row["operation"] for row in DeltaTable.forPath(bench.spark, bench.path).history().collect()]
    assert operations.count("MERGE") == 3  # a half, and two quarters: both first tries lost
    assert len(merges) == 5

"""What is stored decides which rows are done, whatever was done to the columns, the journal or the table."""

from __future__ import annotations

import json

import numpy as np
import pytest
from delta import DeltaTable
from pyspark.sql import functions as F

from metaeol_udf import MetaEOLEncoder
from metaeol_udf.delta.retry import run_retry
from metaeol_udf.delta.stream import run_stream
from tests.table_bench import Before, Bench

TEXTS = [(1, "a first text"), (2, "a second text"), (3, None), (4, " "), (5, "a fifth text")]


def write(bench: Bench) -> None:
    rows = bench.spark.createDataFrame(TEXTS, "id long, text string")
    rows.write.format("delta").option("delta.columnMapping.mode", "name").save(bench.path)


def check(bench: Bench, table: str) -> None:
    """Every row holds the vector of its text, or the error of a NULL or blank text."""
    rows = bench.rows(table)
    assert {key: row["embedding_error"] for key, row in rows.items()} == {1: None, 2: None, 3: "null_text", 4: "empty_text", 5: None}
    assert rows[3]["embedding"] is None
    assert rows[4]["embedding"] is None
    found = np.array([rows[key]["embedding"] for key in (1, 2, 5)], np.float32)
    expected = MetaEOLEncoder.from_spec(bench.spec, device="cpu").encode([text for _, text in TEXTS if text and text.strip()])
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("embedding", "DROP COLUMN {0}"),
        ("embedding_fingerprint", "RENAME COLUMN {0} TO old_{0}"),
        ("embedding", "RENAME COLUMN {0} TO old_{0}"),
        ("embedding_fingerprint", "DROP COLUMN {0}"),
        ("embedding_error", "RENAME COLUMN {0} TO old_{0}"),
        ("embedding_error", "DROP COLUMN {0}"),
    ],
)
def test_a_column_that_went_away_is_filled_again(bench: Bench, column: str, change: str) -> None:
    write(bench)
    assert bench.run()["rows_embedded"] == 3
    bench.spark.sql(f"ALTER TABLE delta.`{bench.path}` {change.format(column)}")
    assert "all rows" in bench.run()["looked_at"]
    check(bench, "table")
    assert bench.run()["status"] == "nothing_to_do"


@pytest.mark.slow
def test_a_run_killed_after_the_column_was_added_anew_is_made_good(bench: Bench) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    write(bench)
    bench.run()
    bench.spark.sql(f"ALTER TABLE delta.`{bench.path}` DROP COLUMN embedding")
    with pytest.raises(KeyboardInterrupt):
        bench.run(between=Before("select", stop))
    assert "embedding" in bench.table().columns
    assert bench.run()["rows_embedded"] == 3
    check(bench, "table")


GARBLED = {
    "vector gone": {"embedding": "NULL"},
    "another length": {"embedding": "slice(embedding, 1, 31)"},
    "NaN": {"embedding": "transform(embedding, x -> float('nan'))"},
    "infinity": {"embedding": "transform(embedding, x -> float('-infinity'))"},
    "NULL inside": {"embedding": "transform(embedding, x -> CAST(NULL AS FLOAT))"},
    "error beside a vector": {"embedding_error": "'oom'"},
    "error in place of a vector": {"embedding": "NULL", "embedding_error": "'oom'"},
    "error of a text that is there": {"embedding": "NULL", "embedding_error": "'null_text'"},
    "fingerprint gone": {"embedding_fingerprint": "NULL"},
}


@pytest.mark.slow
@pytest.mark.parametrize("in_place", [True, False])
def test_a_garbled_row_is_work_for_the_next_run(bench: Bench, in_place: bool) -> None:
    last = len(GARBLED)
    bench.write([(n, f"text {n}" if n <= last else None) for n in range(last + 2)])
    name = "table" if in_place else "vectors"
    target = {"table": str(bench.folder / name)}
    bench.run(target=target)
    before = bench.rows(name)
    table = DeltaTable.forPath(bench.spark, target["table"])
    for n, values in enumerate(GARBLED.values()):
        table.update(f"id = {n}", values)
    # A vector where a text is NULL is wrong as well.
    vector = F.array(*[F.lit(1.0).cast("float")] * 32)
    table.update(F.col("id") == last + 1, {"embedding": vector, "embedding_error": F.lit(None)})
    report = bench.run(target=target)
    assert (report["rows_embedded"], report["rows_failed"]) == (len(GARBLED), 1)
    for n, row in bench.rows(name).items():
        what = [*GARBLED, "untouched", "a vector of no text"][n]
        assert row["embedding_error"] == before[n]["embedding_error"] == ("null_text" if n > last else None), what
        assert row["embedding_fingerprint"].split("-")[0] == report["fingerprint"], what
        if n > last:
            assert row["embedding"] is None
        else:
            np.testing.assert_allclose(row["embedding"], before[n]["embedding"], atol=2e-5, err_msg=what)


@pytest.mark.slow
def test_stream_and_retry_look_at_what_is_stored_too(bench: Bench) -> None:
    write(bench)
    run_stream(bench.config(), bench.spark, bench.progress)
    bench.spark.sql(f"ALTER TABLE delta.`{bench.path}` DROP COLUMN embedding")
    assert run_stream(bench.config(), bench.spark, bench.progress)["rows_embedded"] == 3
    check(bench, "table")
    oom = {"embedding": F.lit(None), "embedding_error": F.lit("oom")}
    DeltaTable.forPath(bench.spark, bench.path).update(F.col("id") == 5, oom)
    assert run_retry(bench.config(), bench.spark, bench.progress)["rows_embedded"] == 1
    check(bench, "table")


@pytest.mark.slow
def test_a_journalled_vector_that_is_not_whole_is_computed_again(bench: Bench) -> None:
    def spoil() -> None:
        journal = DeltaTable.forPath(bench.spark, f"{bench.path}__metaeol_journal")
        journal.update(F.col("fingerprint").isNotNull(), {"vector": F.slice("vector", 1, 3)})

    write(bench)
    report = bench.run(between=Before("publish", spoil))
    assert report["unique_texts"] == 6  # three texts, twice
    check(bench, "table")


@pytest.mark.slow
@pytest.mark.parametrize("wave_rows", [pytest.param(1, marks=pytest.mark.slow), 100])
def test_appends_to_the_journal_read_nothing(bench: Bench, wave_rows: int) -> None:
    write(bench)
    n_waves = bench.run(runtime={"wave_rows": wave_rows})["waves"]
    log = (bench.folder / "table__metaeol_journal" / "_delta_log").glob("*.json")
    infos = [json.loads(line)["commitInfo"] for file in log for line in file.read_text().splitlines() if '"commitInfo"' in line]
    assert [info["isBlindAppend"] for info in infos if info["operation"] == "WRITE"] == [True] * n_waves
    assert n_waves >= (2 if wave_rows == 1 else 1)

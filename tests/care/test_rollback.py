"""`metaeol rollback`: vectors of an earlier spec back without the model, or refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metaeol_udf.care import run_rollback, run_status
from metaeol_udf.delta.tables.metadata import label_of
from metaeol_udf.delta.tables.refs import open_table, parse_table
from metaeol_udf.errors import InputError
from tests.delta.state_machine.stand_in import Calls
from tests.table_bench import POISON, Bench

NEW = {"layer": 1, "normalize": True}


def label(bench: Bench, path: Path) -> dict[str, str]:
    table = open_table(bench.spark, parse_table(str(path), "target.table"), "target.table")
    return label_of(table.detail().collect()[0]["properties"], "embedding")


def migrated(bench: Bench, own: dict[str, Any]) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Replace a table's vectors by those of another spec, then some texts; gives the version before, its rows and its label."""
    name = "vectors" if own else "table"
    bench.write([(1, "a text"), (2, "another"), (3, f"a {POISON}"), (4, None), (5, "a fifth")])
    bench.run(**own)
    version = bench.versions(name) - 1
    rows, first = bench.rows(name), label(bench, bench.folder / name)
    bench.run(embedding=NEW, **own)
    bench.spark.sql(f"UPDATE delta.`{bench.path}` SET text = 'a new second' WHERE id = 2")
    bench.spark.sql(f"INSERT INTO delta.`{bench.path}` (id, text) VALUES (6, 'a text')")
    bench.spark.sql(f"INSERT INTO delta.`{bench.path}` (id, text) VALUES (7, 'a seventh')")
    bench.run(embedding=NEW, **own)
    return version, rows, first


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["target", "in place"])
def test_earlier_vectors_come_back_with_their_label_and_without_the_model(bench: Bench, calls: Calls, kind: str) -> None:
    own = {"target": {"table": str(bench.folder / "vectors")}} if kind == "target" else {}
    name = "vectors" if own else "table"
    version, before, first = migrated(bench, own)
    calls.take()
    found = run_rollback(bench.config(embedding={**NEW, "model": str(bench.folder / "nowhere")}, **own), version, bench.spark)
    assert (found["rows_restored"], found["rows_emptied"], found["rows_stale"]) == (5, 2, 0)
    rows = bench.rows(name)
    for key in (1, 3, 4, 5):
        assert tuple(rows[key][-3:]) == tuple(before[key][-3:])
    assert rows[6]["embedding"] == before[1]["embedding"]  # the same text
    assert all(rows[key][column] is None for key in (2, 7) for column in ("embedding", "embedding_error", "embedding_fingerprint"))
    assert label(bench, bench.folder / name) == first
    assert found["label"] == first
    assert not calls.take()
    state = run_status(bench.config(**own), bench.spark)
    assert (state["rows_to_do"], state["rows_new"], state["rows_retried"]) == (3, 2, 1)
    assert state["last_runs"][0]["spec"] == "rollback"
    assert state["quarantine"]["reasons"] == {"non_finite": 1, "null_text": 1}
    report = bench.run(**own)
    assert (report["rows_embedded"], report["rows_failed"]) == (2, 1)
    assert len(calls.take()) == 3
    with pytest.raises(InputError, match="which the table's are now: there is nothing to bring back"):
        run_rollback(bench.config(**own), version, bench.spark)


@pytest.mark.slow
def test_what_cannot_come_back_is_refused_with_the_reason(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"target": {"table": str(bench.folder / "vectors")}}
    with pytest.raises(InputError, match="there is no table"):
        run_rollback(bench.config(**own), 0, bench.spark)
    bench.write([(1, "a text")])
    bench.run(**own)
    version = bench.versions("vectors") - 1
    config = bench.config(**own)
    bench.run(embedding=NEW, **own)
    n_commits = bench.versions("vectors")
    with pytest.raises(InputError, match=r"has no such version, or its log is cleaned up \(there are 0 to"):
        run_rollback(config, 99, bench.spark)
    with pytest.raises(InputError, match="column 'embedding' is not in version 0"):
        run_rollback(config, 0, bench.spark)
    bench.spark.conf.set("spark.databricks.delta.retentionDurationCheck.enabled", "false")
    open_table(bench.spark, parse_table(str(bench.folder / "vectors"), "x"), "x").vacuum(0)
    bench.spark.conf.unset("spark.databricks.delta.retentionDurationCheck.enabled")
    n_vacuumed = bench.versions("vectors")
    with pytest.raises(InputError, match="were removed by VACUUM: its vectors are gone"):
        run_rollback(config, version, bench.spark)
    assert bench.versions("vectors") == n_vacuumed >= n_commits
    assert label(bench, bench.folder / "vectors")["layer"] == "1"

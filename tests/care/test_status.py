"""What `metaeol status` says against what the next run does, and that it writes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from metaeol_udf.care import run_status
from metaeol_udf.errors import InputError
from tests.table_bench import POISON, Bench


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def agreed(bench: Bench, **sections: dict[str, Any]) -> dict[str, Any]:
    """The state before a run that then does what the state says."""
    before = contents(bench.folder)
    state = run_status(bench.config(**sections), bench.spark)
    assert contents(bench.folder) == before
    report = bench.run(**sections)
    assert state["rows_to_do"] == report["rows_embedded"] + report["rows_failed"]
    assert state["rows_selected"] == report["rows_selected"]
    assert state["rows_orphaned"] == report["rows_deleted"]
    json.dumps(state)
    return state


@pytest.mark.slow
def test_the_state_is_what_the_next_run_does(bench: Bench) -> None:
    own = {"target": {"table": str(bench.folder / "vectors"), "max_deleted_fraction": 1.0}}
    bench.write([(n, f"text number {n}") for n in range(8)] + [(8, None), (9, f"a {POISON}")])
    first = agreed(bench, **own)
    assert (first["rows_new"], first["rows_done"], first["stored_fingerprint"], first["last_runs"]) == (10, 0, None, [])
    assert (first["journal"]["rows"], first["quarantine"]["rows"]) == (0, 0)
    bench.spark.sql(f"UPDATE delta.`{bench.path}` SET text = 'another' WHERE id = 1")
    bench.spark.sql(f"DELETE FROM delta.`{bench.path}` WHERE id = 2")
    bench.write([(10, "a new text")], mode="append")
    state = agreed(bench, **own)
    assert (state["rows_done"], state["rows_changed"], state["rows_new"], state["rows_retried"], state["rows_orphaned"]) == (6, 1, 1, 1, 1)
    assert (state["rows_failed"], state["failures"]) == (2, {"non_finite": 1, "null_text": 1})
    assert state["quarantine"] == {"rows": 2, "reasons": {"non_finite": 1, "null_text": 1}}
    assert state["journal"]["bytes"] > 0
    (run,) = state["last_runs"]
    assert (run["spec"], state["last_proof"]["run_id"]) == (state["fingerprint"], run["run_id"])
    assert state["label"] == state["stored_label"]


@pytest.mark.slow
def test_vectors_of_another_spec_and_broken_ones_are_told_apart(bench: Bench) -> None:
    bench.write([(1, "a text"), (2, "another"), (3, "a third")])
    old = bench.run()["fingerprint"]
    bench.spark.sql(f"UPDATE delta.`{bench.path}` SET embedding = array(1.0f) WHERE id = 1")
    assert agreed(bench)["rows_broken"] == 1
    state = agreed(bench, embedding={"layer": 1})
    assert (state["rows_of_other_specs"], state["other_specs"], state["stored_fingerprint"]) == (3, {old: 3}, old)
    assert {name for name in state["label"] if state["label"][name] != state["stored_label"][name]} == {"fingerprint", "layer"}
    narrow = {"source": {"where": "id < 3"}, "embedding": {"layer": 1}}
    assert run_status(bench.config(**narrow), bench.spark)["rows_selected"] == 2
    bench.spark.sql(f"INSERT INTO delta.`{bench.path}` (id, text) VALUES (1, 'twice')")
    with pytest.raises(InputError, match="a key names one row"):
        run_status(bench.config(), bench.spark)

"""Passes over a table, counted from the event log of a real session over queries whose passes are known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.event_log import Cost, read_event_log

pytestmark = pytest.mark.slow  # a session of its own for its queries

ROOT = Path(__file__).resolve().parents[2]
ROWS = 1_000
COLUMNS = ("id", *(f"a_column_with_a_long_name_{i}" for i in range(20)), "vector", "nested")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `logged_queries.py` has left the table, the log and the spans."""
    folder = tmp_path_factory.mktemp("queries")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    env.pop("PYSPARK_GATEWAY_PORT", None)
    command = [sys.executable, str(Path(__file__).with_name("logged_queries.py")), str(folder)]
    done = subprocess.run(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
    return folder


@pytest.fixture(scope="module")
def costs(folder: Path) -> dict[str, Cost]:
    log = read_event_log(folder / "log")
    return {name: log.cost(*span) for name, span in json.loads((folder / "spans.json").read_text()).items()}


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        ("one column", 1),
        ("all columns", 1),
        ("a filter that leaves nothing", 1),
        ("the cache is filled", 1),
        ("the cache is read", 0),
        ("an exchange is used again", 1),
        ("a join with itself", 2),
        ("a global sort", 2),
        ("take", 1),
        ("a local checkpoint is read", 0),
        ("Delta's log is read", 0),
    ],
)
def test_passes_are_counted_as_they_ran(folder: Path, costs: dict[str, Cost], name: str, passes: int) -> None:
    assert costs[name].passes(folder / "table") == passes
    assert costs[name].unattributed_input_bytes == 0


def test_a_scan_tells_its_columns_in_full_its_files_and_its_rows(costs: dict[str, Cost]) -> None:
    one, every = costs["one column"].scans[0], costs["all columns"].scans[0]
    assert (one.columns, one.files, one.rows) == (("id",), 2, ROWS)
    assert (every.columns, every.files, every.rows) == (COLUMNS, 2, ROWS)


def test_passes_are_chosen_by_column_and_rows(folder: Path, costs: dict[str, Cost]) -> None:
    cost, table = costs["a join with itself"], folder / "table"
    assert (cost.passes(table, "id"), cost.passes(table, "vector"), cost.passes(table, without="vector")) == (2, 1, 1)
    assert (cost.passes(table, min_rows=ROWS), cost.passes(table, min_rows=ROWS + 1)) == (2, 0)
    assert costs["one column"].passes(folder / "another table") == 0


def test_scans_that_the_final_plan_lacks_count_where_the_query_began(folder: Path, costs: dict[str, Cost]) -> None:
    # The side that is found to be empty leaves the plan, and so does the other one, which Spark may scan for all that.
    found = costs["a plan that ends early"]
    assert found.passes(folder / "table", without="vector") == 1
    assert costs["an RDD"].passes(folder / "table") == 0


def test_an_rdd_by_hand_reads_bytes_that_no_plan_shows(folder: Path, costs: dict[str, Cost]) -> None:
    cost = costs["an RDD"]
    assert cost.passes(folder / "table") == 0
    assert cost.unattributed_input_bytes > ROWS * 8  # the vectors: two random doubles a row, compressed


def test_jobs_and_shuffled_bytes_are_those_of_the_span(costs: dict[str, Cost]) -> None:
    assert costs["take"].shuffle_bytes == 0
    assert costs["an exchange is used again"].shuffle_bytes > 0
    assert costs["the cache is read"].jobs >= 2


def test_reading_a_log_of_delta_is_counted_apart(costs: dict[str, Cost]) -> None:
    assert costs["Delta's log is read"].log_scans >= 1


def test_a_log_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "local-1"
    log.write_text('{"Event": "SparkListenerJobStart", "Submission Time": 1000, "Stage IDs": []}\n{"Event": "SparkList')
    with pytest.raises(ValueError, match="cut off"):
        read_event_log(log)


@pytest.mark.parametrize("suffix", ["", ".inprogress", ".zstd"])
def test_a_log_of_one_file_is_read(tmp_path: Path, suffix: str) -> None:
    import pyarrow as pa

    log = tmp_path / f"local-1{suffix}"
    half = b'{"Event": "SparkList' if suffix == ".inprogress" else b""
    text = b'{"Event": "SparkListenerJobStart", "Submission Time": 1000, "Stage IDs": []}\n' + half
    log.write_bytes(pa.Codec("zstd").compress(text, asbytes=True) if suffix == ".zstd" else text)
    assert read_event_log(log).cost(1.0, 2.0).jobs == 1
    assert read_event_log(log).cost(0.0, 1.0).jobs == 0

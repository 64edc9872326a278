"""Other engines open the tables that the job writes: the snippets of docs/readers.md, and which table features they know."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from tests.doc_page import assert_same_output, blocks_of, make_tickets, run_block, said_by

deltalake = pytest.importorskip("deltalake", reason="deltalake is not installed")

SNIPPETS = {block.section: block for block in blocks_of("readers.md") if block.language == "python"}


@pytest.fixture(scope="module")
def tickets(spark: SparkSession, model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The embedded table of docs/search.md, and the names that its code shares."""
    before = Path.cwd()
    yield make_tickets(spark, tmp_path_factory.mktemp("readers"), model_dir)
    os.chdir(before)


@pytest.fixture(scope="module")
def stored(tickets: dict[str, Any]) -> np.ndarray:
    """What Spark reads, by id."""
    rows = (
        tickets["spark"]
        .read.format("delta")
        .load(str(Path("demo/tickets").resolve()))
        .where("embedding IS NOT NULL")
        .orderBy("id")
        .collect()
    )
    return np.array([row["embedding"] for row in rows], np.float32)


@pytest.fixture(scope="module")
def opened(tickets: dict[str, Any], stored: np.ndarray) -> dict[str, Any]:
    """The page's first snippet, which opens the table."""
    names: dict[str, Any] = {}
    assert_same_output(run_block(SNIPPETS["deltalake (delta-rs)"], names) or "", said_by(SNIPPETS["deltalake (delta-rs)"]))
    order = np.argsort(names["rows"]["id"].to_numpy())
    assert (names["matrix"][order] == stored).all()
    return names


@pytest.mark.parametrize("section", ["pandas", "Polars", "DuckDB"])
def test_a_snippet_reads_what_spark_reads(section: str, opened: dict[str, Any], stored: np.ndarray) -> None:
    if section != "pandas":
        pytest.importorskip(section.lower(), reason=f"{section.lower()} is not installed")
    names = dict(opened)
    assert_same_output(run_block(SNIPPETS[section], names) or "", said_by(SNIPPETS[section]))
    if section != "DuckDB":
        order = np.argsort(names["frame"]["id"].to_numpy())
        assert (names["matrix"][order] == stored).all()


def test_duckdbs_own_extension_reads_the_table(stored: np.ndarray, tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    package = pytest.importorskip("duckdb_extension_delta", reason="duckdb-extension-delta is not installed")
    connection = duckdb.connect(config={"extension_directory": str(tmp_path / "extensions")})
    (file,) = Path(package.__file__).parent.glob(f"extensions/v{duckdb.__version__}/delta.duckdb_extension")
    connection.execute(f"INSTALL '{file}'")
    connection.execute("LOAD delta")
    rows = connection.execute("SELECT embedding FROM delta_scan('demo/tickets') WHERE embedding IS NOT NULL ORDER BY id").fetchnumpy()
    assert (np.stack(rows["embedding"]) == stored).all()


def test_the_job_turns_no_table_feature_on(tickets: dict[str, Any]) -> None:
    for table in ("demo/tickets", "demo/tickets__metaeol_journal", "demo/tickets__metaeol_quarantine"):
        assert _protocols(Path(table))[-1] == {"minReaderVersion": 1, "minWriterVersion": 2}


#: Feature, its value, and what becomes of the table in pyarrow through deltalake, in deltalake's query engine and in Polars.
FEATURES = {
    "delta.enableDeletionVectors": ("true", ("refuses", "reads", "reads")),
    "delta.columnMapping.mode": ("name", ("NULL", "reads", "refuses")),
    "delta.enableChangeDataFeed": ("true", ("reads", "reads", "reads")),
    "delta.enableRowTracking": ("true", ("reads", "reads", "reads")),
}


@pytest.fixture(scope="module", params=FEATURES)
def featured(request: pytest.FixtureRequest, tickets: dict[str, Any]) -> tuple[str, str]:
    """The embedded table written again with a feature turned on, and then a commit that rewrites a row and one that removes one."""
    feature = str(request.param)
    spark, path = tickets["spark"], f"{Path.cwd()}/demo/{feature.split('.')[1]}"
    rows = spark.read.format("delta").load(str(Path("demo/tickets").resolve()))
    rows.coalesce(1).write.format("delta").option(feature, FEATURES[feature][0]).save(path)
    spark.sql(f"UPDATE delta.`{path}` SET text = 'The invoice is wrong.' WHERE id = 8")
    spark.sql(f"DELETE FROM delta.`{path}` WHERE id = 5")
    return feature, path


def test_a_table_feature_is_read_by_those_of_whom_the_page_says_so(featured: tuple[str, str], tickets: dict[str, Any]) -> None:
    feature, path = featured
    polars = pytest.importorskip("polars", reason="polars is not installed")
    wanted = {row["id"]: row["embedding"] for row in tickets["spark"].read.format("delta").load(path).collect()}
    assert wanted.keys() == set(range(1, 10)) - {5}
    readers: tuple[Callable[[], dict[str, list[Any]]], ...] = (
        lambda: deltalake.DeltaTable(path).to_pyarrow_table(columns=["id", "embedding"]).to_pydict(),
        lambda: _by_query(path),
        lambda: polars.scan_delta(path).select("id", "embedding").collect().to_dict(as_series=False),
    )
    outcomes = []
    for reader in readers:
        try:
            columns = reader()
        except deltalake.exceptions.DeltaProtocolError:
            outcomes.append("refuses")
            continue
        found = dict(zip(columns["id"], columns["embedding"], strict=True))
        outcomes.append("reads" if found == wanted else "NULL" if found == {None: None} else "wrong")
    assert tuple(outcomes) == FEATURES[feature][1]


def _by_query(path: str) -> dict[str, list[Any]]:
    builder = deltalake.QueryBuilder().register("t", deltalake.DeltaTable(path))
    columns: dict[str, list[Any]] = pa.table(builder.execute("SELECT id, embedding FROM t").read_all()).to_pydict()
    return columns


def _protocols(table: Path) -> list[dict[str, Any]]:
    lines = [line for path in sorted((table / "_delta_log").glob("*.json")) for line in path.read_text(encoding="utf-8").splitlines()]
    return [entry["protocol"] for entry in map(json.loads, lines) if "protocol" in entry]

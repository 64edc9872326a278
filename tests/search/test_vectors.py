"""Exact search and near-duplicates over any DataFrame of vectors, compared with plain NumPy."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from pyspark.errors import PythonException
from pyspark.sql import DataFrame, SparkSession

from metaeol_udf.errors import ConfigError, InputError
from metaeol_udf.search import near_duplicates, search_vectors
from metaeol_udf.search.blocks import ROW_BLOCK, Metric, Side, first_of_each
from metaeol_udf.search.distinct import nearest_of_each
from metaeol_udf.search.duplicates import PROJECTIONS, TABLES, bucket_length, same_bucket
from metaeol_udf.search.open_job import ASKED
from metaeol_udf.search.vectors import VECTOR, with_vectors

DIM = 24


def vectors(n: int, seed: int = 0, dim: int = DIM) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def frame(spark: SparkSession, matrix: NDArray[np.float32], **columns: object) -> DataFrame:
    """Rows with ids in a shuffled order, in several partitions."""
    ids = np.arange(len(matrix))
    order = np.random.default_rng(1).permutation(len(matrix))
    offsets = np.arange(len(matrix) + 1, dtype=np.int32) * matrix.shape[1]
    embedding = pa.ListArray.from_arrays(pa.array(offsets), pa.array(matrix[order].ravel()))
    table = pa.table(
        {"id": pa.array(ids[order]), "embedding": embedding, **{k: pa.array(np.asarray(v)[order]) for k, v in columns.items()}}
    )
    return spark.createDataFrame(table).repartition(3)


def expected(rows: NDArray[np.float32], queries: NDArray[np.float32], k: int, metric: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    a, b = queries.astype(np.float64), rows.astype(np.float64)
    if metric == "euclidean":
        scores = np.sqrt(((a[:, None, :] - b[None, :, :]) ** 2).sum(-1))
        order = np.argsort(scores, axis=1, kind="stable")[:, :k]
    else:
        if metric == "cosine":
            a, b = a / np.linalg.norm(a, axis=1, keepdims=True), b / np.linalg.norm(b, axis=1, keepdims=True)
        scores = a @ b.T
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(scores, order, 1)


@pytest.mark.parametrize("broadcast", ["queries", "vectors"])
@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
def test_many_queries_find_what_numpy_finds(spark: SparkSession, metric: str, broadcast: str) -> None:
    rows, queries = vectors(ROW_BLOCK + 700), vectors(30, seed=2)
    found = search_vectors(frame(spark, rows), frame(spark, queries), k=7, metric=metric, broadcast=broadcast)
    assert found.columns == ["query_id", "id", "score", "rank"]
    order, scores = expected(rows, queries, 7, metric)
    table = found.toPandas().sort_values(["query_id", "rank"])
    assert (table["id"].to_numpy().reshape(30, 7) == order).all()
    np.testing.assert_allclose(table["score"].to_numpy().reshape(30, 7), scores, rtol=1e-6, atol=1e-6)
    assert (table["rank"].to_numpy().reshape(30, 7) == np.arange(1, 8)).all()


def test_the_plan_has_no_cross_join_and_moves_no_vectors(spark: SparkSession) -> None:
    found = search_vectors(frame(spark, vectors(50)), frame(spark, vectors(5)), k=3)
    plan = found._jdf.queryExecution().executedPlan().toString()
    assert "MapInArrow" in plan
    assert not [word for word in ("CartesianProduct", "NestedLoopJoin", "Cross", "SortMergeJoin") if word in plan]
    exchanged = [line for line in plan.splitlines() if "Exchange hashpartitioning" in line]
    assert exchanged
    assert "metaeol_query" in exchanged[0]


@pytest.mark.parametrize("broadcast", ["queries", "vectors"])
def test_ties_are_ranked_in_the_order_of_keys(spark: SparkSession, broadcast: str) -> None:
    one = np.repeat(vectors(1), 2 * ROW_BLOCK + 10, axis=0)
    found = search_vectors(frame(spark, one), frame(spark, one[:2]), k=5, broadcast=broadcast).toPandas()
    assert sorted(map(tuple, found[["query_id", "rank", "id"]].to_numpy().tolist())) == [(q, i + 1, i) for q in (0, 1) for i in range(5)]
    assert found["score"].nunique() == 1


def test_keys_of_several_columns_are_kept_and_decide_ties(spark: SparkSession) -> None:
    rows = [("b", 1), ("a", 2), ("a", 1), (None, 3)]
    table = spark.createDataFrame([(*key, [1.0, 0.0]) for key in rows], "shelf string, no int, v array<double>")
    queries = spark.createDataFrame([("what?", [2.0, 0.0])], "text string, v array<float>")
    found = search_vectors(table, queries, k=3, key=["shelf", "no"], query_key="text", vector="v", query_vector="v")
    assert [tuple(row) for row in found.orderBy("rank").collect()] == [
        ("what?", None, 3, 1.0, 1),
        ("what?", "a", 1, 1.0, 2),
        ("what?", "a", 2, 1.0, 3),
    ]


def test_rows_are_filtered_before_they_compete(spark: SparkSession) -> None:
    rows = vectors(200)
    lang = np.where(np.arange(200) % 4 == 0, "de", "en")
    found = search_vectors(frame(spark, rows, lang=lang), frame(spark, rows[:1]), k=50, where="lang = 'de'").toPandas()
    assert sorted(found["id"]) == list(range(0, 200, 4))
    with pytest.raises(InputError, match=r"where .* is no condition"):
        search_vectors(frame(spark, rows), frame(spark, rows[:1]), k=1, where="no_such = 1")


def test_null_vectors_are_left_out_on_both_sides(spark: SparkSession) -> None:
    rows = spark.createDataFrame([(1, [1.0, 0.0]), (2, None), (3, [0.0, 0.0])], "id long, embedding array<float>")
    found = search_vectors(rows, rows, k=5).orderBy("query_id", "rank").collect()
    assert [tuple(row) for row in found] == [(1, 1, 1.0, 1), (1, 3, 0.0, 2), (3, 1, 0.0, 1), (3, 3, 0.0, 2)]
    assert search_vectors(rows, rows.where("id = 2"), k=5).collect() == []
    assert search_vectors(rows.where("id = 2"), rows, k=5, broadcast="vectors").collect() == []


@pytest.mark.parametrize("broadcast", ["queries", "vectors"])
@pytest.mark.parametrize(
    ("bad", "message"),
    [([1.0, 2.0, 3.0], "holds [23] numbers where [23] are expected"), ([1.0, float("nan")], "NaN, NULL"), ([1.0, None], "NaN, NULL")],
)
def test_vectors_that_cannot_be_compared_are_refused(spark: SparkSession, bad: list[float], message: str, broadcast: str) -> None:
    good = spark.createDataFrame([(1, [1.0, 0.0])], "id long, embedding array<float>")
    rows = spark.createDataFrame([(1, [1.0, 0.0]), (2, bad)], "id long, embedding array<float>").coalesce(1)
    with pytest.raises((InputError, PythonException), match=f"column 'embedding': .*{message}"):
        search_vectors(rows, good, k=1, broadcast=broadcast).collect()
    with pytest.raises((InputError, PythonException), match=f"column 'embedding': .*{message}"):
        search_vectors(good, rows, k=1, broadcast=broadcast).collect()


def test_settings_and_columns_are_checked_before_anything_runs(spark: SparkSession) -> None:
    rows = frame(spark, vectors(3))
    with pytest.raises(ConfigError, match="did you mean 'cosine'"):
        search_vectors(rows, rows, k=1, metric="cosin")
    with pytest.raises(ConfigError, match="k must be an integer"):
        search_vectors(rows, rows, k=0)
    with pytest.raises(ConfigError, match="broadcast must be"):
        search_vectors(rows, rows, k=1, broadcast="both")
    with pytest.raises(InputError, match=r"column 'vector' is not in vectors_df \(columns: id, embedding\)"):
        search_vectors(rows, rows, k=1, vector="vector")
    with pytest.raises(InputError, match="must be array<float> or array<double>, found bigint"):
        search_vectors(rows, rows, k=1, vector="id")
    with pytest.raises(InputError, match="query_id is what the query's key is called"):
        search_vectors(rows.withColumnRenamed("id", "query_id"), rows, k=1, key="query_id")
    with pytest.raises(InputError, match="rename it first"):
        search_vectors(rows.withColumnRenamed("id", "score"), rows, k=1, key="score")


def test_a_side_that_is_too_large_is_refused(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metaeol_udf.search.vectors.MAX_SIDE_BYTES", 1000)
    with pytest.raises(InputError, match=r"queries_df: 10 vectors take .* broadcast the other side"):
        search_vectors(frame(spark, vectors(3)), frame(spark, vectors(10)), k=1)


def pairs_by_numpy(rows: NDArray[np.float32], threshold: float) -> dict[tuple[int, int], float]:
    unit = rows.astype(np.float64) / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = (unit @ unit.T).astype(np.float32)
    return {(i, j): float(cosines[i, j]) for i, j in np.argwhere(np.triu(cosines >= np.float32(threshold), k=1)).tolist()}


def noisy(n: int, copies: int, noise: float, dim: int) -> NDArray[np.float32]:
    """Vectors of which some are others with a little noise."""
    base = vectors(n, dim=dim)
    return np.concatenate([base, base[:copies] + noise * vectors(copies, seed=5, dim=dim)])


@pytest.mark.parametrize("method", ["exact", "lsh"])
def test_near_duplicates_are_the_pairs_that_brute_force_finds(spark: SparkSession, method: str) -> None:
    rows = noisy(300, 80, 0.05, dim=64)
    wanted = pairs_by_numpy(rows, 0.98)
    assert len(wanted) == 80
    pairs = near_duplicates(frame(spark, rows), threshold=0.98, method=method)
    assert pairs.columns == ["id1", "id2", "score"]
    rows_found = pairs.collect()
    found = {(row["id1"], row["id2"]): row["score"] for row in rows_found}
    assert len(found) == len(rows_found)
    assert found == {pair: pytest.approx(wanted[pair], abs=1e-6) for pair in found}
    assert len(found) >= (80 if method == "exact" else 76)


def test_equal_vectors_are_pairs_at_a_threshold_of_one_and_zeros_are_not(spark: SparkSession) -> None:
    rows = np.concatenate([vectors(40), vectors(3), np.zeros((2, DIM), np.float32)])
    for method in ("exact", "lsh"):
        found = near_duplicates(frame(spark, rows), threshold=1.0, method=method).collect()
        assert sorted((row["id1"], row["id2"], row["score"]) for row in found) == [(i, 40 + i, 1.0) for i in range(3)]


def test_euclidean_pairs_are_no_farther_than_the_threshold(spark: SparkSession) -> None:
    rows = noisy(200, 40, 0.05, dim=32) * 10
    distances = np.sqrt(((rows[:, None, :].astype(np.float64) - rows[None, :, :]) ** 2).sum(-1))
    wanted = {(i, j) for i, j in np.argwhere(np.triu(distances <= 4.0, k=1)).tolist()}
    assert len(wanted) == 40
    exact = near_duplicates(frame(spark, rows), threshold=4.0, metric="euclidean", method="exact").collect()
    assert {(row["id1"], row["id2"]) for row in exact} == wanted
    assert max(row["score"] for row in exact) <= 4.0
    hashed = {(row["id1"], row["id2"]) for row in near_duplicates(frame(spark, rows), threshold=4.0, metric="euclidean").collect()}
    assert hashed <= wanted
    assert len(hashed) >= 37


def test_pairs_of_keys_with_several_columns(spark: SparkSession) -> None:
    rows = [("b", 1, [1.0, 0.1]), ("a", 9, [1.0, 0.1]), ("a", 2, [0.0, 1.0]), ("c", 1, None)]
    table = spark.createDataFrame(rows, "shelf string, no int, v array<float>")
    for method in ("exact", "lsh"):
        found = near_duplicates(table, threshold=0.9, key=["shelf", "no"], vector="v", method=method).collect()
        assert [tuple(row) for row in found] == [("a", 9, "b", 1, 1.0)]


def test_the_stated_recall_is_that_of_pairs_exactly_at_the_threshold() -> None:
    rng = np.random.default_rng(3)
    dim, threshold, recall, n_pairs = 128, 0.95, 0.9, 1500
    length = bucket_length(Metric.COSINE, threshold, dim, recall)
    one = rng.normal(size=(n_pairs, dim))
    one /= np.linalg.norm(one, axis=1, keepdims=True)
    aside = rng.normal(size=(n_pairs, dim))
    aside -= (aside * one).sum(axis=1, keepdims=True) * one
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    other = threshold * one + np.sqrt(1 - threshold**2) * aside
    found = np.zeros(n_pairs, bool)
    for _ in range(TABLES):
        directions = rng.normal(size=(dim, PROJECTIONS))
        directions /= np.linalg.norm(directions, axis=0)
        found |= (np.floor(one @ directions / length) == np.floor(other @ directions / length)).all(axis=1)
    assert found.mean() == pytest.approx(recall, abs=0.06)


def test_the_chance_of_one_bucket_is_that_of_drawn_points() -> None:
    rng = np.random.default_rng(4)
    for width in (0.5, 2.0, 6.0):
        start, apart = rng.uniform(0, width, 200_000), rng.normal(size=200_000)
        assert same_bucket(width) == pytest.approx(float(((start + apart >= 0) & (start + apart < width)).mean()), abs=0.005)


def test_settings_of_near_duplicates_are_checked(spark: SparkSession) -> None:
    rows = frame(spark, vectors(3))
    for settings, message in (
        ({"threshold": 1.5}, "threshold must be a cosine"),
        ({"threshold": 0.0}, "threshold must be a cosine"),
        ({"threshold": -1.0, "metric": "euclidean"}, "threshold must be a distance"),
        ({"threshold": 0.9, "metric": "dot"}, "metric must be one of cosine, euclidean"),
        ({"threshold": 0.9, "method": "minhash"}, "method must be lsh or exact"),
        ({"threshold": 0.9, "recall": 1.0}, "method exact finds all pairs"),
    ):
        with pytest.raises(ConfigError, match=message):
            near_duplicates(rows, **settings)  # type: ignore[arg-type]


def test_of_rows_with_one_value_the_first_by_key_is_kept() -> None:
    table = pa.table({"id": [3, 1, 2, 5, 4], "digest": ["a", "b", "a", None, None], VECTOR: [[0.0]] * 5})
    assert first_of_each(table, "digest", [VECTOR])["id"].to_pylist() == [1, 2, 5, 4]
    assert first_of_each(table.slice(0, 2), "digest", [VECTOR]).num_rows == 2


def test_a_search_for_distinct_texts_goes_on_until_it_has_enough(spark: SparkSession) -> None:
    """Forty rows of one text, in parts of their own, are nearer than all others: the first look sees nothing else."""
    texts = [(n, "same", [1.0, 0.0]) for n in range(40)] + [(40, "near", [1.0, 0.5]), (41, None, [0.0, 1.0]), (42, None, [0.0, 1.0])]
    df = spark.createDataFrame(texts, "id long, digest string, embedding array<float>").repartition(8, "id")
    rows = with_vectors(df, ("id", "digest"), "embedding", "df")
    side = Side(pa.table({ASKED: pa.array([0], pa.int64())}), np.array([[1.0, 0.0]]), np.arange(1))
    for k, expected in ((2, [0, 40]), (9, [0, 40, 41, 42])):
        (found,) = nearest_of_each(rows, side, k, "embedding", [["digest"]], 2, "digest")
        assert [row["id"] for row in found] == expected

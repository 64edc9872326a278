"""The SQL function, and similarity with Spark's own vector functions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession

from metaeol_udf import MetaEOLEncoder
from metaeol_udf.errors import ConfigError
from metaeol_udf.spark import register_sql
from metaeol_udf.spec import EmbeddingSpec
from tests.plan_metrics import evaluated_rows
from tests.spark.texts import EMBEDDED, TEXTS, assert_same


@pytest.fixture(scope="module")
def expected(spec: EmbeddingSpec) -> NDArray[np.float32]:
    return MetaEOLEncoder.from_spec(spec, device="cpu").encode([str(TEXTS[number]) for number in EMBEDDED])


@pytest.fixture
def sql(spark: SparkSession, spec: EmbeddingSpec) -> Iterator[SparkSession]:
    """A session that has the function and a view `texts`."""
    register_sql(spark, spec, "embed_tiny", device="cpu")
    spark.createDataFrame(list(enumerate(TEXTS)), "id int, text string").createOrReplaceTempView("texts")
    yield spark
    spark.catalog.dropTempView("texts")
    spark.sql("DROP TEMPORARY FUNCTION IF EXISTS embed_tiny")


def test_a_table_made_by_a_query_holds_the_encoders_vectors(sql: SparkSession, expected: NDArray[np.float32]) -> None:
    sql.sql("CREATE TABLE embedded_texts USING delta AS SELECT id, embed_tiny(text) AS v FROM texts")
    try:
        assert sql.table("embedded_texts").schema["v"].dataType.simpleString() == "array<float>"
        assert_same({row["id"]: row["v"] for row in sql.table("embedded_texts").collect()}, expected)
    finally:
        sql.sql("DROP TABLE embedded_texts")


def test_the_function_stands_in_conditions_and_below_others(sql: SparkSession, expected: NDArray[np.float32]) -> None:
    kept = sql.sql("SELECT id FROM texts WHERE embed_tiny(text) IS NOT NULL ORDER BY id").collect()
    assert [row["id"] for row in kept] == list(EMBEDDED)
    lengths = sql.sql("SELECT id, vector_norm(embed_tiny(text)) AS length FROM texts WHERE text IS NOT NULL").collect()
    found = {row["id"]: row["length"] for row in lengths}
    assert found.pop(2) is None
    np.testing.assert_allclose([found[number] for number in EMBEDDED], np.linalg.norm(expected, axis=1), rtol=1e-4)


def test_similarity_in_plain_sql_is_the_cosine_of_the_vectors(sql: SparkSession, expected: NDArray[np.float32]) -> None:
    nearest = sql.sql("""
        WITH query AS (SELECT embed_tiny('A man is playing a guitar.') AS v)
        SELECT id, vector_cosine_similarity(e, v) AS score, vector_l2_distance(e, v) AS distance, vector_inner_product(e, v) AS product
        FROM (SELECT id, embed_tiny(text) AS e FROM texts) CROSS JOIN query
        WHERE e IS NOT NULL ORDER BY score DESC""").collect()
    unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    by_id = {row["id"]: row for row in nearest}
    np.testing.assert_allclose([by_id[number]["score"] for number in EMBEDDED], unit @ unit[0], atol=1e-5)
    np.testing.assert_allclose([by_id[n]["distance"] for n in EMBEDDED], np.linalg.norm(expected - expected[0], axis=1), atol=1e-3)
    np.testing.assert_allclose([by_id[n]["product"] for n in EMBEDDED], expected @ expected[0], rtol=1e-4)
    assert nearest[0]["id"] == 0


def test_a_query_in_a_cte_is_embedded_once_and_not_for_every_row(sql: SparkSession) -> None:
    sql.sql("SELECT id, array_repeat(CAST(id AS FLOAT), 32) AS v FROM texts").createOrReplaceTempView("stored")
    rows = sql.sql("""
        WITH query AS (SELECT embed_tiny('a query') AS q)
        SELECT id FROM stored CROSS JOIN query ORDER BY vector_inner_product(v, q) LIMIT 3""").collect()
    sql.catalog.dropTempView("stored")
    assert len(rows) == 3
    assert evaluated_rows(sql) == 1


def test_similarity_without_vector_functions_is_the_same(sql: SparkSession) -> None:
    """What docs/spark.md gives for versions before 4.2."""
    differences = sql.sql("""
        WITH pairs AS (SELECT a.v AS a, b.v AS b FROM
            (SELECT id, embed_tiny(text) AS v FROM texts WHERE id IN (0, 3)) a CROSS JOIN
            (SELECT id, embed_tiny(text) AS v FROM texts WHERE id IN (5, 7)) b)
        SELECT vector_cosine_similarity(a, b) - aggregate(zip_with(a, b, (x, y) -> x * y), 0D, (s, x) -> s + x)
            / sqrt(aggregate(a, 0D, (s, x) -> s + x * x)) / sqrt(aggregate(b, 0D, (s, x) -> s + x * x)) AS difference
        FROM pairs""").collect()
    assert len(differences) == 4
    assert max(abs(row["difference"]) for row in differences) < 1e-5


def test_the_name_is_a_free_identifier(spark: SparkSession) -> None:
    nowhere = EmbeddingSpec(model="/no/such/model")  # the name is looked at before the model
    for name in ("", "a b", "db.embed", "1st", "embed;", "é", "x" * 129):
        with pytest.raises(ConfigError, match="letters, digits and underscores"):
            register_sql(spark, nowhere, name)
    for name in ("upper", "VECTOR_NORM"):
        with pytest.raises(ConfigError, match=f"'{name}' is one of Spark's own functions"):
            register_sql(spark, nowhere, name)
    with pytest.raises(ConfigError, match="no such folder"):
        register_sql(spark, nowhere, "embed_nothing")


def test_a_function_may_be_registered_anew_with_another_spec(sql: SparkSession, spec: EmbeddingSpec) -> None:
    register_sql(sql, EmbeddingSpec(model=spec.model, dtype="float32", truncate_dim=3), "embed_tiny", device="cpu")
    assert [row["n"] for row in sql.sql("SELECT size(embed_tiny(text)) AS n FROM texts WHERE id = 0").collect()] == [3]


def test_a_permanent_view_cannot_hold_a_function_of_the_session(sql: SparkSession) -> None:
    with pytest.raises(AnalysisException, match="embed_tiny"):
        sql.sql("CREATE VIEW kept AS SELECT embed_tiny(text) AS v FROM VALUES ('a') AS t(text)")

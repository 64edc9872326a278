"""Keys and conditions that Spark would refuse, or take now so and now so, after the model has run: refused before it."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession

from metaeol_udf.delta.tables.columns import check_source_columns
from metaeol_udf.delta.tables.where_clause import asks_time, filtered
from metaeol_udf.errors import InputError
from tests.table_bench import Before, TableBench


@pytest.mark.parametrize(
    "condition",
    [
        "rand() < 0.5",
        "uuid() > id",
        "shuffle(array(id, 2))[0] = 2",
        "monotonically_increasing_id() < 3",
        "input_file_name() = 'a'",
        "spark_partition_id() = 0",
        "exists(array(1, 2), x -> x > rand())",
    ],
)
def test_a_condition_that_says_now_this_now_that_of_a_row_is_refused(spark: SparkSession, condition: str) -> None:
    with pytest.raises(InputError, match="is not deterministic"):
        filtered(spark.range(3), condition)


@pytest.mark.parametrize("condition", ["id = '${env:METAEOL_CANARY}'", "substr('${system:user.name}', 1, 1) = 'a'", "${spark.a} = 1"])
def test_a_condition_never_reads_the_driver_s_environment(spark: SparkSession, condition: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METAEOL_CANARY", "canary")
    with pytest.raises(InputError, match=r"a condition may use the row's own columns only") as caught:
        filtered(spark.range(3), condition)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("condition", ["current_user() = 'a'", "user() LIKE 'a%'", "current_catalog() = 'a'", "current_database() = 'b'"])
def test_a_condition_never_reads_who_runs_it(spark: SparkSession, condition: str) -> None:
    with pytest.raises(InputError, match="may call Spark's own functions only"):
        filtered(spark.range(3), condition)


@pytest.mark.parametrize(
    ("condition", "way"),
    [
        ("int(text) > 0", "casts a text to int.* use try_cast"),
        ("CAST(text AS DATE) > '2024-01-01'", "casts a text to date"),
        ("text > 5", "casts a text to (int|bigint)"),
        ("length(text) + text > 3", "casts a text to"),
        ("boolean(text)", "casts a text to boolean"),
        ("to_date(text) > '2024-01-01'", "calls to_date"),
        ("to_timestamp(text, 'yyyy') IS NOT NULL", "calls"),
        ("unix_timestamp(text, 'yyyy') > 0", "calls unix_timestamp"),
        ("to_number(text, '99') > 3", "calls to_number.* use try_to_number"),
        ("to_binary(text, 'hex') IS NULL", "calls to_binary"),
        ("parse_json(text) IS NOT NULL", "calls parse_json"),
        ("parse_url(text, 'HOST') = 'a'", "calls parse_url"),
        ("url_decode(text) = 'a'", "calls url_decode"),
        ("xpath_int(text, 'a') = 1", "calls xpath_int"),
        ("validate_utf8(text) = 'a'", "calls validate_utf8"),
        ("exists(split(text, ' '), word -> int(word) > 3)", "casts a text to int"),
    ],
)
def test_a_condition_that_would_quote_a_text_it_fails_on_is_refused(spark: SparkSession, condition: str, way: str) -> None:
    rows = spark.sql("SELECT 1 AS id, 'a canary of a text' AS text")
    with pytest.raises(InputError, match=way) as caught:
        filtered(rows, condition)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "condition",
    [
        "try_cast(text AS INT) > 0", "try_to_number(text, '99') > 3", "try_to_timestamp(text, 'yyyy') IS NULL",
        "try_url_decode(text) IS NULL", "try_parse_json(text) IS NULL", "try_to_binary(text, 'hex') IS NULL",
        "CAST(text AS BINARY) IS NOT NULL", "length(text) > 3", "day > '2020-01-01'", "id > '1'", "CAST(id AS STRING) = '1'",
        "from_json(text, 'a INT') IS NOT NULL", "text > string(5)", "text IN ('a', 'b')", "int('7') = 7",
        "to_date('2020-01-01') < day", "date_trunc('month', day) < day",
    ],
)  # fmt: skip
def test_a_condition_that_no_text_can_break_is_taken(spark: SparkSession, condition: str) -> None:
    rows = spark.sql("SELECT 1 AS id, 'a text' AS text, DATE'2024-05-05' AS day")
    assert filtered(rows, condition).count() <= 1


@pytest.mark.parametrize("condition", ["pmod(hash(id), 3) = 0", "current_timestamp() > '2020-01-01'", "id IS NOT NULL"])
def test_a_condition_over_the_row_s_own_columns_is_taken(spark: SparkSession, condition: str) -> None:
    assert filtered(spark.range(3), condition).count() <= 3


@pytest.mark.parametrize(
    ("condition", "asks"),
    [
        ("opened > current_date() - 30", True),
        ("opened <= now()", True),
        ("opened <= localtimestamp()", True),
        ("unix_timestamp() > id", True),
        ("year(curdate()) > 2020 AND id > 1", True),
        ("opened > TIMESTAMP 'yesterday'", True),
        ("opened < 'today'", True),
        ("opened > DATE '2024-01-01'", False),
        ("opened > '2024-01-01' AND id > 2", False),
        ("current_timezone() = 'UTC'", False),
        (None, False),
    ],
)
def test_a_condition_that_asks_for_the_time_is_known(spark: SparkSession, condition: str | None, asks: bool) -> None:
    rows = spark.sql("SELECT 1L AS id, TIMESTAMP '2024-01-01' AS opened")
    filtered(rows, condition)
    assert asks_time(rows, condition) is asks


@pytest.mark.parametrize("kind", ["variant", "map<string,int>", "array<int>", "struct<a:int>"])
def test_a_key_that_spark_cannot_group_or_compare_is_refused(spark: SparkSession, kind: str) -> None:
    value = "parse_json('1')" if kind == "variant" else f"CAST(NULL AS {kind})"
    rows = spark.sql(f"SELECT {value} AS k, 'a' AS text")
    with pytest.raises(InputError, match=r"source\.key: column 'k' of t must hold plain values"):
        check_source_columns(rows, ["k"], "t")


@pytest.mark.parametrize("kind", ["binary", "double", "decimal(38,10)", "date", "boolean", "timestamp_ntz", "interval day to second"])
def test_a_key_of_any_plain_type_is_taken(spark: SparkSession, kind: str) -> None:
    check_source_columns(spark.sql(f"SELECT CAST(NULL AS {kind}) AS k, 'a' AS text"), ["k"], "t")


@pytest.mark.slow
def test_a_key_that_the_target_was_not_made_with_is_refused_by_the_setting_that_names_it(bench: TableBench) -> None:
    bench.write([(1, 5, None)], "id long, number long, text string")
    target = {"table": str(bench.folder / "vectors")}
    assert bench.run(target=target)["rows_failed"] == 1
    with pytest.raises(InputError, match=r"source\.key \(by which .*\): column 'number' is not in .*vectors; known: .*, id$"):
        bench.run(source={"key": ["number"]}, target=target)


@pytest.mark.slow
def test_names_are_resolved_as_the_session_does(bench: TableBench) -> None:
    bench.write([(1, None)], "Id long, text string")
    assert bench.run()["rows_failed"] == 1
    bench.spark.conf.set("spark.sql.caseSensitive", "true")
    try:
        with pytest.raises(InputError, match=r"source\.key: column 'id' is not in .*did you mean 'Id'"):
            bench.run()
        with pytest.raises(InputError, match=r"embedding\.column: .* has a column 'embedding'.* 'EMBEDDING'"):
            bench.run(source={"key": ["Id"]}, embedding={"column": "EMBEDDING"})
        assert bench.run(source={"key": ["Id"]})["status"] == "nothing_to_do"
    finally:
        bench.spark.conf.unset("spark.sql.caseSensitive")


@pytest.mark.slow
@pytest.mark.parametrize("in_place", [True, False])
def test_a_key_that_is_doubled_while_the_job_runs_is_one_error_in_place_and_with_a_target(bench: TableBench, in_place: bool) -> None:
    bench.write([(1, None), (2, None)])
    target = None if in_place else str(bench.folder / "vectors")
    twice = Before("publish", lambda: bench.write([(2, " ")], mode="append"))
    with pytest.raises(InputError, match="a key came to stand in several rows of the source while the job ran"):
        bench.run(between=twice, target={"table": target})

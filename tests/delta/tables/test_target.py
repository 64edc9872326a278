"""A target of its own belongs to one source, and has the source's key."""

from __future__ import annotations

import pytest

from metaeol_udf.errors import InputError
from tests.table_bench import TableBench


@pytest.mark.slow
def test_a_target_takes_the_vectors_of_one_source_until_it_is_told_otherwise(bench: TableBench) -> None:
    bench.write([(1, None)])
    other = str(bench.folder / "other")
    bench.spark.createDataFrame([(1, " ")], "id long, text string").write.format("delta").save(other)
    target = {"table": str(bench.folder / "vectors")}
    bench.run(target=target)
    versions = bench.versions("vectors")
    assert bench.run(target=target)["status"] == "nothing_to_do"
    with pytest.raises(InputError, match=r"holds the vectors of .*/table, not of .*/other") as caught:
        bench.run(source={"table": other}, target=target)
    assert bench.versions("vectors") == versions
    # Another column of the same target may have another source.
    assert bench.run(source={"table": other}, target=target, embedding={"column": "theirs"})["rows_failed"] == 1
    bench.spark.sql(str(caught.value).rpartition("allow it by ")[2])
    assert bench.run(source={"table": other}, target=target)["rows_failed"] == 1
    assert bench.rows("vectors")[1]["embedding_error"] == "empty_text"


@pytest.mark.slow
def test_a_key_of_a_wider_type_is_refused_with_the_statements_that_widen_the_target_s(bench: TableBench) -> None:
    bench.write([(1, None)], "id int, text string")
    target = {"table": str(bench.folder / "vectors")}
    bench.run(target=target)
    bench.spark.sql(f"ALTER TABLE delta.`{bench.path}` SET TBLPROPERTIES ('delta.enableTypeWidening' = 'true')")
    bench.spark.sql(f"ALTER TABLE delta.`{bench.path}` ALTER COLUMN id TYPE bigint")
    bench.write([(2**40, " ")], mode="append")
    with pytest.raises(InputError, match=r"key column 'id' of .* is int, the source's is bigint") as caught:
        bench.run(target=target)
    for statement in str(caught.value).partition("(")[2].rpartition("),")[0].split(", then "):
        bench.spark.sql(statement)
    assert bench.run(target=target)["rows_failed"] == 1
    assert bench.rows("vectors").keys() == {1, 2**40}
    assert bench.rows("vectors__metaeol_quarantine").keys() == {1, 2**40}  # made anew for the wider key, from the table's errors

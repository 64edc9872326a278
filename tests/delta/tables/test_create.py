"""Tables of our own: two runs that make one at once, what a killed run leaves, and the properties that they need."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from pyspark.sql.types import LongType, StringType, StructField, StructType

from metaeol_udf.delta.tables import refs
from metaeol_udf.delta.tables.refs import TableDefinition, TableRef, create, open_table, read, replace
from metaeol_udf.delta.write.journal import SCHEMA
from metaeol_udf.delta.write.quarantine import FIELDS
from metaeol_udf.errors import InputError

KEY = StructType([StructField("id", LongType()), StructField("lang", StringType())])
ODD_KEY = StructType([StructField("customer id", StringType()), StructField("row`id.x y", LongType(), False)])
KINDS = {"target": KEY, "journal": SCHEMA, "quarantine": StructType([*ODD_KEY.fields, *FIELDS])}


@pytest.fixture(params=["path", "name"])
def ref(request: pytest.FixtureRequest, spark: SparkSession, tmp_path: Path) -> Iterator[TableRef]:
    """A table that is not there yet, by its path and by its name."""
    found = TableRef(str(tmp_path / "made"), True) if request.param == "path" else TableRef("made_for_a_test", False)
    yield found
    if not found.is_path:
        spark.sql(f"DROP TABLE IF EXISTS {found.identifier}")


def properties(spark: SparkSession, ref: TableRef) -> dict[str, str]:
    return dict(open_table(spark, ref, "table").detail().collect()[0]["properties"])


@pytest.mark.slow
def test_runs_that_make_a_table_at_once_all_go_on_with_it(spark: SparkSession, tmp_path: Path) -> None:
    failed: list[Exception] = []

    def make(ref: TableRef, schema: StructType, barrier: threading.Barrier) -> None:
        barrier.wait()
        try:
            create(spark, ref, TableDefinition(schema, "of a test", ""))
        except Exception as error:  # noqa: BLE001 - shown by the assertion
            failed.append(error)

    for turn in range(10):
        kind = list(KINDS)[turn % 3]
        ref, barrier = TableRef(str(tmp_path / f"{kind}_{turn}"), True), threading.Barrier(2)
        threads = [threading.Thread(target=make, args=(ref, KINDS[kind], barrier)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed, (turn, kind)
        assert read(spark, ref).schema.names == KINDS[kind].names


@pytest.mark.parametrize("schema", [KEY, StructType([StructField("other", LongType())])], ids=["our columns", "other columns"])
def test_a_run_waits_for_the_first_commit_of_a_slower_run_and_looks_at_its_columns(
    spark: SparkSession, tmp_path: Path, schema: StructType
) -> None:
    create(spark, TableRef(str(tmp_path / "elsewhere"), True), TableDefinition(schema, "of a test", ""))
    log = tmp_path / "made" / "_delta_log"
    log.mkdir(parents=True)
    first = f"{0:020}.json"
    commit = threading.Timer(1.0, lambda: shutil.copy(tmp_path / "elsewhere" / "_delta_log" / first, log / first))
    commit.start()
    ref = TableRef(str(tmp_path / "made"), True)
    if schema is KEY:
        create(spark, ref, TableDefinition(KEY, "of a test", "id"))
        assert read(spark, ref).schema.names == KEY.names
    else:
        with pytest.raises(InputError, match=r"made by another run and has no column 'id', 'lang'"):
            create(spark, ref, TableDefinition(KEY, "of a test", "id"))
    commit.join()


def test_a_log_without_a_commit_which_a_killed_run_left_is_no_table(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refs, "FIRST_COMMIT_S", 0.5)
    (tmp_path / "made" / "_delta_log" / "_staged_commits").mkdir(parents=True)
    ref = TableRef(str(tmp_path / "made"), True)
    create(spark, ref, TableDefinition(KEY, "of a test", "id"))
    assert read(spark, ref).schema.names == KEY.names


def test_a_folder_of_other_files_is_refused_and_stays_as_it_is(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refs, "FIRST_COMMIT_S", 0.5)
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "letter.txt").write_text("mine")
    with pytest.raises(InputError, match="holds files but no Delta table"):
        create(spark, TableRef(str(tmp_path / "made"), True), TableDefinition(KEY, "of a test", "id"))
    assert [file.name for file in (tmp_path / "made").iterdir()] == ["letter.txt"]


def test_a_table_has_the_properties_that_it_needs_whatever_the_session_s_defaults(spark: SparkSession, ref: TableRef) -> None:
    defaults = {"appendOnly": "true", "enableDeletionVectors": "true"}
    for name, value in defaults.items():
        spark.conf.set(f"spark.databricks.delta.properties.defaults.{name}", value)
    try:
        create(
            spark,
            ref,
            TableDefinition(KEY, "it's ours", "id", more_properties={"delta.enableDeletionVectors": "false"}, partitioned_by=("lang",)),
        )
    finally:
        for name in defaults:
            spark.conf.unset(f"spark.databricks.delta.properties.defaults.{name}")
    detail = open_table(spark, ref, "table").detail().collect()[0]
    assert (detail["partitionColumns"], detail["description"]) == (["lang"], "it's ours")
    wanted = {"delta.appendOnly": "false", "delta.enableDeletionVectors": "false", "delta.dataSkippingStatsColumns": "id"}
    assert wanted.items() <= detail["properties"].items()


@pytest.mark.slow
def test_a_table_is_replaced_by_one_with_names_that_need_column_mapping_and_back(spark: SparkSession, ref: TableRef) -> None:
    create(spark, ref, TableDefinition(KEY, "of a test", "id"))
    spark.createDataFrame([(1, "en")], KEY).write.format("delta").mode("append").insertInto(ref.sql)
    for schema in (ODD_KEY, KEY):
        replace(spark, ref, TableDefinition(schema, "of a test", ""))
        assert read(spark, ref).schema.names == schema.names
        assert read(spark, ref).isEmpty()
        assert ("delta.columnMapping.mode" in properties(spark, ref)) is (schema is ODD_KEY)

"""Faults 27 to 29, 31 to 33 and 37: keys, tables, columns and settings."""

from __future__ import annotations

from typing import Any

import pytest
from bench import Bench
from pyspark.sql import functions as F

from metaeol_udf.errors import ConfigError, InputError, MetaEOLError
from tests.table_bench import Before

TEXTS = {n: f"text number {n}" for n in range(8)}


def _refused(bench: Bench, message: str, kind: type[MetaEOLError] = InputError, **sections: dict[str, Any]) -> str:
    """Refused with status 2, with nothing written and no Python worker asked for anything."""
    versions, entries = bench.versions(), sorted(path.name for path in bench.folder.iterdir())
    with pytest.raises(kind, match=message) as caught:
        bench.run(**sections)
    assert caught.value.exit_code == 2
    assert bench.versions() == versions
    assert sorted(path.name for path in bench.folder.iterdir()) == entries
    return str(caught.value)


def test_fault_27_duplicate_keys_are_refused_with_a_count_and_a_hash(bench: Bench) -> None:
    bench.write([("secret-key", "one"), ("secret-key", "two"), ("b", "three")], "id string, text string")
    message = _refused(bench, r"1 keys \(id\) .* stand in 2 rows, .* SHA-256 [0-9a-f]{12}")
    assert "secret-key" not in message


def test_fault_28_null_keys_are_refused_with_a_count(bench: Bench) -> None:
    bench.write([(None, "one"), (None, "two"), (1, "three")])
    _refused(bench, r"2 rows of .* have NULL in the key \(id\)")


def test_fault_29_no_rows_and_nothing_new_commit_nothing_and_load_nothing(bench: Bench) -> None:
    bench.write(list(TEXTS.items()))
    nothing = bench.run(source={"where": "id < 0"})
    assert (nothing["status"], nothing["rows_selected"], nothing["model_loads"]) == ("nothing_to_do", 0, 0)
    bench.run()
    names = ["table", "table__metaeol_journal"]
    versions = [bench.versions(name) for name in names]
    again = bench.run()
    assert (again["status"], again["rows_skipped"], again["model_loads"]) == ("nothing_to_do", len(TEXTS), 0)
    assert [bench.versions(name) for name in names] == versions


MISSING: list[tuple[dict[str, dict[str, Any]], str]] = [
    ({"source": {"table": "/no/such/table"}}, "no Delta table at the path '/no/such/table'"),
    ({"source": {"table": "no_such_schema.table"}}, "no Delta table at the name 'no_such_schema.table'"),
    ({"source": {"text": "body"}}, "source.text: column 'body' is not in"),
    ({"source": {"text": "id"}}, "'id' of .* must be a string, found bigint"),
    ({"source": {"key": ["nope"]}}, "source.key: column 'nope' is not in"),
    ({"source": {"where": "nope = 1"}}, "source.where 'nope = 1'"),
]


@pytest.mark.parametrize(("sections", "message"), MISSING)
def test_fault_31_what_is_not_there_is_named(bench: Bench, sections: dict[str, dict[str, Any]], message: str) -> None:
    bench.write(list(TEXTS.items()))
    _refused(bench, message, **sections)


TABLES = [
    "text.`/etc/passwd`",
    "delta.`/etc`",
    "csv./etc/passwd`",
    "parquet.data",
    "a.b.c.d",
    "`table`",
    "table; DROP TABLE table",
    "table WHERE 1=1",
    "/data/*",
    "s3a://key:secret@bucket/table",
]


@pytest.mark.parametrize("setting", ["source", "target"])
def test_fault_32_a_table_argument_is_a_name_or_a_path_and_nothing_else(bench: Bench, setting: str) -> None:
    bench.write(list(TEXTS.items()))
    for name in TABLES:
        kind = ConfigError if "@" in name else InputError  # a secret is seen before a session starts
        message = _refused(bench, rf"{setting}\.table", kind, **{setting: {"table": name}})
        assert "root:" not in message  # nothing of /etc/passwd
        assert "key:secret" not in message


CONDITIONS = [
    "id IN (SELECT value FROM text.`/etc/passwd`)",
    "EXISTS (SELECT 1)",
    "id = (SELECT max(id) FROM delta.`/data`)",
    "reflect('java.lang.System', 'getenv', 'HOME') IS NOT NULL",
    "java_method('java.util.UUID', 'randomUUID') IS NOT NULL",
    "metaeol_faults_own(text) IS NOT NULL",
    "raise_error(text) IS NULL",
    "id = 1; DROP TABLE x",
]


def test_fault_32_a_condition_uses_the_rows_own_columns_and_sparks_own_functions_only(bench: Bench) -> None:
    bench.write(list(TEXTS.items()))
    bench.spark.udf.register("metaeol_faults_own", lambda text: text, "string")
    for condition in CONDITIONS:
        _refused(bench, r"source\.where", source={"where": condition})
    harmless = "id BETWEEN 1 AND 3 AND length(text) > 2 AND (text LIKE 'text%' OR lower(text) IN ('a', 'b')) AND id % 2 = 1"
    assert bench.run(source={"where": harmless})["rows_selected"] == 2


def test_fault_33_a_column_of_another_type_is_refused_and_another_model_is_a_migration(bench: Bench) -> None:
    bench.write([(n, text, [1.0]) for n, text in TEXTS.items()], "id long, text string, taken array<double>")
    _refused(bench, "'taken' of .* is array<double> already, not array<float>", embedding={"column": "taken"})
    bench.run()
    first = {key: row["embedding_fingerprint"] for key, row in bench.rows().items()}
    report = bench.run(embedding={"layer": 1})
    assert report["rows_embedded"] == len(TEXTS)
    after = {key: row["embedding_fingerprint"] for key, row in bench.rows().items()}
    assert all(after[key] != first[key] for key in first)
    assert {value.split("-")[0] for value in after.values()} == {report["fingerprint"]}


def test_fault_33_a_model_that_is_not_there_is_refused(bench: Bench) -> None:
    bench.write(list(TEXTS.items()))
    _refused(bench, "no/such-model", ConfigError, embedding={"model": "no/such-model"})


def test_fault_37_other_prompts_embed_anew_and_old_vectors_stay_until_the_new_are_there(bench: Bench) -> None:
    bench.write(list(TEXTS.items()))
    first = bench.run()
    old = {key: row["embedding"] for key, row in bench.rows().items()}
    seen: list[dict[Any, Any]] = []
    look = Before("journal", lambda: seen.append({key: row["embedding"] for key, row in bench.rows().items()}), at=None)
    second = bench.run(between=look, embedding={"templates": "prompteol"}, runtime={"wave_rows": 4})
    assert second["fingerprint"] != first["fingerprint"]
    assert len(seen) >= 2
    assert all(during == old for during in seen)
    assert bench.table().where(~F.col("embedding_fingerprint").startswith(second["fingerprint"])).isEmpty()
    assert all(row["embedding"] != old[key] for key, row in bench.rows().items())

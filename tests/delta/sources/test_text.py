"""Texts of several columns: what is left out, how values are written, and that a table of one text column is embedded as before."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import pytest
from delta import DeltaTable
from pyspark.sql import functions as F

from metaeol_udf import MetaEOLEncoder
from metaeol_udf.config import SourceConfig
from metaeol_udf.delta.sources.text import text_of
from metaeol_udf.delta.tables.fingerprint import row_fingerprint
from metaeol_udf.errors import InputError
from metaeol_udf.search import search_table
from tests.table_bench import Bench

PARTS = {0: ("A", "B", "C"), 1: ("A", None, "C"), 2: (" ", "B", None), 3: (None, "\t", "C"), 4: (None, None, None), 5: ("", None, " \n")}
#: By template, the texts of these rows.
TEXTS: dict[str | None, list[str | None]] = {
    None: ["A\n\nB\n\nC", "A\n\nC", "B", "C", None, ""],
    "{a}: {b} ({c})": ["A: B (C)", "A (C)", "B)", "C)", None, ""],
    "From {a} to {b}\nby {c}.": ["From A to B\nby C.", "From A\nby C.", "From B", "by C.", None, ""],
    "Ticket\n{a}\n\n- {b}, {{{c}}}\nEnd": [
        "Ticket\nA\n\n- B, {C}\nEnd", "Ticket\nA\n\n- C}\nEnd", "Ticket\n\n- B}\nEnd", "Ticket\n\n- C}\nEnd", None, "",
    ],
    "{c}{b}{a}{b}": ["CBAB", "CA", "BB", "C", None, ""],
}  # fmt: skip


def test_parts_that_are_null_or_blank_are_left_out_by_the_rule(bench: Bench) -> None:
    rows = bench.spark.createDataFrame([(n, *parts) for n, parts in PARTS.items()], "id int, a string, b string, c string")
    for template, expected in TEXTS.items():
        config = SourceConfig(table="t", key=("id",), text=("a", "b", "c"), format_text=template)
        found = rows.select("id", text_of(config, rows.schema).alias("text")).orderBy("id").collect()
        assert [row["text"] for row in found] == expected, template


def test_values_are_written_alike_in_every_session(bench: Bench) -> None:
    values = {
        "n": (7, "long", "7"), "d": (Decimal("12.30"), "decimal(9,2)", "12.30"), "f": (0.5, "double", "0.5"),
        "b": (True, "boolean", "true"),
        "day": (datetime.date(2026, 3, 1), "date", "2026-03-01"),
        "t": (datetime.datetime(2026, 3, 29, 1, 30, tzinfo=datetime.timezone.utc), "timestamp", "2026-03-29 01:30:00Z"),
        "l": (datetime.datetime(2026, 3, 29, 2, 30, 0, 5), "timestamp_ntz", "2026-03-29 02:30:00.000005"), "s": ("{n}", "string", "{n}"),
    }  # fmt: skip
    schema = ", ".join(f"{name} {kind}" for name, (_, kind, _) in values.items())
    rows = bench.spark.createDataFrame([tuple(value for value, _, _ in values.values())], schema)
    config = SourceConfig(table="t", key=("id",), text=tuple(values), format_text="|".join(f"{{{name}}}" for name in values))
    zone = bench.spark.conf.get("spark.sql.session.timeZone")
    try:
        for other in ("UTC", "Europe/Berlin", "America/New_York"):
            bench.spark.conf.set("spark.sql.session.timeZone", other)
            found = rows.select(text_of(config, rows.schema)).collect()[0][0]
            assert found == "|".join(expected for _, _, expected in values.values()), other
    finally:
        bench.spark.conf.set("spark.sql.session.timeZone", zone)


def test_one_text_column_keeps_its_expression_and_its_fingerprint(bench: Bench) -> None:
    rows = bench.spark.createDataFrame([(1, " a text ")], "id int, body string")
    plain = row_fingerprint("spec", F.col("body"))
    for text in ("body", ("body",)):
        config = SourceConfig(table="t", key=("id",), text=text)
        found = rows.select(plain.alias("plain"), row_fingerprint("spec", text_of(config, rows.schema)).alias("made")).collect()[0]
        assert found["plain"] == found["made"]


@pytest.mark.slow
def test_a_text_of_several_columns_is_embedded_beside_them_and_follows_their_changes(bench: Bench) -> None:
    bench.write(
        [(1, "A title", "a body", 3), (2, None, "another body", 4), (3, " ", None, None)], "id long, subject string, body string, n int"
    )
    source: dict[str, Any] = {"text": ["subject", "body", "n"], "format_text": "{subject}\n{body} [{n}]"}
    report = bench.run(source=source)
    assert (report["rows_embedded"], report["failures"]) == (2, {"empty_text": 1})
    encoder = MetaEOLEncoder.from_spec(bench.spec, device="cpu")
    wanted = encoder.encode(["A title\na body [3]", "another body [4]"])
    rows = bench.rows()
    assert [rows[n]["embedding"] for n in (1, 2)] == [pytest.approx(list(vector), abs=2e-5) for vector in wanted]
    assert bench.run(source=source)["status"] == "nothing_to_do"
    (hits,) = search_table(bench.config(source=source), "a title", spark=bench.spark)
    assert {hit.text for hit in hits} == {"A title\na body [3]", "another body [4]"}
    DeltaTable.forPath(bench.spark, bench.path).update(F.col("id") == 1, {"subject": F.lit("  ")})
    report = bench.run(source=source)
    assert (report["rows_embedded"], report["rows_skipped"]) == (1, 2)
    assert bench.run(source=source | {"format_text": "{subject}\n{body} ({n})"})["rows_embedded"] == 2  # another rule, other texts


def test_columns_that_have_no_text_are_refused(bench: Bench) -> None:
    bench.write([(1, "x", [1], 2)], "id long, text string, list array<int>, n int")
    for text, words in (
        (["text", "list"], "column 'list' of .* is array<int>, which has no one way to be written as text"),
        ("n", r"column 'n' of .* must be a string, found int; source.format_text: '\{n\}' writes it as text"),
        (["text", "no"], "source.text: column 'no' is not in"),
    ):
        with pytest.raises(InputError, match=words):
            bench.run(source={"text": text})

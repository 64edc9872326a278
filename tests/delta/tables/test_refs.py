from __future__ import annotations

import pytest

from metaeol_udf.delta.tables.refs import TableRef, parse_table
from metaeol_udf.errors import InputError


@pytest.mark.parametrize("name", ["reviews", "raw.reviews", "main.raw.reviews", "my-catalog.raw.reviews_2024"])
def test_one_to_three_plain_names_are_a_table(name: str) -> None:
    assert parse_table(name, "source.table") == TableRef(name, is_path=False)


@pytest.mark.parametrize("path", ["/data/reviews", "s3://bucket/data/reviews", "dbfs:/data/x", "file:///data/with space"])
def test_what_has_a_slash_or_a_scheme_is_a_path(path: str) -> None:
    assert parse_table(path, "source.table") == TableRef(path, is_path=True)


def test_a_relative_path_is_made_absolute_because_the_catalog_takes_no_other() -> None:
    assert parse_table("./reviews/", "source.table").name.startswith("/")
    assert parse_table("./reviews/", "source.table").name.endswith("/reviews")


@pytest.mark.parametrize(
    "name",
    [
        "delta.`/etc/x`",
        "text.`/etc/passwd`",
        "delta.x",
        "parquet.x",
        "a.b.c.d",
        "a b",
        "reviews; drop table reviews",
        "`reviews`",
        "",
        "a..b",
        "/",
        "/data/*",
        "/data/x;y",
        "/data/\x00",
        "-x",
        "a.b'c",
    ],
)
def test_anything_else_is_refused_and_quoted_in_the_message(name: str) -> None:
    with pytest.raises(InputError, match=r"source\.table") as caught:
        parse_table(name, "source.table")
    assert repr(name) in str(caught.value)


def test_tables_beside_a_table_keep_its_folder_and_its_schema() -> None:
    assert parse_table("/data/reviews", "t").beside("journal").name == "/data/reviews__metaeol_journal"
    assert parse_table("raw.my-reviews", "t").beside("quarantine").identifier == "`raw`.`my-reviews__metaeol_quarantine`"

"""A key that is made: what it is, and what becomes of changed and equal rows."""

from __future__ import annotations

import hashlib

import pytest

from metaeol_udf.config import parse_config
from metaeol_udf.delta.sources.source import Source
from metaeol_udf.errors import ConfigError, InputError
from tests.table_bench import Bench


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_the_key_is_the_digest_of_the_digests_of_its_parts(bench: Bench) -> None:
    bench.write([("a text", 1), (None, None)], "text string, n int")
    target = {"table": str(bench.folder / "vectors")}
    for columns, keys in (
        (None, {digest(digest("a text"))[:32], digest("null")[:32]}),
        (["n"], {digest(digest("a text") + digest("1"))[:32], digest("nullnull")[:32]}),
    ):
        config = bench.config(source={"key": "auto", "key_columns": columns}, target=target)
        assert {row["metaeol_key"] for row in Source(config.source).read(bench.spark).collect()} == keys


@pytest.mark.slow
def test_a_changed_text_is_a_new_key_and_equal_rows_are_one(bench: Bench) -> None:
    file = bench.folder / "lines.csv"
    file.write_text("body\none\ntwo\none\nthree\n")
    settings = {
        "source": {"table": None, "path": str(file), "text": "body", "key": "auto"},
        "target": {"table": str(bench.folder / "vectors"), "max_deleted_fraction": 0.5},
    }
    report = bench.run(**settings)
    assert (report["rows_selected"], report["rows_embedded"]) == (3, 3)
    file.write_text("body\none\none\nthree\nfour\n")
    report = bench.run(**settings)
    assert (report["rows_selected"], report["rows_embedded"], report["rows_skipped"], report["rows_deleted"]) == (3, 1, 2, 1)
    assert {row["metaeol_key"] for row in bench.table("vectors").collect()} == {
        digest(digest(text))[:32] for text in ("one", "three", "four")
    }
    assert bench.run(**settings)["status"] == "nothing_to_do"


def test_a_key_is_made_beside_the_source_alone(bench: Bench) -> None:
    blocks = bench.blocks(source={"key": "auto"})
    with pytest.raises(ConfigError, match=r"target\.table is missing: a key that is made"):
        parse_config(blocks)
    with pytest.raises(ConfigError, match=r"source\.key_columns are part of a key that is made"):
        bench.config(source={"key_columns": ["a"]})
    bench.write([("a text", "x")], "text string, metaeol_key string")
    for target, words in ((bench.path, "must be another table than"), (f"{bench.folder}/v", "has a column 'metaeol_key'")):
        with pytest.raises(InputError, match=words):
            bench.run(source={"key": "auto"}, target={"table": target})

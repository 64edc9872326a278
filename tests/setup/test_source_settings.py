"""The settings of a source: one place, a format that is known, and a table of its own for the vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metaeol_udf.config import load_config, parse_config
from metaeol_udf.config.source import format_of
from metaeol_udf.errors import ConfigError


def parsed(source: dict[str, Any], target: str | None = "vectors/t") -> Any:
    return parse_config({"source": {"key": ["id"], **source}, "target": {"table": target}, "embedding": {"model": "m"}}).source


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ({}, None, "source.table is missing (for other sources: source.path of files, or source.query)"),
        ({"table": "a/b", "path": "a/c.csv"}, "t", "source.table and source.path are both given"),
        ({"path": "a/c.csv", "query": "q"}, "t", "source.path and source.query are both given"),
        ({"path": "a/c.csv"}, None, "target.table is missing: vectors of source.path go into a Delta table of their own"),
        ({"query": "q"}, None, "target.table is missing: vectors of source.query"),
        ({"path": "a/c"}, "t", "source.format is missing: the name 'a/c' does not end in one of parquet, csv"),
        ({"path": "a/c", "format": "cvs"}, "t", "did you mean 'csv'?"),
        ({"table": "a/b", "format": "csv"}, None, "source.format is of the files of source.path"),
        ({"table": "a/b", "options": {"sep": ";"}}, None, "source.options is of the files of source.path"),
        ({"path": "a/c.csv", "options": {"sep": [1]}}, "t", "source.options.sep must be one text, number or true/false"),
    ],
)
def test_a_source_that_is_no_source_is_refused_with_the_setting(source: dict[str, Any], target: str | None, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(source, target)
    assert words in str(caught.value)


def test_the_format_is_what_the_name_ends_in() -> None:
    names = {
        "a/b.csv": "csv",
        "b.CSV.gz": "csv",
        "x/": None,
        "a.b/c": None,
        "t.tsv": "csv",
        "l.jsonl": "json",
        "p.parquet/": "parquet",
        "gz": None,
    }
    assert {name: format_of(name) for name in names} == names
    assert parsed({"path": "a/b.csv.gz"}).file_format == "csv"
    assert parsed({"path": "a/b.csv", "format": "json"}).file_format == "json"


def test_options_are_text_as_written(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("source:\n  path: a.csv\n  key: [id]\n  options: {sep: ';', samplingRatio: 0.50, header: False}\n"
                    "target: {table: v/t}\nembedding: {model: m}\n")  # fmt: skip
    config = load_config(path, ["source.options.encoding=latin1"])
    assert dict(config.source.options) == {"sep": ";", "samplingRatio": "0.50", "header": "false", "encoding": "latin1"}
    assert config.target_table == "v/t"

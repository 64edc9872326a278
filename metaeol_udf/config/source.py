"""The section `source`: where the texts are, what names a row, and which column holds its text."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated

from metaeol_udf.config.text_format import parse_format
from metaeol_udf.errors import Problem
from metaeol_udf.formatting import shorten
from metaeol_udf.setting_types import problem, refuse, secret_problem

#: Formats of files that a source may have.
FORMATS = ("parquet", "csv", "json", "orc", "iceberg")
#: The key's column where the key is made.
MADE_KEY = "metaeol_key"
#: Columns of a table of passages that tell the passages of one text apart: the number from 0, and the characters of the text.
PASSAGE_KEY = ("passage", "start", "end")
#: The column of a passage's text, while a run is at work.
PASSAGE_TEXT = "metaeol_passage"
#: Settings that say where the rows are, one of which is given.
PLACES = ("table", "path", "query")
_ENDINGS = {"parquet": "parquet", "csv": "csv", "tsv": "csv", "json": "json", "jsonl": "json", "ndjson": "json", "orc": "orc"}
_PACKED = ("gz", "bz2", "zst", "xz", "lz4", "snappy")


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """The rows whose texts are embedded: a Delta table, files, or the rows of a query."""

    table: str | None = None  # a Delta table: a path, or one to three dot-separated names
    path: str | None = None  # a file or folder of another format
    format: str | None = None  # of `path`: one of FORMATS; null: what the name of the path ends in
    options: Annotated[Mapping[str, str], "a mapping of reader options"] = field(default_factory=dict)  # of Spark's reader of that format
    query: str | None = None  # one SELECT, or the name of a view
    key: Annotated[tuple[str, ...], "auto or a list of names"]  # columns that name a row: unique together and never NULL; auto makes one
    key_columns: tuple[str, ...] | None = None  # whose values are part of a key that is made, beside the text
    text: Annotated[str | tuple[str, ...], "the name of a column, or a list of names"] = "text"
    format_text: str | None = None  # how several columns become one text; null: an empty line between them
    where: str | None = None  # a Spark SQL condition over the row's own columns

    def __post_init__(self) -> None:
        refuse(self._problems())
        parse_format(self.format_text, self.text_columns)

    def _problems(self) -> Iterator[Problem | None]:
        yield from (secret_problem(f"source.{name}", getattr(self, name)) for name in ("table", "path"))
        yield problem("source.text", len(set(self.text_columns)) == len(self.text_columns), self.text, "names of different columns")
        if self.key_columns is not None and not self.makes_key:
            said = "source.key_columns are part of a key that is made: set source.key=auto, or leave them out"
            yield Problem("source.key_columns", said)
        yield place_problem([name for name in PLACES if getattr(self, name) is not None])
        yield problem("source.format", self.format in (None, *FORMATS), self.format, ", ".join(FORMATS), FORMATS)
        for name in ("format", "options"):
            if getattr(self, name) and self.path is None:
                yield Problem(f"source.{name}", f"source.{name} is of the files of source.path, and no source.path is given")
        if self.path is not None and self.file_format is None:
            said = (
                f"source.format is missing: the name {shorten(self.path, 200)!r} does not end in one of {', '.join(_ENDINGS)}; "
                f"set one of {', '.join(FORMATS)}"
            )
            yield Problem("source.format", said)

    @property
    def place(self) -> str:
        """The setting that says where the rows are: `source.table`, `source.path` or `source.query`."""
        return next(f"source.{name}" for name in PLACES if getattr(self, name) is not None)

    @property
    def makes_key(self) -> bool:
        """Whether the key is made of the text and `key_columns`."""
        return self.key == (MADE_KEY,)

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns that the text is made of."""
        return (self.text,) if isinstance(self.text, str) else self.text

    @property
    def is_composed(self) -> bool:
        """Whether the text is made by a template, and not one column as it stands."""
        return len(self.text_columns) > 1 or self.format_text is not None

    @property
    def file_format(self) -> str | None:
        """The format of the files of `path`; None where neither the settings nor the name say it."""
        return self.format or format_of(self.path or "")


def place_problem(given: Collection[str]) -> Problem | None:
    """Say what is wrong where a source is at no place or at several: `given` are its keys."""
    named = [f"source.{name}" for name in PLACES if name in given]
    if not named:
        return Problem(
            "source.table", "source.table is missing (for other sources: source.path of files, or source.query)", is_missing=True
        )
    if len(named) > 1:
        said = f"{' and '.join(named)} are both given: a source is one of source.table, source.path and source.query"
        return Problem(named[-1], said)
    return None


def format_of(name: str) -> str | None:
    """Tell the format of a file or folder by what its name ends in, packed or not; None where that says nothing."""
    parts = name.rstrip("/").rpartition("/")[2].lower().split(".")
    while len(parts) > 2 and parts[-1] in _PACKED:
        parts.pop()
    return _ENDINGS.get(parts[-1]) if len(parts) > 1 else None

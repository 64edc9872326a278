"""From a table to a commented configuration: what was guessed, what else there is, and what to look at."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from pyspark.sql import DataFrame, SparkSession

from metaeol_udf.config import SourceConfig, parse_config, read_overrides
from metaeol_udf.config.source import format_of
from metaeol_udf.delta.job import known_errors
from metaeol_udf.delta.sources.files import UNREADABLE
from metaeol_udf.delta.sources.source import Source
from metaeol_udf.delta.sources.text import check_text_columns
from metaeol_udf.delta.tables.columns import VectorColumns, check_source_columns, check_vector_columns, require_field
from metaeol_udf.delta.tables.where_clause import filtered
from metaeol_udf.errors import InputError
from metaeol_udf.files import write_yaml
from metaeol_udf.prompts.templates import builtin_names
from metaeol_udf.spark.cluster.session import get_session
from metaeol_udf.starter.guess import SAMPLE_ROWS, Guess, guess_columns
from metaeol_udf.starter.place import find_place, measure

_MODEL = "models/smollm2-135m-instruct"  # the demo's
_PLACE = ("table", "path", "format", "options")  # settings that say where the rows are
_CHARACTERS_OF_A_TOKEN = 4  # of English; a rough figure, and said to be


@dataclass(frozen=True)
class Draft:
    """A configuration that is not written yet.

    Attributes:
        text: The file's content; `load_config` reads it.
        table: As the user named it.
        guess: What the columns were taken for.
        n_rows: Rows of the table.
        n_bytes: Bytes of its files.
    """

    text: str
    table: str
    guess: Guess
    n_rows: int
    n_bytes: int

    def facts(self) -> dict[str, Any]:
        """What was found, as plain values."""
        guess = self.guess
        return {
            "table": self.table,
            "rows": self.n_rows,
            "bytes": self.n_bytes,
            "rows_looked_at": guess.n_sampled,
            "key": list(guess.key),
            "other_keys": list(guess.other_keys),
            "text": guess.text,
            "other_texts": dict(guess.other_texts),
            "mean_characters": guess.mean_length,
            "longest_characters": guess.longest,
        }


def draft_config(table: str, overrides: Iterable[str] = (), spark: SparkSession | None = None) -> Draft:
    """Draft a configuration for a table or for files. They are only read: schema, size, and at most 10,000 rows; files that are text whole.

    Args:
        table: Path or name of a Delta table; or a file or folder of CSV, Parquet, JSON or ORC, whose vectors get a table beside it.
        overrides: `section.key=value`, which go into the file; `source.key` and `source.text` are taken instead of a guess.
        spark: The session; None takes the active one or starts one, with the `spark` section of the overrides.

    Raises:
        InputError: There is no such table or file, or its columns can be no key or no text.
        ConfigError: An override is unknown or out of range.
    """
    with known_errors():
        given = read_overrides(overrides)
        source, embedding = given.setdefault("source", {}), given.get("embedding") or {}
        # A wrong override is found before Spark starts; what is not given stands in for itself.
        is_file = format_of(table) is not None or bool({"format", "options"} & source.keys())
        stand_in = {"path": table, "format": "csv"} if is_file else {"table": table}
        target = {"table": "./vectors", **(given.get("target") or {})}
        stood = {**given, "source": {"key": ["id"], **stand_in, **source}, "target": target, "embedding": {"model": _MODEL, **embedding}}
        asked = parse_config(stood)
        session = get_session(asked.spark, spark)
        given |= find_place(session, table, source, given.get("target") or {})
        source = given["source"]
        place = Source(SourceConfig(**{"key": ("id",), **{name: source[name] for name in _PLACE if name in source}}))
        place.open(session)
        rows = place.read(session)
        place.check_readable(rows)
        column = embedding.get("column") or _free_column(rows, table)
        taken = [UNREADABLE, *[field.name for field in VectorColumns(column).fields]]
        key = asked.source.key if source.get("key") and not asked.source.makes_key else ()
        text = asked.source.text_columns if source.get("text") else ()
        for name in key:
            require_field(rows.schema, name, "source.key", table)
        for name in text:
            require_field(rows.schema, name, "source.text", table)
        needs_key = place.files is None and not asked.source.makes_key
        guess = guess_columns(filtered(rows, source.get("where")), taken, key, text[0] if text else None, needs_key=needs_key, table=table)
        check_source_columns(rows, guess.key, table)
        named = {"text": asked.source.text, "format_text": asked.source.format_text} if text else {"text": guess.text}
        check_text_columns(dataclasses.replace(place.config, **named), rows.schema, table)
        n_rows = rows.count()
        n_bytes, rewritten = measure(session, place)
    content = _file_text(given, guess, column, n_rows, n_bytes, rewritten)
    parse_config(yaml.safe_load(content))  # what is written can be read
    return Draft(content, table, guess, n_rows, n_bytes)


def _free_column(rows: DataFrame, ref: str) -> str:
    """`embedding`, or the first of its kind that the table has no other use for."""
    for name in ("embedding", "metaeol_embedding", *(f"embedding_{n}" for n in range(2, 100))):
        try:
            check_vector_columns(rows.schema, VectorColumns(name), (), ref)
        except InputError:
            continue
        return name
    raise InputError(f"{ref} has columns of every name that vectors might have: give embedding.column=NAME")


def _file_text(given: Mapping[str, Any], guess: Guess, column: str, n_rows: int, n_bytes: int, rewritten: tuple[int, int] | None) -> str:
    """The YAML, section by section; a comment holds names and numbers, never a value of the table."""
    found: dict[str, dict[str, Any]] = {
        "source": {name: given["source"][name] for name in _PLACE if name in given["source"]}
        | {"key": list(guess.key) or "auto", "text": guess.text, "where": None},
        "target": {"table": None},
        "embedding": {"column": column, "model": _MODEL, "templates": "metaeol", "layer": -1, "dtype": "auto", "max_tokens": 512},
        "runtime": {"device": "auto", "wave_rows": 50_000, "max_failed_fraction": 0.01, "report": None, "report_page": None},
        "spark": {"master": None, "conf": {}},
    }
    if (given.get("embedding") or {}).get("spec"):
        found["embedding"] = {"column": column}  # the others come from the spec's file
    comments = _comments(guess, given["source"])
    if rewritten is not None:
        comments["target.table"] += (
            f"; a changed text then rewrites its file, {rewritten[0] / 2**20:,.0f} MiB on average and more with vectors, "
            "unless the table has deletion vectors or the vectors a table of their own"
        )
    lines = [
        f"# Drafted by `metaeol init` from {n_rows:,} rows in {n_bytes:,} bytes; columns were looked at in {guess.n_sampled:,} of them.",
        "# Next: `metaeol doctor` on this file, then `metaeol embed` with --dry-run, then without.",
        "# Every other setting, with its default, is in docs/reference/configuration.md; `metaeol config` lists those in force.",
        "# For completion in an editor, run `metaeol config --schema > metaeol.schema.json` and take one # off the next line.",
        "# # yaml-language-server: $schema=metaeol.schema.json",
    ]
    for section in {**found, **given}:
        lines.append(f"{section}:")
        for key, value in {**found.get(section, {}), **(given.get(section) or {})}.items():
            comment = comments.get(f"{section}.{key}")
            lines.append(f"  {key}: {write_yaml(value)}" + (f" # {comment}" if comment else ""))
    return "\n".join(lines) + "\n"


def _comments(guess: Guess, given_source: Mapping[str, Any]) -> dict[str, str]:
    tokens = round(guess.longest / _CHARACTERS_OF_A_TOKEN)
    whole = f"the first {guess.n_sampled:,} rows" if guess.n_sampled >= SAMPLE_ROWS else f"all {guess.n_sampled:,} rows"
    unique = f"unique and never NULL in {whole}" if guess.key else "no column is unique: a key is made of the text"
    keys = f"; also unique: {_names(guess.other_keys)}" if guess.other_keys else ""
    texts = ", ".join(f"{_names([name])} {length:,}" for name, length in guess.other_texts)
    blank = f", {guess.blank_share:.1%} NULL or blank" if guess.blank_share else ""
    return {
        "source.key": f"{'as given' if given_source.get('key') else unique}{keys}",
        "source.text": f"{guess.mean_length:,} characters on average{blank}" + (f"; other strings: {texts}" if texts else ""),
        "source.where": "a Spark SQL condition over the row's own columns, such as lang = 'de'",
        "target.table": "null: the vectors are written back into the source table" if "table" in given_source else "made for the vectors",
        "embedding.model": "a model folder that `metaeol model prepare SRC DEST` made, or a hub id in the local cache",
        "embedding.templates": f"one of {', '.join(builtin_names())}, or a YAML file of your own",
        "embedding.layer": "-1: the last; `metaeol tune` finds a better one on labelled pairs",
        "embedding.max_tokens": f"kept of a text; the longest seen has about {tokens:,}, of {_CHARACTERS_OF_A_TOKEN} characters each",
        "runtime.device": "auto: all GPUs of the task, else the CPU",
        "runtime.wave_rows": "unique texts between two journal commits: what a kill can cost",
        "runtime.max_failed_fraction": "of the rows; NULL and blank texts count",
        "runtime.report": "a path for the JSON run report",
        "runtime.report_page": "a path that ends in .html, for the same as a page",
        "spark.master": "null: what spark-submit or the notebook set, else local[*]",
    }


def _names(names: Iterable[str]) -> str:
    """Names of columns on one line of a comment, whatever is in them."""
    return ", ".join(name if name.isprintable() else json.dumps(name) for name in names)

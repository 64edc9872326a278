"""A run in one call: the settings of a configuration as keywords, and a report that terminals and notebooks show."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from metaeol_udf.config import JobConfig, override_entries, parse_configs, read_blocks, setting_names, title_of
from metaeol_udf.delta.base.progress import Progress
from metaeol_udf.delta.job import run_embed
from metaeol_udf.errors import ConfigError, did_you_mean
from metaeol_udf.formatting import format_value, shorten

_SUFFIXES = (".yaml", ".yml")
#: Figures of a report that are shown, with their words. Those of the second tuple are left out where they are 0.
_SHOWN = (
    ("status", "status"),
    ("rows_selected", "rows selected"),
    ("rows_embedded", "rows embedded"),
    ("rows_failed", "rows failed"),
    ("failures", "why"),
    ("rows_without_vector", "rows without a vector"),
    ("rows_skipped", "rows up to date"),
    ("rows_deleted", "rows deleted"),
    ("rows_trimmed", "rows trimmed"),
    ("looked_at", "looked at"),
    ("unique_texts", "texts computed"),
    ("texts_per_second", "texts per second"),
    ("fingerprint", "fingerprint"),
)
_MAYBE = ("failures", "rows_without_vector", "rows_deleted", "rows_trimmed", "texts_per_second")


class EmbedReport(dict[str, Any]):
    """The report of a run: the mapping that `run_embed` returns, shown as lines on a terminal and as a table in a notebook.

    Attributes:
        title: The table and the column that the vectors are in.
    """

    def __init__(self, report: Mapping[str, Any], title: str) -> None:
        """Take the figures of a report."""
        super().__init__(report)
        self.title = title

    def _figures(self) -> list[tuple[str, str]]:
        shown = [(words, self[name]) for name, words in _SHOWN if name in self and (self[name] or name not in _MAYBE)]
        seconds = self.get("seconds", {}).get("total")
        return [(words, format_value(value)) for words, value in [*shown, ("seconds", seconds)]]

    def __repr__(self) -> str:
        figures = self._figures()
        width = max(len(words) for words, _ in figures)
        return "\n".join([self.title, *(f"  {words:<{width}}  {value}" for words, value in figures)])

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{html.escape(words)}</th><td>{html.escape(value)}</td></tr>" for words, value in self._figures())
        return f"<table><caption>{html.escape(self.title)}</caption>{rows}</table>"


def embed_table(
    table: str | Path | Mapping[str, Any] | None = None,
    *,
    key: Any = None,
    text: Any = None,
    model: Any = None,
    target: str | Path | None = None,
    full: bool = False,
    progress: Progress | None = None,
    spark: SparkSession | None = None,
    **settings: Any,
) -> EmbedReport:
    """Embed a text column of a table, as `metaeol embed` does.

    Every setting of a configuration is a keyword: by its own name where one section alone has it (`where`, `templates`, `device`,
    `wave_rows`), and always as section and name (`runtime_device`, `embedding_column`, `spark_conf`).

    Args:
        table: A Delta table by path or name (`source.table`); or the path of a YAML file, or a mapping of sections, over which the
            keywords win. None where `path` or `query` is given.
        key: Names of the columns that name a row, or one name (`source.key`).
        text: Name of the text column, or names (`source.text`).
        model: The model (`embedding.model`).
        target: A Delta table for the vectors (`target.table`); by default they stand in the table itself.
        full: As in `run_embed`.
        progress: As in `run_embed`.
        spark: The session; None takes the active one or starts one.
        **settings: All other settings.

    Returns:
        The report of the run.

    Raises:
        ConfigError: A keyword is no setting, or a setting is missing or out of range. Nothing was written.
        MetaEOLError: What else `run_embed` raises.
    """
    given = {"source_key": key, "source_text": text, "embedding_model": model, "target_table": target}
    configs = as_settings(table, {name: value for name, value in given.items() if value is not None} | settings)
    return EmbedReport(run_embed(configs, spark, progress, full=full), title_of(configs))


def as_settings(table: str | Path | Mapping[str, Any] | None, keywords: Mapping[str, Any]) -> tuple[JobConfig, ...]:
    """Make the configuration that the arguments of `embed_table` stand for: one for each column.

    Raises:
        ConfigError: A keyword is no setting, or a setting is missing or out of range.
    """
    blocks, names = _blocks(table), _keywords()
    for name, value in keywords.items():
        if name not in names:
            raise ConfigError(f"{shorten(name, 80)} is no setting of embed_table; {did_you_mean(name, names)}")
        section, _, inner = names[name].partition(".")
        block = blocks.setdefault(section, {})
        if not isinstance(block, dict):
            raise ConfigError(f"{section} must be a mapping of settings, found {type(block).__name__}")
        block[inner] = _plain(value)
        if section == "embedding":
            override_entries(blocks, inner, block[inner])
    return parse_configs(blocks)


def _blocks(table: str | Path | Mapping[str, Any] | None) -> dict[str, Any]:
    """Make the sections of a configuration that the first argument stands for."""
    if table is None:
        return {}
    if not isinstance(table, (str, Path, Mapping)):
        raise ConfigError(f"table must be the name or path of a table, a YAML file or a mapping of sections, found {type(table).__name__}")
    name = "" if isinstance(table, Mapping) else str(table)
    if name and not name.endswith(_SUFFIXES):
        return {"source": {"table": f"./{name}" if isinstance(table, Path) and "/" not in name else name}}
    blocks = table if isinstance(table, Mapping) else read_blocks(name)
    return {section: _copied(block) for section, block in blocks.items() if block is not None}


def _copied(block: Any) -> Any:
    """Copy a section, or a list of sections, which keywords change."""
    if isinstance(block, list):
        return [_copied(item) for item in block]
    return dict(block) if isinstance(block, Mapping) else block


def _keywords() -> dict[str, str]:
    """List the keywords with the settings that they mean."""
    settings = setting_names()
    plain = [setting.partition(".")[2] for setting in settings]
    alone = {name: setting for name, setting in zip(plain, settings, strict=True) if plain.count(name) == 1}
    return alone | {setting.replace(".", "_", 1): setting for setting in settings}


def _plain(value: Any) -> Any:
    """Make of a Python value what YAML would give."""
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value

"""What the user named: a Delta table, or files, of which format they are and how they are written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from pyspark.sql import SparkSession

from metaeol_udf.config import SourceConfig
from metaeol_udf.config.source import format_of
from metaeol_udf.delta.sources.files import Files
from metaeol_udf.delta.sources.misplaced import format_at
from metaeol_udf.delta.sources.source import Source
from metaeol_udf.delta.tables.refs import exists, open_table, parse_path, parse_table, storage_of
from metaeol_udf.delta.tables.target import rewritten_bytes
from metaeol_udf.errors import InputError

_SEPARATORS = (";", "\t", "|")


def find_place(spark: SparkSession, name: str, source: Mapping[str, Any], target: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Find what a name stands for: the sections `source` and, for files, `target` with it.

    Args:
        spark: The session.
        name: Path or name of a table, or a path of files.
        source: Settings of the source that are given.
        target: Settings of the target that are given.
    """
    is_path = "/" in name or (os.path.exists(name) and format_of(name) is not None)
    if not is_path or exists(spark, parse_table(name if "/" in name else f"./{name}", "TABLE")):
        return {"source": {"table": name, **source}}
    kind = source.get("format") or format_at(spark, parse_path(name, "TABLE"))
    if kind is None:
        return {"source": {"table": name, **source}}  # whose reader says what is there
    found: dict[str, Any] = {"path": name} if kind == format_of(name) else {"path": name, "format": kind}
    options = _options(spark, SourceConfig(path=name, format=kind, key=("id",), options=source.get("options") or {}))
    if options:
        found["options"] = options
    folder, slash, last = name.rstrip("/").rpartition("/")
    beside = f"{folder}{slash}" if slash else "./"
    return {"source": {**found, **source}, "target": {"table": f"{beside}{last.split('.')[0] or last}_vectors", **target}}


def _options(spark: SparkSession, config: SourceConfig) -> dict[str, str]:
    """Find the options that the files need: the separator of CSV, and of JSON whether one file is one value."""
    if config.file_format == "json":
        try:
            Files.of(config).read(spark)
        except InputError:
            return {"multiLine": "true", **config.options}
    if config.file_format == "csv":
        columns = Source(config).columns(spark).names
        found = [separator for separator in _SEPARATORS if len(columns) == 1 and separator in columns[0]]
        if found:
            return {"sep": found[0], **config.options}
    return dict(config.options)


def measure(spark: SparkSession, place: Source) -> tuple[int, tuple[int, int] | None]:
    """Measure the bytes of a source, and of a Delta table what a changed text rewrites in it."""
    if place.table is not None:
        detail = open_table(spark, place.table, "TABLE").detail().collect()[0]
        return int(detail["sizeInBytes"]), rewritten_bytes(detail)
    if place.files is None:
        return 0, None
    folder, storage = storage_of(spark, place.files.path)
    return int(storage.getContentSummary(folder).getLength()), None

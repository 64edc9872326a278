"""What stands where a Delta table was named: nothing, files of another format, or a name that was meant as a path."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

from py4j.protocol import Py4JError
from pyspark.sql import SparkSession

from metaeol_udf.config.source import format_of
from metaeol_udf.delta.tables.refs import TableRef, storage_of
from metaeol_udf.errors import InputError
from metaeol_udf.spark.cluster.catalog import in_memory
from metaeol_udf.spark.cluster.connect import is_connect

_MOST_LOOKED_AT = 200  # entries of a folder
_MOST_DEEP = 3  # folders in each other, as partitions make them
_NAMES = {"csv": "CSV", "json": "JSON", "parquet": "Parquet", "orc": "ORC", "iceberg": "Iceberg"}


def no_table(spark: SparkSession, ref: TableRef, setting: str) -> InputError:
    """Make the error that says what stands where a Delta table was named, and which setting takes it."""
    if not ref.is_path:
        if format_of(ref.name) is not None and not os.path.exists(ref.name):
            return InputError(f"{setting}: there is no file {ref.name} in {os.getcwd()}, and no Delta table of that name")
        lost = "; this session's catalog is in memory, and knows no table of an earlier process" if in_memory(spark, ref.name) else ""
        return InputError(f"{setting}: no Delta table at the name {ref.name!r}{lost}{_meant_as_path(ref.name)}")
    if is_connect(spark):  # which has no file systems to look at
        return InputError(f"{setting}: the server finds no Delta table at the path {ref.name!r}")
    begin = f"{setting}: no Delta table at the path {ref.name!r}: "
    try:
        found = _look(spark, ref.name)
    except Py4JError:  # refused by the storage
        return InputError(f"{begin}the storage does not let this user look there")
    if found is None:
        return InputError(f"{begin}there is nothing; a path that does not begin with / or a scheme begins in {os.getcwd()}")
    what, kind = found
    if kind is None:
        return InputError(f"{begin}{what}")
    return InputError(f"{begin}{what}; give source.path={ref.name} source.format={kind} instead, and a target.table for the vectors")


def format_at(spark: SparkSession, path: str) -> str | None:
    """Find the format of the files at a path; None where there are none that are known, or they are those of a Delta table."""
    found = _look(spark, path)
    return None if found is None else found[1]


def _meant_as_path(name: str) -> str:
    """Add what a name was perhaps meant to be."""
    if not os.path.exists(name):
        return "; a path has a / in it"
    kind = format_of(name)
    if kind is None:
        return f"; a path has a / in it: ./{name}"
    return f": {name} is a {_NAMES[kind]} file; give source.path={name} instead, and a target.table for the vectors"


def _look(spark: SparkSession, path: str) -> tuple[str, str | None] | None:
    """Look at a path: words for what is there and its format; None where nothing is."""
    place, storage = storage_of(spark, path)
    if not storage.exists(place):
        return None
    if storage.getFileStatus(place).isFile():
        kind = format_of(path)
        return (f"it is a {_NAMES[kind]} file" if kind else "it is a file, and a table is a folder"), kind
    names = [status.getPath().getName() for status in storage.listStatus(place)]
    if "_delta_log" in names:
        return "it is a Delta table that cannot be read", None
    if "metadata" in names and "data" in names:
        return "it is an Iceberg table", "iceberg"
    kinds = _kinds(storage, place, _MOST_DEEP)
    if not kinds:
        return ("it is an empty folder" if not names else "it is a folder without a table"), None
    kind = kinds.most_common(1)[0][0]
    return f"it is a folder of {_NAMES[kind]} files", kind


def _kinds(storage: Any, folder: Any, depth: int) -> Counter[str]:
    """Count the formats of a folder's files, or of the files of the first folder in it that has some."""
    entries = list(storage.listStatus(folder))[:_MOST_LOOKED_AT]
    shown = [entry for entry in entries if not entry.getPath().getName().startswith(("_", "."))]
    found = Counter(kind for entry in shown if entry.isFile() and (kind := format_of(entry.getPath().getName())))
    if found or not depth:
        return found
    for entry in shown:
        if entry.isDirectory() and (inner := _kinds(storage, entry.getPath(), depth - 1)):
            return inner
    return found

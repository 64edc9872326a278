"""`make demo`: embed the docstrings of Python's standard library and search them. Real text that every machine has."""

from __future__ import annotations

import ast
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

from pyspark.sql import SparkSession
from rich.console import Console

from metaeol_udf.cli import run_guarded, start_logging
from metaeol_udf.cli.views import show_hits, show_report
from metaeol_udf.config import JobConfig, load_config
from metaeol_udf.delta.job import run_embed
from metaeol_udf.search import search_table
from metaeol_udf.spark.cluster.session import get_session

CONF = "conf/demo.yaml"
QUERIES = ("compress a file", "generate random numbers", "compare two sequences")

#: Modules whose functions and classes a reader knows, without generated or purely internal ones.
MODULES = (
    "argparse", "ast", "base64", "bisect", "bz2", "calendar", "cmd", "codecs", "collections/__init__", "colorsys", "configparser",
    "contextlib", "copy", "csv", "dataclasses", "datetime", "difflib", "dis", "email/message", "email/utils", "enum", "fileinput",
    "fnmatch", "fractions", "functools", "getpass", "gettext", "glob", "graphlib", "gzip", "hashlib", "heapq", "hmac",
    "html/__init__", "http/client", "http/server", "inspect", "ipaddress", "json/__init__", "linecache", "locale",
    "logging/__init__", "lzma", "mimetypes", "multiprocessing/pool", "os", "pathlib", "pickle", "platform", "plistlib", "pprint",
    "queue", "random", "re", "sched", "secrets", "shelve", "shlex", "shutil", "smtplib", "socket", "sqlite3/__init__", "ssl",
    "statistics", "string", "subprocess", "tarfile", "tempfile", "textwrap", "threading", "timeit", "tokenize", "traceback",
    "urllib/parse", "urllib/request", "uuid", "venv/__init__", "warnings", "wave", "weakref", "webbrowser",
    "xml/etree/ElementTree", "zipfile", "zoneinfo/_tzpath",
)  # fmt: skip
MAX_PER_MODULE = 8


def main() -> None:
    """Make the table if it is missing, run the job, search three times, and say where everything is."""
    sys.exit(run_guarded(_demo))


def _demo() -> None:
    started = time.perf_counter()
    start_logging()
    console = Console()
    config = load_config(CONF)
    spark = get_session(config.spark)
    console.print(_make_table(spark, config), markup=False, highlight=False, soft_wrap=True)
    report = run_embed(config, spark)
    console.print(f"\n$ metaeol embed {CONF}", style="bold", markup=False, highlight=False)
    show_report(console, config.title, report)
    found = search_table(config, QUERIES, k=4, distinct=True, spark=spark)
    for query, hits in zip(QUERIES, found, strict=True):
        console.print(f"\n$ metaeol search {CONF} ", end="", style="bold", markup=False, highlight=False)
        show_hits(console, query, hits)
    seconds = time.perf_counter() - started
    console.print(
        f"\nThe Delta table is in {config.target_table}, the run report in {config.runtime.report}. {seconds:.0f} s in all.", soft_wrap=True
    )
    spark.stop()


def _make_table(spark: SparkSession, config: JobConfig) -> str:
    """Write the docstrings as a Delta table, unless one is there: then its vectors stay."""
    from delta import DeltaTable

    path = config.target_table  # the vectors stand beside the docstrings
    if DeltaTable.isDeltaTable(spark, path):
        return f"{path}: {spark.read.format('delta').load(path).count()} docstrings, there already"
    rows = sorted(collect_docstrings().items())
    table = spark.createDataFrame(rows, "name string, text string").coalesce(1)
    # Delta would copy the beginnings of the lowest and highest text into its log: here they are public, in a user's table they are not.
    table.write.format("delta").option("delta.dataSkippingStatsColumns", "name").save(path)
    return f"{path}: {len(rows)} docstrings of the standard library of Python {sys.version_info.major}.{sys.version_info.minor}"


def collect_docstrings() -> dict[str, str]:
    """First paragraphs of docstrings in the standard library's sources, by qualified name such as `gzip.open`.

    Read with `ast`, so nothing is imported. The same for the same Python version.
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    texts: dict[str, str] = {}
    for module in MODULES:
        path = folder / f"{module}.py"
        if path.is_file():
            name = module.removesuffix("/__init__").replace("/", ".")
            texts |= dict(list(_docstrings(name, path.read_text(encoding="utf-8")))[:MAX_PER_MODULE])
    return texts


def _docstrings(module: str, source: str) -> Iterator[tuple[str, str]]:
    """Names and first paragraphs of a module's public functions and classes that say enough, in the order of the source."""
    for node in ast.parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            paragraph = " ".join((ast.get_docstring(node) or "").partition("\n\n")[0].split())
            if len(paragraph.split()) >= 4 and len(paragraph) <= 400:
                yield f"{module}.{node.name}", paragraph


if __name__ == "__main__":
    main()

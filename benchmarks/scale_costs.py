"""What Spark and Delta cost beside the model: each phase of the job, run by the job's own code on stand-in vectors.

Two table sizes give a fixed part and a part a row. Called by `python -m benchmarks.scale --measure`.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks.estimate import mixed_texts
from metaeol_udf.config import SourceConfig, SparkConfig
from metaeol_udf.delta import publish, selection
from metaeol_udf.delta.alter import alter_table
from metaeol_udf.delta.columns import VectorColumns
from metaeol_udf.delta.journal import Journal
from metaeol_udf.delta.selection import FINGERPRINT
from metaeol_udf.delta.tables import TableRef, open_table, read
from metaeol_udf.delta.target import create_target
from metaeol_udf.encoder.window import prepare_window
from metaeol_udf.prompts import TemplateSet
from metaeol_udf.prompts.tokens import PromptTokenizer
from metaeol_udf.prompts.trie import PromptTrie
from metaeol_udf.spark.session import get_session

_SPEC = "0123456789abcdef"  # a stand-in for a spec's fingerprint
_COLUMNS = VectorColumns("embedding")
PHASES = ("select", "append", "merge_target", "verify", "merge_in_place")


@dataclass
class Bench:
    """One source table of so many rows and what the phases took on it."""

    spark: SparkSession
    folder: Path
    rows: int
    dim: int
    text_characters: int
    seconds: dict[str, float]
    sizes: dict[str, float]

    def timed(self, phase: str, action: Callable[[], Any]) -> Any:
        """Run one phase and keep its seconds."""
        started = time.perf_counter()
        result = action()
        self.seconds[phase] = time.perf_counter() - started
        return result


def measure(sizes: tuple[int, int], dim: int, text_characters: int, master: str) -> dict[str, Any]:
    """Seconds and bytes of each phase as `fixed_s` and `row_s`, with what they were derived from."""
    spark = get_session(SparkConfig(master=master))
    slots = spark.sparkContext.defaultParallelism
    with tempfile.TemporaryDirectory() as folder:
        _run(spark, Path(folder) / "warm-up", min(sizes), dim, text_characters)
        benches = [_run(spark, Path(folder) / str(rows), rows, dim, text_characters) for rows in sizes]
    small, large = benches
    phases = {phase: _line(small, large, phase) for phase in PHASES}
    spark.stop()
    return {"dim": dim, "text_characters": text_characters, "slots": slots, "rows": list(sizes), "phases": phases, "sizes": large.sizes}


def measure_tokens(model: str, n_texts: int) -> dict[str, Any]:
    """Tokens computed for a text of mixed real ones: mean, and standard deviation over the mean. No forward pass."""
    from transformers import AutoTokenizer

    texts, source = mixed_texts(n_texts)
    templates = TemplateSet.load("metaeol")
    trie = PromptTrie(templates, PromptTokenizer(AutoTokenizer.from_pretrained(model)))
    window = prepare_window(texts, trie, templates, 512, 1024, shares_starts=True)
    tokens = window.tokens_computed[window.tokens_computed > 0]
    name = f"{len(tokens):,} texts of {source}, SmolLM2's tokenizer, template set metaeol, at most 512 tokens of a text"
    return {"per_text": float(tokens.mean()), "spread": float(tokens.std() / tokens.mean()), "source": name}


def _line(small: Bench, large: Bench, phase: str) -> dict[str, Any]:
    """Fixed and marginal seconds. Where noise hides the slope, all of the larger table's time counts as the rows': an upper bound."""
    a, b = small.seconds[phase], large.seconds[phase]
    slope = (b - a) / (large.rows - small.rows)
    row_s, fixed_s = (slope, max(0.0, a - slope * small.rows)) if slope > 0 else (b / large.rows, 0.0)
    return {"row_s": row_s, "fixed_s": fixed_s, "seconds": [round(a, 3), round(b, 3)]}


def _run(spark: SparkSession, folder: Path, rows: int, dim: int, text_characters: int) -> Bench:
    bench = Bench(spark, folder, rows, dim, text_characters, {}, {})
    source_ref, target_ref = TableRef(str(folder / "source"), True), TableRef(str(folder / "target"), True)
    _texts(spark, rows, text_characters).write.format("delta").save(source_ref.name)
    config = SourceConfig(table=source_ref.name, key=("id",))
    journal = Journal(spark, target_ref.beside("journal"), _SPEC, "20260101T000000-0")

    def select() -> selection.Selection:
        selection.check_keys(read(spark, source_ref), config)
        chosen = selection.select(read(spark, source_ref), config, _SPEC, _COLUMNS, None, True)
        selection.count(chosen)
        selection.find_pending(chosen, journal.finished())
        return chosen

    chosen = bench.timed("select", select)
    # The vectors' own cost is not the append's: they are made and kept first.
    embedded = _vectors(chosen.changed, dim).persist()
    embedded.count()
    bench.timed("append", lambda: journal.append_wave(embedded, 1))
    embedded.unpersist()
    create_target(spark, target_ref, chosen.rows.select("id").schema)
    for ref in (target_ref, source_ref):
        alter_table(spark, ref, new_columns=_COLUMNS.fields, comments={}, properties={})
    target = open_table(spark, target_ref, "target")
    bench.timed("merge_target", lambda: publish.publish_to_target(target, chosen, journal.outcomes(), _COLUMNS))
    stored = selection.select(read(spark, source_ref), config, _SPEC, _COLUMNS, read(spark, target_ref), False)
    bench.timed("verify", lambda: publish.verify(stored, journal.outcomes()))
    source = open_table(spark, source_ref, "source")
    bench.timed("merge_in_place", lambda: publish.publish_in_place(source, journal.outcomes(), _COLUMNS, _SPEC, "text", None))
    bench.sizes = {
        "journal_row_bytes": _bytes(folder / "target__metaeol_journal") / rows,
        "target_row_bytes": _bytes(folder / "target") / rows,
        "log_file_bytes": _log_bytes(folder / "target__metaeol_journal"),
    }
    return bench


def _texts(spark: SparkSession, rows: int, text_characters: int) -> DataFrame:
    """Distinct texts of one length; hexadecimal digits, so that Parquet cannot make them vanish."""
    digest = F.sha2(F.col("id").cast("string"), 512)
    return spark.range(rows).select("id", F.substring(F.repeat(digest, text_characters // 128 + 1), 1, text_characters).alias("text"))


def _vectors(texts: DataFrame, dim: int) -> DataFrame:
    """Vectors of floats that do not compress, as the model's do not."""
    element = lambda i: ((F.xxhash64(FINGERPRINT, i) % F.lit(2**20)) / F.lit(2.0**20)).cast("float")  # noqa: E731
    vector = F.transform(F.sequence(F.lit(1), F.lit(dim)), element)
    zero = F.lit(0).cast("long")
    result = F.struct(
        vector.alias("vector"),
        F.lit(None).cast("string").alias("error"),
        F.lit(False).alias("trimmed"),
        zero.alias("tokens_computed"),
        zero.alias("tokens_saved"),
        F.lit("host:1:0:run").alias("load_id"),
    )
    return texts.select(FINGERPRINT, result.alias("result"))


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.parquet") if "_delta_log" not in path.parts)


def _log_bytes(folder: Path) -> float:
    """Bytes of the log for one data file."""
    lines = [line for path in (folder / "_delta_log").glob("*.json") for line in path.read_text().splitlines()]
    added = [line for line in lines if "add" in json.loads(line)]
    return sum(map(len, added)) / len(added)

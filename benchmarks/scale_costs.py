"""What Spark and Delta cost beside the model, as a fixed part and a part a row: the job itself on two table sizes, with a stand-in.

Called by `python -m benchmarks.scale --measure`.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.estimate import mixed_texts
from benchmarks.rows import DIM, Setting, distinct_texts, run_job
from metaeol_udf.config import SparkConfig
from metaeol_udf.encoder.preparation import prepare_texts
from metaeol_udf.prompts import TemplateSet
from metaeol_udf.prompts.tokenizer import PromptTokenizer
from metaeol_udf.prompts.trie import PromptTrie
from metaeol_udf.spark.cluster.session import get_session

#: Phase of the simulation, whether vectors go into the source, and phase of the job's report.
PHASES = {
    "select": (False, "select"),
    "append": (False, "embed"),
    "merge_target": (False, "publish"),
    "merge_in_place": (True, "publish"),
    "verify": (False, "verify"),
}


def measure(sizes: tuple[int, int], text_characters: int, model: Path, master: str) -> dict[str, Any]:
    """Seconds and bytes of each phase as `fixed_s` and `row_s`, with what they were derived from."""
    spark = get_session(SparkConfig(master=master))
    slots = spark.sparkContext.defaultParallelism
    with tempfile.TemporaryDirectory() as folder:
        seconds: dict[tuple[bool, int], dict[str, float]] = {}
        journals: dict[str, float] = {}
        for in_place in (False, True):
            setting = Setting(spark, model, text_characters, in_place)
            for label, rows in (("warm-up", sizes[0]), *((str(rows), rows) for rows in sizes)):
                place = Path(folder) / f"{label}-{in_place}"
                distinct_texts(spark, rows, text_characters).write.format("delta").save(str(place / "source"))
                seconds[in_place, rows] = run_job(setting, place)["seconds"]
                journals = _sizes(place, rows) if not in_place else journals
    spark.stop()
    phases = {phase: _line(sizes, [seconds[kind, rows][name] for rows in sizes]) for phase, (kind, name) in PHASES.items()}
    return {"dim": DIM, "text_characters": text_characters, "slots": slots, "rows": list(sizes), "phases": phases, "sizes": journals}


def measure_tokens(model: str, n_texts: int) -> dict[str, Any]:
    """Tokens computed for a text of mixed real ones: mean, and standard deviation over the mean. No forward pass."""
    from transformers import AutoTokenizer

    texts, source = mixed_texts(n_texts)
    templates = TemplateSet.load("metaeol")
    trie = PromptTrie(templates, PromptTokenizer(AutoTokenizer.from_pretrained(model)))
    window = prepare_texts(texts, trie, templates, 512, 1024, shares_starts=True)
    tokens = window.tokens_computed[window.tokens_computed > 0]
    name = f"{len(tokens):,} texts of {source}, SmolLM2's tokenizer, template set metaeol, at most 512 tokens of a text"
    return {"per_text": float(tokens.mean()), "spread": float(tokens.std() / tokens.mean()), "source": name}


def _line(sizes: tuple[int, int], seconds: list[float]) -> dict[str, Any]:
    """Fixed and marginal seconds. Where noise hides the slope, all of the larger table's time counts as the rows': an upper bound."""
    (small, large), (a, b) = sizes, seconds
    slope = (b - a) / (large - small)
    row_s, fixed_s = (slope, max(0.0, a - slope * small)) if slope > 0 else (b / large, 0.0)
    return {"row_s": row_s, "fixed_s": fixed_s, "seconds": [round(a, 3), round(b, 3)]}


def _sizes(place: Path, rows: int) -> dict[str, float]:
    """Bytes of a row in the journal and in the target, and of a data file's entry in the log."""
    return {
        "journal_row_bytes": _bytes(place / "target__metaeol_journal") / rows,
        "target_row_bytes": _bytes(place / "target") / rows,
        "log_file_bytes": _log_bytes(place / "target__metaeol_journal"),
    }


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.parquet") if "_delta_log" not in path.parts)


def _log_bytes(folder: Path) -> float:
    """Bytes of the log for one data file."""
    lines = [line for path in (folder / "_delta_log").glob("*.json") for line in path.read_text().splitlines()]
    added = [line for line in lines if "add" in json.loads(line)]
    return sum(map(len, added)) / len(added)

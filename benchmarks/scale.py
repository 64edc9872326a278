"""A job of one million to ten billion rows: what Spark and Delta cost is measured here, and the rest is simulated from it.

    python -m benchmarks.scale --measure artifacts/bench/scale.json    # half an hour on an idle machine
    python -m benchmarks.scale artifacts/bench/scale.json --write docs/scale.md

`--measure` runs the job itself over tables that differ in one thing: waves, rows, bytes of a text, columns, where the vectors go,
deletion vectors. A stand-in takes the model's place. Each table has a first run, and a run after a change of one row in a hundred.
The simulation takes these costs, tokens of real texts, and rates of GPUs that are assumed; the page says each assumption.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from delta.tables import DeltaTable
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from transformers import AutoTokenizer

from benchmarks.job import Quiet
from benchmarks.publish import put_between_markers
from benchmarks.results import Row, command_parser, markdown_table, read_results, write_results
from benchmarks.rows import distinct_texts, stand_in
from benchmarks.scale_model import Cluster, Costs, Table, best_wave_rows, plan
from benchmarks.texts import mixed_texts
from metaeol_udf import EmbeddingSpec, TemplateSet
from metaeol_udf.config import SparkConfig
from metaeol_udf.delta import run_embed
from metaeol_udf.delta.write import waves
from metaeol_udf.encoder.preparation import prepare_texts
from metaeol_udf.prompts.tokenizer import PromptTokenizer
from metaeol_udf.prompts.trie import PromptTrie
from metaeol_udf.spark.cluster.session import get_session

CHANGED = 100  # one row in so many changes before the second run
_PEAK_FLOPS = 989e12  # of an H100 SXM, bfloat16 without sparsity, from NVIDIA's data sheet
_HEAP_PER_LOG_BYTE = 5  # of a file's entry in the driver's heap, over its JSON; assumed
_PHASES = ("select", "embed", "publish", "verify")
_UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class Trial:
    """A table, and how the job goes over it.

    Attributes:
        rows: Of the source.
        characters: Of a text; one byte each.
        waves: Of the first run.
        columns: Of the source, beside key and text; 16 characters each.
        in_place: Whether the vectors go into the source.
        deletion_vectors: Whether a change hides rows of files rather than write the files anew.
    """

    rows: int
    characters: int = 60
    waves: int = 1
    columns: int = 0
    in_place: bool = False
    deletion_vectors: bool = False


def trials(rows: int) -> list[Trial]:
    """List the tables: the first one, and those that differ from it."""
    base = Trial(rows)
    wide = dataclasses.replace(base, columns=100)
    return [
        base,
        *(dataclasses.replace(base, waves=n) for n in (4, 16, 64)),
        dataclasses.replace(base, rows=4 * rows),
        dataclasses.replace(base, characters=40 * base.characters),
        dataclasses.replace(base, in_place=True),
        dataclasses.replace(base, rows=4 * rows, in_place=True),
        wide,
        dataclasses.replace(wide, deletion_vectors=True),
        dataclasses.replace(wide, in_place=True),
        dataclasses.replace(wide, in_place=True, deletion_vectors=True),
    ]


def measure(spark: SparkSession, trial: Trial, folder: Path, model: Path) -> Row:
    """Run the job over a new table, and again after one row in `CHANGED` has another text."""
    source, target = folder / "source", folder / "target"
    texts = distinct_texts(spark, trial.rows, trial.characters)
    more = [F.substring(F.sha2(F.concat_ws("-", "id", F.lit(i)), 256), 1, 16).alias(f"column_{i}") for i in range(trial.columns)]
    texts.select("*", *more).write.format("delta").option("delta.enableDeletionVectors", trial.deletion_vectors).save(str(source))
    blocks: dict[str, Any] = {
        "source": {"table": str(source), "key": ["id"]},
        "target": {"table": None if trial.in_place else str(target)},
        "embedding": {"model": str(model), "dtype": "float32"},
        "runtime": {"device": "cpu", "wave_rows": -(-trial.rows // trial.waves)},
    }
    stored = source if trial.in_place else target
    with mock.patch.object(waves, "result_udf", stand_in):
        first = run_embed(blocks, spark, Quiet())
        journal = folder / f"{stored.name}__metaeol_journal"
        files = _added(journal, 0)
        if trial.deletion_vectors and not trial.in_place:
            spark.sql(f"ALTER TABLE delta.`{target}` SET TBLPROPERTIES ('delta.enableDeletionVectors' = 'true')")
        DeltaTable.forPath(spark, str(source)).update(F.col("id") % CHANGED == 0, {"text": F.reverse("text")})
        since = len(_versions(stored))
        night = run_embed(blocks, spark, Quiet())
    changed = -(-trial.rows // CHANGED)
    if (first["rows_embedded"], first["waves"], night["rows_embedded"]) != (trial.rows, trial.waves, changed):
        raise RuntimeError(f"{trial}: first {first['rows_embedded']} rows in {first['waves']} waves, then {night['rows_embedded']}")
    return {
        **dataclasses.asdict(trial),
        **{f"{phase}_s": round(first["seconds"][phase], 2) for phase in _PHASES},
        "first_run_s": round(first["seconds"]["total"], 1),
        "night_s": round(night["seconds"]["total"], 1),
        "night_written": sum(size for size, _ in _added(stored, since)),
        "journal_row_bytes": round(sum(size for size, _ in files) / trial.rows),
        "log_file_bytes": round(sum(entry for _, entry in files) / len(files)),
        "slots": spark.sparkContext.defaultParallelism,
        "dim": len(spark.read.format("delta").load(str(stored)).select("embedding").first()["embedding"]),  # type: ignore[index]
    }


def _versions(table: Path) -> list[Path]:
    return sorted((table / "_delta_log").glob("*.json"))


def _added(table: Path, since: int) -> list[tuple[int, int]]:
    """Bytes of each file that was written by the commits from a version on, and bytes of its entry in the log.

    A commit that hides rows of a file adds the file's entry again, with a deletion vector: no file is written then.
    """
    found: dict[str, tuple[int, int]] = {}
    for version, path in enumerate(_versions(table)):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith('{"add"'):
                entry = json.loads(line)["add"]
                found.setdefault(entry["path"], (entry["size"] if version >= since else 0, len(line)))
    return [(n_bytes, entry) for n_bytes, entry in found.values() if n_bytes]


def derive(rows: Sequence[Row]) -> Costs:
    """Take the costs apart: what is fixed, and what a row, a byte of text and a wave cost.

    Each comes from tables that differ in one thing. What noise makes negative counts as nothing.
    """
    base = next(row for row in rows if not row["columns"] and not row["in_place"])
    alike = [row for row in rows if not row["columns"] and not row["deletion_vectors"]]
    plain = [row for row in alike if not row["in_place"] and row["characters"] == base["characters"]]
    by_waves = [row for row in plain if row["rows"] == base["rows"]]
    by_rows = [row for row in plain if row["waves"] == 1]
    longer = next(row for row in alike if row["characters"] != base["characters"])
    n_bytes = base["rows"] * (longer["characters"] - base["characters"])
    fixed_s, row_s = {}, {}
    for phase in _PHASES:
        fixed_s[phase], row_s[phase] = _line([row["rows"] for row in by_rows], [row[f"{phase}_s"] for row in by_rows])
    in_place = [row for row in alike if row["in_place"]]
    fixed_s["publish in place"], row_s["publish in place"] = _line(
        [row["rows"] for row in in_place], [row["publish_s"] for row in in_place]
    )
    byte_s = {phase: max(0.0, (longer[f"{phase}_s"] - base[f"{phase}_s"]) / n_bytes) for phase in _PHASES}
    return Costs(
        slots=base["slots"],
        dim=base["dim"],
        fixed_s=fixed_s,
        row_s=row_s,
        byte_s=byte_s | {"publish in place": byte_s["publish"]},
        wave_s=_line([row["waves"] for row in by_waves], [row["embed_s"] for row in by_waves])[1],
        journal_row_bytes=base["journal_row_bytes"],
        log_file_bytes=base["log_file_bytes"],
    )


def _line(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """Lay a line through points by least squares: where it begins, and how much it rises; neither below zero."""
    slope, begin = np.polyfit(xs, ys, 1)
    return max(0.0, float(begin)), max(0.0, float(slope))


@dataclass(frozen=True)
class Model:
    """A model's shape, and the share of an H100's peak that its linear layers are assumed to reach."""

    name: str
    layer_parameters: float
    dim: int
    utilisation: float

    @property
    def tokens_per_second(self) -> float:
        """Of one GPU: two operations a parameter and token."""
        return _PEAK_FLOPS * self.utilisation / (2 * self.layer_parameters)


MODELS = (Model("8B (Llama 3.1's shape)", 6.98e9, 4096, 0.40), Model("135M (SmolLM2)", 106e6, 576, 0.10))
SCALES = ((1_000_000, 1), (100_000_000, 32), (10_000_000_000, 512))


def count_tokens(model: Path, n_texts: int = 2_000) -> dict[str, float]:
    """Count the tokens that `metaeol` computes for texts of the corpus, without a forward pass: mean, spread over the mean, bytes."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    texts, templates = mixed_texts(n_texts, tokenizer), TemplateSet.load("metaeol")
    trie = PromptTrie(templates, PromptTokenizer(tokenizer))
    tokens = prepare_texts(texts, trie, templates, EmbeddingSpec(model=str(model)).max_tokens, 1_024, shares_starts=True).tokens_computed
    n_bytes = sum(len(text.encode()) for text in texts) / len(texts)
    return {"texts": len(texts), "tokens": float(tokens.mean()), "spread": float(tokens.std() / tokens.mean()), "text_bytes": n_bytes}


def report(rows: Sequence[Row], counted: Mapping[str, float], said: str) -> dict[str, str]:
    """Make the tables of the page by the name of their place."""
    costs = derive(rows)
    simulated = [
        f"Counted: {counted['tokens']:.0f} tokens a text (spread {counted['spread']:.2f}) and {counted['text_bytes']:,.0f} bytes, "
        f"over {counted['texts']:,.0f} texts of the corpus, with `metaeol` and SmolLM2's tokenizer."
    ]
    for model in MODELS:
        simulated += [
            f"### {model.name}, {model.dim} dimensions",
            f"Assumed: one H100 computes {_PEAK_FLOPS / 1e12:.0f} TFLOP/s x {model.utilisation:.0%} / (2 x {model.layer_parameters:.3g}) = "
            f"{model.tokens_per_second:,.0f} tokens a second.",
            markdown_table(_simulate(model, costs, counted)),
        ]
    return {
        "scale-trials": f"{said}\n\n{markdown_table(_trial_lines(rows))}",
        "scale-costs": _costs_table(costs),
        "scale": "\n\n".join(simulated),
    }


def _trial_lines(rows: Sequence[Row]) -> list[Mapping[str, object]]:
    return [
        {
            "rows": row["rows"],
            "characters": row["characters"],
            "waves": row["waves"],
            "other columns": row["columns"],
            "vectors go": "into the source" if row["in_place"] else "into a table of their own",
            "deletion vectors": "yes" if row["deletion_vectors"] else "",
            **{f"{phase} s": row[f"{phase}_s"] for phase in _PHASES},
            "first run s": row["first_run_s"],
            "after 1 % changed s": row["night_s"],
            "written by it": size(row["night_written"]),
        }
        for row in rows
    ]


def _costs_table(costs: Costs) -> str:
    lines = [
        {
            "phase": phase,
            "fixed s": f"{costs.fixed_s[phase]:.1f}",
            "ms a row": f"{costs.row_s[phase] * 1e3:.3f}",
            "ms a MB of text": f"{costs.byte_s[phase] * 1e9:.1f}",
        }
        for phase in costs.fixed_s
    ]
    return (
        f"{markdown_table(lines)}\n\nA wave more costs {costs.wave_s:.2f} s. A journal row of {costs.dim} dimensions takes "
        f"{costs.journal_row_bytes:,.0f} bytes on disk, a data file's entry in the log {costs.log_file_bytes:,.0f}."
    )


def _simulate(model: Model, costs: Costs, counted: Mapping[str, float]) -> list[Mapping[str, object]]:
    lines: list[Mapping[str, object]] = []
    for rows, gpus in SCALES:
        table = Table(rows, counted["tokens"], counted["spread"], counted["text_bytes"], model.dim)
        cluster = Cluster(gpus, model.tokens_per_second)
        for wave_rows in dict.fromkeys((50_000, best_wave_rows(table, cluster, costs))):
            planned = plan(table, cluster, wave_rows, costs)
            lines.append(
                {
                    "rows": rows,
                    "GPUs": gpus,
                    "`wave_rows`": wave_rows,
                    "waves": planned.waves,
                    "tasks a wave": planned.tasks,
                    "s a wave": f"{planned.wave_s:,.1f}",
                    "GPUs busy": f"{planned.busy_share:.0%}",
                    "embed h": f"{planned.embed_hours:,.2f}",
                    "GPU h a kill costs": f"{planned.gpu_hours_of_a_kill:,.2f}",
                    "journal": size(planned.journal_bytes),
                    "its files": planned.journal_files,
                    "driver heap for them": size(planned.journal_files * costs.log_file_bytes * _HEAP_PER_LOG_BYTE),
                    **{f"{phase} h": f"{hours:,.2f}" for phase, hours in planned.hours.items()},
                }
            )
    return lines


def size(n_bytes: float) -> str:
    """Write bytes for people."""
    for unit in _UNITS:
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.3g} PB"


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("results", type=Path, nargs="?", help="what --measure wrote")
    parser.add_argument("--measure", type=Path, metavar="FILE", help="measure here and write the results into this file")
    parser.add_argument("--rows", type=int, default=40_000, help="of the smallest table")
    parser.add_argument("--write", type=Path, help="page whose tables are replaced")
    arguments = parser.parse_args()
    if arguments.measure:
        spark = get_session(SparkConfig(master="local[2]", conf={"spark.driver.memory": "2g"}))
        rows: list[Row] = []
        with tempfile.TemporaryDirectory() as folder:
            for number, trial in enumerate([Trial(arguments.rows), *trials(arguments.rows)]):  # the first one warms up
                found = measure(spark, trial, Path(folder) / str(number), arguments.model)
                rows += [found] if number else []
                print(found, flush=True)
        spark.stop()
        write_results(arguments.measure, rows, counted=count_tokens(arguments.model))
    elif arguments.results is None:
        parser.error("name what --measure wrote, or measure")
    kept = read_results(arguments.measure or arguments.results)
    said = f"`{kept['command']}`, {kept['date']}, commit {kept['commit']}. {kept['machine']}"
    sections = report(kept["rows"], kept["counted"], said)
    print("\n\n".join(sections.values()))
    if arguments.write:
        page = arguments.write.read_text(encoding="utf-8")
        arguments.write.write_text(put_between_markers(page, sections), encoding="utf-8")


if __name__ == "__main__":
    main()

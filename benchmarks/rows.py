"""What Spark and Delta cost beside the model, by the job itself: a stand-in takes the model's place and gives random vectors at once.

    python -m benchmarks.rows [--rows 100000,1000000] [--in-place] [--wave-rows N]

For each table size one run over a new table, then another one that finds nothing to do. All phases are the job's own: select,
embed (which here is the journal's commits, with vectors passing from Python workers), publish, verify. Memory is the peak resident
set of the one Java process, which is driver and executors at once; its heap is limited by `--driver-memory`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import pandas_udf

from benchmarks.job import Quiet, peak_resident
from benchmarks.results import Row, describe_machine, show, write_results
from metaeol_udf.config import SparkConfig, parse_config
from metaeol_udf.delta import run_embed
from metaeol_udf.delta.write import waves
from metaeol_udf.spark.cluster.session import get_session
from metaeol_udf.spark.udf import RESULT_TYPE
from metaeol_udf.spark.worker.embed_column import vector_column
from metaeol_udf.spark.worker.encoder_cache import EncoderRequest

PHASES = ("select", "embed", "publish", "verify")
DIM = 576


def stand_in(dim: int) -> Any:
    """A UDF like `result_udf`'s that knows no model: random vectors, every one at the same cost."""

    def embed(batches: Iterator[pd.Series]) -> Iterator[pd.DataFrame]:
        random = np.random.default_rng()
        for batch in batches:
            n = len(batch)
            vectors = random.standard_normal((n, dim), np.float32)
            zeros = np.zeros(n, np.int64)
            yield pd.DataFrame(
                {
                    "vector": vector_column(vectors, [None] * n),
                    "error": pd.Series([None] * n, dtype=object),
                    "trimmed": np.zeros(n, bool),
                    "tokens_computed": zeros,
                    "tokens_saved": zeros,
                    "load_id": pd.Series(["stand-in:0:0:"] * n, dtype=object),
                }
            )

    return pandas_udf(embed, RESULT_TYPE)


@contextmanager
def without_model(dim: int) -> Iterator[None]:
    """Within it the job embeds by the stand-in."""

    def result_udf(request: EncoderRequest) -> Any:
        udf = stand_in(dim)

        def apply(text: Column) -> Column:
            return udf(F.make_valid_utf8(text))

        return apply

    with mock.patch.object(waves, "result_udf", result_udf):
        yield


def distinct_texts(spark: SparkSession, rows: int, characters: int) -> DataFrame:
    """Distinct texts of one length; hexadecimal digits, so that Parquet cannot make them vanish."""
    digest = F.sha2(F.col("id").cast("string"), 512)
    return spark.range(rows).select("id", F.substring(F.repeat(digest, characters // 128 + 1), 1, characters).alias("text"))


@dataclass(frozen=True)
class Setting:
    """What is the same for tables of all sizes.

    Attributes:
        spark: The session.
        model: Folder of the model whose place the stand-in takes.
        characters: Of a text.
        in_place: Whether vectors go into the source, rather than to a table of their own.
        wave_rows: As `runtime.wave_rows`.
    """

    spark: SparkSession
    model: Path
    characters: int
    in_place: bool = False
    wave_rows: int = 50_000


def run_job(setting: Setting, folder: Path) -> dict[str, Any]:
    """The report of a job over the table in a folder."""
    blocks: dict[str, Any] = {
        "source": {"table": str(folder / "source"), "key": ["id"]},
        "target": {"table": None if setting.in_place else str(folder / "target")},
        "embedding": {"model": str(setting.model), "dtype": "float32"},
        "runtime": {"device": "cpu", "wave_rows": setting.wave_rows},
    }
    with without_model(DIM):
        return run_embed(parse_config(blocks), setting.spark, Quiet())


def measure(setting: Setting, folder: Path, rows: int) -> Row:
    """A first run over a new table, and one that finds nothing to do."""
    distinct_texts(setting.spark, rows, setting.characters).write.format("delta").save(str(folder / "source"))
    first, second = (run_job(setting, folder) for _ in range(2))
    if (first["rows_embedded"], second["rows_skipped"], second["rows_embedded"]) != (rows, rows, 0):
        raise RuntimeError(f"of {rows} rows the first run embedded {first['rows_embedded']}, the second skipped {second['rows_skipped']}")
    jvm: Any = setting.spark._jvm
    return {
        "rows": rows,
        **{f"{phase}_s": round(first["seconds"][phase], 1) for phase in PHASES},
        "first_run_s": round(first["seconds"]["total"], 1),
        "second_run_s": round(second["seconds"]["total"], 1),
        "java_peak_mib": peak_resident(jvm.java.lang.ProcessHandle.current().pid()) >> 20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="100000,1000000", help="of the tables, in order of size")
    parser.add_argument("--text-characters", type=int, default=60)
    parser.add_argument("--in-place", action="store_true", help="write vectors back into the source, rather than to a table of their own")
    parser.add_argument("--wave-rows", type=int, default=50_000)
    parser.add_argument("--driver-memory", default="1g", help="heap of the Java process")
    parser.add_argument("--model", type=Path, default=Path("models/smollm2-135m-instruct"), help="its files are checked; not loaded")
    parser.add_argument("--master", default="local[2]")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    spark = get_session(SparkConfig(master=arguments.master, conf={"spark.driver.memory": arguments.driver_memory}))
    print(f"{describe_machine()}, heap {arguments.driver_memory}")
    setting = Setting(spark, arguments.model, arguments.text_characters, arguments.in_place, arguments.wave_rows)
    lines: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for rows in map(int, arguments.rows.split(",")):
            lines.append(measure(setting, Path(folder) / str(rows), rows))
            show(lines[-1:])
    spark.stop()
    print()
    show(lines)
    if arguments.json:
        write_results(arguments.json, lines, notes=[f"heap {arguments.driver_memory}"])


if __name__ == "__main__":
    main()

"""What Spark and Delta cost beside the model, by the job itself: a stand-in takes the model's place and gives random vectors at once.

    python -m benchmarks.rows [--rows 100000,1000000] [--in-place] [--wave-rows N]

For each table size one run over a new table, then another one that finds nothing to do. All phases are the job's own: select,
embed (which here is the journal's commits, with vectors passing from Python workers), publish, verify. Memory is the peak resident
set of the one Java process, which is driver and executors at once; its heap is limited by `--driver-memory`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import pandas_udf

from benchmarks.job import Quiet, peak_resident
from benchmarks.results import Row, command_parser, describe_machine, show, write_results
from metaeol_udf.config import SparkConfig, parse_config
from metaeol_udf.delta import run_embed
from metaeol_udf.delta.write import waves
from metaeol_udf.spark.cluster.session import get_session
from metaeol_udf.spark.udf import RESULT_TYPE
from metaeol_udf.spark.worker.embed_column import result_frame
from metaeol_udf.spark.worker.encoder_cache import EncoderRequest

PHASES = ("select", "embed", "publish", "verify")


def stand_in(request: EncoderRequest) -> Callable[[Column], Column]:
    """Like `result_udf`, but it knows no model: random vectors of the spec's length, every one at the same cost."""
    dim = request.resolved.vector_length

    def embed(batches: Iterator[pd.Series]) -> Iterator[pd.DataFrame]:
        random = np.random.default_rng()
        for batch in batches:
            vectors = random.standard_normal((len(batch), dim), np.float32)
            yield result_frame(vectors, [None] * len(batch), "stand-in:0:0:")

    udf: Any = pandas_udf(embed, RESULT_TYPE)
    return lambda text: udf(F.make_valid_utf8(text))


def distinct_texts(spark: SparkSession, rows: int, characters: int) -> DataFrame:
    """Distinct texts of one length; hexadecimal digits, so that Parquet cannot make them vanish."""
    digest = F.sha2(F.col("id").cast("string"), 512)
    return spark.range(rows).select("id", F.substring(F.repeat(digest, characters // 128 + 1), 1, characters).alias("text"))


def measure(spark: SparkSession, texts: DataFrame, folder: Path, arguments: argparse.Namespace) -> Row:
    """A first run over a new table of the texts, and one that finds nothing to do."""
    texts.write.format("delta").save(str(folder / "source"))
    blocks: dict[str, Any] = {
        "source": {"table": str(folder / "source"), "key": ["id"]},
        "target": {"table": None if arguments.in_place else str(folder / "target")},
        "embedding": {"model": str(arguments.model), "dtype": "float32"},
        "runtime": {"device": "cpu", "wave_rows": arguments.wave_rows},
    }
    with mock.patch.object(waves, "result_udf", stand_in):
        first, second = (run_embed(parse_config(blocks), spark, Quiet()) for _ in range(2))
    rows = texts.count()
    if (first["rows_embedded"], second["rows_skipped"], second["rows_embedded"]) != (rows, rows, 0):
        raise RuntimeError(f"of {rows} rows the first run embedded {first['rows_embedded']}, the second skipped {second['rows_skipped']}")
    jvm: Any = spark._jvm
    return {
        "rows": rows,
        **{f"{phase}_s": round(first["seconds"][phase], 1) for phase in PHASES},
        "first_run_s": round(first["seconds"]["total"], 1),
        "second_run_s": round(second["seconds"]["total"], 1),
        "java_peak_mib": peak_resident(jvm.java.lang.ProcessHandle.current().pid()) >> 20,
    }


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--rows", default="100000,1000000", help="of the tables, in order of size")
    parser.add_argument("--text-characters", type=int, default=60)
    parser.add_argument("--in-place", action="store_true", help="write vectors back into the source, rather than to a table of their own")
    parser.add_argument("--wave-rows", type=int, default=50_000)
    parser.add_argument("--driver-memory", default="1g", help="heap of the Java process")
    parser.add_argument("--master", default="local[2]")
    arguments = parser.parse_args()
    spark = get_session(SparkConfig(master=arguments.master, conf={"spark.driver.memory": arguments.driver_memory}))
    print(f"{describe_machine()}, heap {arguments.driver_memory}")
    lines: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for rows in map(int, arguments.rows.split(",")):
            texts = distinct_texts(spark, rows, arguments.text_characters)
            lines.append(measure(spark, texts, Path(folder) / str(rows), arguments))
            show(lines[-1:])
    spark.stop()
    print()
    show(lines)
    if arguments.json:
        write_results(arguments.json, lines, notes=[f"heap {arguments.driver_memory}"])


if __name__ == "__main__":
    main()

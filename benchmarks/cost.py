"""What a run costs beside the model, counted from Spark's event log: jobs, passes over each table, shuffled bytes.

    python -m benchmarks.cost [--rows 200000] [--sizes 100000,1000000] [--dim 256] [--words 80]

A stand-in takes the model's place (see `benchmarks.rows`). The source has a key that looks like a UUID and texts of about 600
characters, or as long as `--words` says. The vectors go to a table of their own. A table of `--rows` sees five runs: the first one,
in four waves; the same one again; one after 10 rows were appended; one after 10 rows were updated; one more of these after both tables
got deletion vectors. `--sizes` repeats all but the second on tables of other sizes and shows the time that they take. 10 million rows
take an hour or more, so they are no default. `--rows 0` leaves out the first table.

A count is the same on every machine. Only the seconds are not.
"""

from __future__ import annotations

import math
import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from delta import DeltaTable
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks.event_log import Cost, read_event_log
from benchmarks.job import Quiet
from benchmarks.results import Row, command_parser, describe_machine, show, write_results
from benchmarks.rows import stand_in
from metaeol_udf.config import SparkConfig
from metaeol_udf.delta import run_embed
from metaeol_udf.delta.write import waves
from metaeol_udf.spark.cluster.session import get_session

DIM = 256
WAVES = 4
FEW = 10  # rows that a night appends or updates
VECTOR = "embedding"
_ROWS_PER_FILE = 500_000
_N_VOCABULARY = 2_000
N_WORDS = 80  # of a text, give or take a quarter: about 600 characters


@dataclass(frozen=True)
class Span:
    """A run, by the moments between which it took place (`time.time`)."""

    name: str
    since_s: float
    until_s: float

    @property
    def seconds(self) -> float:
        """Length of the run."""
        return self.until_s - self.since_s


def start_session(folder: Path, driver_memory: str = "2g", n_rows: int = 0) -> SparkSession:
    """Start a local session with two slots, which writes its event log into `folder/log`.

    A shuffle of `n_rows` rows is cut as finely as their files are. In two parts, 10 million rows would not fit into 2 GiB.
    """
    log = folder / "log"
    log.mkdir()
    # Workers import what this process imports.
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([os.getcwd(), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]))
    conf = {
        "spark.driver.memory": driver_memory,
        "spark.eventLog.enabled": "true",
        "spark.eventLog.dir": log.as_uri(),
        "spark.sql.shuffle.partitions": str(max(2, math.ceil(n_rows / _ROWS_PER_FILE))),
        "spark.databricks.delta.snapshotPartitions": "1",
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
    }
    return get_session(SparkConfig(master="local[2]", conf=conf))


def words() -> list[str]:
    """Make a vocabulary: words of one to three syllables, the same in every process."""
    rng = random.Random(0)
    starts = [*"bcdfghlmnprstvw", "br", "ch", "cl", "cr", "dr", "fl", "gr", "pl", "pr", "sh", "sl", "sp", "st", "th", "tr"]
    vowels, ends = [*"aeiou", "ai", "ea", "ee", "ou"], [*"nrstlmd", "nd", "st", "ng", "ck"]
    counts = [rng.choice((1, 1, 2, 2, 3)) for _ in range(_N_VOCABULARY)]
    return ["".join(rng.choice(starts) + rng.choice(vowels) for _ in range(n)) + rng.choice(ends) for n in counts]


def uuid_of(number: Column) -> Column:
    """Make a key that looks like a UUID, the same one for the same number."""
    return F.regexp_replace(F.md5(number.cast("string")), "^(.{8})(.{4})(.{4})(.{4})", "$1-$2-$3-$4-")


def source_rows(spark: SparkSession, begin: int, end: int, n_words: int = N_WORDS) -> DataFrame:
    """Make the rows of these numbers: key and text, of `n_words` words, give or take a quarter.

    LZ4, which Spark shuffles with, makes 1.6 bytes of text into one, as it does with this repository's documentation: early words of
    the vocabulary are frequent ones.
    """
    vocabulary, number = F.split(F.lit(" ".join(words())), " "), F.col("id")

    def word(position: Column) -> Column:
        share = F.pmod(F.xxhash64(number, position), F.lit(1_000_000)) / F.lit(1e6)
        return F.element_at(vocabulary, F.floor(share * share * F.lit(_N_VOCABULARY)).cast("int") + 1)

    spread = n_words // 4
    length = F.pmod(F.xxhash64(number), F.lit(2 * spread + 1)).cast("int") + F.lit(n_words - spread)
    text = F.concat_ws(" ", F.transform(F.sequence(F.lit(1), length), word))
    n_files = max(2, math.ceil((end - begin) / _ROWS_PER_FILE))
    return spark.range(begin, end, 1, n_files).select(uuid_of(number).alias("key"), text.alias("text"))


class CostBench:
    """A source, a target of its own, and the runs over them.

    Attributes:
        source: Folder of the source.
        target: Folder of the target.
        journal: Folder of the journal.
        rows: Rows of the source.
        dim: Dimensions of a vector.
        spans: The runs so far.
        blocks: The sections of the job's configuration.
    """

    def __init__(
        self, spark: SparkSession, folder: Path, model: Path, rows: int, n_waves: int = WAVES, dim: int = DIM, n_words: int = N_WORDS,
    ) -> None:  # fmt: skip
        """Write the source, of `rows` rows with texts of about `n_words` words; `n_waves` are those of a first run."""
        self.source, self.target = folder / "source", folder / "target"
        self.journal = folder / "target__metaeol_journal"
        self.rows, self.dim = rows, dim
        self.spans: list[Span] = []
        self._spark, self._n_words = spark, n_words
        self.blocks: dict[str, Any] = {
            "source": {"table": str(self.source), "key": ["key"]},
            "target": {"table": str(self.target)},
            "embedding": {"model": str(model), "dtype": "float32", "truncate_dim": dim},
            "runtime": {"device": "cpu", "wave_rows": math.ceil(rows / n_waves)},
        }
        source_rows(spark, 0, rows, n_words).write.format("delta").save(str(self.source))

    def run(self, name: str, n_new: int) -> Span:
        """Run the job, which must find `n_new` rows to do."""
        since_s = time.time()
        with mock.patch.object(waves, "result_udf", stand_in):
            report = run_embed(self.blocks, self._spark, Quiet())
        self.spans.append(Span(name, since_s, time.time()))
        print(f"{self.rows:,} rows, {name}: {self.spans[-1].seconds:.0f} s", file=sys.stderr, flush=True)
        if report["rows_embedded"] != n_new:
            raise RuntimeError(f"{name}: {report['rows_embedded']} rows were embedded, not {n_new}")
        return self.spans[-1]

    def run_all(self) -> None:
        """Run the job over a new table, over the same, after an append, and after an update."""
        self.run("first run", self.rows)
        self.run("nothing new", 0)
        self.run_nights()

    def run_nights(self) -> None:
        """Run the job after an append of few rows, and after an update of few, without deletion vectors and with them."""
        self.append_few()
        self.run(f"{FEW} rows appended", FEW)
        self.update_few()
        self.run(f"{FEW} rows updated", FEW)
        self.use_deletion_vectors()
        self.update_few()
        self.run(f"{FEW} rows updated, with deletion vectors", FEW)

    def use_deletion_vectors(self) -> None:
        """Let changes hide rows of files rather than write the files anew, from now on."""
        for table in (self.source, self.target):
            self._spark.sql(f"ALTER TABLE delta.`{table}` SET TBLPROPERTIES ('delta.enableDeletionVectors' = 'true')")

    def append_few(self) -> None:
        """Append few rows to the source."""
        rows = source_rows(self._spark, self.rows, self.rows + FEW, self._n_words)
        rows.write.format("delta").mode("append").save(str(self.source))
        self.rows += FEW

    def update_few(self) -> None:
        """Change the texts of few rows, from all over the source."""
        step = self.rows // FEW
        keys = [row["key"] for row in self._spark.range(0, step * FEW, step).select(uuid_of(F.col("id")).alias("key")).collect()]
        new: dict[str, str | Column] = {"text": F.concat(F.lit("amended: "), F.col("text"))}
        DeltaTable.forPath(self._spark, str(self.source)).update(F.col("key").isin(keys), new)

    def text_bytes(self) -> int:
        """Count the bytes of all texts."""
        texts = self._spark.read.format("delta").load(str(self.source))
        return int(texts.agg(F.sum(F.octet_length("text"))).collect()[0][0])

    def vector_bytes(self) -> int:
        """Count the bytes of all vectors."""
        return self.rows * self.dim * 4

    def line(self, span: Span, cost: Cost, text_bytes: int) -> Row:
        """Make a run's line of the table."""
        vectors = [scan for scan in cost.scans if scan.table == str(self.target) and VECTOR in scan.columns]
        return {
            "run": span.name,
            "Spark jobs": cost.jobs,
            "scans of source with text": cost.passes(self.source, "text"),
            "scans of source without": cost.passes(self.source, without="text"),
            "scans of target": cost.passes(self.target),
            "of the vector column": sum(scan.passes for scan in vectors),
            "rows of these": sum(scan.rows for scan in vectors),
            "scans of journal": cost.passes(self.journal),
            "bytes shuffled / bytes of text": round(cost.shuffle_bytes / text_bytes, 2),
            "bytes shuffled / bytes of vectors": round(cost.shuffle_bytes / self.vector_bytes(), 2),
            "bytes read outside plans": cost.unattributed_input_bytes,
            "seconds": round(span.seconds, 1),
        }


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--rows", type=int, default=200_000, help="of the table with all five runs; 0 for none")
    parser.add_argument("--sizes", default="100000,1000000", help="rows of the tables with runs after a change of 10 rows; empty for none")
    parser.add_argument("--dim", type=int, default=DIM, help="dimensions of a vector")
    parser.add_argument("--words", type=int, default=N_WORDS, help="words of a text, give or take a quarter")
    parser.add_argument("--driver-memory", default="2g", help="heap of the Java process")
    arguments = parser.parse_args()
    notes = [f"vectors of {arguments.dim} dimensions", f"texts of about {arguments.words} words", f"heap {arguments.driver_memory}"]
    print(", ".join([describe_machine(), *notes]))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = [int(size) for size in arguments.sizes.split(",") if size]
        spark = start_session(folder, arguments.driver_memory, max([arguments.rows, *sizes]))
        benches: list[CostBench] = []
        if arguments.rows:
            benches.append(CostBench(spark, folder / "all", arguments.model, arguments.rows, dim=arguments.dim, n_words=arguments.words))
            benches[-1].run_all()
        n_all = sum(len(bench.spans) for bench in benches)
        for rows in sizes:
            benches.append(CostBench(spark, folder / str(rows), arguments.model, rows, dim=arguments.dim, n_words=arguments.words))
            benches[-1].run("first run", rows)
            benches[-1].run_nights()
        text_bytes = [bench.text_bytes() for bench in benches]
        spark.stop()  # completes the log
        log = read_event_log(folder / "log")
    lines: list[Row] = [
        {"rows": bench.rows - FEW} | bench.line(span, log.cost(span.since_s, span.until_s), n_bytes)
        for bench, n_bytes in zip(benches, text_bytes, strict=True)
        for span in bench.spans
    ]
    for table in (lines[:n_all], [line for line in lines[n_all:] if line["run"] != "first run"]):
        if table:
            print()
            show(table)
    if arguments.json:
        write_results(arguments.json, lines, notes=notes)


if __name__ == "__main__":
    main()

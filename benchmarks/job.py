"""The Spark and Delta job against the bare encoder: marginal rate, a worker's peak memory, and a cold job of 300 rows.

    python -m benchmarks.job [--rows 256,1280] [--rounds N] [--threads N]

Two tables of different size go through the job, workers warm; rows by which they differ over seconds by which they differ is the
marginal rate, from select to verify. The bare encoder embeds just those rows in this process with as many threads. The job
runs once with one task slot of all threads and once with a slot for each thread. Memory is the greatest `VmHWM` (peak
resident set) of a Python worker, read from outside while it works.
"""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from json import dumps
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import torch
import yaml
from pyspark.sql import SparkSession
from safetensors import safe_open

from benchmarks.contenders import best_dtype
from benchmarks.results import Row, command_parser, describe_machine, show, significant, write_results
from benchmarks.texts import NAMES, load_texts
from metaeol_udf import MetaEOLEncoder, TemplateSet
from metaeol_udf.config import SparkConfig, parse_config
from metaeol_udf.delta import run_embed
from metaeol_udf.delta.write.waves import ROWS_PER_TASK
from metaeol_udf.spark.cluster.session import get_session

COLD_ROWS = 300
_COLD_ENCODER = """
import json, sys
from metaeol_udf import MetaEOLEncoder, TemplateSet
model, templates, dtype, texts = sys.argv[1:]
encoder = MetaEOLEncoder.from_pretrained(model, templates=TemplateSet.load(templates), dtype=dtype, device="cpu")
encoder.encode(json.load(open(texts, encoding="utf-8")))
"""


def start_session(n_slots: int, n_threads: int) -> SparkSession:
    """A local session with so many task slots, whose Python workers have so many threads each and import what this process imports."""
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([os.getcwd(), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]))
    return get_session(SparkConfig(master=f"local[{n_slots}]", conf={"spark.executorEnv.OMP_NUM_THREADS": str(n_threads)}))


class Quiet:
    """A progress that shows nothing."""

    def start(self, total: int) -> None:
        """Nothing."""

    def update(self, done: int, detail: str) -> None:
        """Nothing."""

    def finish(self) -> None:
        """Nothing."""


class PeakMemory:
    """Watches the Python processes below this one.

    Attributes:
        by_process: the greatest `VmHWM` seen, bytes, by process id.
    """

    def __init__(self, interval_s: float = 0.2) -> None:
        self.by_process: dict[int, int] = {}
        self._interval_s = interval_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def worst(self) -> int:
        """The greatest peak of one process, bytes."""
        return max(self.by_process.values(), default=0)

    def _watch(self) -> None:
        while not self._ended.wait(self._interval_s):
            for process in psutil.Process().children(recursive=True):
                try:
                    if process.name().startswith("python"):
                        self.by_process[process.pid] = max(self.by_process.get(process.pid, 0), peak_resident(process.pid))
                except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                    continue  # it has just ended


def peak_resident(pid: int) -> int:
    """`VmHWM` of a process in bytes; 0 for one that is ending."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def weight_bytes(model: Path, dtype: str) -> int:
    """Bytes of a checkpoint's weights in a dtype."""
    n_values = 0
    for path in model.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            n_values += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118  # the file is no mapping
    return n_values * int(getattr(torch, dtype).itemsize)


class JobBench:
    """One session and one template set, many tables."""

    def __init__(self, session: SparkSession, folder: Path, embedding: dict[str, Any]) -> None:
        self._session = session
        self._folder = folder
        self._embedding = embedding
        self._n_tables = 0

    def write_table(self, texts: Sequence[str]) -> dict[str, Any]:
        """A new table; gives the settings of a job on it."""
        self._n_tables += 1
        path = str(self._folder / f"table-{self._n_tables}")
        self._session.createDataFrame(list(enumerate(texts)), "id long, text string").coalesce(1).write.format("delta").save(path)
        return {"source": {"table": path, "key": ["id"]}, "embedding": self._embedding, "runtime": {"device": "cpu"}}

    def run(self, texts: Sequence[str]) -> dict[str, Any]:
        """The report of a job over a new table."""
        config = parse_config(self.write_table(texts))
        report = run_embed(config, self._session, Quiet())
        if report["rows_embedded"] != len(texts):
            raise RuntimeError(f"the job embedded {report['rows_embedded']} of {len(texts)} rows")
        return report


def measure_rates(
    bench: JobBench, encoder: MetaEOLEncoder, texts: Sequence[str], sizes: tuple[int, int], n_rounds: int, n_warm: int = 0
) -> Row:
    """The job's marginal rate and the bare encoder's, round by round."""
    small, large = sizes
    bare, job, loads_seen = [], [], 0
    for _ in range(n_rounds):
        bench.run(texts[: max(small, n_warm)])  # workers that idled for a minute were ended: this brings all of them back
        reports = [bench.run(texts[:n]) for n in sizes]
        loads_seen += sum(report["model_loads"] for report in reports)
        job.append((large - small) / (reports[1]["seconds"]["total"] - reports[0]["seconds"]["total"]))
        started = time.perf_counter()
        encoder.encode(texts[small:large])
        bare.append((large - small) / (time.perf_counter() - started))
    shares = [j / b for j, b in zip(job, bare, strict=True)]
    return {
        "rows": f"{small} and {large}",
        "job_rows_per_second": significant(statistics.median(job)),
        "encoder_rows_per_second": significant(statistics.median(bare)),
        "share": round(statistics.median(shares), 3),
        "share_min": round(min(shares), 3),
        "share_max": round(max(shares), 3),
        "fixed_seconds": round(reports[0]["seconds"]["total"] - small / job[-1], 1),
        "model_loads_while_timed": loads_seen,
    }


def measure_cold(bench: JobBench, folder: Path, texts: Sequence[str], n_threads: int) -> Row:
    """Seconds from the command to its end, for the job and for a bare script, nothing running before."""
    conf = bench.write_table(texts)
    conf["spark"] = {"master": "local[1]", "conf": {"spark.executorEnv.OMP_NUM_THREADS": str(n_threads)}}
    path, listed = folder / "cold.yaml", folder / "texts.json"
    path.write_text(yaml.safe_dump(conf), encoding="utf-8")
    listed.write_text(dumps(list(texts)), encoding="utf-8")
    embedding = conf["embedding"]
    job = _seconds([sys.executable, "-m", "metaeol_udf.cli", "embed", str(path)])
    bare = _seconds([sys.executable, "-c", _COLD_ENCODER, embedding["model"], embedding["templates"], embedding["dtype"], str(listed)])
    return {"rows": len(texts), "job_seconds": round(job, 1), "encoder_seconds": round(bare, 1)}


def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:4])} ended with status {done.returncode}: {done.stderr.strip()[-300:]}")
    return time.perf_counter() - started


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--templates", default="metaeol")
    parser.add_argument("--dtype", default=best_dtype())
    parser.add_argument("--texts-from", choices=NAMES, default="short")
    parser.add_argument("--rows", default="256,1280", help="of the smaller and the larger table")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cold-rows", type=int, default=COLD_ROWS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    small, large = (int(n) for n in arguments.rows.split(","))
    model = arguments.model.resolve()
    texts = load_texts(arguments.texts_from, max(large, arguments.cold_rows), model).texts
    if len(texts) < large:
        parser.error(f"--rows: there are {len(texts)} texts of kind {arguments.texts_from}, fewer than {large}")
    embedding = {"model": str(model), "templates": arguments.templates, "dtype": arguments.dtype}
    encoder = MetaEOLEncoder.from_pretrained(
        str(model), templates=TemplateSet.load(arguments.templates), dtype=arguments.dtype, device="cpu"
    )
    encoder.encode(texts[:8])
    weights = weight_bytes(model, arguments.dtype)
    rates: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="metaeol-bench-") as folder:
        for slots, threads in dict.fromkeys([(1, arguments.threads), (arguments.threads, 1)]):
            session = start_session(slots, threads)
            bench = JobBench(session, Path(folder) / f"slots-{slots}", embedding)
            with PeakMemory() as memory:
                row = measure_rates(bench, encoder, texts, (small, large), arguments.rounds, ROWS_PER_TASK * (slots + 1))
            row |= {
                "worker_peak_mib": memory.worst >> 20,
                "weights_mib": weights >> 20,
                "beyond_weights_mib": (memory.worst - weights) >> 20,
            }
            rates.append({"kind": "rate", "slots": slots, "threads_each": threads, **row})
            if slots == 1:
                rates.append({"kind": "cold", **measure_cold(bench, Path(folder), texts[: arguments.cold_rows], threads)})
            session.stop()
    print(f"{describe_machine()}, {arguments.dtype}, {arguments.templates}")
    for kind in ("rate", "cold"):
        print()
        show([{key: value for key, value in row.items() if key != "kind"} for row in rates if row["kind"] == kind])
    if arguments.json:
        write_results(arguments.json, rates, dtype=arguments.dtype, templates=arguments.templates)


if __name__ == "__main__":
    main()

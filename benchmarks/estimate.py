"""What `metaeol estimate` predicts against the run that follows, both as commands of their own on the same table.

    python -m benchmarks.estimate [--rows 300] [--model DIR] [--templates NAME] [--master local[2]] [--json FILE]

The table holds real texts of all lengths.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from benchmarks.job import JobBench, start_session
from benchmarks.results import Row, command_parser, describe_machine, show, write_results
from benchmarks.texts import corpus_texts


def compare(folder: Path, rows: int, model: Path, templates: str, master: str) -> tuple[list[Row], list[str]]:
    """Predict, run, and put both side by side; then what a reader of the rows must know."""
    texts = corpus_texts()
    texts = texts[:: max(1, len(texts) // rows)][:rows]
    conf, report = folder / "job.yaml", folder / "report.json"
    spark = start_session(1, 1)
    blocks = JobBench(spark, folder, {"model": str(model.resolve()), "templates": templates}).write_table(texts)
    spark.stop()
    conf.write_text(yaml.safe_dump({**blocks, "runtime": {"report": str(report)}, "spark": {"master": master}}))
    estimate_s, printed = _metaeol("estimate", str(conf), "--json")
    predicted = json.loads(printed)
    embed_s, _ = _metaeol("embed", str(conf))
    actual = json.loads(report.read_text())
    compared = {
        "tokens computed": (predicted["tokens_to_compute"], actual["tokens_computed"]),
        "seconds of the whole command": (predicted["projections"][0]["seconds"], round(embed_s, 1)),
    }
    lines = [{"": what, "predicted": p, "actual": a, "predicted over actual": round(p / a, 2)} for what, (p, a) in compared.items()]
    phases = f"predicted beside the model: {predicted['seconds']}; phases of the run: {actual['seconds']}"
    return lines, [f"{len(texts)} texts; the estimate took {estimate_s:.1f} s", phases, f"probe: {predicted['probe']}"]


def _metaeol(*arguments: str) -> tuple[float, str]:
    """Wall-clock seconds and standard output of a command."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "metaeol_udf.cli", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"metaeol {arguments[0]} left with {done.returncode}: {done.stderr[-500:]}")
    return time.perf_counter() - started, done.stdout


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--templates", default="metaeol")
    parser.add_argument("--master", default="local[2]")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lines, notes = compare(Path(folder), arguments.rows, arguments.model, arguments.templates, arguments.master)
    print("\n".join([describe_machine(), *notes]))
    show(lines)
    if arguments.json:
        write_results(arguments.json, lines, notes)


if __name__ == "__main__":
    main()

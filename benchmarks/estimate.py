"""What `metaeol estimate` predicts against the run that follows, both as commands of their own on the same table.

    python -m benchmarks.estimate [--rows 300] [--model DIR] [--templates NAME] [--master local[2]] [--json FILE]

The table holds real texts of all lengths: the corpus in `../shared/data` where it stands beside the repository, else the
standard library's docstrings.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

CORPUS = Path("../shared/data/corpus/corpus.parquet")


def mixed_texts(n: int) -> tuple[list[str], str]:
    """`n` real texts of mixed length, and where they are from."""
    if CORPUS.is_file():
        import pyarrow.parquet as pq

        texts = pq.read_table(CORPUS, columns=["text"]).column(0).to_pylist()
        return texts[:: max(1, len(texts) // n)][:n], "the corpus"
    from metaeol_udf.cli.demo import collect_docstrings

    return list(collect_docstrings().values())[:n], "docstrings"


def compare(folder: Path, rows: int, model: str, templates: str, master: str) -> dict[str, Any]:
    """Predict, run, and put both side by side."""
    from metaeol_udf.config import SparkConfig
    from metaeol_udf.spark.cluster.session import get_session

    texts, source = mixed_texts(rows)
    table, conf, report = folder / "table", folder / "job.yaml", folder / "report.json"
    spark = get_session(SparkConfig(master="local[1]"))
    spark.createDataFrame(list(enumerate(texts)), "id long, text string").coalesce(1).write.format("delta").save(str(table))
    spark.stop()
    blocks = {
        "source": {"table": str(table), "key": ["id"]},
        "embedding": {"model": str(Path(model).resolve()), "templates": templates},
        "runtime": {"report": str(report)},
        "spark": {"master": master},
    }
    conf.write_text(yaml.safe_dump(blocks))
    estimate_s, printed = _metaeol("estimate", str(conf), "--json")
    predicted = json.loads(printed)
    embed_s, _ = _metaeol("embed", str(conf))
    actual = json.loads(report.read_text())
    return {
        "texts": f"{len(texts)} of {source}",
        "tokens_predicted": predicted["tokens_to_compute"],
        "tokens_actual": actual["tokens_computed"],
        "seconds_predicted": predicted["projections"][0]["seconds"],
        "seconds_actual": round(embed_s, 1),
        "estimate_took": round(estimate_s, 1),
        "probe": predicted["probe"],
        "predicted_phases": predicted["seconds"],
        "phases": actual["seconds"],
    }


def _metaeol(*arguments: str) -> tuple[float, str]:
    """Wall-clock seconds and standard output of a command."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "metaeol_udf.cli", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"metaeol {arguments[0]} left with {done.returncode}: {done.stderr[-500:]}")
    return time.perf_counter() - started, done.stdout


def show(line: dict[str, Any]) -> None:
    print(f"{line['texts']}; the estimate took {line['estimate_took']} s")
    print("| | predicted | actual | predicted over actual |\n| --- | --- | --- | --- |")
    for name in ("tokens", "seconds"):
        predicted, actual = line[f"{name}_predicted"], line[f"{name}_actual"]
        words = "tokens computed" if name == "tokens" else "seconds of the whole command"
        print(f"| {words} | {predicted:,} | {actual:,} | {predicted / actual:.2f} |")
    print(f"predicted beside the model: {line['predicted_phases']}; phases of the run: {line['phases']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--model", default="models/smollm2-135m-instruct")
    parser.add_argument("--templates", default="metaeol")
    parser.add_argument("--master", default="local[2]")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        line = compare(Path(folder), arguments.rows, arguments.model, arguments.templates, arguments.master)
    show(line)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(line, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""The job in a session that writes an event log: `costed_job.py FOLDER MODEL ROWS`. The spans of its runs go to `FOLDER/spans.json`."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from benchmarks.cost import FEW, CostBench, start_session


def main(folder: Path, model: Path, rows: int) -> None:
    """Run the job for the first time in two waves and in four, then over what a night brings, and over several columns."""
    spark = start_session(folder)
    spans = {}
    for n_waves in (2, 4):
        bench = CostBench(spark, folder / f"waves_{n_waves}", model, rows, n_waves, dim=32)
        bench.run("first run", rows)
        spans[f"waves_{n_waves}"] = bench.spans
    bench.run("nothing new", 0)
    bench.append_few()
    bench.run("new rows", bench.rows - rows)
    bench.use_deletion_vectors()
    bench.update_few()
    bench.run("changed rows", FEW)
    several = CostBench(spark, folder / "several_columns", model, rows, 4, dim=32)
    several.blocks["embeddings"] = [
        {"text": "text", "column": "embedding"},
        {"text": ["key", "text"], "column": "keyed"},
        {"text": "text", "column": "other_spec", "max_tokens": 100},
    ]
    several.run("first run", 3 * rows)
    several.run("nothing new", 0)
    several.append_few()
    several.run("new rows", 3 * FEW)
    spans["several_columns"] = several.spans
    spark.stop()  # completes the log
    (folder / "spans.json").write_text(json.dumps({name: [dataclasses.asdict(span) for span in found] for name, found in spans.items()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))

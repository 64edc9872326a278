"""Tables and figures of `docs/benchmarks.md`, made from the results in `artifacts/bench`.

    python -m benchmarks.publish              # from the results that are there
    python -m benchmarks.publish --measure    # runs every benchmark first, about an hour

A table stands between `<!-- begin NAME -->` and `<!-- end NAME -->`; all else in the page is left as it is. A table whose
results are not there stays as it was.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import plots
from benchmarks.results import FOLDER, Row, markdown_table, read_results
from benchmarks.texts import NAMES

PAGE = Path("docs/benchmarks.md")
FIGURES = Path("docs/figures")

_ENCODE = {
    "contender": "",
    "templates": "templates",
    "texts_per_second": "texts/s",
    "ratio": "ratio",
    "spread": "spread",
    "tokens_per_text": "tokens a text",
    "share_of_gemm_rate": "share of the GEMM rate",
    "worst_cosine": "worst cosine",
}
_SCALING: dict[str | None, dict[str, str]] = {
    "length": {"templates": "templates", "tokens": "tokens of a text", "tokens_computed": "tokens computed", "ms_per_text": "ms a text"},
    "templates": {"templates": "set", "n_templates": "templates", "ms_per_text": "ms a text"},
    "rows": {"rows": "rows", "seconds": "seconds", "rows_factor": "rows, times", "time_factor": "time, times"},
    "long": {"ordinary_texts": "ordinary texts", "added": "added", "seconds": "seconds", "extra_seconds": "extra seconds"},
    "partitions": {"partitions": "partitions", "rows": "rows", "with_long_text": "one of 200,000 characters", "seconds": "seconds"},
}
_JOB: dict[str | None, dict[str, str]] = {
    "rate": {
        "slots": "task slots",
        "threads_each": "threads each",
        "rows": "rows",
        "job_rows_per_second": "job, rows/s",
        "encoder_rows_per_second": "bare encoder, rows/s",
        "share": "share",
        "spread": "spread",
        "fixed_seconds": "fixed seconds",
        "worker_peak_mib": "worker's peak, MiB",
        "beyond_weights_mib": "beyond weights, MiB",
    },
    "cold": {"rows": "rows", "job_seconds": "cold job, s", "encoder_seconds": "cold bare encoder, s"},
}
_PEERS = {
    "peer": "",
    "templates": "templates",
    "texts_per_second": "texts/s",
    "cpu_seconds_per_text": "CPU seconds a text",
    "ratio": "this engine, times",
    "spread": "spread",
    "worst_cosine": "worst cosine",
    "versions": "versions",
}
#: Columns by name of the results and kind of row.
_TABLES = {**{name: {None: _ENCODE} for name in NAMES}, "scaling": _SCALING, "job": _JOB, "peers": {None: _PEERS}}


def sections(results: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    """Markdown by marker, for the results that are there."""
    found: dict[str, str] = {}
    for name, result in results.items():
        for kind, columns in _TABLES[name].items():
            rows = [_with_spread(row) for row in result["rows"] if row.get("kind") == kind]
            if rows:
                found[f"{name}-{kind}" if kind else name] = f"{_origin(result)}\n\n{markdown_table(rows, columns)}"
    return found


def _with_spread(row: Row) -> Row:
    """The row with least and greatest of its ratio or share as one cell, where it has them."""
    key = "ratio" if "ratio_min" in row else "share"
    return {**row, "spread": f"{row[f'{key}_min']:g} to {row[f'{key}_max']:g}"} if f"{key}_min" in row else row


def _origin(result: Mapping[str, Any]) -> str:
    notes = "".join(f" {note}." for note in result["notes"])
    return f"`{result['command']}`, {result['date']}, commit {result['commit']}. {result['machine']}.{notes}"


def put_between_markers(page: str, found: Mapping[str, str]) -> str:
    """The page with each section between its markers.

    Raises:
        ValueError: The page lacks a section's markers.
    """
    for name, section in found.items():
        pattern = re.compile(rf"(<!-- begin {re.escape(name)} -->\n).*?(<!-- end {re.escape(name)} -->)", re.DOTALL)
        page, n_found = pattern.subn(lambda match, text=section: f"{match[1]}{text}\n{match[2]}", page)  # type: ignore[misc]
        if n_found != 1:
            raise ValueError(f"the page needs `<!-- begin {name} -->` and `<!-- end {name} -->` exactly once, found {n_found}")
    return page


def draw_figures(results: Mapping[str, dict[str, Any]], folder: Path) -> list[Path]:
    """Draw what there are results for.

    Raises:
        RuntimeError: matplotlib is not installed.
    """
    drawn: list[Path] = []
    for kind, plot in plots.BY_KIND.items():
        rows = [row for row in results.get("scaling", {}).get("rows", []) if row["kind"] == kind]
        if rows:
            drawn.append(folder / f"{kind}.svg")
            plot(rows, drawn[-1])
    compared = {name: results[name]["rows"] for name in NAMES if name in results}
    if any("share_of_gemm_rate" in row for rows in compared.values() for row in rows):
        drawn.append(folder / "gemm-share.svg")
        plots.plot_shares(compared, drawn[-1])
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="run `python -m benchmarks` first; what follows goes to it")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--figures", type=Path, default=FIGURES)
    arguments, rest = parser.parse_known_args()
    if rest and not arguments.measure:
        parser.error(f"unknown: {' '.join(rest)}")
    if arguments.measure:
        subprocess.run([sys.executable, "-m", "benchmarks", "--folder", str(arguments.folder), *rest], check=True)
    paths = {name: arguments.folder / f"{name}.json" for name in _TABLES}
    results = {name: read_results(path) for name, path in paths.items() if path.is_file()}
    if not results:
        sys.exit(f"no results in {arguments.folder}: run `python -m benchmarks`, or add --measure")
    found = sections(results)
    arguments.page.write_text(put_between_markers(arguments.page.read_text(encoding="utf-8"), found), encoding="utf-8")
    print(f"{arguments.page}: {', '.join(found)}")
    try:
        print("\n".join(map(str, draw_figures(results, arguments.figures))))
    except RuntimeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

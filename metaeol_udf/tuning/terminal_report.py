"""Reports of tuning as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

from rich.console import Console

from metaeol_udf.terminal import show_columns

_FRONT = ("", "templates", "layers", "post-processing", "tokens a text", "cost", "chosen on", "held out")


def show_tuning(console: Console, report: Mapping[str, Any]) -> None:
    """Print the configuration, the front and the choice, a line each; then what was written."""
    chosen = report["chosen"]
    names = list(report["tasks"])
    head = (*_FRONT, *(["95 %"] if len(names) == 1 else []))
    rows = [_line("as configured", report["baseline"])]
    rows += [_line("chosen" if candidate == chosen else "", candidate) for candidate in report["front"]]
    halves = f"chosen on {report['pairs_chosen_on']:,} {report['of']}, held out {report['pairs_held_out']:,}"
    title = f"{report['model']}: {report['score']}; {halves}"
    if len(names) == 1:
        each = [report["baseline"], *report["front"]]
        rows = [(*row, _bounds(candidate["held_out_intervals"][names[0]])) for row, candidate in zip(rows, each, strict=True)]
    show_columns(console, title, head, rows, right={4, 5, 6, 7, 8})
    for file in report["files"]:
        console.print(f"wrote {file}", markup=False, highlight=False)


def candidate_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Lay the candidates out as rows for other programs: the configuration as it is, then the front, with what was chosen marked."""
    rows = [("configured", report["baseline"]), *(("chosen" if each == report["chosen"] else "front", each) for each in report["front"])]
    return [{"candidate": name, **candidate} for name, candidate in rows]


def curve_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Lay both curves out as rows for other programs, a row a point."""
    return [{"curve": name, **point} for name in ("by_layer", "by_prompts") for point in report[name]]


def show_curves(console: Console, report: Mapping[str, Any]) -> None:
    """Print both curves, a line a point."""
    title = f"{report['model']}: templates {report['templates']}, Spearman x 100, mean over {', '.join(report['tasks'])}"
    layers = [(str(p["layer"]), _score(p["score"]), _score(p["score_without_mean"])) for p in report["by_layer"]]
    show_columns(console, title, ("layer", "as it is", "mean removed"), layers, right={0, 1, 2})
    prompts = [
        (str(p["n_prompts"]), str(p["n_subsets"]), f"{p['low']:.1f}", f"{p['score']:.1f}", f"{p['high']:.1f}", f"{p['tokens']:.0f}")
        for p in report["by_prompts"]
    ]
    head = ("prompts", "subsets", "worst", "mean", "best", "tokens a text")
    show_columns(console, "by number of prompts, at the configured layer", head, prompts, right=set(range(6)))


def _score(value: float) -> str:
    """Write a score; none where all vectors of a layer are the same, which leaves no ranks to correlate."""
    return "none" if isnan(value) else f"{value:.1f}"


def _bounds(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.1f} to {interval[1]:.1f}"


def _line(name: str, candidate: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        name,
        " ".join(map(str, candidate["templates"])),
        " ".join(map(str, candidate["layers"])),
        candidate["postprocess"],
        f"{candidate['tokens_per_text']:.0f}",
        f"{candidate['cost']:.0%}",
        f"{candidate['chosen_on']:.1f}",
        f"{candidate['held_out']:.1f}",
    )

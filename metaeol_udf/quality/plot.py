"""The figure of a report: each task's score with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metaeol_udf.plots import BLUE, GREEN, ORANGE, hide_frame, new_figure, save_figure

_COLOURS = {"sts": BLUE, "transfer": GREEN, "retrieval": ORANGE}
_KEYS = {"sts": "spearman_all", "transfer": "accuracy", "retrieval": "ndcg_at_10"}
_AXES = {"sts": "Spearman x 100, all pairs", "transfer": "accuracy, %", "retrieval": "nDCG@10 x 100"}


def plot_scores(report: Mapping[str, Any], path: Path) -> None:
    """Draw the report of `make_report`: STS, transfer and retrieval tasks side by side, or those that there are."""
    kinds = [kind for kind in _KEYS if report[kind]]
    rows = max(len(report[kind]) for kind in kinds)
    figure = new_figure(0.8 + 4.4 * len(kinds), 1.4 + 0.32 * rows)
    for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        _draw(axes, report, kind)
    save_figure(figure, path)


def _draw(axes: Any, report: Mapping[str, Any], kind: str) -> None:
    """Draw points with their intervals, first task on top."""
    key, tasks = _KEYS[kind], report[kind]
    known = [(place, task[key], task[f"{key}_interval"]) for place, task in enumerate(tasks.values()) if task[key] is not None]
    for place, value, interval in known:
        low, high = interval or (value, value)
        axes.plot([low, high], [place, place], color=_COLOURS[kind], linewidth=2, alpha=0.5)
        axes.plot([value], [place], color=_COLOURS[kind], marker="o")
        axes.annotate(f"{value:.1f}", (value, place), textcoords="offset points", xytext=(0, 5), ha="center", fontsize=8)
    axes.set_yticks(range(len(tasks)), list(tasks))
    axes.set_ylim(len(tasks) - 0.5, -0.7)
    axes.set_xlabel(_AXES[kind])
    axes.grid(axis="x", alpha=0.3)
    hide_frame(axes)
    axes.set_title(_title(report, kind), loc="left", fontsize=10)


def _title(report: Mapping[str, Any], kind: str) -> str:
    average, n_tasks = report[f"{kind}_average"], len(report[kind])
    name = "STS" if kind == "sts" else kind
    if average is None:
        return f"{name}: no average"
    return f"{name}: {average:.1f}" + (f" on average over {n_tasks} tasks" if n_tasks > 1 else "")

"""Figures of tuning: quality against cost, output layer and number of prompts."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf, isnan
from pathlib import Path
from typing import Any

from metaeol_udf.plots import BLUE, GREEN, GREY, hide_frame, new_figure, save_figure

_SIZE = (6.4, 4.0)


def plot_front(report: Mapping[str, Any], path: Path) -> None:
    """Draw the Pareto front of `run_tune`: held-out score against cost, with the baseline and the choice."""
    axes = _axes()
    front, chosen, baseline = report["front"], report["chosen"], report["baseline"]
    axes.plot([c["cost"] for c in front], [c["held_out"] for c in front], color=BLUE, marker="o", label="front, scored on held-out pairs")
    axes.plot(
        [c["cost"] for c in front], [c["chosen_on"] for c in front], color=BLUE, linestyle=":", label="the same, on the pairs chosen on"
    )
    axes.plot([baseline["cost"]], [baseline["held_out"]], color=GREY, marker="s", linestyle="", label="as configured")
    axes.plot([chosen["cost"]], [chosen["held_out"]], color=GREEN, marker="*", markersize=14, linestyle="", label="chosen")
    axes.set_xlabel("cost of a text: tokens times layers, against the configuration")
    axes.set_ylabel(report["score"].split(",")[0])
    _save(axes, path)


def plot_curve(report: Mapping[str, Any], which: str, path: Path) -> None:
    """Draw `by_layer` or `by_prompts` of `run_curves`."""
    axes, points = _axes(), report[which]
    if which == "by_layer":
        layers = [point["layer"] for point in points]
        axes.plot(layers, [point["score"] for point in points], color=BLUE, marker="o", label="as it is")
        axes.plot(layers, [point["score_without_mean"] for point in points], color=GREEN, marker="o", label="mean removed")
        axes.set_xlabel("output layer: index of the hidden state")
        # Below the first layer all vectors may be the same, which leaves no score.
        best = max(points, key=lambda point: -inf if isnan(point["score_without_mean"]) else float(point["score_without_mean"]))
        message = f"layer {best['layer']} scores best: {best['score_without_mean']:.1f} with the mean removed, {best['score']:.1f} as it is"
    else:
        sizes = [point["n_prompts"] for point in points]
        axes.fill_between(
            sizes, [p["low"] for p in points], [p["high"] for p in points], color=BLUE, alpha=0.15, label="worst to best subset"
        )
        axes.plot(sizes, [point["score"] for point in points], color=BLUE, marker="o", label="mean over subsets")
        axes.set_xlabel("number of prompts")
        first, last = points[0], points[-1]
        message = (
            f"from {first['n_prompts']} to {last['n_prompts']} prompts the mean score goes from {first['score']:.1f} to {last['score']:.1f}"
        )
    axes.set_ylabel(f"Spearman x 100, mean over {len(report['tasks'])} sets")
    axes.set_title(f"{report['templates']}: {message}", loc="left", fontsize=10)
    _save(axes, path)


def _axes() -> Any:
    axes = new_figure(*_SIZE).subplots()
    axes.grid(alpha=0.3)
    hide_frame(axes)
    return axes


def _save(axes: Any, path: Path) -> None:
    axes.legend(fontsize=8, frameon=False)
    save_figure(axes.figure, path)

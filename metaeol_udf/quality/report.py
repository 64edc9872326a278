"""Scores as a mapping for JSON, and as a table for people."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console

from metaeol_udf.evaluation.retrieval import RECALL_DEPTHS, RetrievalScore
from metaeol_udf.evaluation.run import Scores
from metaeol_udf.evaluation.scores import Interval, StsScore
from metaeol_udf.evaluation.transfer import TransferScore
from metaeol_udf.formatting import format_value
from metaeol_udf.terminal import show_columns

_HEAD = ("task", "figure", "score", "95 % interval", "on")


def make_report(scores: Scores) -> dict[str, Any]:
    """Return scores as plain values; what is not defined (no spread, no resamples) is None.

    Returns:
        `sts`, `transfer` and `retrieval`, each a mapping of tasks by name; `sts_average`, the mean over tasks of Spearman's correlation
        over all pairs, `transfer_average`, that of the accuracy, and `retrieval_average`, that of nDCG@10. An average over a task without
        a figure is None.
    """
    sts = {name: _sts(score) for name, score in scores.items() if isinstance(score, StsScore)}
    transfer = {name: _transfer(score) for name, score in scores.items() if isinstance(score, TransferScore)}
    retrieval = {name: _retrieval(score) for name, score in scores.items() if isinstance(score, RetrievalScore)}
    return {
        "sts": sts,
        "sts_average": _average([task["spearman_all"] for task in sts.values()]),
        "transfer": transfer,
        "transfer_average": _average([task["accuracy"] for task in transfer.values()]),
        "retrieval": retrieval,
        "retrieval_average": _average([task["ndcg_at_10"] for task in retrieval.values()]),
    }


def show_evaluation(console: Console, title: str, report: Mapping[str, Any]) -> None:
    """Print a report: a line a figure, then the averages."""
    show_columns(console, title, _HEAD, list(_lines(report)), right={2, 3})


def show_comparison(console: Console, reports: Mapping[str, Mapping[str, Any]]) -> None:
    """Print several reports over the same tasks: a line a task, a column a report; tokens that each computed last."""
    lines = [list(_lines(report)) for report in reports.values()]
    rows = [(*of_task[0][:2], *(line[2] for line in of_task), of_task[0][-1]) for of_task in zip(*lines, strict=True)]
    rows.append(("tokens computed", "", *(f"{report['tokens_computed']:,}" for report in reports.values()), ""))
    right = set(range(2, 2 + len(reports)))
    show_columns(console, "side by side, on the same texts", ("task", "figure", *reports, "on"), rows, right=right)


def score_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Lay a report out as rows for other programs: `kind`, `task`, `figure`, `score`, and the interval's bounds `low` and `high`."""
    rows = []
    for kind in ("sts", "transfer", "retrieval"):
        for name, task in report[kind].items():
            for figure in (key.removesuffix("_interval") for key in task if key.endswith("_interval")):
                low, high = task[f"{figure}_interval"] or (None, None)
                rows.append({"kind": kind, "task": name, "figure": figure, "score": task[figure], "low": low, "high": high})
    return rows


def _lines(report: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, task in report["sts"].items():
        yield name, "Spearman, all pairs", *_figures(task, "spearman_all"), f"{task['pairs']:,} pairs"
        n_scored = sum(value is not None for value in task["subsets"].values())
        if len(task["subsets"]) > 1:
            yield "", "Spearman, mean of subsets", *_figures(task, "spearman_mean"), f"{n_scored} of {len(task['subsets'])} subsets"
    if len(report["sts"]) > 1:
        yield "average", "Spearman, all pairs", format_value(report["sts_average"]), "", f"{len(report['sts'])} tasks"
    for name, task in report["transfer"].items():
        yield name, "accuracy", *_figures(task, "accuracy"), f"{task['texts']:,} texts, {task['classes']} classes, {task['protocol']}"
    if len(report["transfer"]) > 1:
        yield "average", "accuracy", format_value(report["transfer_average"]), "", f"{len(report['transfer'])} tasks"
    for name, task in report["retrieval"].items():
        yield name, "nDCG@10", *_figures(task, "ndcg_at_10"), f"{task['queries']:,} queries, {task['documents']:,} documents"
        yield "", "MRR@10", *_figures(task, "mrr_at_10"), ""
        for k in RECALL_DEPTHS:
            yield "", f"recall@{k}", *_figures(task, f"recall_at_{k}"), ""
    if len(report["retrieval"]) > 1:
        yield "average", "nDCG@10", format_value(report["retrieval_average"]), "", f"{len(report['retrieval'])} tasks"


def _figures(task: Mapping[str, Any], key: str) -> tuple[str, str]:
    interval = task[f"{key}_interval"]
    return format_value(task[key]), "" if interval is None else " to ".join(map(format_value, interval))


def _sts(score: StsScore) -> dict[str, Any]:
    return {
        "pairs": score.n_pairs,
        "spearman_all": _known(score.all),
        "spearman_all_interval": _bounds(score.all_interval),
        "spearman_mean": _known(score.mean),
        "spearman_mean_interval": _bounds(score.mean_interval),
        "subsets": {name: _known(value) for name, value in score.subsets.items()},
    }


def _transfer(score: TransferScore) -> dict[str, Any]:
    return {
        "texts": score.n_texts,
        "classes": score.n_classes,
        "accuracy": _known(score.accuracy),
        "accuracy_interval": _bounds(score.interval),
        "protocol": score.protocol,
        "strengths": score.strengths,
    }


def _retrieval(score: RetrievalScore) -> dict[str, Any]:
    recall = {f"recall_at_{k}": value for k, value in score.recall.items()}
    return {
        "queries": score.n_queries,
        "documents": score.n_documents,
        "ndcg_at_10": score.ndcg,
        "ndcg_at_10_interval": _bounds(score.ndcg_interval),
        "mrr_at_10": score.mrr,
        "mrr_at_10_interval": _bounds(score.mrr_interval),
        **recall,
        **{f"recall_at_{k}_interval": _bounds(interval) for k, interval in score.recall_intervals.items()},
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _bounds(interval: Interval | None) -> list[float] | None:
    return None if interval is None or any(map(math.isnan, interval)) else list(interval)


def _average(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None

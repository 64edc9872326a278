"""From a report to what the page says: words, shares and places, all of them plain values. The template only lays them out."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from metaeol_udf.formatting import flatten, format_duration, format_number, format_share

#: Tone and sentence of each status.
STATUS = {
    "done": ("good", "Done", "All that was asked for is published."),
    "nothing_to_do": ("good", "Nothing to do", "Every row was up to date: no model was loaded and nothing was committed."),
    "over_budget": ("warn", "Over budget", "More rows failed than the failure budget allows; all others are published."),
    "stopped_over_budget": ("bad", "Stopped: over budget", "Too many texts failed, so the run was stopped. Nothing was published."),
    "blocked_by_quality": ("bad", "Stopped by the quality gate", "The new vectors are worse than the limits allow. Nothing was published."),
    "running": ("warn", "Under way", "The run had not ended when this was written. If it is not under way any more, it was killed."),
    "failed": ("bad", "Failed", "The run ended with an error. What it had journalled stays, and the next run goes on from there."),
    "terminated": ("warn", "Ended from outside", "What was computed is journalled; the same command goes on from there."),
}

#: What a reason in the error column means.
REASONS = {
    "null_text": "the cell is NULL",
    "empty_text": "the text is empty or blank",
    "oom": "the device ran out of memory on this text alone",
    "non_finite": "the model gave numbers that are not finite",
}

_SHORTEST_S = 1e-6  # a shorter time gives no rate

_PHASES = {
    "select": "find rows that need work",
    "prepare": "columns, properties, checks",
    "embed": "the model, in waves",
    "quality": "the quality gate",
    "publish": "MERGE into the table",
    "verify": "prove what was written",
    "quarantine": "rows that failed",
}


def run_time(run_id: str) -> str:
    """When a run began, by its id; empty where the id is none of ours."""
    found = re.match(r"([0-9]{8}T[0-9]{6})-", run_id)
    try:
        return datetime.strptime(found.group(1), "%Y%m%dT%H%M%S").strftime("%Y-%m-%d %H:%M:%S UTC") if found else ""
    except ValueError:  # digits that are no time
        return ""


def tiles(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """The figures at the top: words, value, and a remark."""
    computed, saved = report.get("tokens_computed", 0), report.get("tokens_saved", 0)
    n = report.get("executors", 1)
    selected, embedded = report.get("rows_selected", 0), report.get("rows_embedded", 0)
    found = [
        ("rows embedded", format_number(embedded), f"of {format_number(selected)} selected"),
        ("rows failed", format_number(report.get("rows_failed", 0)), format_share(report.get("rows_failed", 0), selected)),
        ("unique texts", format_number(report.get("unique_texts", 0)), "through the model"),
        ("texts per second", format_number(report.get("texts_per_second", 0.0)), "while embedding"),
        ("tokens saved", format_share(saved, computed + saved), f"{format_number(saved)} of {format_number(computed + saved)}"),
        (
            "time",
            format_duration(report.get("seconds", {}).get("total", 0.0)),
            f"{format_number(n)} executor{'' if n == 1 else 's'}",
        ),
    ]
    n_without = report.get("rows_without_vector", 0)
    if n_without > report.get("rows_failed", 0):
        found.insert(2, ("rows without a vector", format_number(n_without), "failed now or in an earlier run"))
    return [{"words": words, "value": value, "remark": remark} for words, value, remark in found]


def about(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the run was about: table, column, model, machine, times; what an older report lacks is left out."""
    names = ("table", "column", "model", "started", "ended", "host", "package_version")
    return [(name.replace("_", " "), str(report[name])) for name in names if report.get(name)]


def parts(values: Sequence[tuple[str, str, float]]) -> list[dict[str, Any]]:
    """Parts of a whole for a bar: class, words, value, share in percent."""
    total = sum(value for _, _, value in values)
    return [
        {"kind": kind, "words": words, "value": format_number(value), "share": round(100 * value / total, 3) if total else 0.0}
        for kind, words, value in values
    ]


def row_parts(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What became of the selected rows. In a run that was stopped early, the others wait."""
    done = [report.get(f"rows_{name}", 0) for name in ("embedded", "skipped", "failed")]
    waiting = max(0, report.get("rows_selected", 0) - sum(done))
    named = [("a", "embedded", done[0]), ("b", "up to date", done[1]), ("bad", "failed", done[2]), ("none", "not published", waiting)]
    return parts([part for part in named if part[2] or part[1] != "not published"])


def token_parts(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Tokens that went through the model, and those that one pass a prompt would have computed beyond them."""
    return parts([("a", "computed", report.get("tokens_computed", 0)), ("b", "saved", report.get("tokens_saved", 0))])


def phases(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Seconds of each phase, with the width of its bar in percent of the longest."""
    seconds = {name: value for name, value in report.get("seconds", {}).items() if name != "total"}
    return _bars(seconds, _PHASES, format_duration)


def failures(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows that failed, by reason, the most frequent first."""
    counted = dict(sorted(report.get("failures", {}).items(), key=lambda item: (-item[1], item[0])))
    return _bars(counted, REASONS, format_number)


def _bars(values: Mapping[str, float], meanings: Mapping[str, str], shown: Any) -> list[dict[str, Any]]:
    most = max(values.values(), default=0) or 1
    return [
        {"words": name, "meaning": meanings.get(name, ""), "value": shown(value), "width": round(100 * value / most, 2)}
        for name, value in values.items()
    ]


def rates(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Two charts of the run's waves, texts and tokens per second over time, and their figures; None where there was no wave."""
    waves = report.get("wave_log") or []
    if not waves:
        return None
    begun = waves[0]["started"]
    ended = max(max(wave["started"] - begun + wave["seconds"] for wave in waves), 1e-3)
    rows = [
        {
            "waves": format_number(wave["waves"]),
            "from": format_duration(wave["started"] - begun),
            "seconds": format_duration(wave["seconds"]),
            "texts": format_number(wave["texts"]),
            "tokens": format_number(wave["tokens"]),
            "failed": format_number(wave["failed"]),
            "texts_per_second": format_number(_rate(wave, "texts")),
            "tokens_per_second": format_number(_rate(wave, "tokens")),
        }
        for wave in waves
    ]
    charts = [_chart(waves, name, begun, ended) for name in ("texts", "tokens")]
    return {"charts": charts, "rows": rows, "times": [format_duration(ended * part / 4) for part in range(5)]}


def _chart(waves: Sequence[Mapping[str, float]], name: str, begun: float, ended: float) -> dict[str, Any]:
    """Bars whose width is a wave's time and whose height is its rate, in percent of the plot; and the marks of the upright axis."""
    found = [_rate(wave, name) for wave in waves]
    top = _round_up(max(found) or 1.0)
    bars = [
        {
            "x": round(100 * (wave["started"] - begun) / ended, 3),
            "width": round(max(100 * wave["seconds"] / ended, 0.1), 3),
            "height": round(100 * rate / top, 3),
            "words": f"{format_duration(wave['started'] - begun)}: {format_number(rate)} {name} per second",
        }
        for wave, rate in zip(waves, found, strict=True)
    ]
    whole = {key: sum(wave[key] for wave in waves) for key in (name, "seconds")}
    return {
        "name": name,
        "bars": bars,
        "marks": [{"place": 25 * part, "words": format_number(top * part / 4)} for part in range(5)],
        "mean": format_number(_rate(whole, name)),
        "least": format_number(min(found)),
        "most": format_number(max(found)),
    }


def _rate(wave: Mapping[str, float], name: str) -> float:
    return wave[name] / wave["seconds"] if wave["seconds"] > _SHORTEST_S else 0.0


def _round_up(value: float) -> float:
    """The next of 1, 2, 4 and 8 times a power of ten, so that four equal steps have short names."""
    value = max(value, 1e-9)
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 8, 10) if step * power >= value * (1 - 1e-9))


def flattened(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List nested mappings as names joined by dots, with their values as text."""
    return [
        (name, ", ".join(map(_word, value)) or "-" if isinstance(value, (list, tuple)) else _word(value)) for name, value in flatten(values)
    ]


def _word(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "-" if value is None else str(value).lower()
    return format_number(value) if isinstance(value, (int, float)) and abs(value) >= 10_000 else str(value)

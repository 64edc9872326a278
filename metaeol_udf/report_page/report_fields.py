"""The types of a run report's fields, so that a file which was changed by hand is refused with the name of the field.

They are those of `Report` in `delta/base/run_report.py`, which this folder does not import: a test holds one against the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import NoneType
from typing import Any, get_args, get_origin

FIELDS: dict[str, Any] = {
    "run_id": str, "fingerprint": str, "status": str, "error": str | None,
    "rows_selected": int, "rows_embedded": int, "rows_failed": int, "rows_skipped": int,
    "rows_without_vector": int, "table": str, "column": str, "model": str, "host": str, "started": str, "ended": str,
    "package_version": str,
    "failures": dict[str, int], "migration": dict[str, Any] | None, "quality": dict[str, Any] | None,
    "rows_stale": int, "rows_deleted": int, "rows_orphaned": int, "looked_at": str | None, "rows_trimmed": int,
    "unique_texts": int, "texts_reused": int, "waves": int, "wave_log": list[dict[str, float]], "batches": int,
    "tokens_computed": int, "tokens_saved": int, "runner": str | None, "batches_by_path": dict[str, int], "path_reasons": list[str],
    "device_s": float, "device_span_s": float, "device_busy": float | None, "model_loads": int, "executors": int,
    "seconds": dict[str, float], "texts_per_second": float, "delta_versions": dict[str, int],
    "columns": list[dict[str, Any]],
}  # fmt: skip
NEEDED = ("run_id", "fingerprint", "status")  # an older release wrote fewer of the others
WAVE = ("waves", "started", "seconds", "texts", "tokens", "failed")  # of each entry of `wave_log`
_MOST = 1 << 63  # no count and no time is larger
_WORDS: dict[Any, str] = {str: "a text", int: "an integer", float: "a number", NoneType: "null"}


def find_wrong_field(report: Any) -> str | None:
    """Say which field of a report is missing or of another type; None where all is well. Fields of a newer release are passed over."""
    if not isinstance(report, Mapping):
        return f"it holds {type(report).__name__} in place of an object"
    for name, hint in FIELDS.items():
        if name not in report:
            if name in NEEDED:
                return f"it has no {name}"
        elif not _fits(report[name], hint):
            return f"{name} must be {_describe(hint)}"
    for number, wave in enumerate(report.get("wave_log", [])):
        wrong = next((name for name in WAVE if name not in wave or wave[name] < 0), None)
        if wrong is not None:
            return f"entry {number} of wave_log needs {wrong}, a number from 0"
    return None


def _fits(value: Any, hint: Any) -> bool:
    """Tell whether a value of JSON fits a type hint of `FIELDS`; a number is finite and within what 64 bits hold."""
    if hint is Any:
        return True
    kind, parts = get_origin(hint), get_args(hint)
    if kind is dict:
        return isinstance(value, dict) and all(_fits(item, parts[1]) for item in value.values())
    if kind is list:
        return isinstance(value, list) and all(_fits(item, parts[0]) for item in value)
    if parts:  # a union
        return any(_fits(value, part) for part in parts)
    if hint in (int, float):
        is_number = isinstance(value, (int, hint)) and not isinstance(value, bool)
        return is_number and -_MOST < value < _MOST and math.isfinite(value)
    return isinstance(value, hint)


def _describe(hint: Any) -> str:
    kind, parts = get_origin(hint), get_args(hint)
    if kind is dict:
        return "an object" if parts[1] is Any else f"an object whose values are each {_describe(parts[1])}"
    if kind is list:
        return f"a list whose entries are each {_describe(parts[0])}"
    return " or ".join(map(_describe, parts)) if parts else _WORDS[hint]

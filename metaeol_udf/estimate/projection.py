"""From counts and rates to hours, cost and bytes. Arithmetic only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_JOURNAL_BYTES = 150  # of a journal row beside its vector: fingerprint, counts, names of load and run, compressed
_FLOAT_BYTES = 4  # Parquet makes random floats no smaller
#: Commits and small joins of a run whatever its size, in a fresh session on 2 cores (`python -m benchmarks.estimate` prints the phases).
_COMMIT_SECONDS = 12.0
#: Seconds of a wave more beside the model: its commit, its count, the start of its tasks (docs/scale.md, 2 cores).
_WAVE_SECONDS = 2.6
_GOOD_WAVE_SECONDS = 300
_MOST_SHARE = 0.05  # of the time, in the commits of waves
_STEP = 50_000  # of a number of rows that is advised
#: Seconds of one task slot to publish and verify one number of a vector: 0.147 ms a row of 576 in 2 slots (docs/scale.md, publish in
#: place and verify).
_SLOT_SECONDS = 5.1e-7


@dataclass(frozen=True)
class Rates:
    """Describes how fast one executor is.

    Attributes:
        tokens_per_second: Marginal rate of one executor: what more tokens cost, start-up left out.
        fixed_s: Seconds that any number of executors needs: session, selection, workers, model load, commits.
        shared_s: Seconds of one executor to publish and verify.
    """

    tokens_per_second: float
    fixed_s: float
    shared_s: float = 0.0


def writing_seconds(rows_pending: int, dim: int, slots: float, waves: int) -> tuple[float, float]:
    """Guess the seconds of a run's commits, and those of one executor of so many slots to publish and verify its rows of `dim` numbers."""
    if not rows_pending:
        return 0.0, 0.0
    return _COMMIT_SECONDS + _WAVE_SECONDS * max(0, waves - 1), rows_pending * dim * _SLOT_SECONDS / slots


def better_wave_rows(unique_texts: int, wave_rows: int, embedding_s: float) -> int | None:
    """Advise a `runtime.wave_rows` whose waves take about five minutes; None where commits take little of the time, or for one wave.

    Args:
        unique_texts: Texts of the run.
        wave_rows: As the settings say.
        embedding_s: Seconds that the model takes, all executors at work at once.
    """
    waves = wave_count(unique_texts, wave_rows)
    if waves < 2 or not embedding_s:
        return None
    wave_s = embedding_s / waves
    if _MOST_SHARE * (wave_s + _WAVE_SECONDS) >= _WAVE_SECONDS:
        return None
    wanted = min(unique_texts, unique_texts / embedding_s * _GOOD_WAVE_SECONDS)
    return math.ceil(wanted / _STEP) * _STEP


def project(tokens: int, rates: Rates, executors: Sequence[int], price_per_hour: float | None) -> list[dict[str, Any]]:
    """Project hours and cost of a run to so many executors like the one that was measured, each with its price, in any currency.

    Start-up and commits are the same for any number of executors; the rest is shared by them.
    """
    projected = []
    for n_executors in executors:
        shared_s = rates.shared_s + (tokens / rates.tokens_per_second if tokens else 0.0)
        seconds = rates.fixed_s + shared_s / n_executors
        cost = None if price_per_hour is None else round(seconds / 3600 * n_executors * price_per_hour, 2)
        projected.append({"executors": n_executors, "seconds": round(seconds, 1), "hours": round(seconds / 3600, 3), "cost": cost})
    return projected


def written_bytes(rows_pending: int, unique_texts: int, dim: int, rewritten_bytes: int) -> dict[str, int]:
    """Count the bytes that are written, by where they go; `rewritten_bytes` are of files that a MERGE into the source writes anew."""
    journal = unique_texts * (dim * _FLOAT_BYTES + _JOURNAL_BYTES)
    vectors = rows_pending * dim * _FLOAT_BYTES
    return {"journal": journal, "vectors": vectors, "rewritten": rewritten_bytes if rows_pending else 0}


def wave_count(unique_texts: int, wave_rows: int) -> int:
    """Count the journal commits of a run."""
    return math.ceil(unique_texts / wave_rows)

"""The run report: what a run did, as one flat mapping that is also written as JSON."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metaeol_udf.errors import EnvironmentFault


@dataclass
class Stopwatch:
    """Seconds that each phase of a run took."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time spent inside to a phase."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - started, 3)


@dataclass
class Report:
    """Everything that a run reports. Rows are rows of the source that the condition selects; texts are distinct.

    Attributes:
        run_id: Also in the journal and the quarantine.
        fingerprint: Of the spec.
        status: `running`, `done`, `nothing_to_do` or `over_budget`.
        rows_selected: Equals `rows_embedded + rows_failed + rows_skipped`.
        rows_embedded: Rows that had no current vector and have one now.
        rows_failed: Rows worked on that have an error now, NULL and blank texts among them.
        rows_skipped: Rows that were current already.
        rows_trimmed: Embedded rows whose text was longer than `max_tokens`.
        unique_texts: Texts that went through the model in this run; fewer than rows where texts repeat or were journalled.
        tokens_computed: Tokens that went through the model.
        tokens_saved: Tokens that one pass a prompt would have computed beyond those.
        model_loads: Loads that this run caused, over all workers.
        executors: Executors that the session had; 1 in local mode.
        seconds: By phase, and `total`.
        texts_per_second: `unique_texts` over the seconds of the embedding phase, model load included.
        delta_versions: Of the source as read and of the tables as left.
    """

    run_id: str
    fingerprint: str
    status: str = "running"
    rows_selected: int = 0
    rows_embedded: int = 0
    rows_failed: int = 0
    rows_skipped: int = 0
    rows_trimmed: int = 0
    unique_texts: int = 0
    tokens_computed: int = 0
    tokens_saved: int = 0
    model_loads: int = 0
    executors: int = 1
    seconds: dict[str, float] = field(default_factory=dict)
    texts_per_second: float = 0.0
    delta_versions: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dict(vars(self))


def check_writable(path: str | None) -> None:
    """See, before any work, that the report's folder can be made.

    Raises:
        EnvironmentFault: It cannot.
    """
    if path is None:
        return
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentFault(f"runtime.report: cannot make the folder of {path}: {error.strerror}") from None


def write_report(report: Report, path: str | None) -> None:
    """Write the report; a reader sees the old file or the new one, never half of one.

    Raises:
        EnvironmentFault: The file cannot be written.
    """
    if path is None:
        return
    whole = Path(path)
    part = whole.with_name(f"{whole.name}.{os.getpid()}.part")
    try:
        part.write_text(json.dumps(report.as_dict(), indent=2) + "\n", encoding="utf-8")
        part.replace(whole)
    except OSError as error:
        raise EnvironmentFault(f"runtime.report: cannot write {path}: {error.strerror}") from None

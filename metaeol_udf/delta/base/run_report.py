"""The run report: what a run did, as one flat mapping that is also written as JSON."""

from __future__ import annotations

import json
import socket
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import metaeol_udf
from metaeol_udf.encoder.gpu.device_work import DeviceWork
from metaeol_udf.errors import BudgetError, MetaEOLError, QualityError, TerminatedError, one_line
from metaeol_udf.files import check_replaceable, replace_file

#: A run of ten billion texts has 200,000 waves; its report stays a file that a person can open.
MOST_WAVES = 500

#: Status of a report by the error that the run ended with; any other: `failed`.
_STOPPED = (
    (BudgetError, "stopped_over_budget"),
    (QualityError, "blocked_by_quality"),
    ((TerminatedError, KeyboardInterrupt), "terminated"),
)


@dataclass(frozen=True)
class Counts:
    """Rows of one selection.

    Attributes:
        rows_selected: All of them.
        rows_skipped: Those that need no work.
        rows_new: Those with nothing stored.
        rows_of_other_specs: Those whose vector belongs to another spec: another model, template set, layer and so on.
        other_specs: The digests of those specs, a few at most.
    """

    rows_selected: int
    rows_skipped: int
    rows_new: int
    rows_of_other_specs: int
    other_specs: tuple[str, ...]

    @property
    def rows_changed(self) -> int:
        """Rows whose vector belongs to this spec and an earlier text."""
        return self.rows_selected - self.rows_skipped - self.rows_new - self.rows_of_other_specs


@dataclass
class Report:
    """Everything that a run reports. Rows are rows of the source that the condition selects; texts are distinct.

    Attributes:
        run_id: Also in the journal and the quarantine.
        fingerprint: Of the spec.
        status: `running` (under way, or killed), `done`, `nothing_to_do`, `over_budget` (all is published, too many rows failed),
            nothing was published by `stopped_over_budget`, `blocked_by_quality` and `terminated` (SIGTERM), or `failed`.
        error: The message of the error that the run ended with; None: it came to its end. Of an error that this package does not
            know, the type alone: the message may quote a text.
        rows_selected: Equals `rows_embedded + rows_failed + rows_skipped`.
        rows_embedded: Rows that had no current vector and have one now.
        rows_failed: Rows worked on that have an error now, NULL and blank texts among them.
        rows_skipped: Rows that were current already.
        rows_without_vector: Rows that have an error after the run: those that failed now, and those whose error stands from an earlier run.
        rows_stale: Of the rows worked on, those whose text was changed, or which were deleted, while the job ran. The old text's
            vector is not written for them; the next run embeds them.
        failures: Rows that failed, by reason.
        migration: None, or where rows hold vectors of other specs: their number, that of new rows and of changed texts, and
            the specs.
        quality: None, or what the quality gate found in a migration: `verdict` (`passed`, `blocked`, or `not_judged` and let
            through), `reasons`, the spec in the table (`from`), texts compared, and the figures of `old` and `new` vectors.
        rows_deleted: Rows that left the target because their key left the source, or their text lost the passage.
        rows_orphaned: Rows of the target whose key has left the source, and which `target.deleted: keep` leaves there.
        looked_at: Which rows the run looked at: all of them, and why, or those of files that were added since a version of the source.
        rows_trimmed: Embedded rows whose text was longer than `max_tokens`.
        unique_texts: Texts that went through the model in this run; fewer than rows where texts repeat or were journalled.
        texts_reused: Texts whose vectors a table held already, under another key or before it was overwritten.
        waves: Waves that this run journalled.
        wave_log: Their rates in order, at most `MOST_WAVES` entries: each with the number of `waves` in it, `started` (seconds since
            1970), `seconds`, `texts`, `tokens` and `failed`. In longer runs neighbours are added up.
        batches: Micro-batches of a stream with rows to embed, apart from its first run over the whole table; 0 for other commands.
        tokens_computed: Tokens that went through the model.
        tokens_saved: Tokens that one pass a prompt would have computed beyond those.
        runner: What ran the model, by the names of `encoder/runners.py`, where there are several with commas; None: no text was computed.
        batches_by_path: Batches by the way that they took, see `DeviceWork`.
        path_reasons: Why a faster way was refused, each once.
        device_s: Seconds in which devices ran batches, all devices added up.
        device_span_s: Seconds from the first batch of a wave to its last one, of each device, all devices and waves added up.
        device_busy: The first over the second; None where nothing ran.
        model_loads: Loads that this run caused, over all workers.
        executors: Executors that the session had; 1 in local mode.
        seconds: By phase, and `total`.
        texts_per_second: `unique_texts` over the seconds of the embedding phase, model load included.
        delta_versions: Of the source as read and of the tables as left.
        table: The table that vectors are written to.
        column: The column of the vectors.
        model: As the configuration names it.
        host: The driver's machine.
        started: When the run began: ISO 8601, UTC.
        ended: When the report was written.
        package_version: Of metaeol-udf.
        columns: Of a run over several columns, the report of each; the figures above are their sums. Left out for one column.
    """

    run_id: str
    fingerprint: str
    status: str = "running"
    error: str | None = None
    rows_selected: int = 0
    rows_embedded: int = 0
    rows_failed: int = 0
    rows_skipped: int = 0
    rows_without_vector: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    migration: dict[str, Any] | None = None
    quality: dict[str, Any] | None = None
    rows_stale: int = 0
    rows_deleted: int = 0
    rows_orphaned: int = 0
    looked_at: str | None = None
    rows_trimmed: int = 0
    unique_texts: int = 0
    texts_reused: int = 0
    waves: int = 0
    wave_log: list[dict[str, float]] = field(default_factory=list)
    batches: int = 0
    tokens_computed: int = 0
    tokens_saved: int = 0
    runner: str | None = None
    batches_by_path: dict[str, int] = field(default_factory=dict)
    path_reasons: list[str] = field(default_factory=list)
    device_s: float = 0.0
    device_span_s: float = 0.0
    device_busy: float | None = None
    model_loads: int = 0
    executors: int = 1
    seconds: dict[str, float] = field(default_factory=dict)
    texts_per_second: float = 0.0
    delta_versions: dict[str, int] = field(default_factory=dict)
    table: str = ""
    column: str = ""
    model: str = ""
    host: str = ""
    started: str = ""
    ended: str = ""
    package_version: str = metaeol_udf.__version__
    columns: list[dict[str, Any]] = field(default_factory=list)

    def count_selected(self, counts: Counts, n_failing: int) -> None:
        """Take over the counts of the selected rows; `n_failing` of those that need no work have an error."""
        self.rows_without_vector = n_failing
        done = self.rows_embedded + self.rows_failed  # of an earlier snapshot in the same run
        self.rows_selected, self.rows_skipped = counts.rows_selected, counts.rows_skipped - done
        if counts.rows_of_other_specs:
            self.migration = {
                "rows_of_other_specs": counts.rows_of_other_specs,
                "rows_new": counts.rows_new,
                "rows_changed": counts.rows_changed,
                "from": list(counts.other_specs),
                "to": self.fingerprint,
            }

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the time spent inside to the seconds of a phase."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[phase] = round(self.seconds.get(phase, 0.0) + time.monotonic() - started, 3)

    def count_done(self, embedded: int, trimmed: int, failures: Mapping[str, int]) -> None:
        """Add the counts of the rows that are done, of one snapshot: with a vector, with that of a trimmed text, and failed by reason."""
        self.rows_embedded += embedded
        self.rows_trimmed += trimmed
        self.rows_failed += sum(failures.values())
        self.rows_without_vector += sum(failures.values())
        self.failures = {reason: self.failures.get(reason, 0) + failures.get(reason, 0) for reason in sorted({*self.failures, *failures})}

    def count_work(self, work: DeviceWork) -> None:
        """Add what one device did in one wave."""
        self._add_work(work.batches, work.reasons, work.busy_s, work.span_s)

    def _add_work(self, batches: Mapping[str, int], reasons: Iterable[str], busy_s: float, span_s: float) -> None:
        self.batches_by_path = dict(sorted((Counter(self.batches_by_path) + Counter(batches)).items()))
        self.path_reasons = sorted({*self.path_reasons, *reasons})
        self.device_s, self.device_span_s = round(self.device_s + busy_s, 3), round(self.device_span_s + span_s, 3)
        self.device_busy = round(min(1.0, self.device_s / self.device_span_s), 3) if self.device_span_s else None

    def log_wave(self, started: float, seconds: float, texts: int, tokens: int, failed: int) -> None:
        """Note how fast a wave was; `started` in seconds since 1970."""
        entry = {"waves": 1, "started": started, "seconds": seconds, "texts": texts, "tokens": tokens, "failed": failed}
        self.wave_log = shortened([*self.wave_log, entry])

    def migration_line(self) -> str:
        """The migration for people, before it runs."""
        found = self.migration or {}
        old, new, changed = (found[f"rows_{name}"] for name in ("of_other_specs", "new", "changed"))
        return (
            f"migration to spec {self.fingerprint}: {old:,} rows hold vectors of {', '.join(found['from'])}, which stay until the new "
            f"ones are published; {new:,} rows are new, {changed:,} have a new text"
        )

    def add(self, part: Report) -> None:
        """Add a later run of the same command, such as a micro-batch: counts are summed, versions are the latest."""
        for name in ("selected", "embedded", "failed", "skipped", "without_vector", "trimmed", "deleted", "stale", "orphaned"):
            setattr(self, f"rows_{name}", getattr(self, f"rows_{name}") + getattr(part, f"rows_{name}"))
        for name in ("unique_texts", "texts_reused", "waves", "tokens_computed", "tokens_saved", "model_loads"):
            setattr(self, name, getattr(self, name) + getattr(part, name))
        self._add_work(part.batches_by_path, part.path_reasons, part.device_s, part.device_span_s)
        self.failures = {name: self.failures.get(name, 0) + part.failures.get(name, 0) for name in {**self.failures, **part.failures}}
        self.seconds = {name: round(self.seconds.get(name, 0) + part.seconds.get(name, 0), 3) for name in {**self.seconds, **part.seconds}}
        self.wave_log = shortened([*self.wave_log, *part.wave_log])
        self.migration, self.looked_at = self.migration or part.migration, self.looked_at or part.looked_at
        self.quality = part.quality or self.quality
        self.executors, self.delta_versions = part.executors, part.delta_versions or self.delta_versions
        self.set_rate()

    def fail(self, error: BaseException) -> None:
        """Take over the error that the run ended with."""
        self.status = next((status for kind, status in _STOPPED if isinstance(error, kind)), "failed")
        self.error = one_line(error) if isinstance(error, MetaEOLError) else f"{type(error).__name__}: the run's log says more"

    def set_rate(self) -> None:
        """Texts per second, from the counts so far."""
        embed_s = self.seconds.get("embed", 0.0)
        self.texts_per_second = round(self.unique_texts / embed_s, 3) if self.unique_texts and embed_s else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {name: value for name, value in vars(self).items() if name != "columns" or value}


def begin_report(fingerprint: str, table: str, column: str, model: str) -> Report:
    """Begin the report of a run, under an id of its own that sorts by time."""
    now = datetime.now(timezone.utc)
    started = now.isoformat(timespec="seconds")
    return Report(new_run_id(now), fingerprint, table=table, column=column, model=model, host=socket.gethostname(), started=started)


def new_run_id(now: datetime) -> str:
    """Make the id of a run that begins at `now`, in UTC; ids sort by time."""
    return f"{now:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"


def shortened(waves: list[dict[str, float]]) -> list[dict[str, float]]:
    """The same waves in at most `MOST_WAVES` entries: neighbours are added up, by twos, as often as it takes."""
    while len(waves) > MOST_WAVES:
        waves = [_added_up(waves[start : start + 2]) for start in range(0, len(waves), 2)]
    return waves


def _added_up(waves: list[dict[str, float]]) -> dict[str, float]:
    summed = {name: round(sum(wave[name] for wave in waves), 3) for name in waves[0]}
    return summed | {"started": waves[0]["started"]}


def check_writable(path: str | None, setting: str) -> None:
    """Check, before any work, that a file can be written: a part of it is written into its folder, and removed."""
    if path is not None:
        check_replaceable(path, setting=setting)


def write_report(report: Report, path: str | None) -> None:
    """Write the report; a reader sees the old file or the new one, never half of one."""
    if path is not None:
        replace_file(path, (json.dumps(report.as_dict(), indent=2) + "\n").encode(), setting="runtime.report")

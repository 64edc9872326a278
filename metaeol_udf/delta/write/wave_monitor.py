"""What happens after every wave: one log line, and the two reasons to end before the last one."""

from __future__ import annotations

import logging
import time
from collections import Counter

from metaeol_udf.delta.base.failure_budget import FailureBudget
from metaeol_udf.delta.base.run_report import Report
from metaeol_udf.delta.base.shutdown import check_termination
from metaeol_udf.delta.write.journal import WaveCounts

logger = logging.getLogger(__name__)


class WaveMonitor:
    """Watch the waves of one run, and keep the report's count of texts, tokens, loads and waves."""

    def __init__(self, budget: FailureBudget, report: Report) -> None:
        self._budget, self._report = budget, report
        self._failures: Counter[str] = Counter()
        self._loads: set[str] = set()
        self._runners: set[str] = set()
        self._since, self._started = time.monotonic(), time.time()

    def __call__(self, wave: int, n_waves: int, found: WaveCounts) -> None:
        """Add up and log what a wave journalled, and end the run early where it must: over its budget, or by SIGTERM."""
        now = time.monotonic()
        seconds, self._since = now - self._since, now
        started, self._started = self._started, time.time()
        self._failures.update(found.failures)
        self._loads |= found.loads
        self._report.unique_texts += found.n_texts
        self._report.tokens_computed += found.tokens_computed
        self._report.tokens_saved += found.tokens_saved
        self._report.model_loads = len(self._loads)
        self._runners |= found.runners
        self._report.runner = ", ".join(sorted(self._runners)) or None
        self._report.waves += 1
        for work in found.work.values():
            self._report.count_work(work)
        n_failed = sum(found.failures.values())
        self._report.log_wave(round(started, 3), round(seconds, 3), found.n_texts, found.tokens_computed, n_failed)
        logger.info(
            "wave %d of %d: %d texts in %.1f s, %.1f texts/s, %.0f tokens/s, %d failed",
            wave,
            n_waves,
            found.n_texts,
            seconds,
            found.n_texts / seconds,
            found.tokens_computed / seconds,
            n_failed,
        )
        if wave < n_waves:
            self._budget.check_early(self._failures, self._report.unique_texts, self._report.rows_selected)
            check_termination()

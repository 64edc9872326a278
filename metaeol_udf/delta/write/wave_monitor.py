"""What happens after every wave: one log line, and the two reasons to end before the last one."""

from __future__ import annotations

import logging
import time
from collections import Counter

from metaeol_udf.delta.base.failure_budget import FailureBudget
from metaeol_udf.delta.base.run_report import Report
from metaeol_udf.delta.base.shutdown import check_termination
from metaeol_udf.delta.write.journal import Journal

logger = logging.getLogger(__name__)


class WaveMonitor:
    """Watch the waves of one run, and keep the report's count of texts and waves."""

    def __init__(self, journal: Journal, budget: FailureBudget, report: Report) -> None:
        self._journal, self._budget, self._report = journal, budget, report
        self._failures: Counter[str] = Counter()
        self._since, self._started = time.monotonic(), time.time()

    def __call__(self, wave: int, n_waves: int) -> None:
        """Count and log what a wave journalled, and end the run early where it must: over its budget, or by SIGTERM."""
        (n_texts, n_tokens, failures), now = self._journal.count_wave(wave), time.monotonic()
        seconds, self._since = now - self._since, now
        started, self._started = self._started, time.time()
        self._failures.update(failures)
        self._report.unique_texts += n_texts
        self._report.waves += 1
        n_failed = sum(failures.values())
        self._report.log_wave(round(started, 3), round(seconds, 3), n_texts, n_tokens, n_failed)
        logger.info(
            "wave %d of %d: %d texts in %.1f s, %.1f texts/s, %.0f tokens/s, %d failed",
            wave,
            n_waves,
            n_texts,
            seconds,
            n_texts / seconds,
            n_tokens / seconds,
            n_failed,
        )
        if wave < n_waves:
            self._budget.check_early(self._failures, self._report.unique_texts, self._report.rows_selected)
            check_termination()

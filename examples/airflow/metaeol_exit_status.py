"""What Airflow does after a `metaeol` run that failed: only what another try can cure is tried again.

Put this file beside the DAGs. Task option `retry_policy` needs Airflow 3.3 or newer.

| exit status | meaning | here |
| --- | --- | --- |
| 2 | configuration or input is wrong, nothing was written | fail |
| 3 | over the failure budget, all other rows are published | fail |
| 6 | stopped by the quality gate, nothing was published | fail |
| 4 | conflict with another writer | retry |
| 5 | environment: disk, memory, device, lost cluster | retry |
| 143 | ended by SIGTERM, goes on where it stopped | retry at once |
| 1, or not known | unexpected | retry |
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

from airflow.sdk import RetryDecision, RetryPolicy

FINAL = {2: "configuration or input is wrong", 3: "over the failure budget", 6: "stopped by the quality gate"}
RESUMABLE = 143

#: How the status stands in the message: of spark-submit through the Spark provider, of Python tasks through the Databricks one.
_STATUS = re.compile(r"(?:Error code is: |SystemExit: |exited with (?:code|status) )(\d+)")


class ByExitStatus(RetryPolicy):
    """Decides by the exit status of `metaeol` in the operator's error message."""

    def evaluate(self, exception: BaseException, try_number: int, max_tries: int, context: Any = None) -> RetryDecision:
        """Fail at once where no retry helps, go on at once after SIGTERM, else take the task's own retries."""
        found = _STATUS.search(str(exception))
        status = int(found.group(1)) if found else None
        if status in FINAL:
            return RetryDecision.fail(f"metaeol ended with status {status}: {FINAL[status]}")
        if status == RESUMABLE:
            return RetryDecision.retry(timedelta(0), "ended by SIGTERM; the journal holds what was computed")
        return RetryDecision.default()

    def serialize(self) -> dict[str, Any]:
        """It has no settings."""
        return {}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> ByExitStatus:
        """The same policy."""
        return cls()

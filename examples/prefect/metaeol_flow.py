"""Nightly embeddings as a Prefect flow: what `metaeol embed` does.

    python examples/prefect/metaeol_flow.py

An error that no second try can cure (configuration, input, failure budget, quality gate) ends the run; the others are tried again.
"""

from __future__ import annotations

import os
from typing import Any

from prefect import flow, get_run_logger, task

from metaeol_udf.delta import run_embed
from metaeol_udf.errors import BudgetError, ConfigError, InputError, QualityError

JOB = os.environ.get("METAEOL_JOB", "/opt/metaeol/job.yaml")


def may_be_cured(task: Any, run: Any, state: Any) -> bool:
    """Tell whether another try may do what this one could not."""
    try:
        state.result()
    except (ConfigError, InputError, BudgetError, QualityError):
        return False
    except Exception:  # noqa: BLE001 - Prefect asks about every error
        return True
    return False


@task(retries=2, retry_delay_seconds=300, retry_condition_fn=may_be_cured)
def embed(job: str) -> dict[str, Any]:
    """Embed what is new or changed in the source table."""
    return run_embed(job)


@flow(name="ticket-vectors")
def ticket_vectors(job: str = JOB) -> dict[str, Any]:
    """Embed, and log what was done."""
    report = embed(job)
    get_run_logger().info("%s: %d rows embedded, %d failed", report["status"], report["rows_embedded"], report["rows_failed"])
    return report


if __name__ == "__main__":
    ticket_vectors.serve(name="nightly", cron="0 2 * * *", limit=1)  # two runs at once would end with a conflict

"""Commands that write vectors into a Delta table: embed, stream, retry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from metaeol_udf.cli.arguments import AsJson, Conf, DryRun, Overrides
from metaeol_udf.cli.views import emit, show_plan, show_report, table_title
from metaeol_udf.config import JobConfig, load_config


def embed(conf: Conf, overrides: Overrides = None, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Embed the rows that changed and write their vectors into the Delta table, once."""
    config = load_config(conf, overrides or ())
    if dry_run:
        _show_plan(config, "embed", as_json)
        return
    from metaeol_udf.delta.job import run_embed

    _run_job(run_embed, config, as_json)


def stream(conf: Conf, overrides: Overrides = None, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Embed what the source's new commits bring: all there is and then end, or every so often (stream.trigger)."""
    config = load_config(conf, overrides or ())
    if dry_run:
        _show_plan(config, "stream", as_json)
        return
    from metaeol_udf.delta.stream import run_stream

    _run_job(run_stream, config, as_json)


def retry(conf: Conf, overrides: Overrides = None, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Try the rows again that failed, but for NULL and blank texts; those that succeed leave the quarantine."""
    config = load_config(conf, overrides or ())
    if dry_run:
        _show_plan(config, "retry", as_json)
        return
    from metaeol_udf.delta.retry import run_retry

    _run_job(run_retry, config, as_json)


def _run_job(job: Callable[[JobConfig], dict[str, Any]], config: JobConfig, as_json: bool) -> None:
    """Run a job that heeds SIGTERM, and print its report."""
    from metaeol_udf.delta.base.shutdown import end_on_sigterm

    with end_on_sigterm():
        report = job(config)
    emit(as_json, report, lambda console: show_report(console, table_title(config), report))


def _show_plan(config: JobConfig, command: str, as_json: bool) -> None:
    """Print what a job would do."""
    from metaeol_udf.estimate.dry_run import plan_dry_run

    plan = plan_dry_run(config, command)
    emit(as_json, plan, lambda console: show_plan(console, table_title(config), plan))

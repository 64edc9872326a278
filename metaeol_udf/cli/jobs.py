"""Commands that write vectors into a Delta table: embed, stream, retry."""

from __future__ import annotations

from metaeol_udf.cli.arguments import AsJson, Conf, DryRun, Full, Overrides
from metaeol_udf.cli.views import emit, show_plan, show_run
from metaeol_udf.config import load_config
from metaeol_udf.terminal import waiting


def embed(conf: Conf, overrides: Overrides = None, full: Full = False, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Embed the rows that changed and write their vectors into the Delta table, once."""
    _run_job("embed", conf, overrides, dry_run, as_json, full=full)


def stream(conf: Conf, overrides: Overrides = None, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Embed what the source's new commits bring: all there is and then end, or every so often (stream.trigger)."""
    _run_job("stream", conf, overrides, dry_run, as_json)


def retry(conf: Conf, overrides: Overrides = None, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Try the rows again that failed, but for NULL and blank texts; those that succeed leave the quarantine."""
    _run_job("retry", conf, overrides, dry_run, as_json)


def _run_job(command: str, conf: Conf, overrides: Overrides, dry_run: bool, as_json: bool, full: bool = False) -> None:
    """Run a job that heeds SIGTERM and print its report, or print what the job would do."""
    config = load_config(conf, overrides or ())
    if dry_run:
        from metaeol_udf.estimate.dry_run import plan_dry_run

        with waiting("counting what there is to do"):
            plan = plan_dry_run(config, command)
        emit(as_json, plan, lambda console: show_plan(console, config.title, plan))
        return
    from metaeol_udf.delta.base.shutdown import end_on_sigterm
    from metaeol_udf.delta.job import run_embed
    from metaeol_udf.delta.retry import run_retry
    from metaeol_udf.delta.stream import run_stream
    from metaeol_udf.delta.tables.refs import parse_table

    with end_on_sigterm():
        report = run_embed(config, full=full) if command == "embed" else {"stream": run_stream, "retry": run_retry}[command](config)
    files = [file for file in (config.runtime.report, config.runtime.report_page) if file is not None]
    quarantine = str(parse_table(config.target_table, "target.table").beside("quarantine"))
    emit(as_json, report, lambda console: show_run(console, config.title, report, files, quarantine))

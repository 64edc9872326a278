"""Commands that write the vectors of a job's table (embed, stream, retry) or look after them (status, drop, rollback)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from metaeol_udf.cli.arguments import As, AsJson, Conf, DryRun, Full, Overrides
from metaeol_udf.cli.views import Format, emit, emit_each, show_drop, show_plan, show_rollback, show_run, show_status
from metaeol_udf.config import JobConfig, load_config, load_configs, title_of
from metaeol_udf.errors import ConfigError
from metaeol_udf.terminal import waiting

if TYPE_CHECKING:
    from metaeol_udf.care import DropItem


def embed(
    conf: Conf,
    overrides: Overrides = None,
    full: Full = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    how: As = Format.TABLE,
) -> None:
    """Embed new and changed rows once, and write their vectors into the Delta table."""
    _run_job("embed", conf, overrides, dry_run, as_json, how, full=full)


def stream(conf: Conf, overrides: Overrides = None, dry_run: DryRun = False, as_json: AsJson = False, how: As = Format.TABLE) -> None:
    """Embed new commits of the source as a Structured Streaming query. It ends when all is done, or runs on (stream.trigger)."""
    _run_job("stream", conf, overrides, dry_run, as_json, how)


def retry(conf: Conf, overrides: Overrides = None, dry_run: DryRun = False, as_json: AsJson = False, how: As = Format.TABLE) -> None:
    """Retry failed rows. NULL and blank texts are skipped. Rows that succeed leave the quarantine."""
    _run_job("retry", conf, overrides, dry_run, as_json, how)


def _run_job(command: str, conf: Conf, overrides: Overrides, dry_run: bool, as_json: bool, how: Format, full: bool = False) -> None:
    """Run a job, which ends in order on SIGTERM, and print its report. With --dry-run print what the job would do."""
    if command == "stream":
        configs: tuple[JobConfig, ...] = (load_config(conf, overrides or ()),)
    else:
        configs = load_configs(conf, overrides or ())
    if dry_run:
        with waiting("counting what there is to do"):
            from metaeol_udf.estimate.dry_run import plan_dry_run

            plans = [plan_dry_run(config, command) for config in configs]
        emit_each(as_json, configs, plans, show_plan, how)
        return
    with waiting("starting"):  # these imports take seconds
        from metaeol_udf.delta.base.shutdown import end_on_sigterm
        from metaeol_udf.delta.job import run_embed
        from metaeol_udf.delta.retry import run_retry
        from metaeol_udf.delta.stream import run_stream
        from metaeol_udf.delta.tables.refs import parse_table

    with end_on_sigterm():
        report = run_embed(configs, full=full) if command == "embed" else {"stream": run_stream, "retry": run_retry}[command](configs)
    runtime = configs[0].runtime
    files = [file for file in (runtime.report, runtime.report_page) if file is not None]
    quarantine = str(parse_table(configs[0].target_table, "target.table").beside("quarantine"))
    emit(as_json, report, lambda console: show_run(console, title_of(configs), report, files, quarantine), how)


def status(conf: Conf, overrides: Overrides = None, as_json: AsJson = False, how: As = Format.TABLE) -> None:
    """Show how many rows are done, left and failed, and which tables stand beside the target. Read-only; loads no model."""
    configs = load_configs(conf, overrides or ())
    with waiting("looking at the tables"):
        from metaeol_udf.care import run_status

        found = [run_status(config) for config in configs]
    emit_each(as_json, configs, found, show_status, how)


def drop(
    conf: Conf,
    overrides: Overrides = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Drop without asking.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    how: As = Format.TABLE,
) -> None:
    """Drop the job's vectors with journal, quarantine and checkpoints. Lists all of it and asks first. Needs no model."""
    configs = load_configs(conf, overrides or ())
    if not (yes or dry_run or sys.stdin.isatty()):
        raise ConfigError("drop asks before it drops, and nobody can answer here: give --yes, or --dry-run for the list alone")
    found = [_drop_column(config, yes, dry_run) for config in configs]
    rows = [
        {"column": config.column, "dropped": each["dropped"], **item}
        for config, each in zip(configs, found, strict=True)
        for item in each["items"]
    ]
    emit_each(
        as_json, configs, found, lambda console, title, each: show_drop(each["items"], title, console, is_done=each["dropped"]), how, rows
    )
    if any(each["items"] and not each["dropped"] for each in found) and not dry_run:
        raise typer.Exit(1)


def _drop_column(config: JobConfig, yes: bool, dry_run: bool) -> dict[str, Any]:
    """Drop the vectors of one column. Asks first, unless --yes was given."""
    from metaeol_udf.care import run_drop

    def agree(items: Sequence[DropItem]) -> bool:
        if dry_run or yes:
            return not dry_run
        show_drop(items, config.title, Console(stderr=True))
        return typer.confirm("Drop all of this?")

    with waiting("dropping") if yes or dry_run else nullcontext():  # a question needs the terminal to itself
        return run_drop(config, agree=agree)


def rollback(
    conf: Conf,
    overrides: Overrides = None,
    to: Annotated[int, typer.Option("--to", min=0, metavar="VERSION", help="Version of the table whose vectors come back.")] = ...,  # type: ignore[assignment]  # typer's word for required
    as_json: AsJson = False,
    how: As = Format.TABLE,
) -> None:
    """Restore the vectors and labels of an earlier version of the table, for rows whose text is the same. Needs no model."""
    config = load_config(conf, overrides or ())
    with waiting("bringing the vectors back"):
        from metaeol_udf.care import run_rollback

        found = run_rollback(config, to)
    emit(as_json, found, lambda console: show_rollback(console, config.title, found), how)

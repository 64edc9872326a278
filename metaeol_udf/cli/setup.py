"""Commands before and after a job: init, config, doctor, estimate, report, model prepare."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from metaeol_udf.cli.arguments import As, AsJson, Conf, Overrides, complete_conf
from metaeol_udf.cli.views import Format, emit, emit_each, show_draft, show_estimate, show_finding, show_settings, show_verdict
from metaeol_udf.config import effective_settings, job_schema, load_configs
from metaeol_udf.errors import ConfigError
from metaeol_udf.files import replace_file
from metaeol_udf.terminal import can_move, print_json, waiting


def init(
    table: Annotated[
        str,
        typer.Argument(
            metavar="TABLE_OR_FILE",
            help="A Delta table (a path with a / in it, or a name), or a file or folder of CSV, Parquet, JSON or ORC.",
            show_default=False,
        ),
    ],
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(metavar="CONF", help="The YAML file to write.")] = Path("metaeol.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    as_json: AsJson = False,
    how: As = Format.TABLE,
) -> None:
    """Draft a commented configuration for a table or a file. It guesses key and text column from the schema and some rows."""
    if out.exists() and not force:
        raise ConfigError(f"{out} is there already; --force replaces it")
    with waiting("looking at the rows"):
        from metaeol_udf.starter import draft_config

        draft = draft_config(table, overrides or ())
    replace_file(out, draft.text.encode())
    emit(as_json, {"file": str(out), **draft.facts()}, lambda console: show_draft(console, str(out), draft), how)


def settings(
    conf: Annotated[
        Path | None, typer.Argument(metavar="CONF", help="The job's YAML file.", show_default=False, autocompletion=complete_conf)
    ] = None,
    overrides: Overrides = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of configurations, for editors. Needs no CONF.")] = False,
    as_json: AsJson = False,
    how: As = Format.TABLE,
) -> None:
    """Print the effective settings and where each comes from: a line of a file, the command line or the default.

    Values of spark.conf and source.options are not shown: they may be secrets.
    """
    if schema:
        print_json(job_schema())
        return
    if conf is None:
        raise ConfigError("config needs CONF, or --schema for the JSON schema of all settings")
    found = effective_settings(conf, overrides or ())
    rows = [each.as_dict() for each in found]
    emit(as_json, rows, lambda console: show_settings(console, str(conf), found), how, rows)


def doctor(
    conf: Conf,
    overrides: Overrides = None,
    all_keys: Annotated[
        bool, typer.Option("--all-keys", help="Search the whole table for duplicate keys, not only the first 100,000 rows.")
    ] = False,
    as_json: AsJson = False,
    how: As = Format.TABLE,
) -> None:
    """Check environment, model and tables, and name the setting to change. Read-only."""
    with waiting("starting"):  # these imports take seconds
        from metaeol_udf.doctor import Level, diagnose, exit_code

    findings: list[Any] = []
    console, is_shown = Console(), not as_json and how is Format.TABLE
    checks = diagnose(conf, overrides or (), all_keys=all_keys)
    while True:
        with waiting("checking") if can_move(sys.stderr) or not findings else nullcontext():  # a log has one line for all of them
            finding = next(checks, None)
        if finding is None:
            break
        findings.append(finding)
        if is_shown and finding.level is Level.OK:
            show_finding(console, finding)
    if is_shown:
        show_verdict(console, findings)
    else:
        rows = [vars(finding) | {"level": finding.level.value} for finding in findings]
        emit(as_json, rows, lambda _: None, how, rows)
    raise typer.Exit(exit_code(findings))


def estimate(
    conf: Conf,
    overrides: Overrides = None,
    executors: Annotated[
        str, typer.Option(metavar="N,N,...", help="Numbers of executors that the projection covers, such as 1,8,64.")
    ] = "",
    price_per_hour: Annotated[
        float | None, typer.Option(min=0, help="Price of one executor per hour; overrides estimate.price_per_hour.")
    ] = None,
    sample: Annotated[int, typer.Option(min=1, max=1_000_000, help="Number of texts to tokenise.")] = 2000,
    probe_seconds: Annotated[float, typer.Option(min=0, help="Seconds of speed measurement per worker.")] = 10.0,
    tokens_per_second: Annotated[float | None, typer.Option(help="Known speed of one executor. The model is then not loaded.")] = None,
    as_json: AsJson = False,
    how: As = Format.TABLE,
) -> None:
    """Estimate rows, tokens, hours, cost and bytes of a run before it starts. Read-only."""
    configs = load_configs(conf, overrides or ())
    from metaeol_udf.estimate import EstimateOptions, run_estimate

    numbers = [part.strip() for part in executors.split(",") if part.strip()]
    if not all(number.isdecimal() for number in numbers):
        raise ConfigError(f"--executors must be positive integers with commas between, found {executors!r}")
    asked = EstimateOptions(
        executors=[int(number) for number in numbers],
        price_per_hour=price_per_hour,
        sample_texts=sample,
        probe_seconds=probe_seconds,
        tokens_per_second=tokens_per_second,
    )
    with waiting("counting tokens and timing the model"):
        reports = [run_estimate(config, asked) for config in configs]
    emit_each(as_json, configs, reports, show_estimate, how, [line for report in reports for line in _lines_of(report)])


def _lines_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Make one row for each number of executors, with what all of them share beside it; seconds of phases are `phases.<name>`."""
    shared = {name: value for name, value in found.items() if name not in ("projections", "seconds")}
    return [{**projection, **shared, "phases": found["seconds"]} for projection in found["projections"]]


def report(
    file: Annotated[Path, typer.Argument(metavar="REPORT.json", help="Report of a run (runtime.report).", show_default=False)],
    out: Annotated[Path, typer.Option(metavar="PAGE.html", help="The page to write.", show_default=False)],
    title: Annotated[str, typer.Option(metavar="WORDS", help="Title of the page.")] = "",
) -> None:
    """Make an HTML page from the JSON report of a run. It lacks the map of vectors, which runtime.report_page draws at the end of a job."""
    from metaeol_udf.report_page import read_report, render_page, write_page

    found = read_report(file)
    named = f"{found['table']}: {found['column']}" if found.get("table") else str(file)
    write_page(render_page(found, title or named, why_no_map="The map is drawn when a job ends, with runtime.report_page."), out)
    typer.echo(str(out))


def prepare(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="GGUF file, checkpoint folder, adapter folder, installed package with a GGUF file, or hub id.",
            show_default=False,
        ),
    ],
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="Folder to write.", show_default=False)],
    dtype: Annotated[
        str, typer.Option(metavar="bfloat16|float16|float32|auto", help="Data type of the weights; auto: the source's own.")
    ] = "bfloat16",
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Base model of an adapter: a folder or a hub id. Default: what the adapter names.")
    ] = None,
    revision: Annotated[str | None, typer.Option(metavar="COMMIT", help="Commit or tag of a hub id.")] = None,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run Python code that the source brings.")] = False,
    allow_pickle: Annotated[bool, typer.Option("--allow-pickle", help="Read pickled weights, which can run code.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing model folder.")] = False,
    as_json: AsJson = False,
    how: As = Format.TABLE,
) -> None:
    """Write a model as a folder of plain safetensors with SHA-256 checksums. Jobs verify the checksums when they load it.

    An adapter is merged into its base model, quantised weights are written out in full. Both are proved.
    """
    from metaeol_udf.encoder.checkpoint.prepare import PrepareOptions, prepare_model

    asked = PrepareOptions(
        dtype=dtype, revision=revision, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle, force=force, base=base
    )
    with waiting(f"preparing {source}"):
        made = prepare_model(source, destination, asked)
    line = f"{destination}: made from {source}, {dtype}" if made else f"{destination}: already there and verified"
    emit(as_json, {"folder": str(destination), "source": source, "dtype": dtype, "made": made}, lambda _: typer.echo(line), how)

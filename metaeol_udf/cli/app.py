"""The `metaeol` command: parse, call one function, print, and turn errors into exit statuses.

Nothing heavy is imported before a command runs, so `--help` answers at once.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from metaeol_udf.cli.completion import complete_conf, complete_override
from metaeol_udf.cli.template_commands import templates_app
from metaeol_udf.config import JobConfig, load_config, load_encoder_config
from metaeol_udf.errors import ConfigError, InputError, MetaEOLError, nearest_word
from metaeol_udf.terminal import (
    print_json,
    show_draft,
    show_estimate,
    show_finding,
    show_hits,
    show_pairs,
    show_plan,
    show_report,
    show_words,
    waiting,
)

app = typer.Typer(
    name="metaeol",
    help="Embed text columns of Delta tables with a local LLM and MetaEOL prompts.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
model_app = typer.Typer(help="Make model folders that jobs can load.", no_args_is_help=True)
app.add_typer(model_app, name="model")
app.add_typer(templates_app, name="templates")

Conf = Annotated[Path, typer.Argument(metavar="CONF", help="The job's YAML file.", show_default=False, autocompletion=complete_conf)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Settings that win over the file, such as runtime.device=cpu.",
        show_default=False,
        autocompletion=complete_override,
    ),
]
Where = Annotated[
    str | None, typer.Option(metavar="CONDITION", help="Only rows of the source that meet it, such as \"lang = 'de'\".", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and do and write nothing.")]

_DEBUG = "METAEOL_DEBUG"  # how --debug reaches the handler around all commands


def main() -> None:
    """Run the command line and leave with its status: the entry point that the package installs.

    Returns where all is well: Databricks takes any `SystemExit` of a wheel's entry point for a failure, that of status 0 too.
    """
    status = run()
    if status:
        sys.exit(status)


def run(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Without the program's name; None takes the process's own.

    Returns:
        The exit status, as `run_guarded` gives it.
    """
    return run_guarded(lambda: app(args=arguments, prog_name="metaeol"))


def run_guarded(command: Callable[[], object]) -> int:
    """Run something that a person started, and turn its errors into one message and an exit status.

    Returns:
        0 done, 1 unexpected, 2 configuration or input, 3 over the failure budget, 4 conflict, 5 environment, 6 stopped by the
        quality gate, 130 interrupted, 143 ended by SIGTERM.
    """
    try:
        command()
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except KeyboardInterrupt:
        return 130
    except MetaEOLError as error:
        _say(f"metaeol: {error}")
        _show_trace()
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - the last one on the stack: whatever it is, say it shortly
        # The message of an error that is not ours may quote a text, so it goes to a file that only its owner reads.
        _say(f"metaeol: unexpected {type(error).__name__}")
        if not _show_trace():
            _say(f"Its message and stack trace are in {_save_trace()}; --debug prints them. They may quote the table's texts.")
        return MetaEOLError.exit_code
    return 0


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the versions that matter and leave.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is done to standard error.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print the stack trace of an error.")] = False,
) -> None:
    """Options of all commands."""
    if version:
        from metaeol_udf.versions import versions

        typer.echo("\n".join(f"{name} {found}" for name, found in versions().items()))
        raise typer.Exit
    start_logging(verbose)
    if debug:
        os.environ[_DEBUG] = "1"


@app.command()
def embed(conf: Conf, overrides: Overrides = None, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Embed the rows that changed and write their vectors into the Delta table, once."""
    config = load_config(conf, overrides or ())
    if dry_run:
        _show_plan(config, "embed", as_json)
        return
    from metaeol_udf.delta.job import run_embed

    _run_job(run_embed, config, as_json)


@app.command()
def stream(conf: Conf, overrides: Overrides = None, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Embed what the source's new commits bring: all there is and then end, or every so often (stream.trigger)."""
    config = load_config(conf, overrides or ())
    if dry_run:
        _show_plan(config, "stream", as_json)
        return
    from metaeol_udf.delta.stream import run_stream

    _run_job(run_stream, config, as_json)


@app.command()
def retry(conf: Conf, overrides: Overrides = None, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Try the rows again that failed, but for NULL and blank texts; those that succeed leave the quarantine."""
    config = load_config(conf, overrides or ())
    if dry_run:
        _show_plan(config, "retry", as_json)
        return
    from metaeol_udf.delta.retry import run_retry

    _run_job(run_retry, config, as_json)


@app.command()
def search(
    conf: Conf,
    query: Annotated[str | None, typer.Argument(metavar="[QUERY]", help="What to look for.", show_default=False)] = None,
    overrides: Overrides = None,
    k: Annotated[int, typer.Option("--k", "-k", min=1, max=10_000, help="How many rows.")] = 5,
    where: Where = None,
    queries: Annotated[
        Path | None,
        typer.Option("--queries", metavar="FILE", help="One query a line, instead of QUERY; - reads standard input.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the rows of an embedded table that are nearest to a query, or to each query of a file."""
    asked, settings = _queries(query, queries, overrides or [])
    config = load_config(conf, settings)
    from metaeol_udf.search import search_table

    found = search_table(config, asked, k=k, where=where)
    if as_json:
        lists = [[{"key": hit.key, "text": hit.text, "score": hit.score} for hit in hits] for hits in found]
        by_query = [{"query": query, "hits": hits} for query, hits in zip(asked, lists, strict=True)]
        print_json(lists[0] if queries is None else by_query)
        return
    for number, (one, hits) in enumerate(zip(asked, found, strict=True)):
        if number:
            typer.echo()
        show_hits(Console(), one, hits)


def _queries(query: str | None, file: Path | None, overrides: list[str]) -> tuple[list[str], list[str]]:
    """What to look for, and the settings; beside a file the command line holds no query, so its first word is a setting too."""
    if file is None:
        if query is None:
            raise ConfigError("search needs a QUERY, or --queries FILE with one query a line")
        return [query], overrides
    settings = overrides if query is None else [query, *overrides]
    try:
        lines = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--queries: {file} cannot be read as UTF-8 text ({type(error).__name__})") from None
    asked = [line.strip() for line in lines.splitlines() if line.strip()]
    if not asked:
        raise InputError(f"--queries: {file} holds no query: write one a line")
    return asked, settings


@app.command()
def duplicates(
    conf: Conf,
    overrides: Overrides = None,
    threshold: Annotated[float, typer.Option(help="Least cosine of a pair, over 0 to 1.")] = 0.98,
    k: Annotated[int, typer.Option("--k", "-k", min=1, max=100_000, help="How many pairs to print, most similar first.")] = 20,
    where: Where = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compare all pairs: for tables of up to some 100,000 rows.")] = False,
    recall: Annotated[float, typer.Option(help="Chance that a pair at the threshold is found, without --exact.")] = 0.95,
    out: Annotated[
        str | None,
        typer.Option(metavar="TABLE", help="Write all pairs to a Delta table, or a path that ends in .parquet, and print their number."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find pairs of rows of an embedded table whose vectors are nearly the same."""
    config = load_config(conf, overrides or ())
    from metaeol_udf.search import find_duplicates, write_duplicates

    method = "exact" if exact else "lsh"
    if out is not None:
        n_pairs = write_duplicates(config, out, threshold=threshold, where=where, method=method, recall=recall)
        if as_json:
            print_json({"pairs": n_pairs, "out": out})
        else:
            typer.echo(f"{out}: {n_pairs} pairs")
        return
    pairs = find_duplicates(config, threshold=threshold, k=k, where=where, method=method, recall=recall)
    if as_json:
        print_json([vars(pair) for pair in pairs])
        return
    show_pairs(Console(), pairs)


@app.command()
def explain(
    conf: Conf,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The text to explain.", show_default=False)],
    overrides: Overrides = None,
    top: Annotated[int, typer.Option("--top", min=1, max=1000, help="Words of each template.")] = 10,
    layer: Annotated[str, typer.Option(help="Hidden state to read words from, an index or a fraction; -1: the model's own output.")] = "-1",
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw the words into a file.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a text's embedding holds: for each template the words that the model would most probably say next."""
    config = load_encoder_config(conf, overrides or ())
    from metaeol_udf.explain.next_words import explain_text
    from metaeol_udf.explain.plot import draw_explanation, import_pyplot

    if plot is not None:
        import_pyplot()  # before a model is loaded in vain
    explanation = explain_text(config.embedding, text, device=config.runtime.device, top=top, layer=_parse_layer(layer))
    if plot is not None:
        draw_explanation(explanation, plot)
    if as_json:
        print_json(explanation.to_dict())
        return
    show_words(Console(), explanation)


@app.command()
def doctor(
    conf: Conf,
    overrides: Overrides = None,
    all_keys: Annotated[bool, typer.Option("--all-keys", help="Snapshot for repeated keys in all rows, not in the first 100,000.")] = False,
    as_json: AsJson = False,
) -> None:
    """Snapshot at everything that a job needs, write nothing, and say the exact setting to change."""
    from metaeol_udf.doctor import diagnose, exit_code

    findings = []
    console = Console()
    for finding in diagnose(conf, overrides or (), all_keys=all_keys):
        findings.append(finding)
        if not as_json:
            show_finding(console, finding)
    if as_json:
        print_json([vars(finding) for finding in findings])
    raise typer.Exit(exit_code(findings))


@app.command()
def estimate(
    conf: Conf,
    overrides: Overrides = None,
    executors: Annotated[str, typer.Option(help="Numbers of executors to project to, such as 1,8,64.")] = "",
    price_per_hour: Annotated[float | None, typer.Option(min=0, help="Of one executor; wins over estimate.price_per_hour.")] = None,
    sample: Annotated[int, typer.Option(min=1, max=1_000_000, help="Texts whose tokens are counted.")] = 2000,
    probe_seconds: Annotated[float, typer.Option(min=0, help="How long each worker is timed.")] = 10.0,
    tokens_per_second: Annotated[float | None, typer.Option(help="Rate of one executor, if known: no model is loaded.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a run would take, before anything runs: rows, real tokens, hours, cost, bytes. Writes nothing."""
    config = load_config(conf, overrides or ())
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
    report = run_estimate(config, asked)
    if as_json:
        print_json(report)
    else:
        show_estimate(Console(), f"{config.target_table}: column {config.column}", report)


@app.command()
def evaluate(
    conf: Conf,
    overrides: Overrides = None,
    spark: Annotated[bool, typer.Option("--spark", help="Embed in Spark, as the job does, not in this process.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Rows of each task; wins over evaluation.limit.", show_default=False)] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the scores into this .svg, .png or .pdf file.", show_default=False)] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Another configuration or spec, for its column beside; may be repeated.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score the vectors on labelled data (evaluation.data): sentence similarity and transfer tasks. Needs no table."""
    config = load_encoder_config(conf, overrides or ())
    if limit is not None:
        config = dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, limit=limit))
    from metaeol_udf.quality.command import run_comparison, run_evaluate

    if against:
        if plot is not None:
            raise ConfigError("--plot draws one configuration: leave out --against")
        others = {str(path): load_encoder_config(path).embedding for path in against}
        reports = run_comparison(config, {str(conf): config.embedding, **others}, with_spark=spark)
        if as_json:
            print_json(reports)
            return
        from metaeol_udf.quality.report import show_comparison

        show_comparison(Console(), reports)
        return
    with waiting("embedding in Spark and scoring") if spark else nullcontext():
        report = run_evaluate(config, with_spark=spark, plot=plot)
    if as_json:
        print_json(report)
        return
    from metaeol_udf.quality.report import show_evaluation

    show_evaluation(Console(), f"{report['model']}: templates {report['templates']}, layer {report['layer']}", report)


@app.command()
def tune(
    conf: Conf,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Spec file to write, such as conf/specs/mine.yaml.", show_default=False)] = None,
    max_cost: Annotated[float, typer.Option(min=0, help="Most that the choice may cost, against the configuration.")] = 1.0,
    unlabelled: Annotated[bool, typer.Option("--unlabelled", help="Tune on the source table's texts, without labels.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw quality against cost into this file.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Choose output layers, templates and post-processing on labelled pairs (evaluation.data), and write them as a spec."""
    config = load_config(conf, overrides or ()) if unlabelled else load_encoder_config(conf, overrides or ())
    from metaeol_udf.tuning.command import run_tune

    report = run_tune(config, out, max_cost=max_cost, unlabelled=unlabelled, plot=plot)
    if as_json:
        print_json(report)
        return
    from metaeol_udf.tuning.terminal_report import show_tuning

    show_tuning(Console(), report)


@app.command()
def curves(
    conf: Conf,
    overrides: Overrides = None,
    layers: Annotated[Path | None, typer.Option(help="Draw the scores by output layer into this file.", show_default=False)] = None,
    prompts: Annotated[Path | None, typer.Option(help="Draw the scores by number of prompts into this file.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Score the vectors by output layer and by number of prompts on labelled pairs (evaluation.data), from one pass."""
    config = load_encoder_config(conf, overrides or ())
    from metaeol_udf.tuning.command import run_curves

    report = run_curves(config, layers=layers, prompts=prompts)
    if as_json:
        print_json(report)
        return
    from metaeol_udf.tuning.terminal_report import show_curves

    show_curves(Console(), report)


@app.command()
def fit(
    conf: Conf,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="The safetensors file to write.", show_default=False)] = ...,  # type: ignore[assignment]  # typer's word for required
    method: Annotated[str, typer.Option(help="mean, standardize, remove_top or whiten.")] = "mean",
    components: Annotated[int | None, typer.Option(min=1, help="To remove, or to keep when whitening.", show_default=False)] = None,
    shrinkage: Annotated[float, typer.Option(min=0, max=1, help="Of whitening: how far variances are drawn together.")] = 0.1,
    texts: Annotated[int, typer.Option(min=100, help="Different texts to fit on, at most.")] = 20_000,
    data: Annotated[bool, typer.Option("--data", help="Fit on the texts of evaluation.data, in this process.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fit post-processing on the texts of the source table, which need no labels, in one pass of Spark."""
    from metaeol_udf.encoder.vectors.postprocess import METHODS

    if method not in METHODS:  # before the texts are embedded in vain
        raise ConfigError(f"--method must be one of {', '.join(METHODS)}, found {method!r}{nearest_word(method, METHODS)}")
    if data:
        from metaeol_udf.tuning.fit_on_data import run_fit_data

        found = load_encoder_config(conf, overrides or ())
        report = run_fit_data(found, out, method, n_components=components, shrinkage=shrinkage, n_texts=texts)
    else:
        config = load_config(conf, overrides or ())
        from metaeol_udf.delta.fit import run_fit

        with waiting("embedding texts and fitting"):
            report = run_fit(config, out, method, n_components=components, shrinkage=shrinkage, n_texts=texts)
    if as_json:
        print_json(report)
        return
    typer.echo(f"{report['file']}: {method}, {report['hidden_size']} dimensions to {report['dim']}; set {report['setting']}")


@app.command()
def report(
    file: Annotated[Path, typer.Argument(metavar="REPORT.json", help="A run report (runtime.report).", show_default=False)],
    out: Annotated[Path, typer.Option(metavar="PAGE.html", help="The page to write.", show_default=False)],
    title: Annotated[str, typer.Option(help="What stands at the head of the page.")] = "",
) -> None:
    """Lay a JSON run report out as an HTML page: without the map, which runtime.report_page draws when the job ends."""
    from metaeol_udf.report_page import read_report, render_page, write_page

    found = read_report(file)
    write_page(render_page(found, title or str(file), why_no_map="The map is drawn when a job ends, with runtime.report_page."), out)
    typer.echo(str(out))


@app.command()
def init(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="The Delta table: a path with a / in it, or a name.", show_default=False)],
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(metavar="CONF", help="The YAML file to write.")] = Path("metaeol.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there already.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a commented configuration for a table: key and text column are guessed from its schema and some of its rows."""
    if out.exists() and not force:
        raise ConfigError(f"{out} is there already; --force replaces it")
    from metaeol_udf.starter import draft_config, write_config

    draft = draft_config(table, overrides or ())
    write_config(draft, out)
    if as_json:
        print_json({"file": str(out), **draft.facts()})
        return
    show_draft(Console(), str(out), draft.facts())


@model_app.command()
def prepare(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="GGUF file, checkpoint folder, installed package with a GGUF file, or hub id.", show_default=False
        ),
    ],
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="The folder to make.", show_default=False)],
    dtype: Annotated[str, typer.Option(help="Of the weights: bfloat16, float16, float32, or auto as in the source.")] = "bfloat16",
    revision: Annotated[str | None, typer.Option(help="Commit of a hub id.")] = None,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the source.")] = False,
    allow_pickle: Annotated[bool, typer.Option("--allow-pickle", help="Read weights that are not safetensors.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a model folder that is there already.")] = False,
    as_json: AsJson = False,
) -> None:
    """Turn a model into a folder of safetensors with a manifest of SHA-256 hashes, which are checked whenever it is loaded."""
    from metaeol_udf.encoder.checkpoint.prepare import PrepareOptions, prepare_model

    asked = PrepareOptions(dtype=dtype, revision=revision, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle, force=force)
    made = prepare_model(source, destination, asked)
    if as_json:
        print_json({"folder": str(destination), "source": source, "dtype": dtype, "made": made})
        return
    typer.echo(f"{destination}: made from {source}, {dtype}" if made else f"{destination}: already there and verified")


def _parse_layer(layer: str) -> int | float:
    try:
        return int(layer) if layer.lstrip("-").isdecimal() else float(layer)
    except ValueError:
        raise ConfigError(f"--layer must be an integer index or a fraction of depth from 0.0 to 1.0, found {layer!r}") from None


def _run_job(job: Callable[[JobConfig], dict[str, Any]], config: JobConfig, as_json: bool) -> None:
    """Run a job that heeds SIGTERM, and print its report."""
    from metaeol_udf.delta.base.shutdown import end_on_sigterm

    with end_on_sigterm():
        report = job(config)
    if as_json:
        print_json(report)
        return
    show_report(Console(), f"{config.target_table}: column {config.column}", report)


def _show_plan(config: JobConfig, command: str, as_json: bool) -> None:
    """Print what a job would do."""
    from metaeol_udf.estimate.dry_run import plan_dry_run

    plan = plan_dry_run(config, command)
    if as_json:
        print_json(plan)
    else:
        show_plan(Console(), f"{config.target_table}: column {config.column}", plan)


def start_logging(verbose: bool = False) -> None:
    """Log to standard error: warnings, and how far a job is where no bar can show it; everything of ours if `verbose`."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("metaeol_udf" if verbose else "metaeol_udf.delta.base.progress").setLevel(logging.INFO)


def _say(message: str) -> None:
    sys.stdout.flush()
    typer.echo(message, err=True)


def _show_trace() -> bool:
    if _DEBUG not in os.environ:
        return False
    traceback.print_exc()
    return True


def _save_trace() -> str:
    handle, path = tempfile.mkstemp(prefix="metaeol-", suffix=".trace")  # mode 0600
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        traceback.print_exc(file=file)
    return path

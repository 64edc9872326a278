"""The `metaeol` command: its options, its commands in the order of `--help`, and exit statuses for errors.

Nothing heavy is imported before a command runs, so `--help` answers at once.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import Annotated

import typer

from metaeol_udf.cli.command_help import Command, Group, epilog
from metaeol_udf.cli.jobs import drop, embed, retry, rollback, status, stream
from metaeol_udf.cli.quality import curves, evaluate, explain, fit, tune
from metaeol_udf.cli.setup import doctor, estimate, init, prepare, report, settings
from metaeol_udf.cli.template_commands import templates_app
from metaeol_udf.cli.vectors import check, duplicates, log_model, search, serve
from metaeol_udf.cli.views.log_lines import JsonLine, TextLine
from metaeol_udf.errors import MetaEOLError
from metaeol_udf.formatting import visible
from metaeol_udf.terminal import set_plain, set_quiet

logger = logging.getLogger(__name__)

#: The commands by what they are for, in the order of `--help`.
_COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {
    "Start": (init, settings, doctor, estimate),
    "Run": (embed, stream, retry, report),
    "Look after": (status, rollback, drop),
    "Use": (search, duplicates, check, serve, log_model, explain),
    "Improve": (evaluate, tune, curves, fit),
}
_NAMES: dict[Callable[..., None], str] = {check: "test", settings: "config"}  # where the function cannot have the command's name
_ANYWHERE = ("--verbose", "-v", "--quiet", "-q", "--log-json", "--debug")  # options of all commands, before the command's name or after it
_DEBUG = "METAEOL_DEBUG"  # how --debug reaches the handler around all commands

app = typer.Typer(
    name="metaeol",
    help="Embed text columns of Delta tables with a local LLM and MetaEOL prompts.",
    epilog="Begin with: metaeol init TABLE_OR_FILE --out job.yaml\n\nMore: README.md, docs/tutorial.md",
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for panel, commands in _COMMANDS.items():
    for each in commands:
        name = _NAMES.get(each, each.__name__.replace("_", "-"))
        app.command(name, cls=Command, epilog=epilog(name), rich_help_panel=panel)(each)
model_app = typer.Typer(help="Make model folders that jobs can load.", cls=Group, no_args_is_help=True)
model_app.command(cls=Command, epilog=epilog("model prepare"))(prepare)
app.add_typer(model_app, name="model", rich_help_panel="Start")
app.add_typer(templates_app, name="templates", rich_help_panel="Improve")


def main() -> None:
    """Run the command line and leave with its status: the entry point that the package installs.

    Returns where all is well: Databricks takes any `SystemExit` of a wheel's entry point for a failure, that of status 0 too.
    """
    status = run()
    if status:
        sys.exit(status)


def run(arguments: list[str] | None = None) -> int:
    """Run the command line on arguments without the program's name, or on the process's own; return the status of `run_guarded`."""
    return run_guarded(lambda: app(args=_options_first(sys.argv[1:] if arguments is None else arguments), prog_name="metaeol"))


def _options_first(arguments: list[str]) -> list[str]:
    """Move the options of all commands before the command's name, where they may stand as well; what follows `--` stays."""
    n_before = arguments.index("--") if "--" in arguments else len(arguments)
    before = arguments[:n_before]
    moved = [word for word in before if word in _ANYWHERE]
    return [*moved, *(word for word in before if word not in _ANYWHERE), *arguments[n_before:]]


def run_guarded(command: Callable[[], object]) -> int:
    """Run something that a person started, and turn its errors into one message and an exit status.

    Returns:
        0 done, 1 unexpected, 2 configuration or input, 3 over the failure budget, 4 conflict, 5 environment, 6 stopped by the
        quality gate or by a query of `test`, 130 interrupted, 143 ended by SIGTERM.
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
    version: Annotated[bool, typer.Option("--version", help="Show the versions that matter and exit.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log each step to standard error.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress. Warnings and the result are still printed.")] = False,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log each line as a JSON object, for programs that collect logs.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the stack trace of an error.")] = False,
) -> None:
    """Options of all commands; they may stand before a command or after it."""
    if version:
        from metaeol_udf.versions import versions

        typer.echo("\n".join(f"{name} {found}" for name, found in versions().items()))
        raise typer.Exit
    start_logging(verbose, quiet, log_json)
    set_quiet(quiet)
    if debug:
        os.environ[_DEBUG] = "1"


def start_logging(verbose: bool = False, quiet: bool = False, as_json: bool = False) -> None:
    """Log to standard error: warnings, and how far a command is where no bar can show it; everything of ours if `verbose`.

    If `quiet`, warnings alone. If `as_json`, each line is a JSON object, also on a terminal.
    """
    set_plain(as_json)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLine() if as_json else TextLine())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("metaeol_udf").setLevel(logging.INFO if verbose else logging.NOTSET)
    for name in ("metaeol_udf.delta.base.progress", "metaeol_udf.terminal"):
        logging.getLogger(name).setLevel(logging.WARNING if quiet and not verbose else logging.INFO)


def _say(message: str) -> None:
    sys.stdout.flush()
    if any(isinstance(handler.formatter, JsonLine) for handler in logging.getLogger().handlers):
        logger.error("%s", message)
    else:
        typer.echo(visible(message), err=True)


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

"""The `metaeol` command: parses what a person typed, calls one function, prints the result. Imports nothing heavy before that."""

from metaeol_udf.cli.app import app, main, run, run_guarded, start_logging

__all__ = ["app", "main", "run", "run_guarded", "start_logging"]

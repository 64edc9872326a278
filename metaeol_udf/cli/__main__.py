"""Runs the command line as `python -m metaeol_udf.cli`."""

from metaeol_udf.cli.app import main

main()

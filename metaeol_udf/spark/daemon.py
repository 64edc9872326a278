"""Spark's Python daemon, with the engine imported before it forks: its workers start at once, and share what imports take of memory.

Importing torch and transformers takes ten seconds of a core, and Spark ends workers that were idle for a minute. A session that
`get_session` starts on this machine has this daemon; elsewhere `spark.python.daemon.module: metaeol_udf.spark.daemon` asks for
it, where the package is installed on every machine.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys

from metaeol_udf.spark.worker.encoder_cache import go_offline

#: What loading a model imports, with a family that shares nearly all of it with the others. Nothing that starts threads, which
#: do not survive a fork: no pandas and no pyarrow.
PRELOADED = ("metaeol_udf.encoder.encoder", "transformers.models.auto.tokenization_auto", "transformers.models.llama.modeling_llama")


def preload() -> None:
    """Import `PRELOADED`; what is not there is left to the worker that needs it, whose error says so."""
    go_offline()
    # Spark reads a port from standard output, and nothing else.
    with contextlib.redirect_stdout(sys.stderr), contextlib.suppress(ImportError, OSError):
        for name in PRELOADED:
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a worker's collector would write to every object, and so copy it


if __name__ == "__main__":
    from pyspark.daemon import manager

    preload()
    try:
        manager()
    except SystemExit as end:  # at once: taking down what was imported takes a second, and some of it complains
        os._exit(end.code if isinstance(end.code, int) else 1)

"""Faults inside Python workers, without a hook in the product: the job's UDF is replaced by one that meddles and then does the same."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyspark import cloudpickle

from metaeol_udf.delta.write import waves
from metaeol_udf.spark import udf
from metaeol_udf.spark.worker.encoder_cache import EncoderRequest


def meddle(
    patch: pytest.MonkeyPatch, before: Callable[[list[str]], None] | None = None, with_encoder: Callable[[Any], None] | None = None
) -> None:
    """Run code of a test inside the workers of the job.

    Args:
        patch: Undone at the test's end.
        before: Called with each Arrow batch's texts before the model sees them.
        with_encoder: Called with the encoder before it is used; a `run` that it sets on `engine.runner`, and an
            `encode_batches` on the encoder, are taken away afterwards.
    """
    for function in (before, with_encoder):
        if function is not None:
            cloudpickle.register_pickle_by_value(sys.modules[function.__module__])
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    patch.setattr(waves, "result_udf", lambda request: _meddling_udf(request, before, with_encoder))


def _meddling_udf(request: EncoderRequest, before: Callable[[list[str]], None] | None, with_encoder: Callable[[Any], None] | None) -> Any:
    def embed(batches: Iterator[pd.Series]) -> Iterator[pd.DataFrame]:
        from metaeol_udf.spark.worker import embed_column

        real, used = embed_column.get_encoder, []

        def get_encoder(asked: Any) -> Any:
            loaded = real(asked)
            if with_encoder is not None:
                with_encoder(loaded.encoder)
                used.append(loaded.encoder)
            return loaded

        def watched() -> Iterator[pd.Series]:
            for batch in batches:
                if before is not None:
                    before(list(batch))
                yield batch

        embed_column.get_encoder = get_encoder  # type: ignore[assignment]
        try:
            yield from embed_column.embed_column(request, watched())
        finally:
            embed_column.get_encoder = real
            for encoder in used:
                vars(encoder.engine.runner).pop("run", None)
                vars(encoder).pop("encode_batches", None)

    return udf._on_valid_text(udf._pandas_udf(embed, udf.RESULT_TYPE))


def once(mark: Path, what: str) -> Callable[[list[str]], None]:
    """Something that happens in one worker, one time.

    Args:
        mark: A file that says that it has happened.
        what: `memory`, `kill`, `segfault` or `hang`.
    """
    name = str(mark)

    def happen(texts: list[str]) -> None:
        try:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        if what == "memory":
            raise MemoryError
        if what == "hang":
            time.sleep(600)
        os.kill(os.getpid(), signal.SIGKILL if what == "kill" else signal.SIGSEGV)

    return happen

"""A stand-in for the model: plain Python can tell the vector of each text, and a file says which texts the model saw."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import pandas_udf

from metaeol_udf.prompts.cleanup import clean_text
from metaeol_udf.spark.udf import RESULT_TYPE
from metaeol_udf.spark.worker.embed_column import result_frame
from metaeol_udf.spark.worker.encoder_cache import EncoderRequest
from tests.table_bench import POISON

#: The error of a text that the stand-in has no vector of.
FAILED = "non_finite"


def vector_of(spec_fingerprint: str, text: str, length: int) -> NDArray[np.float32]:
    """Make the one vector of a text and a spec: numbers from -1 to 1 off the digest of both."""
    cleaned = hashlib.sha256(clean_text(text, "paper").encode()).hexdigest()
    digest = hashlib.shake_256(f"{spec_fingerprint} {cleaned}".encode()).digest(4 * length)
    return (np.frombuffer(digest, "<i4") / 2.0**31).astype(np.float32)


def row_fingerprint(spec_fingerprint: str, text: str | None) -> str:
    """Make the row fingerprint of a text, by plain Python."""
    return f"{spec_fingerprint}-null" if text is None else f"{spec_fingerprint}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


class Calls:
    """The texts that the stand-in was called with, as a file of row fingerprints that the workers append to."""

    def __init__(self, path: Path) -> None:
        self._path, self._n_taken = path, 0
        path.touch()

    def take(self) -> list[str]:
        """Take the row fingerprints that came since the last look."""
        lines = self._path.read_text(encoding="ascii").splitlines()
        new, self._n_taken = lines[self._n_taken :], len(lines)
        return new

    def result_udf(self, request: EncoderRequest) -> Callable[[Column], Column]:
        """Make what takes the place of `metaeol_udf.spark.udf.result_udf`."""
        path, spec, length = str(self._path), request.resolved.fingerprint, request.resolved.vector_length

        def embed(batches: Iterator[pd.Series]) -> Iterator[pd.DataFrame]:
            return (_embed(list(texts), path, spec, length) for texts in batches)

        udf: Any = pandas_udf(embed, RESULT_TYPE)  # type: ignore[call-overload]  # its overloads name one hint each
        return lambda text: udf.asNondeterministic()(F.make_valid_utf8(text))


def _embed(texts: list[str], path: str, spec_fingerprint: str, length: int) -> pd.DataFrame:
    """Embed a batch, on a worker."""
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError("a NULL or blank text reached the model")
    with open(path, "a", encoding="ascii") as file:  # one write, so that workers side by side do not mix their lines
        file.write("".join(f"{row_fingerprint(spec_fingerprint, text)}\n" for text in texts))
    errors = [FAILED if POISON in text else None for text in texts]
    vectors = np.array([vector_of(spec_fingerprint, text, length) for text in texts], np.float32)
    return result_frame(vectors, errors, "stand-in:0:0:")

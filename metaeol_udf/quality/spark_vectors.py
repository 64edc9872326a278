"""Vectors of many texts by the way that a job's take: a DataFrame and `with_embeddings` in the session that the settings describe."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import SparkSession
from pyspark.sql.types import LongType, StringType, StructField, StructType

from metaeol_udf.config import EncoderConfig
from metaeol_udf.quality.vectors import require_all
from metaeol_udf.spark.cluster.resolve import resolve
from metaeol_udf.spark.cluster.session import get_session
from metaeol_udf.spark.udf import with_embeddings

_SCHEMA = StructType([StructField("number", LongType()), StructField("text", StringType())])


class SparkVectors:
    """Turns texts into vectors on the executors of a session. The model is loaded by their Python workers.

    Attributes:
        spec: What is computed; resolved.
        cost: What the last call took: texts, and seconds with the start of the session's workers and their models.
    """

    def __init__(self, config: EncoderConfig, spark: SparkSession | None = None) -> None:
        """Start the session, unless one is given or active, and check model, layer and templates."""
        self._spark = spark if spark is not None else get_session(config.spark)
        self._runtime = config.runtime
        self._resolved = resolve(config.embedding, lambda: self._spark)
        self.spec = self._resolved.spec
        self.cost: dict[str, Any] = {"through": "spark"}

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts, none of them blank: shape ``(n_texts, dim)``, rows in their order. As `require_all` says, none may fail."""
        started = time.perf_counter()
        rows = self._spark.createDataFrame(list(enumerate(texts)), _SCHEMA)
        found = with_embeddings(rows, self._resolved, "text", "vector", self._runtime.device, self._runtime.max_batch_tokens)
        table = found.select("number", "vector", "vector_error").toArrow().sort_by("number")
        require_all(table["vector_error"].to_pylist())
        vectors = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(len(texts), -1)
        self.cost |= {"unique_texts": len(texts), "seconds": {"embed": time.perf_counter() - started}}
        return np.asarray(vectors, np.float32)

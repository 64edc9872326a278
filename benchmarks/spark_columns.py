"""Embedding a column of a Spark DataFrame: this package's UDF and `distribatch`, in one session on the same rows.

One task at a time with all of the run's threads. Vectors are collected, which for either is a small part of the time.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pyspark.sql import SparkSession

from benchmarks.baselines import Vectors, fill_prompts
from metaeol_udf import EmbeddingSpec, TemplateSet
from metaeol_udf.config import SparkConfig
from metaeol_udf.spark import embed_udf
from metaeol_udf.spark.cluster.session import get_session

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def start_session(n_slots: int, n_threads: int) -> SparkSession:
    """A local session with so many task slots, whose Python workers have so many threads each and import what this process imports."""
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([os.getcwd(), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]))
    return get_session(SparkConfig(master=f"local[{n_slots}]", conf={"spark.executorEnv.OMP_NUM_THREADS": str(n_threads)}))


class SparkColumn:
    """`embed_udf` over a DataFrame of one partition."""

    def __init__(self, session: SparkSession, spec: EmbeddingSpec) -> None:
        self._session = session
        self._udf = embed_udf(spec, device="cpu")

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Shape ``(n_texts, dim)``, in order."""
        frame = _frame(self._session, texts, "text")
        return _vectors(frame.select("id", self._udf("text").alias("vector")))


class Distribatch:
    """`distribatch` (PyPI): its transformers engine with last-token pooling, a row a prompt; the mean is taken here.

    It knows one prompt template a job, so the table holds the filled prompts. Its batches are raised from 8 to 32 rows.
    """

    def __init__(self, session: SparkSession, model: Path) -> None:
        import distribatch

        self._session = session
        options = {"pooling": "last", "device": "cpu", "dtype": "float32", "micro_batch_size": 32}
        weights = distribatch.models.path(str(model.resolve()))
        self._job: Any = distribatch.EmbedJob(model=weights, text="{prompt}", engine="transformers", engine_options=options)

    def encode(self, texts: Sequence[str], templates: TemplateSet) -> Vectors:
        """Mean over templates of the last layer at the last token, shape ``(n_texts, hidden_size)``."""
        frame = _frame(self._session, fill_prompts(templates, texts), "prompt")
        done = self._job.run(frame, backend="spark", output_col="vector")
        vectors = _vectors(done.select("id", "vector"))
        mean: Vectors = vectors.reshape(len(texts), len(templates.templates), -1).mean(1)
        return mean


def find_distribatch(folder: str | None) -> None:
    """Make `distribatch` importable here and in Spark's workers.

    Args:
        folder: Where `pip install --no-deps --target FOLDER distribatch cloudpickle` put it; None where it is installed.

    Raises:
        RuntimeError: It is not there.
    """
    if folder is not None:
        sys.path.append(str(Path(folder).resolve()))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(Path(folder).resolve())]))
    if importlib.util.find_spec("distribatch") is None:
        raise RuntimeError("distribatch is not installed (--distribatch DIR names a folder that holds it)")


def column_spec(model: Path, templates: str, dtype: str) -> EmbeddingSpec:
    """A spec over a model folder, wherever the worker's own folder is."""
    return dataclasses.replace(EmbeddingSpec(model=str(model.resolve())), templates=templates, dtype=dtype)


def _frame(session: SparkSession, values: Sequence[str], name: str) -> DataFrame:
    return session.createDataFrame(list(enumerate(values)), f"id long, {name} string").coalesce(1)


def _vectors(frame: DataFrame) -> Vectors:
    rows = frame.toPandas().sort_values("id")
    return np.stack([np.asarray(vector, np.float32) for vector in rows["vector"]])

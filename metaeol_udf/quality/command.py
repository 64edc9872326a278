"""What `metaeol evaluate` does: read the tasks, embed, score, report."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from metaeol_udf.config import EncoderConfig, GivenEncoderConfig, as_encoder_config
from metaeol_udf.encoder.checkpoint.resolve import resolve_local
from metaeol_udf.errors import ConfigError
from metaeol_udf.evaluation.data import Task, load_tasks
from metaeol_udf.evaluation.run import check_tasks, evaluate
from metaeol_udf.plots import check_plot
from metaeol_udf.quality.plot import plot_scores
from metaeol_udf.quality.report import make_report
from metaeol_udf.spec import EmbeddingSpec

_SHOWN = (
    "model",
    "templates",
    "layer",
    "dtype",
    "quantization",
    "postprocess",
    "normalize",
    "truncate_dim",
    "values",
    "per_template",
    "max_tokens",
    "long_texts",
    "passage",
)


class Vectors(Protocol):
    """Turns texts into vectors, and knows what it computes and what that cost."""

    spec: EmbeddingSpec
    cost: dict[str, Any]

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts: shape ``(n_texts, dim)``, rows in their order."""


def run_evaluate(
    config: GivenEncoderConfig, *, with_spark: bool = False, plot: Path | None = None, tasks: Sequence[Task] | None = None
) -> dict[str, Any]:
    """Score the vectors of a configuration on the tasks it names.

    Args:
        config: A configuration, its path, or nested mappings. `embedding`, `runtime` and `evaluation` are read, and `spark` with
            `with_spark`.
        with_spark: Take vectors from `with_embeddings` in the session of the configuration, not from this process.
        plot: Where to draw the scores; None draws nothing.
        tasks: What to score on, in place of the tasks of `evaluation.data`.

    Returns:
        Plain values: settings with their fingerprint, what the vectors cost, and the scores as `make_report` gives them.

    Raises:
        ConfigError: A setting, the data or an optional package is missing or wrong. No model has been loaded then.
        ModelFilesError: The model's files are not whole.
        MetaEOLError: A text could not be embedded.
    """
    config = as_encoder_config(config)
    tasks = _tasks(config) if tasks is None else tasks
    if plot is not None:
        check_plot(plot)
    vectors = _vectors(config, with_spark)
    settings = config.evaluation
    started = time.perf_counter()
    scores = evaluate(vectors, tasks, resamples=settings.resamples, seed=settings.seed, inner_folds=settings.inner_folds)
    seconds = vectors.cost.pop("seconds")
    seconds["score"] = time.perf_counter() - started - sum(seconds.values())
    written = config.embedding.settings()
    shown = {name: written[name] for name in _SHOWN}
    asked = {"data": settings.data, "limit": settings.limit, "seed": settings.seed, "resamples": settings.resamples}
    report = shown | {"fingerprint": vectors.spec.fingerprint()} | asked | vectors.cost | {"seconds": seconds} | make_report(scores)
    if plot is not None:
        plot_scores(report, plot)
    return report


def run_comparison(
    config: GivenEncoderConfig, specs: Mapping[str, EmbeddingSpec], *, with_spark: bool = False, tasks: Sequence[Task] | None = None
) -> dict[str, dict[str, Any]]:
    """Score several specs, of one model or of several, on the same tasks with everything else as configured.

    Returns:
        The report of `run_evaluate` for each, by its name.

    Raises:
        ConfigError: As `run_evaluate`; what can be checked of all specs is checked before the first one is scored.
    """
    config = as_encoder_config(config)
    for spec in specs.values():
        resolve_local(spec)
    configs = {name: dataclasses.replace(config, embedding=spec) for name, spec in specs.items()}
    return {name: run_evaluate(each, with_spark=with_spark, tasks=tasks) for name, each in configs.items()}


def _tasks(config: EncoderConfig) -> list[Task]:
    settings = config.evaluation
    if settings.data is None:
        raise ConfigError("evaluation.data is missing: name a folder that holds sts/, transfer/ or retrieval/, or a retrieval set")
    tasks = load_tasks(settings.data, settings.tasks, settings.limit, settings.seed)
    check_tasks(tasks)
    return tasks


def _vectors(config: EncoderConfig, with_spark: bool) -> Vectors:
    if with_spark:
        from metaeol_udf.quality.spark_vectors import SparkVectors

        return SparkVectors(config)
    from metaeol_udf.quality.vectors import LocalVectors

    return LocalVectors(config)

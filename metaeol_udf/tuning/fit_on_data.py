"""`metaeol fit --data`: post-processing fitted on the texts of labelled data, whose labels are not looked at, in this process."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from metaeol_udf.config import GivenEncoderConfig, as_encoder_config
from metaeol_udf.encoder.checkpoint.resolve import resolve_local
from metaeol_udf.encoder.vectors.postprocess import save_postprocess
from metaeol_udf.encoder.vectors.postprocess_fit import Moments, fit_postprocess
from metaeol_udf.errors import ConfigError
from metaeol_udf.evaluation.data import load_tasks
from metaeol_udf.evaluation.run import distinct_texts
from metaeol_udf.quality.vectors import LocalVectors
from metaeol_udf.spec import before_postprocess


def run_fit_data(config: GivenEncoderConfig, out: Path, method: str, *, n_texts: int, **options: Any) -> dict[str, Any]:
    """Fit on the texts of `evaluation.data` and write the file.

    Args:
        config: `embedding`, `runtime` and `evaluation` are read.
        out: The safetensors file; replaced whole, or not at all.
        method: As for `fit_postprocess`, which also takes the options.
        n_texts: Different texts at most, every k-th of all.
        **options: `n_components` and `shrinkage`.

    Raises:
        ConfigError: A setting or the data is missing or wrong.
    """
    config = as_encoder_config(config)
    settings = config.evaluation
    if settings.data is None:
        raise ConfigError("evaluation.data is missing: name a folder that holds sts/NAME.tsv.gz or transfer/NAME.tsv.gz")
    texts = distinct_texts(load_tasks(settings.data, settings.tasks, settings.limit, settings.seed))
    vectors = LocalVectors(dataclasses.replace(config, embedding=before_postprocess(config.embedding)))
    states = vectors(texts[:: -(-len(texts) // n_texts)])
    post = fit_postprocess(Moments.of(states), method, fitted_for=resolve_local(vectors.spec).made_with, **options)
    return save_postprocess(post, method, out)

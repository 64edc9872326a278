"""`metaeol fit --method unembedding`: post-processing read off the model's own head, which needs no texts at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from metaeol_udf.config import GivenEncoderConfig, as_encoder_config
from metaeol_udf.encoder.checkpoint.resolve import resolve_local
from metaeol_udf.encoder.vectors.postprocess import UNEMBEDDING, save_postprocess
from metaeol_udf.encoder.vectors.postprocess_fit import keep_middle
from metaeol_udf.errors import ModelFilesError
from metaeol_udf.explain.language_model import load_language_model
from metaeol_udf.spec import EmbeddingSpec, before_postprocess

_ROWS = 16_384  # of the matrix that are in float64 at once


def run_fit_head(config: GivenEncoderConfig, out: Path, *, n_components: int | None = None) -> dict[str, Any]:
    """Fit on the matrix that turns hidden states into words, and write the file.

    Args:
        config: A configuration, its path, nested mappings, or a spec; `embedding` is read.
        out: The safetensors file; replaced whole, or not at all.
        n_components: As in `keep_middle`.

    Raises:
        ConfigError: `n_components` is out of range, or a setting is wrong.
        ModelFilesError: The checkpoint has no head.
    """
    spec = resolve_local(before_postprocess(as_encoder_config(config).embedding)).spec
    fitted_for = None if spec.model_hash is None else {"model_hash": spec.model_hash}
    post = keep_middle(head_products(spec), n_components, fitted_for)
    return save_postprocess(post, UNEMBEDDING, out)


@torch.inference_mode()
def head_products(spec: EmbeddingSpec) -> NDArray[np.float64]:
    """Compute the sum of the outer products of the head's rows, a row for each word, shape ``(hidden_size, hidden_size)``.

    Raises:
        ModelFilesError: The checkpoint has no head.
    """
    head = load_language_model(spec, "cpu").model.get_output_embeddings()
    if head is None:
        raise ModelFilesError(f"the model in {spec.model} has no head that turns hidden states into words: fit on texts, `--method whiten`")
    weight = head.weight
    products = torch.zeros((weight.shape[1], weight.shape[1]), dtype=torch.float64)
    for start in range(0, len(weight), _ROWS):
        rows = weight[start : start + _ROWS].double()
        products.addmm_(rows.T, rows)
    return products.numpy()

"""From templates' hidden states to the stored vector."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metaeol_udf.encoder.vectors.postprocess import PostProcessing
from metaeol_udf.spec import EmbeddingSpec


def finish_vectors(states: NDArray[np.float32], spec: EmbeddingSpec, post: PostProcessing | None = None) -> NDArray[np.float32]:
    """Post-process, truncate, scale and round as the spec says, in this order.

    Args:
        states: The mean over templates, shape ``(n_texts, hidden_size)``, or with `spec.per_template` each template's
            state, shape ``(n_texts, n_templates, hidden_size)``.
        spec: Gives `truncate_dim`, `normalize` and `values`.
        post: What `spec.postprocess` names.

    Returns:
        Shape ``(n_texts, dim)``; with `spec.per_template` the templates' vectors side by side, each of length 1 where
        `normalize` is on.
    """
    vectors = (states if post is None else post(states))[..., : spec.truncate_dim]
    if spec.normalize:
        vectors = _divide(vectors, np.linalg.norm(vectors, axis=-1, keepdims=True))
    if spec.values == "int8":
        # A scale of each vector's own keeps its direction, which is all that a cosine sees.
        vectors = np.rint(_divide(vectors, np.abs(vectors).max(-1, keepdims=True)) * 127.0)
    elif spec.values == "binary":
        # NaN and infinity stay, so that a failed vector is still seen as one.
        vectors = np.where(np.isfinite(vectors), np.where(vectors < 0, np.float32(-1.0), np.float32(1.0)), vectors)
    return np.ascontiguousarray(vectors.reshape(len(states), -1), dtype=np.float32)


def _divide(vectors: NDArray[np.float32], by: NDArray[np.float32]) -> NDArray[np.float32]:
    """By lengths that may be 0, which gives zeros; what is not finite stays so, and is seen as failed."""
    return np.divide(vectors, by, out=np.zeros_like(vectors), where=by != 0)

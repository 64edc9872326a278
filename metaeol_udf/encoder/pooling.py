"""From templates' hidden states to the stored vector."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metaeol_udf.spec import EmbeddingSpec


def finish_vectors(states: NDArray[np.float32], spec: EmbeddingSpec) -> NDArray[np.float32]:
    """Truncate and scale as the spec says.

    Args:
        states: The mean over templates, shape ``(n_texts, hidden_size)``, or with `spec.per_template` each template's
            state, shape ``(n_texts, n_templates, hidden_size)``.
        spec: Gives `truncate_dim` and `normalize`.

    Returns:
        Shape ``(n_texts, dim)``; with `spec.per_template` the templates' vectors side by side, each of length 1 where
        `normalize` is on.
    """
    vectors = states[..., : spec.truncate_dim]
    if spec.normalize:
        lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
        vectors = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return np.ascontiguousarray(vectors.reshape(len(states), -1))

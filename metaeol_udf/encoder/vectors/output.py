"""From the hidden states of prompts to the stored vector: the mean over templates, post-processing, scaling and rounding.

Hidden states of a language model lie in a narrow cone around a common mean (Ethayarajh 2019, arXiv:1909.00512), which hides
differences of meaning. Taking the mean away, its top components too (Mu and Viswanath 2018, arXiv:1702.01417), or whitening
(Su et al. 2021, arXiv:2103.15316) spreads them. Imports neither torch nor Spark.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from metaeol_udf.errors import ConfigError
from metaeol_udf.files import parse_json
from metaeol_udf.formatting import shorten
from metaeol_udf.spec import EmbeddingSpec

_FITTED_FOR = "fitted_for"  # under this name in the file's metadata
_SHAPES = {"mean": 1, "scale": 1, "removed": 2, "matrix": 2}


def add_states(
    sums: NDArray[np.float32], states: NDArray[np.float32], rows: Sequence[int], templates: Sequence[int], n_templates: int
) -> None:
    """Add the hidden states of some prompts to their texts' embeddings: the mean over templates, which is MetaEOL (arXiv:2402.18458).

    Args:
        sums: The embeddings so far, changed in place: shape ``(n_texts, …, hidden_size)``, or ``(n_texts, n_templates, …,
            hidden_size)`` where templates are kept apart.
        states: The hidden states, shape ``(n_rows, n_group_templates, …, hidden_size)``.
        rows: The texts of the states, shape ``(n_rows,)``.
        templates: The templates of the states, shape ``(n_group_templates,)``.
        n_templates: Templates of the whole set.
    """
    places = np.array(rows)
    if sums.ndim == states.ndim:
        sums[places[:, None], np.array(templates)[None]] = states
    else:
        sums[places] += states.sum(1) / n_templates


@dataclass(frozen=True)
class PassageMean:
    """Describes a text whose hidden state is the mean of those of its passages.

    Attributes:
        rows: Rows of the passages' states, shape ``(n_passages,)``.
        weights: Tokens of each passage.
    """

    rows: tuple[int, ...]
    weights: tuple[int, ...]


def append_means(
    states: NDArray[np.float32], errors: list[str | None], means: Sequence[PassageMean]
) -> tuple[NDArray[np.float32], list[str | None]]:
    """Append a row for each text in passages: the mean of its passages' states, weighted by their tokens.

    Args:
        states: Shape ``(n_rows, …, hidden_size)``, not post-processed.
        errors: An error or None for each row. A text in passages has the first error of its passages.
        means: The texts, shape ``(n_means,)``.

    Returns:
        States, shape ``(n_rows + n_means, …, hidden_size)``, and an error or None for each.
    """
    if not means:
        return states, errors
    weights = [np.array(mean.weights, np.float64) / sum(mean.weights) for mean in means]
    made = [np.tensordot(share, states[list(mean.rows)], 1) for share, mean in zip(weights, means, strict=True)]
    failed = [next((errors[row] for row in mean.rows if errors[row] is not None), None) for mean in means]
    return np.concatenate([states, np.array(made, np.float32)]), [*errors, *failed]


@dataclass(frozen=True)
class PostProcessing:
    """Applies ``x -> (x - mean) * scale``, less its part along `removed`, times `matrix`; what is None is left out.

    Attributes:
        mean: Shape ``(hidden_size,)``.
        scale: Shape ``(hidden_size,)``, or None.
        removed: Orthonormal directions, shape ``(n_removed, hidden_size)``, or None.
        matrix: Shape ``(hidden_size, n_out)``, or None.
        fitted_for: What it was fitted on: `model_hash`, `templates` (a digest) and `layer`, as far as known.
    """

    mean: NDArray[np.float32]
    scale: NDArray[np.float32] | None = None
    removed: NDArray[np.float32] | None = None
    matrix: NDArray[np.float32] | None = None
    fitted_for: dict[str, str] | None = None

    @property
    def hidden_size(self) -> int:
        """Return the length of what goes in."""
        return len(self.mean)

    @property
    def dim(self) -> int:
        """Return the length of what comes out."""
        return len(self.mean) if self.matrix is None else self.matrix.shape[1]

    def __call__(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map shape ``(n_texts, hidden_size)`` to ``(n_texts, dim)``, float32."""
        vectors: NDArray[np.float32] = states - self.mean
        if self.scale is not None:
            vectors *= self.scale
        if self.removed is not None:
            vectors -= (vectors @ self.removed.T) @ self.removed
        return vectors if self.matrix is None else np.matmul(vectors, self.matrix, dtype=np.float32)

    def to_bytes(self) -> bytes:
        """Return the content of a safetensors file."""
        tensors = {name: getattr(self, name) for name in _SHAPES if getattr(self, name) is not None}
        contiguous = {name: np.ascontiguousarray(tensor, dtype=np.float32) for name, tensor in tensors.items()}
        return save(contiguous, {_FITTED_FOR: json.dumps(self.fitted_for or {}, sort_keys=True)})

    @classmethod
    def from_bytes(cls, content: bytes, where: str = "embedding.postprocess") -> PostProcessing:
        """Read a safetensors file's content.

        Raises:
            ConfigError: It is damaged, or holds other tensors than these.
        """
        try:
            tensors = load(content)
            n_header = int.from_bytes(content[:8], "little")
            fitted_for = parse_json(parse_json(content[8 : 8 + n_header]).get("__metadata__", {}).get(_FITTED_FOR, "{}"))
            if not isinstance(fitted_for, dict):
                raise ValueError(fitted_for)
        except (SafetensorError, ValueError, AttributeError, LookupError, TypeError):  # of numbers that numpy does not have, too
            raise ConfigError(f"{where} is damaged or no safetensors file: fit it again with `metaeol fit`") from None
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
            numbers = {name: np.asarray(tensor, np.float32) for name, tensor in tensors.items()}
        _check_tensors(numbers, where)
        return cls(**numbers, fitted_for=fitted_for)


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
    """Divide by lengths that may be 0, which gives zeros; what is not finite stays so, and is seen as failed."""
    return np.divide(vectors, by, out=np.zeros_like(vectors), where=by != 0)


def _check_tensors(tensors: dict[str, NDArray[np.float32]], where: str) -> None:
    unknown = sorted(set(tensors) - set(_SHAPES))
    if unknown or "mean" not in tensors:
        found = shorten(", ".join(sorted(tensors)), 200)
        raise ConfigError(f"{where} must hold `mean` and may hold {', '.join(list(_SHAPES)[1:])}, found {found}")
    size = tensors["mean"].size
    for name, tensor in tensors.items():
        fits = tensor.ndim == _SHAPES[name] and tensor.shape[-1 if name != "matrix" else 0] == size and (tensor.size or name == "removed")
        if not fits or not np.isfinite(tensor).all():
            raise ConfigError(f"{where}: {name} has the shape {tensor.shape}, which does not go with mean, or values that are not finite")

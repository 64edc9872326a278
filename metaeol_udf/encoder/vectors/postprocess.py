"""What is done to a mean hidden state before it is stored: fitted on unlabelled text, kept in a safetensors file beside the spec.

Hidden states of a language model lie in a narrow cone around a common mean (Ethayarajh 2019, arXiv:1909.00512), which hides
differences of meaning. Taking the mean away, its top components too (Mu and Viswanath 2018, arXiv:1702.01417), or whitening
(Su et al. 2021, arXiv:2103.15316) spreads them. Imports neither torch nor Spark.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from metaeol_udf.errors import ConfigError
from metaeol_udf.spec import EmbeddingSpec

METHODS = ("mean", "standardize", "remove_top", "whiten")

_FITTED_FOR = "fitted_for"  # under this name in the file's metadata
_SHAPES = {"mean": 1, "scale": 1, "removed": 2, "matrix": 2}


@dataclass(frozen=True)
class PostProcessing:
    """``x -> (x - mean) * scale``, less its part along `removed`, times `matrix`; what is None is left out.

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
        """Length of what goes in."""
        return len(self.mean)

    @property
    def dim(self) -> int:
        """Length of what comes out."""
        return len(self.mean) if self.matrix is None else self.matrix.shape[1]

    def __call__(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        """Shape ``(n_texts, hidden_size)`` to ``(n_texts, dim)``, float32."""
        vectors: NDArray[np.float32] = states - self.mean
        if self.scale is not None:
            vectors *= self.scale
        if self.removed is not None:
            vectors -= (vectors @ self.removed.T) @ self.removed
        return vectors if self.matrix is None else np.matmul(vectors, self.matrix, dtype=np.float32)

    def to_bytes(self) -> bytes:
        """The content of a safetensors file."""
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
            fitted_for = json.loads(json.loads(content[8 : 8 + n_header]).get("__metadata__", {}).get(_FITTED_FOR, "{}"))
        except (SafetensorError, ValueError):
            raise ConfigError(f"{where} is damaged or no safetensors file: fit it again with `metaeol fit`") from None
        _check_tensors(tensors, where)
        return cls(**{name: tensor.astype(np.float32) for name, tensor in tensors.items()}, fitted_for=fitted_for)


def load_postprocess(spec: EmbeddingSpec) -> PostProcessing | None:
    """What a spec's `postprocess` names: from its content where the spec is resolved, else from the file.

    Raises:
        ConfigError: The file is missing, damaged or of another kind.
    """
    if spec.postprocess is None:
        return None
    content = read_content(spec) if spec.postprocess_content is None else spec.postprocess_content
    try:
        return PostProcessing.from_bytes(base64.b64decode(content, validate=True), f"embedding.postprocess {spec.postprocess!r}")
    except binascii.Error:
        raise ConfigError("the spec's postprocess_content is not base64") from None


def read_content(spec: EmbeddingSpec) -> str:
    """The file that `postprocess` names, as base64: how it travels to workers.

    Raises:
        ConfigError: The file cannot be read.
    """
    try:
        return base64.b64encode(Path(str(spec.postprocess)).read_bytes()).decode()
    except OSError as error:
        raise ConfigError(f"embedding.postprocess: cannot read {spec.postprocess!r} ({error.strerror}); `metaeol fit` makes it") from None


def check_postprocess(post: PostProcessing, hidden_size: int, made_with: dict[str, str]) -> list[str]:
    """See that it was fitted on the vectors that it will be given.

    Args:
        post: To be used.
        hidden_size: Of the model.
        made_with: As `PostProcessing.fitted_for`, of the spec that uses it.

    Returns:
        Warnings, for people: what differs and may be meant.

    Raises:
        ConfigError: It was fitted on vectors of another length, template set or layer.
    """
    if post.hidden_size != hidden_size:
        raise ConfigError(f"embedding.postprocess was fitted on vectors of length {post.hidden_size}, but the model's have {hidden_size}")
    fitted = post.fitted_for or {}
    for name in ("templates", "layer"):
        if fitted.get(name, made_with[name]) != made_with[name]:
            theirs = f" ({fitted[name]})" if name == "layer" else ""
            raise ConfigError(
                f"embedding.postprocess was fitted for another embedding.{name}{theirs}: leave embedding.{name} to embedding.spec "
                "if that names the file, or fit it again with `metaeol fit`"
            )
    if fitted.get("model_hash", made_with.get("model_hash")) != made_with.get("model_hash"):
        return ["embedding.postprocess was fitted on other model files: `metaeol fit` makes it anew for these"]
    return []


def _check_tensors(tensors: dict[str, NDArray[np.float32]], where: str) -> None:
    unknown = sorted(set(tensors) - set(_SHAPES))
    if unknown or "mean" not in tensors:
        raise ConfigError(f"{where} must hold `mean` and may hold {', '.join(list(_SHAPES)[1:])}, found {', '.join(sorted(tensors))}")
    size = tensors["mean"].shape[-1]
    for name, tensor in tensors.items():
        fits = tensor.ndim == _SHAPES[name] and tensor.shape[-1 if name != "matrix" else 0] == size
        if not fits or not np.isfinite(tensor).all():
            raise ConfigError(f"{where}: {name} has the shape {tensor.shape}, which does not go with mean, or values that are not finite")

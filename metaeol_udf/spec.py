"""The one value that says what an embedding *is*.

Two rows whose texts and spec fingerprints are equal have the same embedding, so everything that changes a vector is in
here, and nothing else is: no device, no batch size, no table.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from metaeol_udf.errors import ConfigError, did_you_mean

DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZATIONS = ("int8", "int4")

#: Raised by one whenever a release computes other vectors from the same settings, so that rows are embedded anew.
VECTOR_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class EmbeddingSpec:
    """How a text becomes a vector (MetaEOL: Lei et al. 2024, arXiv:2402.18458). Plain values: hashable, cheap to pickle.

    Attributes:
        model: Folder of a checkpoint, or a hub id.
        revision: Commit of a hub id; None for a folder.
        templates: Name of a built-in template set, or path of a YAML file.
        layer: Index into the hidden states as transformers counts them (0: embeddings, -1: last, after the final norm),
            or a fraction of the depth, a float in [0, 1].
        dtype: Weights and activations of the forward pass; `auto` is bfloat16 where the device computes it, else float32.
        quantization: Bits that the weights of linear layers are kept in, `int8` or `int4`; None keeps them in `dtype`.
        normalize: Scale every vector to length 1.
        truncate_dim: Keep this many leading dimensions; None keeps all.
        per_template: Keep the templates' vectors side by side (n_templates * dim) instead of their mean.
        max_tokens: Tokens kept of a text, before a prompt template wraps it.
        templates_json: Content of the template set, set by `resolve`; travels to workers in place of a file.
        model_hash: Digest of the model's files, set by `resolve`.
    """

    model: str
    revision: str | None = None
    templates: str = "metaeol"
    layer: int | float = -1
    dtype: str = "auto"
    quantization: str | None = None
    normalize: bool = False
    truncate_dim: int | None = None
    per_template: bool = False
    max_tokens: int = 512
    templates_json: str | None = None
    model_hash: str | None = None

    def __post_init__(self) -> None:
        _check("model", isinstance(self.model, str) and bool(self.model.strip()), self.model, "a folder or a hub id")
        _check("revision", self.revision is None or isinstance(self.revision, str), self.revision, "a commit, or null")
        _check("templates", isinstance(self.templates, str) and bool(self.templates), self.templates, "a name or a path")
        _check("dtype", self.dtype in DTYPES, self.dtype, f"one of {', '.join(DTYPES)}")
        known = self.quantization is None or self.quantization in QUANTIZATIONS
        _check("quantization", known, self.quantization, f"one of {', '.join(QUANTIZATIONS)}, or null")
        is_index = isinstance(self.layer, int) and not isinstance(self.layer, bool)
        is_fraction = isinstance(self.layer, float) and 0.0 <= self.layer <= 1.0
        _check("layer", is_index or is_fraction, self.layer, "an integer index or a fraction of depth from 0.0 to 1.0")
        for name in ("normalize", "per_template"):
            _check(name, isinstance(getattr(self, name), bool), getattr(self, name), "true or false")
        _check(
            "truncate_dim", self.truncate_dim is None or _is_positive(self.truncate_dim), self.truncate_dim, "a positive integer, or null"
        )
        _check("max_tokens", _is_positive(self.max_tokens), self.max_tokens, "a positive integer")

    @classmethod
    def load(cls, path: str | Path) -> EmbeddingSpec:
        """Read a spec from a YAML file: the `embedding` block of a job's config as a file of its own.

        Raises:
            ConfigError: The file is missing, is not a mapping, or holds an unknown key or a value out of range.
        """
        try:
            block = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError(f"cannot read the spec file {path}: {_one_line(error)}") from None
        return cls.from_mapping(block, where=str(path))

    @classmethod
    def from_mapping(cls, block: Any, where: str = "embedding") -> EmbeddingSpec:
        """Build a spec from the keys of an `embedding` block; `column` says where vectors go, so it is passed over.

        Raises:
            ConfigError: `block` is not a mapping, lacks `model`, or holds an unknown key or a value out of range.
        """
        if not isinstance(block, dict):
            raise ConfigError(f"{where} must be a mapping of settings, found {type(block).__name__}")
        known = set(SETTINGS)
        for key in block:
            if key not in known | {"column"}:
                raise ConfigError(f"unknown key {where}.{key}; {did_you_mean(str(key), known)}")
        if "model" not in block:
            raise ConfigError(f"{where}.model is missing: name a folder or a hub id")
        return cls(**{key: value for key, value in block.items() if key in known})

    @property
    def is_resolved(self) -> bool:
        """Whether the content of the model and of the template set is known, not only their names."""
        return self.templates_json is not None and self.model_hash is not None

    def fingerprint(self) -> str:
        """Digest of all that changes a vector: 16 hexadecimal digits.

        Names and folders do not count where the content is known, so that a model may move. `dtype: auto` counts as
        written: the same job on another device keeps its vectors.
        """
        value = {name: getattr(self, name) for name in SETTINGS}
        if self.is_resolved:
            value |= {"model": self.model_hash, "revision": None, "templates": self.templates_json}
        if self.quantization is None:
            del value["quantization"]  # vectors from before the setting existed stay valid
        canonical = json.dumps([VECTOR_VERSION, value], sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


#: The keys that a user may write, in the order of the documentation.
SETTINGS = tuple(f.name for f in dataclasses.fields(EmbeddingSpec) if f.name not in ("templates_json", "model_hash"))


def output_layer(layer: int | float, n_layers: int) -> int:
    """Index into the `n_layers + 1` hidden states that `layer` means.

    Raises:
        ConfigError: An integer outside the model's depth.
    """
    if isinstance(layer, float):
        return round(layer * n_layers)
    if not -n_layers - 1 <= layer <= n_layers:
        raise ConfigError(f"embedding.layer is {layer}, but the model has {n_layers} layers: use {-n_layers - 1} to {n_layers}")
    return layer % (n_layers + 1)


def _is_positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _check(key: str, holds: bool, found: object, rule: str) -> None:
    if not holds:
        raise ConfigError(f"embedding.{key} must be {rule}, found {found!r}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())

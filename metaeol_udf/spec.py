"""The one value that says what an embedding *is*.

Two rows whose texts and spec fingerprints are equal have the same embedding, so everything that changes a vector is in
here, and nothing else is: no device, no batch size, no table.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metaeol_udf.errors import ConfigError, Problem, did_you_mean
from metaeol_udf.files import is_file, read_yaml
from metaeol_udf.formatting import shorten
from metaeol_udf.setting_types import check, check_path, is_count, problem, read_path, refuse, secret_problem

DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZATIONS = ("int8", "int4", "fp8")
VALUES = ("float32", "int8", "binary")
LONG_TEXTS = ("trim", "mean", "passages")
PASSAGE_ENDS = ("sentence", "token")

_LEAST_PASSAGE = 16  # tokens; one character takes a few of them, so that every passage goes on

_BESIDE = ("templates", "postprocess")  # settings that a spec file gives relative to its own folder
_PATHS = ("model", "spec", *_BESIDE)  # settings that are paths, or may be

#: Raised by one whenever a release computes other vectors from the same settings, so that rows are embedded anew.
VECTOR_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Passage:
    """How a long text is split into passages.

    Attributes:
        tokens: Tokens of a passage, at most.
        overlap: Tokens at the end of a passage with which the next one may begin.
        by: Where a passage ends: `sentence`, after the last whole sentence; `token`, after the last whole token.
    """

    tokens: int = 256
    overlap: int = 32
    by: str = "sentence"

    def __str__(self) -> str:
        return f"{self.tokens} tokens, overlap {self.overlap}, by {self.by}"

    def problems(self) -> Iterator[Problem | None]:
        """Say what is wrong with each setting."""
        least, overlap = _LEAST_PASSAGE, self.overlap
        is_enough = is_count(self.tokens) and self.tokens >= least
        yield problem("embedding.passage.tokens", is_enough, self.tokens, f"an integer from {least}")
        is_number = isinstance(overlap, int) and not isinstance(overlap, bool)
        fits = is_number and is_enough and 0 <= overlap <= self.tokens // 2
        yield problem("embedding.passage.overlap", fits, overlap, "an integer from 0 to half of embedding.passage.tokens")
        yield problem("embedding.passage.by", self.by in PASSAGE_ENDS, self.by, f"one of {', '.join(PASSAGE_ENDS)}", PASSAGE_ENDS)

    @classmethod
    def of(cls, given: object) -> Passage:
        """Return a passage's settings as they are, or build them from a mapping.

        Raises:
            SettingsError: It is neither, or holds an unknown key.
        """
        if isinstance(given, Passage):
            return given
        known = [f.name for f in dataclasses.fields(cls)]
        is_known = isinstance(given, Mapping) and bool(given) and set(given) <= set(known)
        wrong = [shorten(str(key), 80) for key in given if key not in known] if isinstance(given, Mapping) else []
        said = problem("embedding.passage", is_known, given, f"a mapping of {', '.join(known)}")
        if said is not None and wrong:
            said = dataclasses.replace(said, said=f"{said.said}; {did_you_mean(wrong[0], known)}")
        refuse([said])
        return cls(**given)  # type: ignore[arg-type]  # a mapping of known keys, whose values EmbeddingSpec checks


@dataclass(frozen=True, kw_only=True)
class EmbeddingSpec:
    """How a text becomes a vector (MetaEOL: Lei et al. 2024, arXiv:2402.18458). Plain values: hashable, cheap to pickle.

    Attributes:
        model: Folder of a checkpoint, or a hub id.
        revision: Commit of a hub id; None for a folder.
        templates: Name of a built-in template set, or path of a YAML file.
        layer: Index into the hidden states as transformers counts them (0: embeddings, -1: last, after the final norm),
            or a fraction of the depth, a float in [0, 1]; or a list of these, whose hidden states are averaged.
        dtype: Weights and activations of the forward pass; `auto` is bfloat16 where the device computes it, else float32.
        quantization: How linear layers keep their weights: `int8` or `int4` to save memory, `fp8` (activations too) for speed on GPUs
            that have it; None keeps them in `dtype`.
        postprocess: Path of a safetensors file with fitted post-processing, done to the mean hidden state; None: none.
        normalize: Scale every vector to length 1.
        truncate_dim: Keep this many leading dimensions; None keeps all.
        values: What the numbers of a vector may be: `float32`; `int8`, integers from -127 to 127, the largest of each vector at
            an end; `binary`, -1 and 1. They stay floats, which Parquet packs to about a byte, and a bit, each.
        per_template: Keep the templates' vectors side by side (n_templates * dim) instead of their mean.
        max_tokens: Tokens kept of a text, before a prompt template wraps it.
        long_texts: What becomes of a text with more tokens: `trim` keeps the first `max_tokens`; `mean` splits the text into passages, and
            takes the mean of their hidden states, weighted by their tokens; `passages` makes each passage a row of its own, which a job
            over tables alone can do.
        passage: How `mean` and `passages` split a text.
        templates_json: Content of the template set, set by `resolve`; travels to workers in place of a file.
        postprocess_content: Content of the file of post-processing in base64, set by `resolve`; travels likewise.
        model_hash: Digest of the model's files, set by `resolve`.
    """

    model: str
    revision: str | None = None
    templates: str = "metaeol"
    layer: int | float | tuple[int | float, ...] = -1
    dtype: str = "auto"
    quantization: str | None = None
    postprocess: str | None = None
    normalize: bool = False
    truncate_dim: int | None = None
    values: str = "float32"
    per_template: bool = False
    max_tokens: int = 512
    long_texts: str = "trim"
    passage: Passage = Passage()
    templates_json: str | None = None
    postprocess_content: str | None = field(default=None, repr=False)
    model_hash: str | None = None

    def __post_init__(self) -> None:
        refuse(self._problems())
        if self.normalize and self.values != "float32":
            raise ConfigError(f"embedding.normalize scales vectors to length 1, which embedding.values {self.values} cannot hold: drop one")
        if self.per_template and self.postprocess is not None:
            raise ConfigError("embedding.postprocess is fitted on the mean over templates: set embedding.per_template to false")
        if self.splits_by is not None and self.splits_by.tokens > self.max_tokens:
            raise ConfigError(
                f"embedding.passage.tokens is {self.passage.tokens}, more than embedding.max_tokens {self.max_tokens}: a passage is "
                f"embedded whole; set embedding.passage.tokens={self.max_tokens}, or less"
            )

    def _problems(self) -> Iterator[Problem | None]:
        yield problem("embedding.model", isinstance(self.model, str) and bool(self.model.strip()), self.model, "a folder or a hub id")
        yield from (secret_problem(f"embedding.{name}", getattr(self, name)) for name in ("model", *_BESIDE))
        yield problem("embedding.revision", self.revision is None or isinstance(self.revision, str), self.revision, "a commit, or null")
        yield problem("embedding.templates", isinstance(self.templates, str) and bool(self.templates), self.templates, "a name or a path")
        yield problem("embedding.dtype", self.dtype in DTYPES, self.dtype, f"one of {', '.join(DTYPES)}", DTYPES)
        known = self.quantization is None or self.quantization in QUANTIZATIONS
        yield problem("embedding.quantization", known, self.quantization, f"one of {', '.join(QUANTIZATIONS)}, or null", QUANTIZATIONS)
        layers = self.layer if isinstance(self.layer, tuple) else (self.layer,)
        known = bool(layers) and all(map(_is_layer, layers))
        yield problem("embedding.layer", known, self.layer, "an integer index or a fraction of depth from 0.0 to 1.0, or a list of these")
        written = self.postprocess is None or (isinstance(self.postprocess, str) and bool(self.postprocess))
        yield problem("embedding.postprocess", written, self.postprocess, "the path of a safetensors file, or null")
        yield problem("embedding.values", self.values in VALUES, self.values, f"one of {', '.join(VALUES)}", VALUES)
        for name in ("normalize", "per_template"):
            yield problem(f"embedding.{name}", isinstance(getattr(self, name), bool), getattr(self, name), "true or false")
        dim = self.truncate_dim
        yield problem("embedding.truncate_dim", dim is None or is_count(dim), dim, "a positive integer, or null")
        yield problem("embedding.max_tokens", is_count(self.max_tokens), self.max_tokens, "a positive integer")
        yield problem("embedding.long_texts", self.long_texts in LONG_TEXTS, self.long_texts, f"one of {', '.join(LONG_TEXTS)}", LONG_TEXTS)
        is_passage = isinstance(self.passage, Passage)
        yield problem("embedding.passage", is_passage, self.passage, "a mapping of tokens, overlap, by")
        yield from self.passage.problems() if is_passage else ()

    @classmethod
    def load(cls, path: str | Path) -> EmbeddingSpec:
        """Read a spec from a YAML file: a job's configuration, or its `embedding` block as a file of its own.

        In a file of its own, a relative `postprocess`, and a template set that is no built-in one, are looked for beside the
        file. A job's configuration is read as the job reads it: what is relative is so to the working folder, and sections
        other than `embedding` are passed over.

        Raises:
            ConfigError: The file is missing, is not a mapping, or holds an unknown key or a value out of range.
        """
        block = read_yaml(path, "the spec file")
        if isinstance(block, dict) and "embedding" in block:
            return cls.from_mapping(block["embedding"])
        return cls._from_own_file(path, block, ())

    @classmethod
    def of(cls, given: EmbeddingSpec | Mapping[str, Any] | str | Path) -> EmbeddingSpec:
        """Return a spec as it is, read one from a file, or build one from a mapping.

        Raises:
            ConfigError: It is none of these, or as `load` and `from_mapping`.
        """
        if isinstance(given, EmbeddingSpec):
            return given
        if isinstance(given, (str, Path)):
            return cls.load(given)
        if isinstance(given, Mapping):
            return cls.from_mapping(dict(given))
        raise ConfigError(f"a spec must be an EmbeddingSpec, a mapping of its settings or the path of a file, found {type(given).__name__}")

    @classmethod
    def _from_own_file(cls, path: str | Path, block: Any, named_by: tuple[Path, ...]) -> EmbeddingSpec:
        """Build a spec from a file of its own; `named_by` are the files that led to it, each by its `spec`."""
        chain = (*named_by, Path(path).resolve())
        if chain[-1] in named_by:
            raise ConfigError(f"embedding.spec: {path} names itself, by its own `spec` or another file's")
        if isinstance(block, dict):
            beside, found = Path(path).parent, {}
            for key in _BESIDE:
                if isinstance(block.get(key), str):
                    check_path(f"{path}: {key}", block[key])
                    found[key] = str(beside / os.path.expanduser(block[key]))
            if "templates" in found and not is_file(Path(found["templates"])):
                del found["templates"]  # the name of a set
            block = {**block, **found}
        return cls._from_mapping(block, str(path), chain)

    @classmethod
    def from_mapping(cls, block: Any, where: str = "embedding") -> EmbeddingSpec:
        """Build a spec from the keys of an `embedding` block; `column` says where vectors go, so it is passed over.

        `spec` names a file to begin with, which the other keys change.

        Raises:
            ConfigError: `block` is not a mapping, lacks `model`, or holds an unknown key or a value out of range.
        """
        return cls._from_mapping(block, where, ())

    @classmethod
    def _from_mapping(cls, block: Any, where: str, named_by: tuple[Path, ...]) -> EmbeddingSpec:
        if not isinstance(block, dict):
            raise ConfigError(f"{where} must be a mapping of settings, found {type(block).__name__}")
        known = set(SETTINGS)
        unknown = [shorten(str(key), 80) for key in block if key not in known | {"column", "spec"}]
        refuse(Problem(f"{where}.{key}", f"unknown key {where}.{key}; {did_you_mean(key, known | {'spec'})}") for key in unknown)
        paths = {key: read_path(f"{where}.{key}", block[key]) for key in _PATHS if isinstance(block.get(key), str)}
        block = {**block, **paths}
        if "passage" in block:
            block["passage"] = Passage.of(block["passage"])
        settings: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in block.items() if key in known}
        if block.get("spec") is not None:
            path = block["spec"]
            check("embedding.spec", isinstance(path, str), path, "the path of a spec file")
            return dataclasses.replace(cls._from_own_file(path, read_yaml(path, "the spec file"), named_by), **settings)
        if "model" not in block:
            refuse(
                [Problem(f"{where}.model", f"{where}.model is missing: name a folder or a hub id, or a file with `spec`", is_missing=True)]
            )
        return cls(**settings)

    @property
    def is_resolved(self) -> bool:
        """Whether the content of the model and of the template set is known, not only their names."""
        return self.templates_json is not None and self.model_hash is not None

    @property
    def splits_by(self) -> Passage | None:
        """How long texts are split; None where they are trimmed."""
        return None if self.long_texts == "trim" else self.passage

    @property
    def makes_passages(self) -> bool:
        """Whether a long text becomes several rows, one a passage."""
        return self.long_texts == "passages"

    def of_one_passage(self) -> EmbeddingSpec:
        """Return the spec of each row's vector, where a text may become several rows: that of a text which is no longer than a passage."""
        return dataclasses.replace(self, long_texts="trim") if self.makes_passages else self

    def settings(self) -> dict[str, Any]:
        """Return what a user may write, with plain values as YAML gives them, but for a list of layers, which is a tuple."""
        return {name: getattr(self, name) for name in SETTINGS} | {"passage": dataclasses.asdict(self.passage)}

    def fingerprint(self) -> str:
        """Digest of all that changes a vector: 16 hexadecimal digits.

        Names and folders do not count where the content is known, so that a model may move. `dtype: auto` counts as
        written: the same job on another device keeps its vectors.
        """
        value = self.of_one_passage().settings()  # a passage has the vector of a short text
        if self.is_resolved:
            value |= {"model": self.model_hash, "revision": None, "templates": self.templates_json}
        if self.postprocess_content is not None:
            value["postprocess"] = hashlib.sha256(self.postprocess_content.encode()).hexdigest()
        if value["long_texts"] == "trim":
            del value["passage"]
        for name, default in (("quantization", None), ("postprocess", None), ("values", "float32"), ("long_texts", "trim")):
            if value[name] == default:
                del value[name]  # vectors from before the setting existed stay valid
        canonical = json.dumps([VECTOR_VERSION, value], sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


#: The keys that a user may write, in the order of the documentation.
SETTINGS = tuple(f.name for f in dataclasses.fields(EmbeddingSpec) if f.name not in ("templates_json", "postprocess_content", "model_hash"))


def before_postprocess(spec: EmbeddingSpec) -> EmbeddingSpec:
    """The spec whose vectors are mean hidden states as they are."""
    return dataclasses.replace(
        spec, postprocess=None, postprocess_content=None, normalize=False, truncate_dim=None, values="float32", per_template=False
    )


def output_layers(layer: int | float | tuple[int | float, ...], n_layers: int) -> tuple[int, ...]:
    """Indices into the `n_layers + 1` hidden states that `layer` means, ascending, each once.

    Raises:
        ConfigError: An integer outside the model's depth.
    """
    return tuple(sorted({_output_layer(each, n_layers) for each in (layer if isinstance(layer, tuple) else (layer,))}))


def _output_layer(layer: int | float, n_layers: int) -> int:
    if isinstance(layer, float):
        return round(layer * n_layers)
    if not -n_layers - 1 <= layer <= n_layers:
        raise ConfigError(f"embedding.layer is {layer}, but the model has {n_layers} layers: use {-n_layers - 1} to {n_layers}")
    return layer % (n_layers + 1)


def _is_layer(layer: object) -> bool:
    is_fraction = isinstance(layer, float) and 0.0 <= layer <= 1.0
    return is_fraction or (isinstance(layer, int) and not isinstance(layer, bool))

"""What can be known of a model without loading it: where its files are, whether they are whole, how deep and wide it is.

Imports neither torch nor transformers, so that a Spark driver without them can refuse a bad job before it starts.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metaeol_udf.encoder.checkpoint.manifest import MANIFEST, content_hash, read_manifest, verify_folder, write_manifest
from metaeol_udf.encoder.vectors.postprocess import check_postprocess, load_postprocess, read_content
from metaeol_udf.errors import ConfigError, ModelFilesError
from metaeol_udf.prompts import TemplateSet
from metaeol_udf.spec import EmbeddingSpec, output_layers

logger = logging.getLogger(__name__)

__all__ = ["MANIFEST", "ModelInfo", "check_weights", "find_folder", "model_shape", "resolve_spec", "verify_folder", "write_manifest"]

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "*.tiktoken")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_LOCAL_SCHEMES = ("file", "dbfs")
_MAX_HEADER_BYTES = 100_000_000  # the safetensors format allows no longer header


@dataclass(frozen=True)
class ModelInfo:
    """A model's shape and place.

    Attributes:
        n_layers: Transformer layers; there is one hidden state more.
        hidden_size: Length of one hidden state.
        dim: Length of a vector, of one template, after post-processing and `truncate_dim`.
        folder: Absolute path of the checkpoint's folder on this machine.
        has_manifest: Whether a manifest of digests stands beside the files.
    """

    n_layers: int
    hidden_size: int
    dim: int
    folder: str
    has_manifest: bool


def resolve_spec(spec: EmbeddingSpec) -> tuple[EmbeddingSpec, ModelInfo]:
    """Check all of a spec that can be checked without a model in memory, and pin what its names stand for today.

    Runs once on the driver. It reads every model file once to take its digest.

    Returns:
        The spec with `templates_json`, `postprocess_content` and `model_hash` set, and the model's shape.

    Raises:
        ConfigError: Unknown model, template set or layer, or more dimensions asked for than there are.
        ModelFilesError: Files are missing, truncated, altered or of a kind that is not loaded.
    """
    templates = TemplateSet.from_spec(spec)
    folder = find_folder(spec.model, spec.revision)
    n_layers, hidden_size = model_shape(folder)
    output_layers(spec.layer, n_layers)
    check_weights(folder)
    verify_folder(folder)
    resolved = dataclasses.replace(
        spec,
        templates_json=templates.to_json(),
        postprocess_content=spec.postprocess_content or (read_content(spec) if spec.postprocess is not None else None),
        model_hash=content_hash(folder),
    )
    dim = check_vectors(resolved, n_layers, hidden_size)
    return resolved, ModelInfo(n_layers, hidden_size, dim, str(folder), read_manifest(folder) is not None)


def check_vectors(spec: EmbeddingSpec, n_layers: int, hidden_size: int) -> int:
    """See that post-processing and `truncate_dim` go with a model's shape.

    Returns:
        Length of a vector, of one template.

    Raises:
        ConfigError: They do not.
    """
    post = load_postprocess(spec)
    if post is not None:
        for message in check_postprocess(post, hidden_size, made_with(spec, n_layers)):
            logger.warning("%s", message)
    dim = hidden_size if post is None else post.dim
    if spec.truncate_dim is not None and spec.truncate_dim > dim:
        of = "the model's hidden states have" if post is None else "post-processing gives"
        raise ConfigError(f"embedding.truncate_dim is {spec.truncate_dim}, but {of} {dim} dimensions")
    return spec.truncate_dim or dim


def made_with(spec: EmbeddingSpec, n_layers: int) -> dict[str, str]:
    """What a mean hidden state depends on, as `PostProcessing.fitted_for` keeps it."""
    known = {
        "templates": TemplateSet.from_spec(spec).digest(),
        "layer": ",".join(map(str, output_layers(spec.layer, n_layers))),
    }
    return known if spec.model_hash is None else {**known, "model_hash": spec.model_hash}


def find_folder(model: str, revision: str | None = None) -> Path:
    """The folder that holds a model: a folder of that name, else a hub id's snapshot in the local hub cache.

    Never downloads: a job that runs on many machines needs files that were fetched and checked before.

    Raises:
        ConfigError: There is neither.
    """
    if not is_local(model):
        raise ConfigError(f"embedding.model {model!r} is a place that only a running Spark job reaches: name a folder here")
    folder = local_path(model)
    if folder.is_dir():
        return folder.resolve()
    if folder.exists():
        raise ConfigError(f"embedding.model {model!r} is a file: `metaeol model prepare {model} DEST` makes a model folder of it")
    snapshot = _cached_snapshot(model, revision or "main")
    if snapshot is None:
        at = f" at revision {revision!r}" if revision else ""
        raise ConfigError(
            f"embedding.model {model!r}: no such folder, and the local hub cache has no such model{at}; "
            "`metaeol model prepare SRC DEST` makes a folder from a GGUF file, a checkpoint or a hub id"
        )
    return snapshot


def is_local(model: str) -> bool:
    """Whether a model's name is a path or a hub id, rather than a URI of a remote file system."""
    scheme, colon, _ = model.partition(":")
    return not colon or "/" in scheme or scheme in _LOCAL_SCHEMES


def local_path(model: str) -> Path:
    """The path that a model's name means: `file:` and `dbfs:` are other ways to write one."""
    scheme, _, rest = model.partition(":")
    if scheme not in _LOCAL_SCHEMES:
        return Path(model)
    path = "/" + rest.lstrip("/")
    # Databricks mounts its file system under /dbfs, and volumes under their own name.
    return Path(path if scheme == "file" or path.startswith("/Volumes/") else f"/dbfs{path}")


def _cached_snapshot(model: str, revision: str) -> Path | None:
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")).expanduser()
    repository = cache / f"models--{model.replace('/', '--')}"
    reference = repository / "refs" / revision
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision
    snapshot = repository / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


def model_shape(folder: Path) -> tuple[int, int]:
    """Number of layers and hidden size, from `config.json`, whatever names the architecture gives them.

    Raises:
        ModelFilesError: `config.json` is missing, damaged or names neither.
    """
    config = _read_json(folder / "config.json")
    nested = config.get("text_config")  # models that also see images keep the language model's shape in here
    shapes = [nested, config] if isinstance(nested, dict) else [config]
    for shape in shapes:
        n_layers = _first_int(shape, "num_hidden_layers", "n_layer", "num_layers", "n_layers")
        hidden_size = _first_int(shape, "hidden_size", "n_embd", "d_model")
        if n_layers and hidden_size:
            return n_layers, hidden_size
    raise ModelFilesError(f"{folder / 'config.json'} names no number of layers or no hidden size: not a decoder-only language model?")


def check_weights(folder: Path) -> None:
    """See that a folder holds a tokenizer and whole safetensors weights, by their headers and sizes alone.

    Raises:
        ModelFilesError: A file is missing or truncated, or the weights are of another kind.
    """
    for path in _weight_files(folder):
        _check_safetensors(path)
    if not any(next(folder.glob(pattern), None) for pattern in _TOKENIZERS):
        raise ModelFilesError(f"model folder {folder} has no tokenizer (tokenizer.json is missing)")


def _weight_files(folder: Path) -> list[Path]:
    if (folder / _WEIGHTS).is_file():
        return [folder / _WEIGHTS]
    if (folder / _INDEX).is_file():
        weight_map = _read_json(folder / _INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ModelFilesError(f"{folder / _INDEX} lists no weights")
        shards = sorted({str(name) for name in weight_map.values()})
        for name in shards:
            if not (folder / name).is_file():
                raise ModelFilesError(f"model file {folder / name} is missing; {_INDEX} lists {len(shards)} files")
        return [folder / name for name in shards]
    raise ModelFilesError(_no_weights(folder))


def _no_weights(folder: Path) -> str:
    for pattern in _PICKLES:
        for path in sorted(folder.glob(pattern)):
            return (
                f"model folder {folder} holds pickled weights ({path.name}), and unpickling runs code: only safetensors are loaded. "
                f"If you trust them, `metaeol model prepare {folder} DEST --allow-pickle` converts them"
            )
    for path in sorted(folder.glob("*.gguf")):
        return f"model folder {folder} holds {path.name}: `metaeol model prepare {path} DEST` turns GGUF into safetensors"
    return f"model file {folder / _WEIGHTS} is missing"


def _check_safetensors(path: Path) -> None:
    """A safetensors file is 8 bytes of header length, the header as JSON, then the tensors without gaps."""
    n_bytes = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
        header_bytes = struct.unpack("<Q", start)[0] if len(start) == 8 else n_bytes
        if header_bytes > min(n_bytes - 8, _MAX_HEADER_BYTES):
            raise ModelFilesError(f"model file {path} is truncated or no safetensors file ({n_bytes} bytes)")
        try:
            header = json.loads(file.read(header_bytes))
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
            expected = 8 + header_bytes + max(ends, default=0)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise ModelFilesError(f"model file {path} has a damaged safetensors header") from None
    if n_bytes != expected:
        kind = "truncated" if n_bytes < expected else "longer than its header says"
        raise ModelFilesError(f"model file {path} is {kind}: {n_bytes} bytes of {expected}")


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelFilesError(f"model file {path} is missing") from None
    except (OSError, ValueError):
        raise ModelFilesError(f"model file {path} is damaged: not readable as JSON") from None
    if not isinstance(value, dict):
        raise ModelFilesError(f"model file {path} is damaged: not a JSON object")
    return value


def _first_int(config: Mapping[str, Any], *names: str) -> int | None:
    return next((config[name] for name in names if isinstance(config.get(name), int)), None)

"""Reads what a model folder tells without loading the model: whether its files are whole, how deep and wide the model is.

Imports neither torch nor transformers, so that a Spark driver without them can refuse a bad job before it starts.
"""

from __future__ import annotations

import reprlib
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metaeol_udf.errors import ModelFilesError
from metaeol_udf.files import is_file, is_file_name, parse_json
from metaeol_udf.formatting import shorten
from metaeol_udf.setting_types import is_count

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"  # of LoRA and its kin, as peft writes it
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "*.tiktoken")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_MAX_HEADER_BYTES = 100_000_000  # the safetensors format allows no longer header
_MOST = 1 << 63  # layers, numbers of a vector and bytes: no file says more


def model_shape(folder: Path) -> tuple[int, int]:
    """Read the number of layers and the hidden size from `config.json`, whatever names the architecture gives them.

    Raises:
        ModelFilesError: `config.json` is missing or damaged, names neither, or is that of a sequence-to-sequence model.
    """
    config = read_json(folder / "config.json")
    if config.get("is_encoder_decoder"):
        raise ModelFilesError(
            f"the model in {folder} is a sequence-to-sequence model ({reprlib.repr(config.get('model_type'))}): prompts that end in "
            "«one word:» need a causal language model, such as Llama, Qwen or Gemma"
        )
    nested = config.get("text_config")  # models that also see images keep the language model's shape in here
    shapes = [nested, config] if isinstance(nested, dict) else [config]
    for shape in shapes:
        n_layers = _first_count(shape, "num_hidden_layers", "n_layer", "num_layers", "n_layers")
        hidden_size = _first_count(shape, "hidden_size", "n_embd", "d_model")
        if n_layers and hidden_size:
            return n_layers, hidden_size
    raise ModelFilesError(f"{folder / 'config.json'} names no number of layers or no hidden size: not a decoder-only language model?")


def check_adapter(folder: Path) -> None:
    """See that no adapter stands in a folder, alone or beside its base model's weights.

    Raises:
        ModelFilesError: One does.
    """
    if (folder / ADAPTER).is_file():
        raise ModelFilesError(
            f"model folder {folder} holds an adapter ({ADAPTER}), which changes the vectors and is not applied when a model is loaded: "
            f"`metaeol model prepare {folder} DEST` merges it into its base model; where the base model alone is meant, move {ADAPTER} away"
        )


def check_weights(folder: Path) -> None:
    """See that a folder holds a tokenizer and whole safetensors weights, by their headers and sizes alone.

    Raises:
        ModelFilesError: A file is missing or truncated, the weights are of another kind, or an adapter stands in the folder.
    """
    check_adapter(folder)
    for path in _weight_files(folder):
        _check_safetensors(path)
    if not any(next(folder.glob(pattern), None) for pattern in _TOKENIZERS):
        raise ModelFilesError(f"model folder {folder} has no tokenizer (tokenizer.json is missing)")


def _weight_files(folder: Path) -> list[Path]:
    if (folder / _WEIGHTS).is_file():
        return [folder / _WEIGHTS]
    if (folder / _INDEX).is_file():
        weight_map = read_json(folder / _INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ModelFilesError(f"{folder / _INDEX} lists no weights")
        shards = sorted({str(name) for name in weight_map.values()})
        for name in shards:
            if not is_file_name(name):
                raise ModelFilesError(f"{folder / _INDEX} lists {shorten(name, 80)!r}, which is no file of a model folder")
            if not is_file(folder / name):
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
    """Check a safetensors file: 8 bytes of header length, the header as JSON, then the tensors without gaps."""
    try:
        n_bytes = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(8)
            header_bytes = struct.unpack("<Q", start)[0] if len(start) == 8 else n_bytes
            if header_bytes > min(n_bytes - 8, _MAX_HEADER_BYTES):
                raise ModelFilesError(f"model file {path} is truncated or no safetensors file ({n_bytes} bytes)")
            found = file.read(header_bytes)
    except OSError as error:
        raise ModelFilesError(f"cannot read model file {path}: {error.strerror}") from None
    try:
        header = parse_json(found)
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        if not all(type(end) is int and 0 <= end < _MOST for end in ends):
            raise ValueError("an offset is no number of bytes")
        expected = 8 + header_bytes + max(ends, default=0)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise ModelFilesError(f"model file {path} has a damaged safetensors header") from None
    if n_bytes != expected:
        kind = "truncated" if n_bytes < expected else "longer than its header says"
        raise ModelFilesError(f"model file {path} is {kind}: {n_bytes} bytes of {expected}")


def read_json(path: Path) -> Mapping[str, Any]:
    """Read a JSON object of a model, or raise ModelFilesError."""
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelFilesError(f"model file {path} is missing") from None
    except (OSError, ValueError):
        raise ModelFilesError(f"model file {path} is damaged: not readable as JSON") from None
    if not isinstance(value, dict):
        raise ModelFilesError(f"model file {path} is damaged: not a JSON object")
    return value


def _first_count(config: Mapping[str, Any], *names: str) -> int | None:
    return next((config[name] for name in names if is_count(config.get(name)) and config[name] < _MOST), None)

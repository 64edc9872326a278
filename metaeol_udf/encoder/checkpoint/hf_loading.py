"""What transformers loads from a model folder, and what is refused: no code of a folder runs, no hub is asked, no weight is made up."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.models.auto import modeling_auto
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES
from transformers.utils import logging as hf_logging

from metaeol_udf.errors import ModelFilesError

_LOCAL = {"trust_remote_code": False, "local_files_only": True}
_HEADS = ("lm_head", "embed_out")  # transformers' names of what stands above a base model
_TEXT_NAMES = {r"^(model\.)?language_model\.(model\.)?": ""}  # what weights of a text model are called inside another model
_ALSO_ENCODERS = ("bert-generation",)  # encoders that transformers does not list among those
_MOST_LETTERS = 400  # of an error of transformers


def check_loadable(folder: Path) -> None:
    """See that transformers can load a folder as a causal language model, without reading a weight.

    Raises:
        ModelFilesError: The configuration, the tokenizer or a tensor is missing, damaged or of another kind; or a library is missing.
    """
    with quiet_transformers():
        config = load_config(folder)
        load_tokenizer(folder)
        if importlib.util.find_spec("accelerate") is not None:  # without it transformers makes no model without memory
            load_text_model(folder, "auto", config, device_map="meta")


def load_config(folder: Path) -> Any:
    """Load the configuration of a causal language model.

    Raises:
        ModelFilesError: Transformers cannot read it, or it is that of an encoder or of a sequence-to-sequence model.
    """
    try:
        config = AutoConfig.from_pretrained(folder, **_LOCAL)
    except Exception as error:
        raise _unreadable("the configuration", folder, error) from error
    kind, is_decoder = config.model_type, getattr(config, "is_decoder", True)
    decoders, with_images = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    is_encoder = not is_decoder and (kind in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES or kind in _ALSO_ENCODERS)
    if getattr(config, "is_encoder_decoder", False) or is_encoder or not (kind in decoders or kind in with_images):
        raise ModelFilesError(
            f"the model in {folder} is a {kind}, which is no causal language model: prompts that end in «one word:» need one that "
            "continues a text, such as Llama, Qwen or Gemma"
        )
    return config


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a model folder.

    Raises:
        ModelFilesError: Transformers cannot read it without code of the folder.
    """
    try:
        return AutoTokenizer.from_pretrained(folder, **_LOCAL)
    except Exception as error:
        if (folder / "tokenizer.model").is_file() and not (folder / "tokenizer.json").is_file():
            raise ModelFilesError(
                f"the model in {folder} has its tokenizer as tokenizer.model alone, which cannot be read here "
                f"({type(error).__name__}): install sentencepiece, or bring tokenizer.json"
            ) from error
        raise _unreadable("the tokenizer", folder, error) from error


def load_text_model(folder: Path, dtype: torch.dtype | str, config: Any, **options: Any) -> Any:
    """Load the part of a model that takes text; what sees and hears beside it is not read.

    Args:
        folder: The model's folder, checked before.
        dtype: Of the weights.
        config: The model's configuration.
        options: For `from_pretrained`.

    Returns:
        A base model without a language-model head, in eval mode.

    Raises:
        ModelFilesError: As `load_hf_model`.
    """
    text_config = config.get_text_config()
    # Scales of quantised weights are read by the model that the configuration names, and by no part of it.
    if text_config is not config and text_config.model_type in MODEL_MAPPING_NAMES and not hasattr(config, "quantization_config"):
        return load_hf_model(folder, dtype, config=text_config, key_mapping=_TEXT_NAMES, **options)
    return find_text_model(load_hf_model(folder, dtype, config=config, **options))


def find_text_model(model: Any) -> Any:
    """Find the part of a model that takes text: the language model of one that sees or hears as well, without a language-model head."""
    inner = getattr(model, "language_model", None)
    if inner is None and hasattr(model, "lm_head"):
        inner = model.model
    return model if inner is None else find_text_model(inner)


def load_hf_model(folder: Path, dtype: torch.dtype | str, kind: Any = AutoModel, **options: Any) -> Any:
    """Load a model with transformers, from safetensors of a local folder.

    Args:
        folder: The model's folder, checked before.
        dtype: Of the weights.
        kind: Transformers' class that makes the model.
        options: For `from_pretrained`.

    Returns:
        The model in eval mode.

    Raises:
        ModelFilesError: Transformers cannot read the folder, or the folder lacks a tensor or has one of another shape.
    """
    try:
        model, report = kind.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True, **_LOCAL, **options
        )
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        raise _unreadable("the model", folder, error) from error
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if missing and all(name.startswith(_HEADS) for name in missing):
        raise ModelFilesError(
            f"the checkpoint in {folder} has no language-model head ({missing[0]} is missing); `metaeol model prepare SRC DEST` keeps the "
            "head of a source that has one"
        )
    if missing:  # transformers would go on with random numbers in their place
        others = f", and has {unexpected[0]}, which the model does not know: another prefix of names?" if unexpected else ""
        raise ModelFilesError(f"the checkpoint in {folder} lacks {_number(missing)}{others}")
    if report["mismatched_keys"]:
        name, found, wanted = min(report["mismatched_keys"])
        raise ModelFilesError(f"the checkpoint in {folder} has {name} of shape {tuple(found)}, the model needs {tuple(wanted)}")
    keep_softcap(model)
    return model.eval().requires_grad_(False)


def keep_softcap(model: Any) -> None:
    """Make transformers cap attention scores where the model does (Gemma 2): its `sdpa` leaves that out in 5.20, Python 3.10's last."""
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None:
        model.set_attn_implementation("eager")


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence progress bars and load reports inside a `with`: they are for people at a terminal, not for a worker's log."""
    verbosity = hf_logging.get_verbosity()
    had_bars = hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    hf_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if had_bars:
            hf_logging.enable_progress_bar()  # type: ignore[no-untyped-call]  # transformers leaves it untyped


def _unreadable(what: str, folder: Path, error: Exception) -> ModelFilesError:
    """Explain what transformers says of a folder that it cannot read; gives the way out where there is one."""
    said = f"{type(error).__name__}: {' '.join(str(error).split())[:_MOST_LETTERS]}"
    way_out = ""
    if "trust_remote_code" in str(error) or "custom code" in str(error):
        said, way_out = "it comes with Python code of its own", "; no code of a model folder is run"
    elif isinstance(error, ImportError):
        way_out = "; install that library on every machine, or bring weights that are not quantised (`metaeol model prepare SRC DEST`)"
    return ModelFilesError(f"transformers cannot load {what} in {folder}: {said}{way_out}")


def _number(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} tensors, such as {names[0]}"

"""From a model folder to something that runs: device, dtype, weights, tokenizer, and the proof that the fast path is right."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as hf_logging

from metaeol_udf.encoder.exact import WholePass
from metaeol_udf.encoder.families import KNOWN_MODEL_TYPES, build_decoder
from metaeol_udf.encoder.forward import TriePass
from metaeol_udf.encoder.model_files import check_weights, find_folder, verify_folder
from metaeol_udf.encoder.packed import can_pack, pack
from metaeol_udf.encoder.reference import encode_plainly
from metaeol_udf.encoder.window import prepare_window
from metaeol_udf.errors import ConfigError, EnvironmentFault, ModelFilesError
from metaeol_udf.prompts import TemplateSet
from metaeol_udf.prompts.tokens import PromptTokenizer
from metaeol_udf.prompts.trie import PromptTrie
from metaeol_udf.spec import EmbeddingSpec, output_layer

logger = logging.getLogger(__name__)

_PROBES = ("A short text to check with.", 'Ein zweiter, etwas längerer Text: "quoted", with 12 numbers (and brackets)?')
_MIN_COSINE = {torch.float32: 0.99999, torch.bfloat16: 0.995, torch.float16: 0.995}  # fast path against transformers, same dtype


@dataclass(frozen=True)
class Engine:
    """A loaded model with its tokenizer: all that turns token ids into hidden states.

    Attributes:
        trie: Tokenises prompts.
        runner: Runs batches of the trie's cells; the fast path, or transformers' own forward.
        device: Where the weights are.
        dtype: Of weights and activations.
        hidden_size: Length of a hidden state.
        is_fast: Whether the fast path is used.
    """

    trie: PromptTrie
    runner: TriePass | WholePass
    device: torch.device
    dtype: torch.dtype
    hidden_size: int
    is_fast: bool


def load_engine(spec: EmbeddingSpec, templates: TemplateSet, device_name: str) -> Engine:
    """Load a model and prove the fast path against transformers' own forward on two texts.

    Where an architecture is not known, or the proof fails, transformers' own forward is used from then on and a warning
    says so: the vectors are the same, only later.

    Raises:
        ConfigError: The layer, or `max_tokens` with the prompts around it, is more than the model has.
        ModelFilesError: Files are missing, truncated or altered.
        EnvironmentFault: The device is not there.
    """
    started = time.monotonic()
    device = choose_device(device_name)
    dtype = choose_dtype(spec.dtype, device)
    folder = find_folder(spec.model, spec.revision)
    check_weights(folder)
    verify_folder(folder)
    with _quiet_transformers():
        tokenizer = PromptTokenizer(AutoTokenizer.from_pretrained(folder))
        model = _load_model(folder, dtype, device)
    layer = output_layer(spec.layer, _text_config(model).num_hidden_layers)
    trie = PromptTrie(templates, tokenizer)
    _check_room(spec, templates, tokenizer, model)
    expected = encode_plainly(model, tokenizer, templates, _PROBES, layer)
    runner: TriePass | WholePass | None = _fast_pass(model, spec, trie, layer)
    why = f"architecture {model.config.model_type!r} is not one of {', '.join(KNOWN_MODEL_TYPES)}"
    if isinstance(runner, TriePass):
        cosine = _worst_cosine(expected, _run(trie, runner, templates))
        if cosine < _MIN_COSINE[dtype]:
            why = f"it differs from transformers (cosine {cosine:.6f})"
            runner = None
            with _quiet_transformers():
                model = _load_model(folder, dtype, device)
    if runner is None:
        logger.warning("the fast path is not used for %s: %s. Vectors are exact, but come several times slower", spec.model, why)
        trie = PromptTrie(templates, tokenizer, may_cut=False)
        runner = WholePass(model, layer)
    logger.info("loaded %s on %s in %s, %.1f s", spec.model, device, str(dtype).removeprefix("torch."), time.monotonic() - started)
    return Engine(trie, runner, device, dtype, expected.shape[-1], isinstance(runner, TriePass))


def choose_device(name: str) -> torch.device:
    """The device that `runtime.device` means on this machine.

    Raises:
        EnvironmentFault: A GPU is asked for and is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise EnvironmentFault(
            f"runtime.device is {name!r}, but torch sees {torch.cuda.device_count()} GPUs here; set runtime.device to auto or cpu"
        )
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype that `embedding.dtype` means on a device; `auto` is bfloat16 where the hardware multiplies it, else float32."""
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    has_bfloat16 = (
        torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
    )
    return torch.bfloat16 if has_bfloat16 else torch.float32


def _load_model(folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    try:
        model = AutoModel.from_pretrained(folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelFilesError(f"transformers cannot load the model in {folder}: {' '.join(str(error).split())[:500]}") from error
    return model.eval().requires_grad_(False).to(device)


def _fast_pass(model: Any, spec: EmbeddingSpec, trie: PromptTrie, layer: int) -> TriePass | None:
    longest = max(max(group.prompt_lengths) for group in trie.groups)
    with torch.inference_mode():
        decoder = build_decoder(model, longest + 2 * spec.max_tokens + 64)
        if decoder is None:
            return None
        decoder = decoder.up_to(layer)
        return TriePass(pack(decoder) if can_pack(decoder) else decoder, trie.groups)


def _check_room(spec: EmbeddingSpec, templates: TemplateSet, tokenizer: PromptTokenizer, model: Any) -> None:
    """Refuse a `max_tokens` whose prompts would not fit the positions that the model knows."""
    n_positions = getattr(_text_config(model), "max_position_embeddings", None)
    n_prompt = max(len(ids) for ids in tokenizer.tokenize([templates.fill(template, "x") for template in templates.templates]))
    if n_positions is not None and n_prompt + spec.max_tokens > n_positions:
        raise ConfigError(
            f"embedding.max_tokens is {spec.max_tokens}, but the model has {n_positions} positions and the longest prompt takes "
            f"{n_prompt}: use at most {n_positions - n_prompt}"
        )


def _text_config(model: Any) -> Any:
    return model.config.get_text_config()


def _run(trie: PromptTrie, runner: TriePass, templates: TemplateSet) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Hidden states of the probe texts by the fast path, shape ``(n_texts, n_templates, hidden_size)``."""
    window = prepare_window(_PROBES, trie, templates, max_tokens=1024, max_batch_tokens=1024, shares_starts=True)
    runner.use_groups(window.groups)
    states = np.zeros((len(_PROBES), len(templates.templates), runner.decoder.hidden_size), np.float32)
    for batch in window.batches:
        for cell, state in zip(batch, runner.run(batch, window.text_ids), strict=True):
            states[np.array(cell.rows)[:, None], np.array(window.groups[cell.group].template_indices)] = state.cpu().numpy()
    return states


def _worst_cosine(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    cosines = (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
    return float(np.nan_to_num(cosines, nan=-1.0).min())


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Progress bars and load reports are for people at a terminal, not for a worker's log."""
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

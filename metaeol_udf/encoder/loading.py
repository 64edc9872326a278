"""From a model folder to something that runs: device, dtype, weights, tokenizer, and the proof that the fast path is right."""

from __future__ import annotations

import gc
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from metaeol_udf.encoder.checkpoint.files import check_weights
from metaeol_udf.encoder.checkpoint.hf_loading import load_config, load_hf_model, load_tokenizer, quiet_transformers
from metaeol_udf.encoder.checkpoint.location import model_folder
from metaeol_udf.encoder.checkpoint.manifest import verify_folder
from metaeol_udf.encoder.checkpoint.process_memory import keep_freed_memory, release_clean_pages, return_freed_memory
from metaeol_udf.encoder.forward.decoder import Decoder, Layer, map_tensors
from metaeol_udf.encoder.forward.hf_forward import WholePass
from metaeol_udf.encoder.forward.hf_weights import KNOWN_MODEL_TYPES, build_decoder
from metaeol_udf.encoder.forward.onednn import fits_onednn, to_onednn
from metaeol_udf.encoder.forward.quantization import quantize
from metaeol_udf.encoder.forward.trie_forward import TriePass
from metaeol_udf.encoder.gpu.cuda_graphs import GraphCache
from metaeol_udf.encoder.gpu.device_map import count_bytes, place
from metaeol_udf.encoder.gpu.flex_attention import compile_layer
from metaeol_udf.encoder.gpu.packed_forward import PackedPass
from metaeol_udf.encoder.preparation import prepare_texts
from metaeol_udf.encoder.reference import encode_plainly
from metaeol_udf.encoder.vectors.output import add_states
from metaeol_udf.errors import ConfigError, EnvironmentFault, MetaEOLError
from metaeol_udf.prompts import TemplateSet
from metaeol_udf.prompts.tokenizer import PromptTokenizer
from metaeol_udf.prompts.trie import PrefixGroup, PromptTrie
from metaeol_udf.spec import EmbeddingSpec, output_layers

logger = logging.getLogger(__name__)

_PROBES = ("A short text to check with.", 'Ein zweiter, etwas längerer Text: "quoted", with 12 numbers (and brackets)?')
_MIN_COSINE = {torch.float32: 0.99999, torch.bfloat16: 0.995, torch.float16: 0.995}  # fast path against transformers, same dtype
_MIN_QUANTIZED_COSINE = {"int8": 0.99, "int4": 0.9}  # against transformers with whole weights
_DEVICE_SHARE = 0.8  # of a GPU's free memory may hold weights; the rest is for activations and prefixes
_CELL_TOKENS = 500_000  # run cell by cell before a GPU's layers are compiled, which a short job would wait for in vain
# oneDNN and torch's bridge to it each keep compiled products by shape, and nearly every batch has a shape of its own: at their
# own capacities of 1024 that grows by a gigabyte. Read at the first product of a process; what the user has set stays.
_CACHES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128", "LRU_CACHE_CAPACITY": "16"}
_GRAPH_BYTES = 4 * 2**30  # larger models keep a GPU busy without CUDA graphs


@dataclass(frozen=True)
class Engine:
    """Holds a loaded model with its tokenizer: all that turns token ids into hidden states.

    Attributes:
        trie: Tokenises prompts.
        runner: Runs batches of the trie's cells; the fast path, or transformers' own forward.
        device: Where the weights are.
        dtype: Of weights and activations.
        hidden_size: Length of a hidden state.
        n_layers: Layers of the model, whether they run or not.
        n_states: Hidden states that are read of each prompt: 1, or as many as `layer` lists.
        is_fast: Whether the fast path is used.
    """

    trie: PromptTrie
    runner: TriePass | WholePass
    device: torch.device
    dtype: torch.dtype
    hidden_size: int
    n_layers: int
    n_states: int
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
    for name, capacity in _CACHES.items():
        os.environ.setdefault(name, capacity)
    devices = choose_devices(device_name)
    device = devices[0]
    dtype = choose_dtype(spec.dtype, device)
    folder = model_folder(spec.model, spec.revision)
    check_weights(folder)
    verify_folder(folder)
    release_clean_pages()
    with quiet_transformers():
        config = load_config(folder)
        tokenizer = PromptTokenizer(load_tokenizer(folder))
        model = load_hf_model(folder, dtype, config=config)
    is_apart = spec.quantization is not None or not fits_device(model, device)  # moved to its devices only as a `Decoder`
    model = model if is_apart else model.to(device)
    n_layers: int = _text_config(model).num_hidden_layers
    layers = output_layers(spec.layer, n_layers)
    trie = PromptTrie(templates, tokenizer)
    check_room(spec, templates, tokenizer, model)
    expected = encode_plainly(model, tokenizer, templates, _PROBES, layers)
    release_clean_pages()
    runner: TriePass | WholePass | None = None
    why = f"architecture {config.model_type!r} is not one of {', '.join(KNOWN_MODEL_TYPES)}"
    is_whole = True  # until the fast path takes weights out of the model
    try:
        runner = make_fast_pass(model, spec, trie, layers, devices if is_apart else ())
        is_whole = runner is None
    except (MetaEOLError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        why, is_whole = f"its weights are of a kind that the fast path does not read ({type(error).__name__})", False
        logger.info("the fast path cannot be made", exc_info=True)
    if not is_whole:
        model = None  # its weights were given up for the fast path; what it still holds keeps the file of weights in memory
        gc.collect()
        return_freed_memory()
        release_clean_pages()
    if device.type == "cpu":
        keep_freed_memory()
    if isinstance(runner, TriePass):
        cosine = _worst_cosine(expected, _run(trie, runner, templates))
        logger.info("worst cosine of %s to transformers' own forward: %.6f", spec.model, cosine)
        if cosine < (_MIN_COSINE[dtype] if spec.quantization is None else _MIN_QUANTIZED_COSINE[spec.quantization]):
            why = f"it differs from transformers (cosine {cosine:.6f})"
            runner = None
    if runner is None:
        _refuse_slow(spec, is_apart, why)
        with quiet_transformers():
            model = model or load_hf_model(folder, dtype, config=config).to(device)
        logger.warning("the fast path is not used for %s: %s. Vectors are exact, but come several times slower", spec.model, why)
        trie = PromptTrie(templates, tokenizer, may_cut=False)
        runner = WholePass(model, layers)
    logger.info("loaded %s on %s in %s, %.1f s", spec.model, device, str(dtype).removeprefix("torch."), time.monotonic() - started)
    return Engine(trie, runner, device, dtype, expected.shape[-1], n_layers, len(layers), isinstance(runner, TriePass))


def choose_devices(name: str) -> list[torch.device]:
    """Return the devices that `runtime.device` means on this machine; several where a model may be split: `auto`, or `cuda:0,1`.

    Raises:
        EnvironmentFault: A GPU is asked for and is not there.
    """
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return [torch.device("cuda", index) for index in range(n_gpus)] or [torch.device("cpu")]
    kind, _, numbers = name.partition(":")
    devices = [torch.device(kind, int(number)) for number in (numbers or "0").split(",")] if kind == "cuda" else [torch.device(name)]
    if any(device.type == "cuda" and (device.index or 0) >= n_gpus for device in devices):
        raise EnvironmentFault(f"runtime.device is {name!r}, but torch sees {n_gpus} GPUs here; set runtime.device to auto or cpu")
    return devices


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype that `embedding.dtype` means on a device; `auto` is bfloat16 where the hardware multiplies it, else float32."""
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    has_bfloat16 = (
        torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
    )
    return torch.bfloat16 if has_bfloat16 else torch.float32


def fits_device(model: Any, device: torch.device) -> bool:
    """Tell whether a device has room for a whole model; a CPU's memory is not asked."""
    return device.type != "cuda" or sum(p.numel() * p.element_size() for p in model.parameters()) <= room_for_weights(device)


def room_for_weights(device: torch.device) -> int:
    """Count the bytes of a device that weights may take."""
    return int(torch.cuda.mem_get_info(device)[0] * _DEVICE_SHARE) if device.type == "cuda" else sys.maxsize


def _refuse_slow(spec: EmbeddingSpec, is_apart: bool, why: str) -> None:
    """Refuse quantized and split models, which exist on the fast path only."""
    if spec.quantization is not None:
        raise ConfigError(f"embedding.quantization is {spec.quantization!r}, which {spec.model} cannot use: {why}; set it to null")
    if is_apart:
        raise EnvironmentFault(f"{spec.model} is larger than a GPU and cannot be split: {why}")


def make_fast_pass(
    model: Any, spec: EmbeddingSpec, trie: PromptTrie, layers: Sequence[int], devices: Sequence[torch.device]
) -> TriePass | None:
    """Make the fast path, or return None for an unknown architecture; where `devices` are given, the decoder is moved to them."""
    longest = max(max(group.prompt_lengths) for group in trie.groups)
    with torch.inference_mode():
        n_layers, n_positions = layers[-1], longest + 2 * spec.max_tokens + 64
        runs_here = not devices or devices[0].type == "cpu"  # what is laid out for oneDNN cannot be moved to a GPU
        convert = partial(_convert_layer, n_layers - 1 if runs_here else None, spec.quantization)
        decoder = build_decoder(model, n_positions, n_layers, convert)
        if decoder is None:
            return None
        if not devices and decoder.token_table.device.type == "cpu":
            # What lies in the mapped file of weights would keep all of it in memory.
            decoder = map_tensors(decoder, lambda tensor: tensor if tensor.is_mkldnn else tensor.clone())
        if devices:
            decoder = place(decoder, devices, [room_for_weights(device) for device in devices])
        return choose_runner(decoder, trie.groups, layers)


def _convert_layer(last: int | None, quantization: str | None, index: int, layer: Layer) -> Layer:
    """Convert a layer to the form that runs: quantized, laid out for oneDNN, or as it is.

    Args:
        last: The layer that computes parts of its weights and stays as it is; None where no layer is laid out for oneDNN.
        quantization: Of the spec.
        index: The layer's.
        layer: As the model has it.
    """
    if quantization is not None:
        layer = quantize(layer, quantization)
    elif last is not None and index != last and fits_onednn(layer):
        layer = to_onednn(layer)
    return_freed_memory()
    return layer


def choose_runner(decoder: Decoder, groups: Sequence[PrefixGroup], taps: Sequence[int] = (), tokens_before: int = _CELL_TOKENS) -> TriePass:
    """Choose the fast path for the devices that a decoder stands on.

    Args:
        decoder: In place.
        groups: The template set's prefix groups.
        taps: Hidden states to read, as in `TriePass`.
        tokens_before: On a GPU, tokens to run before layers are compiled.
    """
    if decoder.token_table.device.type != "cuda":
        return TriePass(decoder, groups, taps)
    runner = PackedPass(decoder, groups, layer_function=compile_layer(), tokens_before=tokens_before, taps=taps)
    if len(runner.stages) == 1 and count_bytes(decoder.layers) <= _GRAPH_BYTES:
        runner.graphs = GraphCache(decoder.token_table.device)
    return runner


def check_room(spec: EmbeddingSpec, templates: TemplateSet, tokenizer: PromptTokenizer, model: Any) -> None:
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
    """Compute the hidden states of the probe texts by the fast path, shape ``(n_texts, n_templates, n_taps, hidden_size)``."""
    prepared = prepare_texts(_PROBES, trie, templates, max_tokens=1024, max_batch_tokens=1024, shares_starts=True)
    runner.use_groups(prepared.groups)
    states = np.zeros((len(_PROBES), len(templates.templates), len(runner.taps), runner.decoder.hidden_size), np.float32)
    for batch in prepared.batches:
        for cell, state in zip(batch, runner.run(batch, prepared.text_ids), strict=True):
            of_cell = state.view(*state.shape[:2], *states.shape[2:]).cpu().numpy()
            add_states(states, of_cell, cell.rows, prepared.groups[cell.group].template_indices, len(templates.templates))
    return states


def _worst_cosine(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    cosines = (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
    return float(np.nan_to_num(cosines, nan=-1.0).min())

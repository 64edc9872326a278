"""The fastest runner: a decoder of our own, made from the weights of a family that is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from metaeol_udf.encoder.checkpoint.process_memory import return_freed_memory
from metaeol_udf.encoder.forward.decoder import Decoder, Layer, map_tensors
from metaeol_udf.encoder.forward.hf_weights import build_decoder
from metaeol_udf.encoder.forward.onednn import fits_onednn, from_onednn, to_onednn
from metaeol_udf.encoder.forward.quantization import quantize
from metaeol_udf.encoder.forward.trie_forward import TriePass
from metaeol_udf.encoder.gpu.cuda_graphs import GraphCache
from metaeol_udf.encoder.gpu.device_map import count_bytes, place, room_for_weights
from metaeol_udf.encoder.gpu.flex_attention import compile_layer
from metaeol_udf.encoder.gpu.packed_forward import PackedPass
from metaeol_udf.prompts.trie import PrefixGroup, PromptTrie
from metaeol_udf.spec import EmbeddingSpec

_CELL_TOKENS = 500_000  # run cell by cell before a GPU's layers are compiled, which a short job would wait for in vain
_SPARE_POSITIONS = 320  # for longer prompts of another template set, see `remake_decoder_pass`
_GRAPH_BYTES = 4 * 2**30  # larger models keep a GPU busy without CUDA graphs


def make_decoder_pass(
    model: Any, spec: EmbeddingSpec, trie: PromptTrie, layers: Sequence[int], devices: Sequence[torch.device]
) -> TriePass | None:
    """Make the runner of a family that is known, or return None; where `devices` are given, the decoder is moved to them.

    Args:
        model: A base model that takes text. It gives its weights up.
        spec: What is computed.
        trie: Gives the prefix groups.
        layers: Indices into the hidden states of what is read.
        devices: Where a quantized or split model goes; none: it stands where it runs.
    """
    longest = max(max(group.prompt_lengths) for group in trie.groups)
    with torch.inference_mode():
        n_layers, n_positions = layers[-1], longest + 2 * spec.max_tokens + _SPARE_POSITIONS
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
        return run_on_its_device(decoder, trie.groups, layers)


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


def remake_decoder_pass(runner: TriePass, groups: Sequence[PrefixGroup], layers: Sequence[int], n_positions: int) -> TriePass | None:
    """Make a runner of a runner's decoder for other prefix groups and layers.

    Args:
        runner: It, which stays as it is.
        groups: The prefix groups.
        layers: Indices into the hidden states of what is read.
        n_positions: Positions that prompts may take.

    Returns:
        None where the decoder has fewer layers, or rotary tables for fewer positions.
    """
    decoder, n_layers = runner.decoder, layers[-1]
    if n_layers > len(decoder.layers) or any(len(table) < n_positions for table in decoder.ropes):
        return None
    with torch.inference_mode():
        if n_layers < len(decoder.layers):
            kept = decoder.layers[:n_layers]
            kept[-1:] = [from_onednn(layer) for layer in kept[-1:]]  # the last one computes parts of its weights
            decoder = dataclasses.replace(decoder, layers=kept, final_norm=None)
        return run_on_its_device(decoder, groups, layers)


def run_on_its_device(
    decoder: Decoder, groups: Sequence[PrefixGroup], taps: Sequence[int] = (), tokens_before: int = _CELL_TOKENS
) -> TriePass:
    """Choose the pass for the devices that a decoder stands on.

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
        runner.least_full = 0.0  # a padded batch is replayed in less time than the launches of its cells take
    return runner

"""Attention over a whole batch at once, and the layers around it: a constant number of launches a layer, for GPUs.

`attention.py` takes a batch cell by cell, which is what CPUs like; a GPU would wait for the host. Here FlexAttention takes the
packed batch in one launch: queries are its tokens, keys the prefixes in use and its tokens, and the block mask, one a batch
and kind of window, is shared by all layers. Who sees whom is in `packed_batch.py`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.utils._triton import has_triton

from metaeol_udf.encoder.forward.decoder import Decoder, Layer, Norm
from metaeol_udf.encoder.gpu.device_map import Stage
from metaeol_udf.encoder.gpu.packed_batch import BLOCK, PackedBatch

#: The blocks by query, which a backward pass would read, are not made where torch lets one choose; torch 2.6 always makes them.
_NO_QUERY_BLOCKS: dict[str, Any] = (
    {"compute_q_blocks": False} if "compute_q_blocks" in signature(BlockMask.from_kv_blocks).parameters else {}
)

logger = logging.getLogger(__name__)

_MOST_SHAPES = 64  # compiled; torch's own limit of 8 is met by two sizes of packed batches, two windows and a few sizes of outputs

_COMPILE_PROCESSES = "4"  # torch would start one a core in each Python worker

_ALIGNED = 32  # integers; compiled kernels copy what does not begin at a whole 128 bytes

Rotation = tuple[Tensor, Tensor]
LayerCache = tuple[Tensor, Tensor]  # keys and values, shape (1, n_kv_heads, n_tokens, head_dim)
MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class DevicePackedBatch:
    """Holds a `PackedBatch` on a device, integers as int32.

    Attributes:
        ids, positions: Of the tokens, shape ``(n_tokens,)``.
        outputs: Tokens whose hidden states are wanted, shape ``(n_outputs,)``.
        masks: For each window in use, the block mask with all tokens as queries.
        output_masks: The same with the outputs as queries.
        rotations: Cosines and sines at `positions`, shape ``(n_tokens, 1, head_dim)``, for each rotary table in use: both numbers of a pair
            have its own, the first one with the sine negated. In float32, as cells rotate.
        output_rotations: The same at the outputs.
    """

    ids: Tensor
    positions: Tensor
    outputs: Tensor
    masks: dict[int | None, BlockMask]
    output_masks: dict[int | None, BlockMask]
    rotations: dict[int, Rotation]
    output_rotations: dict[int, Rotation]


@dataclass(frozen=True)
class Shape:
    """Holds what attention needs to know of a decoder: plain numbers, so that one compiled function serves all layers alike."""

    n_heads: int
    n_kv_heads: int
    head_dim: int
    softcap: float | None


def flatten_packed_batch(packed: PackedBatch) -> Tensor:
    """Join all integers of a packed batch in one tensor, so that one copy brings them to the device."""
    parts = (
        packed.ids, packed.enters, packed.leaves, packed.positions, packed.outputs,
        packed.blocks.counts, packed.blocks.order, packed.output_blocks.counts, packed.output_blocks.order,
    )  # fmt: skip
    flat = [torch.from_numpy(part).flatten() for part in parts]
    return torch.cat([F.pad(part, (0, -len(part) % _ALIGNED)) for part in flat])


def unflatten_packed_batch(flat: Tensor, n_tokens: int, n_slab: int, n_outputs: int, decoder: Decoder) -> DevicePackedBatch:
    """Make views into what `flatten_packed_batch` made, once it is on the device, with masks and rotations over them."""
    n_keys, n_query, n_wanted = n_slab + n_tokens, n_tokens // BLOCK, n_outputs // BLOCK
    n_key = n_keys // BLOCK
    sizes = (n_tokens, n_keys, n_keys, n_keys, n_outputs, n_query, n_query * n_key, n_wanted, n_wanted * n_key)
    padded = torch.split(flat, [size + -size % _ALIGNED for size in sizes])
    ids, enters, leaves, key_positions, outputs, counts, order, output_counts, output_order = (
        part[:size] for part, size in zip(padded, sizes, strict=True)
    )
    positions, windows = key_positions[n_slab:], {layer.window for layer in decoder.layers}
    tokens = torch.arange(n_tokens, dtype=torch.int32, device=flat.device)

    def make_masks(queries: Tensor, counts: Tensor, order: Tensor) -> dict[int | None, BlockMask]:
        blocks = (counts.view(1, 1, -1), order.view(1, 1, -1, n_key))
        found = {}
        for window in windows:
            sees = _make_mask(enters, leaves, key_positions, queries, positions, window)
            lengths = (len(queries), n_keys)
            found[window] = BlockMask.from_kv_blocks(*blocks, BLOCK_SIZE=BLOCK, mask_mod=sees, seq_lengths=lengths, **_NO_QUERY_BLOCKS)
        return found

    rotations = {}
    for rope in {layer.rope for layer in decoder.layers if decoder.ropes}:
        at = decoder.ropes[rope].to(flat.device).index_select(0, positions)[:, None]
        pairs = ((at.real, at.real), (-at.imag, at.imag))
        cos, sin = (torch.stack(pair, dim=-1).flatten(-2) for pair in pairs)
        rotations[rope] = (cos, sin)
    return DevicePackedBatch(
        ids, positions, outputs, make_masks(tokens, counts, order), make_masks(outputs, output_counts, output_order),
        rotations, {rope: (cos.index_select(0, outputs), sin.index_select(0, outputs)) for rope, (cos, sin) in rotations.items()},
    )  # fmt: skip


def _make_mask(enters: Tensor, leaves: Tensor, key_positions: Tensor, queries: Tensor, positions: Tensor, window: int | None) -> MaskMod:
    """Make the function that tells whether query `q` sees key `k`; `queries` says which tokens of the packed batch the queries are."""

    def sees(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        token = queries[q]
        return (enters[k] <= token) & (token <= leaves[k])

    if window is None:
        return sees
    width = window

    def sees_near(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return sees(b, h, q, k) & (positions[queries[q]] - key_positions[k] < width)

    return sees_near


def run_layer(
    layer: Layer, shape: Shape, x: Tensor, slab: LayerCache, rotation: Rotation | None, mask: BlockMask,
    outputs: Tensor | None = None, output_rotation: Rotation | None = None,
) -> Tensor:  # fmt: skip
    """Run one layer over a packed batch. Free of side effects, so that it can be compiled.

    Args:
        layer: Weights.
        shape: Attention heads.
        x: Hidden states, shape ``(n_tokens, hidden_size)``.
        slab: Keys (rotated) and values of the prefixes in use.
        rotation: Cosines and sines of the tokens; None where positions are learned.
        mask: Who sees whom.
        outputs: In the last layer, the tokens that go on; None for all.
        output_rotation: Their cosines and sines.

    Returns:
        Hidden states of all tokens, or of the outputs alone.
    """
    n_query, n_key = shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim
    h = x if layer.attention_norm is None else layer.attention_norm(x)
    if outputs is None:
        queries, keys, values = torch.split(layer.qkv(h), [n_query, n_key, n_key], dim=-1)
    else:
        keys, values = torch.split(layer.qkv.rows(n_query, n_query + 2 * n_key)(h), [n_key, n_key], dim=-1)
        queries, x = layer.qkv.rows(0, n_query)(h.index_select(0, outputs)), x.index_select(0, outputs)
    new_keys = _place(keys.view(1, -1, shape.n_kv_heads, shape.head_dim), layer.k_norm, rotation)
    new_values = values.view(1, -1, shape.n_kv_heads, shape.head_dim).transpose(1, 2)
    placed = _place(queries.view(1, -1, shape.n_heads, shape.head_dim), layer.q_norm, rotation if outputs is None else output_rotation)
    attended = flex_attention(
        placed,
        torch.cat([slab[0], new_keys], dim=2),
        torch.cat([slab[1], new_values], dim=2),
        score_mod=None if shape.softcap is None else _cap(shape.softcap),
        block_mask=mask,
        scale=layer.scaling,
        enable_gqa=shape.n_heads != shape.n_kv_heads,
    )
    added = layer.attention_out(attended[0].transpose(0, 1).flatten(1))
    x = _add(x, added, layer.after_attention_norm)
    added = layer.mlp.out(layer.mlp.inner(x if layer.mlp_norm is None else layer.mlp_norm(x)))
    return _add(x, added, layer.after_mlp_norm)


def compile_layer() -> Callable[..., Tensor] | None:
    """Return `run_layer`, compiled for CUDA when it is first called; None, with a warning, where Triton is missing."""
    if not has_triton():
        logger.warning("batches run cell by cell, which is slower on a GPU: Triton, which compiles attention, is not usable here")
        return None
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", _COMPILE_PROCESSES)
    compiled: Callable[..., Tensor] = torch.compile(run_layer, fullgraph=True, dynamic=False)
    return compiled


def _cap(softcap: float) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]:
    return lambda score, b, h, q, k: softcap * torch.tanh(score / softcap)


def _place(x: Tensor, norm: Norm | None, rotation: Rotation | None) -> Tensor:
    """Normalise and rotate heads, shape ``(1, n_tokens, n_heads, head_dim)`` to ``(1, n_heads, n_tokens, head_dim)``."""
    if norm is not None:
        x = norm.of_heads(x)
    if rotation is not None:
        cos, sin = rotation
        x = (x * cos + x.view(*x.shape[:-1], -1, 2).flip(-1).flatten(-2) * sin).to(x.dtype)
    return x.transpose(1, 2)


def _add(residual: Tensor, added: Tensor, norm: Norm | None) -> Tensor:
    return residual + (added if norm is None else norm(added))


def run_layers(
    decoder: Decoder, stages: Sequence[Stage], packed_batches: Mapping[torch.device, DevicePackedBatch], slab: Sequence[LayerCache],
    layer_function: Callable[..., Tensor],
) -> Tensor:  # fmt: skip
    """Run the layers, from token ids to the hidden states of the outputs, shape ``(n_outputs, hidden_size)``, float32.

    Args:
        decoder: At least one layer.
        stages: Its layers by device.
        packed_batches: The batch, on each of those devices.
        slab: Keys and values of the prefixes, a layer each.
        layer_function: `run_layer`, or that compiled.
    """
    shape = Shape(decoder.n_heads, decoder.n_kv_heads, decoder.head_dim, decoder.softcap)
    packed = packed_batches[stages[0].device]
    x = decoder.embed(packed.ids, packed.positions)
    name = "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"  # the latter up to torch 2.6
    with torch._dynamo.config.patch({name: _MOST_SHAPES}):  # here, since newer releases keep a limit for each thread
        for stage in stages:
            packed, x = packed_batches[stage.device], x.to(stage.device)
            for index in stage.layers:
                layer = decoder.layers[index]
                arguments = (layer, shape, x, slab[index], packed.rotations.get(layer.rope))
                if index < len(decoder.layers) - 1:
                    x = layer_function(*arguments, packed.masks[layer.window])
                else:
                    rotation = packed.output_rotations.get(layer.rope)
                    x = layer_function(*arguments, packed.output_masks[layer.window], packed.outputs, rotation)
    return (x if decoder.final_norm is None else decoder.final_norm(x)).float()

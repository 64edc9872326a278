"""Attention inside one cell: rows of equal shape, each the tokens of a text and of the tail trie that forks from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metaeol_udf.encoder.decoder import Decoder, Layer, Norm
from metaeol_udf.prompts.trie import HeadGroup

HeadCache = tuple[tuple[Tensor, Tensor], ...]  # keys and values of a head, a layer each, shape (n_kv_heads, n_head, head_dim)
Rotation = tuple[Tensor, Tensor]

_QUERY_BLOCK = 128  # queries of a long text are taken in blocks, which skips most of the keys that causality hides


@dataclass(frozen=True)
class Layout:
    """What the rows of a cell share.

    Attributes:
        n_tokens: Tokens of a row: text, then tail trie.
        n_head: Tokens of the head before it.
        positions: Position of each of a row's tokens in its prompt, shape ``(n_tokens,)``.
        outputs: Tokens of a row whose hidden states are wanted, shape ``(n_outputs,)``.
        masks: For each window in use, 0 where a token sees another and -inf elsewhere, shape ``(n_tokens, n_shared, n_head +
            n_tokens)``: written out for the query heads that share a key-value head, because sums with it are many.
        rotations: Cosines and sines at `positions` for each (rotary table, scaling) in use, shape ``(n_tokens, head_dim / 2)``.
        blocks: Queries from, queries to, keys to: the parts that attention takes one after the other.
    """

    n_tokens: int
    n_head: int
    positions: Tensor
    outputs: Tensor
    masks: dict[int | None, Tensor]
    rotations: dict[tuple[int, float], Rotation]
    blocks: tuple[tuple[int, int, int], ...]


def make_layout(group: HeadGroup, n_text: int, decoder: Decoder) -> Layout:
    """Lay out the rows of a cell.

    Args:
        group: The head group.
        n_text: Tokens of each text.
        decoder: Gives windows, rotary tables, dtype and device.
    """
    device, dtype = decoder.token_table.device, decoder.token_table.dtype
    n_head, n_tokens = len(group.head_ids), n_text + len(group.tail_ids)
    positions = n_head + torch.cat([torch.arange(n_text), n_text - 1 + torch.tensor(group.tail_depths, dtype=torch.long)])
    sees = torch.ones(n_tokens, n_head + n_tokens, dtype=torch.bool)
    sees[:n_text, n_head : n_head + n_text].tril_()
    sees[:n_text, n_head + n_text :] = False
    sees[n_text:, n_head + n_text :] = torch.from_numpy(group.tail_sees)
    distances = positions[:, None] - torch.cat([torch.arange(n_head), positions])[None]
    masks = {}
    for window in {layer.window for layer in decoder.layers}:
        seen = sees if window is None else sees & (distances < window)
        mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, -torch.inf)
        masks[window] = mask[:, None].repeat(1, decoder.n_heads // decoder.n_kv_heads, 1).to(device)
    positions = positions.to(device)
    rotations = {}
    for rope, scaling in {(layer.rope, scale) for layer in decoder.layers for scale in (1.0, layer.scaling) if decoder.ropes}:
        cos, sin = decoder.ropes[rope]
        rotations[rope, scaling] = (cos[positions] * scaling, sin[positions] * scaling)
    outputs = torch.tensor([n_text - 1 if node < 0 else n_text + node for node in group.outputs])
    return Layout(n_tokens, n_head, positions, outputs.to(device), masks, rotations, _blocks(n_text, n_tokens, n_head))


def _blocks(n_text: int, n_tokens: int, n_head: int) -> tuple[tuple[int, int, int], ...]:
    if n_tokens <= 2 * _QUERY_BLOCK:
        return ((0, n_tokens, n_head + n_tokens),)
    starts = range(0, n_text, _QUERY_BLOCK)
    text = [(start, min(start + _QUERY_BLOCK, n_text), n_head + min(start + _QUERY_BLOCK, n_text)) for start in starts]
    return (*text, (n_text, n_tokens, n_head + n_tokens)) if n_tokens > n_text else tuple(text)


def attend(
    decoder: Decoder, layer: Layer, layout: Layout, n_rows: int, qkv: Sequence[Tensor],
    head: tuple[Tensor, Tensor] | None, only: Tensor | None, kept: list[tuple[Tensor, Tensor]] | None,
) -> Tensor:  # fmt: skip
    """Attention of a cell's tokens to their head, to their own text and to their own branch of the tail trie.

    Args:
        decoder: Head counts.
        layer: Scaling, window and query-key norms.
        layout: The layout of the cell's rows.
        n_rows: Rows of the cell.
        qkv: Queries, shape ``(n_rows * n_queries, n_heads * head_dim)``, row after row; keys and values, shape
            ``(n_rows * n_tokens, n_kv_heads * head_dim)``.
        head: Keys (rotated) and values of the head, shape ``(n_kv_heads, n_head, head_dim)`` each, or None.
        only: Which tokens of a row have a query; None for all of them.
        kept: Where to append the first row's rotated keys and its values, or None.

    Returns:
        Shape ``(n_rows * n_queries, n_heads * head_dim)``.
    """
    n_kv, dim, n_head = decoder.n_kv_heads, decoder.head_dim, layout.n_head
    n_shared = decoder.n_heads // n_kv  # query heads that share a key-value head
    queries, new_keys, new_values = qkv
    keys = new_keys.new_empty(n_rows, n_kv, n_head + layout.n_tokens, dim)
    values = torch.empty_like(keys)
    if head is not None:
        keys[:, :, :n_head], values[:, :, :n_head] = head
    values[:, :, n_head:] = new_values.view(n_rows, layout.n_tokens, n_kv, dim).transpose(1, 2)
    rotation = layout.rotations.get((layer.rope, 1.0))
    _place(new_keys.view(n_rows, layout.n_tokens, n_kv, dim), layer.k_norm, rotation, 1.0, keys[:, :, n_head:].transpose(1, 2))
    if kept is not None:
        kept.append((keys[0], values[0]))
    n_queries = layout.n_tokens if only is None else len(only)
    placed = queries.new_empty(n_rows, n_kv, n_queries, n_shared, dim)
    rotation = layout.rotations.get((layer.rope, layer.scaling))
    if rotation is not None and only is not None:
        rotation = (rotation[0][only], rotation[1][only])
    _place(queries.view(n_rows, n_queries, n_kv, n_shared, dim), layer.q_norm, rotation, layer.scaling, placed.transpose(1, 2))
    mask = layout.masks[layer.window]
    if only is not None or len(layout.blocks) == 1:
        attended = _weigh(placed, keys, values, mask if only is None else mask[only], decoder.softcap)
    else:
        parts = [
            _weigh(placed[:, :, start:stop], keys[:, :, :n_keys], values[:, :, :n_keys], mask[start:stop, :, :n_keys], decoder.softcap)
            for start, stop, n_keys in layout.blocks
        ]
        attended = torch.cat(parts, dim=2)
    return attended.transpose(1, 2).reshape(n_rows * n_queries, n_kv * n_shared * dim)


def _weigh(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, softcap: float | None) -> Tensor:
    """Softmax attention.

    Args:
        q: Shape ``(n_rows, n_kv_heads, n_queries, n_shared, head_dim)``, scaled.
        k: Shape ``(n_rows, n_kv_heads, n_keys, head_dim)``.
        v: As `k`.
        mask: Shape ``(n_queries, n_shared, n_keys)``, added to the scores.
        softcap: See `Decoder`.

    Returns:
        Same shape as `q`.
    """
    n_rows, n_kv, _, _, dim = q.shape
    n_keys = k.shape[2]
    scores = torch.bmm(q.reshape(n_rows * n_kv, -1, dim), k.reshape(n_rows * n_kv, n_keys, dim).transpose(1, 2))
    if softcap is not None:
        scores = scores.div_(softcap).tanh_().mul_(softcap)
    scores = scores.add_(mask.reshape(-1, n_keys))
    # On CPUs a softmax in bfloat16 takes three times as long as one in float32.
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
    return torch.bmm(weights, v.reshape(n_rows * n_kv, n_keys, dim)).view(q.shape)


def _place(x: Tensor, norm: Norm | None, rotation: Rotation | None, scaling: float, out: Tensor) -> None:
    """Normalise, rotate to its position and scale each head of `x`, shape ``(n_rows, n_tokens, ..., head_dim)``, into `out`.

    `rotation` is scaled already; `scaling` serves models without rotary positions.
    """
    if norm is not None:
        x = norm(x)
    if rotation is None:
        torch.mul(x, scaling, out=out)
        return
    half = x.shape[-1] // 2
    cos, sin = (table.view(1, table.shape[0], *(1,) * (x.dim() - 3), half) for table in rotation)
    first, second = x[..., :half], x[..., half:]
    torch.mul(first, cos, out=out[..., :half]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out[..., half:]).addcmul_(first, sin)

"""Attention over rows, each the tokens of a text and of the suffix trie that forks from it, with the prefix that they follow."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from metaeol_udf.encoder.forward.decoder import Decoder, Layer, Norm, map_tensors
from metaeol_udf.prompts.trie import PrefixGroup

PrefixCache = tuple[Tensor, ...]  # keys and values of a prefix, layer after layer, as the runner keeps them
Sees = Callable[[Tensor, Tensor], Tensor]  # of positions of queries and of keys, whether one sees the other
Rules = Mapping[Hashable, tuple[int, Sees | None]]  # see `make_layout`

_QUERY_BLOCK = 128  # queries of a long text are taken in blocks, which skips most of the keys that causality hides
_MAX_PADDING = 1.3  # scores of cells that are taken together, over those of the cells by themselves


@dataclass(frozen=True)
class Layout:
    """Describes what the rows of a cell share.

    Attributes:
        n_tokens: Tokens of a row: text, then suffix trie.
        n_prefix: Tokens of the prefix before it.
        positions: Position of each of a row's tokens in its prompt, shape ``(n_tokens,)``.
        outputs: Tokens of a row whose hidden states are wanted, shape ``(n_outputs,)``.
        masks: For each rule in use, 0 where a token sees another and -inf elsewhere, shape ``(n_tokens, n_shared, n_prefix +
            n_tokens)``: written out for the query heads that share a key-value head, because sums with it are many.
    """

    n_tokens: int
    n_prefix: int
    positions: Tensor
    outputs: Tensor
    masks: dict[Hashable, Tensor]


def make_layout(group: PrefixGroup, n_text: int, rules: Rules, device: torch.device) -> Layout:
    """Lay out the rows of a cell.

    Args:
        group: The prefix group.
        n_text: Tokens of each text.
        rules: What layers let a token see, by a key that the layers know: query heads that share a key-value head, and which positions
            see which; None where a token sees all before it.
        device: Where the tables go.
    """
    n_prefix, n_tokens = len(group.prefix_ids), n_text + len(group.suffix_ids)
    positions = n_prefix + torch.cat([torch.arange(n_text), n_text - 1 + torch.tensor(group.suffix_depths, dtype=torch.long)])
    sees = torch.ones(n_tokens, n_prefix + n_tokens, dtype=torch.bool)
    sees[:n_text, n_prefix : n_prefix + n_text].tril_()
    sees[:n_text, n_prefix + n_text :] = False
    sees[n_text:, n_prefix + n_text :] = torch.from_numpy(group.suffix_sees)
    of_keys = torch.cat([torch.arange(n_prefix), positions])
    masks = {}
    for key, (n_shared, may_see) in rules.items():
        seen = sees if may_see is None else sees & may_see(positions[:, None], of_keys[None])
        mask = torch.zeros(seen.shape).masked_fill_(~seen, -torch.inf)
        masks[key] = mask[:, None].repeat(1, n_shared, 1).to(device)
    outputs = torch.tensor([n_text - 1 if node < 0 else n_text + node for node in group.outputs])
    return Layout(n_tokens, n_prefix, positions.to(device), outputs.to(device), masks)


@dataclass(frozen=True)
class Part:
    """Describes a cell's place in the token sequence of a batch: its tokens from `start` to `stop`."""

    layout: Layout
    prefix: PrefixCache | None
    n_rows: int
    start: int
    stop: int

    def output_rows(self) -> Tensor:
        """Return the places of the outputs in the token sequence, row after row."""
        rows = torch.arange(self.n_rows, device=self.layout.outputs.device)
        return (self.start + rows[:, None] * self.layout.n_tokens + self.layout.outputs[None]).flatten()


@dataclass(frozen=True)
class Gather:
    """Says where the padded rows of a block stand in a token sequence without padding, and the other way round.

    Attributes:
        places: Token of the token sequence for each token of the block; what pads stands for the first token of its row. Shape ``(n_rows *
            n_tokens,)``.
        kept: Token of the block for each token of the token sequence.
    """

    places: Tensor
    kept: Tensor


@dataclass(frozen=True)
class Block:
    """Describes rows that attention takes together: those of one cell, or of several, padded to their longest prefix and row.

    Tables have one row where all rows are alike.

    Attributes:
        n_rows: Rows.
        n_tokens: Tokens of a row.
        n_prefix: Tokens before a row.
        prefixes: Rows from, rows to, and the prefix that they follow, or None.
        start: First token in the token sequence; stop: the one after the last.
        first_output: Place of the first output among those of all blocks; last_output: the one after the last.
        outputs: Tokens of a row whose hidden states are wanted, shape ``(1 or n_rows, n_outputs)``.
        masks: See `Layout`, shape ``(1 or n_rows, n_tokens, n_shared, n_prefix + n_tokens)``.
        tokens: How the rows are padded, None where they are not; of_outputs: the same for the outputs.
        query_blocks: Queries from, queries to, keys to: the parts of a long row that are taken one after the other.
    """

    n_rows: int
    n_tokens: int
    n_prefix: int
    prefixes: tuple[tuple[int, int, PrefixCache | None], ...]
    start: int
    stop: int
    first_output: int
    last_output: int
    outputs: Tensor
    masks: dict[Hashable, Tensor]
    tokens: Gather | None
    of_outputs: Gather | None
    query_blocks: tuple[tuple[int, int, int], ...]


def carry_blocks(blocks: Sequence[Block], device: torch.device) -> tuple[Block, ...]:
    """Bring blocks to another device; prefixes stay where they are, each layer's at the layer."""
    bare = tuple(dataclasses.replace(block, prefixes=()) for block in blocks)
    moved = map_tensors(bare, lambda tensor: tensor.to(device))
    return tuple(dataclasses.replace(new, prefixes=old.prefixes) for new, old in zip(moved, blocks, strict=True))


def make_blocks(parts: Sequence[Part]) -> list[Block]:
    """Decide which cells of a batch attention takes together. Every block costs the same few calls, whatever its size.

    Args:
        parts: The cells, in the order of the token sequence.
    """
    blocks, n_outputs = [], 0
    for together in _similar(parts):
        block = _pad_rows(together, n_outputs) if len(together) > 1 else _dense_rows(together[0], n_outputs)
        n_outputs = block.last_output
        blocks.append(block)
    return blocks


def _similar(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """Yield neighbours whose padding costs little. Long rows stand alone: they are taken in blocks of their own."""
    together: list[Part] = []
    n_rows, n_tokens, n_prefix, own = 0, 0, 0, 0
    for part in parts:
        layout = part.layout
        scores = part.n_rows * layout.n_tokens * (layout.n_prefix + layout.n_tokens)
        wide, deep = max(n_tokens, layout.n_tokens), max(n_prefix, layout.n_prefix)
        if together and (wide > 2 * _QUERY_BLOCK or (n_rows + part.n_rows) * wide * (deep + wide) > _MAX_PADDING * (own + scores)):
            yield together
            together, n_rows, wide, deep, own = [], 0, layout.n_tokens, layout.n_prefix, 0
        together.append(part)
        n_rows, n_tokens, n_prefix, own = n_rows + part.n_rows, wide, deep, own + scores
    yield together


def _dense_rows(part: Part, first_output: int) -> Block:
    layout, n_rows = part.layout, part.n_rows
    return Block(
        n_rows, layout.n_tokens, layout.n_prefix, ((0, n_rows, part.prefix),), part.start, part.stop,
        first_output, first_output + n_rows * len(layout.outputs), layout.outputs[None],
        {key: mask[None] for key, mask in layout.masks.items()}, None, None, _query_blocks(layout.n_tokens, layout.n_prefix),
    )  # fmt: skip


def _pad_rows(parts: Sequence[Part], first_output: int) -> Block:
    layouts = [part.layout for part in parts]
    n_tokens, n_prefix = max(layout.n_tokens for layout in layouts), max(layout.n_prefix for layout in layouts)
    stops = list(accumulate(part.n_rows for part in parts))
    rows = [slice(stop - part.n_rows, stop) for part, stop in zip(parts, stops, strict=True)]
    outputs = _padded([layout.outputs for layout in layouts], parts)
    masks = {}
    for key, first in layouts[0].masks.items():
        mask = first.new_full((stops[-1], n_tokens, first.shape[1], n_prefix + n_tokens), -torch.inf)
        for layout, of_part in zip(layouts, rows, strict=True):
            n_own = layout.n_tokens
            seen = layout.masks[key]
            mask[of_part, :n_own, :, : layout.n_prefix] = seen[:, :, : layout.n_prefix]
            mask[of_part, :n_own, :, n_prefix : n_prefix + n_own] = seen[:, :, layout.n_prefix :]
            mask[of_part, n_own:, :, n_prefix] = 0  # what pads sees something, so that no row of scores is empty
        masks[key] = mask
    return Block(
        stops[-1], n_tokens, n_prefix, tuple((of_part.start, of_part.stop, part.prefix) for part, of_part in zip(parts, rows, strict=True)),
        parts[0].start, parts[-1].stop,
        first_output, first_output + sum(part.n_rows * len(part.layout.outputs) for part in parts), outputs,
        masks,
        _gather([layout.n_tokens for layout in layouts], parts), _gather([len(layout.outputs) for layout in layouts], parts),
        _query_blocks(n_tokens, n_prefix),
    )  # fmt: skip


def _padded(tables: Sequence[Tensor], parts: Sequence[Part]) -> Tensor:
    """Join the parts' tables, each repeated for its part's rows and filled up with its first value, to shape ``(n_rows, longest)``."""
    longest = max(map(len, tables))
    filled = [torch.cat([table, table[:1].expand(longest - len(table))]) for table in tables]
    return torch.cat([table.expand(part.n_rows, longest) for table, part in zip(filled, parts, strict=True)])


def _gather(lengths: Sequence[int], parts: Sequence[Part]) -> Gather | None:
    """Return how rows of such lengths, a number for each part, are padded to the longest; None where all are alike."""
    longest, device = max(lengths), parts[0].layout.positions.device
    if min(lengths) == longest:
        return None
    # On the host, where numbers that decide shapes are known; a GPU would be waited for.
    of_rows = torch.tensor(lengths).repeat_interleave(torch.tensor([part.n_rows for part in parts]))
    columns = torch.arange(longest)[None]
    is_own = columns < of_rows[:, None]
    starts = (of_rows.cumsum(0) - of_rows)[:, None]
    places, kept = (starts + torch.where(is_own, columns, 0)).flatten(), is_own.flatten().nonzero()[:, 0]
    return Gather(places.to(device), kept.to(device))


def _query_blocks(n_tokens: int, n_prefix: int) -> tuple[tuple[int, int, int], ...]:
    """Split a long row's queries into blocks. Keys are ordered so that a block needs only the keys up to its own end."""
    if n_tokens <= 2 * _QUERY_BLOCK:
        return ((0, n_tokens, n_prefix + n_tokens),)
    starts = range(0, n_tokens, _QUERY_BLOCK)
    return tuple((start, stop, n_prefix + stop) for start in starts for stop in [min(start + _QUERY_BLOCK, n_tokens)])


def rotate(x: Tensor, norm: Norm | None, rotation: Tensor | None, scaling: float, head_dim: int) -> None:
    """Normalise, rotate to its position and scale each head of queries or keys, in place.

    Args:
        x: Shape ``(n_tokens, n_heads * head_dim)``; what is rotated together stands side by side.
        norm: Over each head or all of them, or None.
        rotation: Unit vectors times `scaling`, complex64, shape ``(n_tokens, 1, head_dim / 2)``; None where positions are learned.
        scaling: Of the heads; part of `rotation` where there is one.
        head_dim: Length of a head.
    """
    heads = x.view(len(x), -1, head_dim)
    if norm is not None:
        heads.copy_(norm.of_heads(heads))
    if rotation is None:
        if scaling != 1:
            heads.mul_(scaling)
        return
    pairs = heads.view(*heads.shape[:2], -1, 2)
    wide = pairs.float()  # itself where it is float32 already
    torch.view_as_complex(wide).mul_(rotation)
    if wide is not pairs:
        pairs.copy_(wide)


def attend(
    decoder: Decoder, layer: Layer, index: int, block: Block, projected: Sequence[Tensor], *, of_outputs: bool,
    kept: list[Tensor] | None,
) -> Tensor:  # fmt: skip
    """Compute the attention of a block's tokens to their prefix, to their own text and to their own branch of the suffix trie.

    Args:
        decoder: Head counts.
        layer: Its window.
        index: The layer's.
        block: The rows.
        projected: Queries, keys and values of all blocks side by side, shape ``(n_tokens, (n_heads + 2 * n_kv_heads) * head_dim)``;
            with `of_outputs`, queries of the outputs alone and then keys and values of all tokens. Queries and keys are rotated.
        of_outputs: Whether only outputs have a query.
        kept: Where to append the keys and values of the prefix and the only row, or None.

    Returns:
        A token of the token sequence (or an output) each, shape ``(n_queries, n_heads * head_dim)``.
    """
    n_rows, n_kv, dim, n_prefix = block.n_rows, decoder.n_kv_heads, decoder.head_dim, block.n_prefix
    own = pad(projected[-1][block.start : block.stop], block.tokens)
    gather = block.of_outputs if of_outputs else block.tokens
    queries = pad(projected[0][block.first_output : block.last_output], gather) if of_outputs else own[:, : -2 * n_kv * dim]
    seen = own.new_empty(2, n_rows, n_kv, n_prefix + block.n_tokens, dim)
    for start, stop, prefix in block.prefixes:
        n_own = 0 if prefix is None else prefix[index].shape[2]
        if prefix is not None:
            seen[:, start:stop, :, :n_own] = prefix[index][:, None]
        if n_own < n_prefix:
            seen[:, start:stop, :, n_own:n_prefix] = 0  # unseen, but what is not a number would be so in sums too
    seen[:, :, :, n_prefix:] = own[:, -2 * n_kv * dim :].view(n_rows, block.n_tokens, 2, n_kv, dim).permute(2, 0, 3, 1, 4)
    keys, values = seen
    if kept is not None:
        kept.append(seen[:, 0])
    mask, query_blocks = block.masks[layer.window], block.query_blocks
    if of_outputs:
        mask, query_blocks = _pick(mask, block.outputs), ((0, block.outputs.shape[1], n_prefix + block.n_tokens),)
    n_queries = query_blocks[-1][1]
    placed = queries.view(n_rows, n_queries, n_kv, -1, dim).transpose(1, 2)
    parts = [
        weigh(placed[:, :, start:stop], keys[:, :, :n_keys], values[:, :, :n_keys], mask[:, start:stop, :, :n_keys], decoder.softcap)
        for start, stop, n_keys in query_blocks
    ]
    attended = (parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)).transpose(1, 2).reshape(n_rows * n_queries, -1)
    return attended if gather is None else attended.index_select(0, gather.kept)


def pad(x: Tensor, gather: Gather | None) -> Tensor:
    """Pad the rows of a block, given as tokens, to its longest row."""
    return x if gather is None else x.index_select(0, gather.places)


def _pick(table: Tensor, outputs: Tensor) -> Tensor:
    """Pick the outputs' values from a table with a value a token."""
    if len(outputs) == 1:
        return table[:, outputs[0]]
    return table[torch.arange(len(outputs), device=outputs.device)[:, None], outputs]


def weigh(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, softcap: float | None, sinks: Tensor | None = None) -> Tensor:
    """Compute softmax attention.

    Args:
        q: Shape ``(n_rows, n_kv_heads, n_queries, n_shared, head_dim)``, scaled.
        k: Shape ``(n_rows, n_kv_heads, n_keys, head_dim)``.
        v: As `k`, but its heads may have another size.
        mask: Shape ``(1 or n_rows, n_queries, n_shared, n_keys)``, float32, added to the scores.
        softcap: See `Decoder`.
        sinks: A score that every query gives to nothing, shape ``(n_kv_heads, n_shared)``, or None.

    Returns:
        Shape ``(n_rows, n_kv_heads, n_queries, n_shared, value_dim)``.
    """
    n_rows, n_kv, n_queries, n_shared, dim = q.shape
    n_keys = k.shape[2]
    scores = torch.bmm(q.reshape(n_rows * n_kv, -1, dim), k.reshape(n_rows * n_kv, n_keys, dim).transpose(1, 2))
    if softcap is not None:
        scores = scores.div_(softcap).tanh_().mul_(softcap)
    # On CPUs a softmax in bfloat16 takes longer than one in float32.
    wide = scores.float().view(n_rows, n_kv, -1, n_keys)
    wide = wide.add_(mask.flatten(1, 2)[:, None])
    if sinks is None:
        weights = torch.softmax(wide, dim=-1)
    else:
        sink = sinks.float()[None, :, None, :, None].expand(n_rows, n_kv, n_queries, n_shared, 1).reshape(n_rows, n_kv, -1, 1)
        weights = torch.softmax(torch.cat([wide, sink], dim=-1), dim=-1)[..., :-1]
    out = torch.bmm(weights.to(q.dtype).flatten(0, 1), v.reshape(n_rows * n_kv, n_keys, -1))
    return out.view(n_rows, n_kv, n_queries, n_shared, -1)

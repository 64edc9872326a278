"""A batch as one packed sequence of tokens for attention kernels that take a whole batch at once: positions, and who sees whom.

Keys are those of the prefixes in use (the *slab*) followed by those of the packed batch. Both are laid out depth first along the prompt
trie, so that all queries that attend to a key are contiguous: prefixes before the texts that start with them, a text
before its suffixes, a suffix token before its branches. «Query q sees key k» is then ``enters[k] <= q <= leaves[k]``, for causality
inside a text, for forks of suffixes, for shared prefixes and for other rows alike, and no mask is ever written out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metaeol_udf.encoder.forward.batching import Cell
from metaeol_udf.prompts.trie import PrefixGroup

BLOCK = 128  # queries and keys that a kernel takes at a time; what no query of a block sees is not even read

Ints = NDArray[np.int32]


@dataclass(frozen=True)
class SlabLayout:
    """Says where the prefixes stand in the slab. A prefix that extends another holds its own tokens only.

    Attributes:
        prefixes: Their tokens, depth first: a prefix is followed by those that extend it.
        parents: The prefix that each one extends, as an index, or -1.
        starts: Of each prefix in the slab, shape ``(n_prefixes + 1,)``.
        n_tokens: Of the slab: padded to 1, 2, 4, 8 ... blocks, so that few shapes are compiled.
    """

    prefixes: tuple[tuple[int, ...], ...]
    parents: tuple[int, ...]
    starts: tuple[int, ...]
    n_tokens: int


@dataclass(frozen=True)
class SuffixOrder:
    """Holds a prefix group's suffixes, depth first.

    Attributes:
        ids: Tokens, shape ``(n_suffix,)``.
        depths: Steps from the text's last token, shape ``(n_suffix,)``.
        sizes: Tokens of the branch that starts at each token, itself included, shape ``(n_suffix,)``.
        outputs: Suffix token of each template's hidden state, -1 for the text's last token, shape ``(n_group,)``.
    """

    ids: Ints
    depths: Ints
    sizes: Ints
    outputs: Ints


@dataclass(frozen=True)
class Blocks:
    """Says which blocks of keys each block of queries reads: how many, and which ones first."""

    counts: Ints  # shape (n_query_blocks,)
    order: Ints  # shape (n_query_blocks, n_key_blocks)


@dataclass(frozen=True)
class PackedBatch:
    """Holds a batch on the host. Sizes are padded; what pads sees itself, and nothing sees it.

    Attributes:
        ids: Tokens, shape ``(n_tokens,)``.
        enters: First token of the packed batch that sees a key, shape ``(n_slab + n_tokens,)``; leaves: the last one.
        positions: Of each key in its prompt, shape ``(n_slab + n_tokens,)``; the packed batch's own are its end.
        outputs: Tokens whose hidden states are wanted, shape ``(n_outputs,)``.
        blocks: For all tokens as queries; output_blocks: for the outputs.
        cells: Cells in the order of the packed batch, by their index in the batch.
        n_outputs: Outputs without padding.
    """

    ids: Ints
    enters: Ints
    leaves: Ints
    positions: Ints
    outputs: Ints
    blocks: Blocks
    output_blocks: Blocks
    cells: tuple[int, ...]
    n_outputs: int


def lay_out_slab(groups: Sequence[PrefixGroup]) -> SlabLayout:
    """Lay out the prefixes of some groups; where a group extends another's prefix, that group must be among them."""
    found: dict[tuple[int, ...], tuple[int, ...]] = {}
    for group in groups:
        if group.prefix_ids:
            found.setdefault(group.prefix_ids, group.prefix_ids[: group.n_inherited])
    prefixes: list[tuple[int, ...]] = []
    for prefix in (prefix for prefix, parent in found.items() if not parent):
        prefixes += [prefix, *(child for child, parent in found.items() if parent == prefix)]
    parents = [prefixes.index(found[prefix]) if found[prefix] else -1 for prefix in prefixes]
    own = [len(prefix) - len(found[prefix]) for prefix in prefixes]
    starts = (0, *np.cumsum(own).tolist())
    return SlabLayout(tuple(prefixes), tuple(parents), starts, BLOCK << (max(0, starts[-1] - 1) // BLOCK).bit_length())


def order_suffixes(group: PrefixGroup) -> SuffixOrder:
    """Put a group's suffix trie into depth-first order."""
    paths = [tuple(np.flatnonzero(sees)) for sees in group.suffix_sees]  # parents stand before children, so ancestors ascend
    order = np.array(sorted(range(len(paths)), key=paths.__getitem__), np.int32)
    place = {int(node): index for index, node in enumerate(order)}
    return SuffixOrder(
        ids=np.array(group.suffix_ids, np.int32)[order],
        depths=np.array(group.suffix_depths, np.int32)[order],
        sizes=group.suffix_sees.sum(0).astype(np.int32)[order],
        outputs=np.array([place.get(node, -1) for node in group.outputs], np.int32),
    )


def lay_out_packed_batch(
    batch: Sequence[Cell], groups: Sequence[PrefixGroup], suffixes: Sequence[SuffixOrder], slab: SlabLayout,
    text_ids: Sequence[Mapping[int, Sequence[int]]], n_tokens: int,
) -> PackedBatch:  # fmt: skip
    """Lay out a batch.

    Args:
        batch: Its cells.
        groups: The prefix groups that cells speak of.
        suffixes: Their suffixes in order.
        slab: Holds the prefixes of all those groups.
        text_ids: Token ids of each text in each group, indexed ``[group][row]``.
        n_tokens: Size to pad the packed batch to: whole blocks, and no less than the batch holds.
    """
    prefix_of = [slab.prefixes.index(groups[cell.group].prefix_ids) if groups[cell.group].prefix_ids else -1 for cell in batch]
    cells = sorted(range(len(batch)), key=prefix_of.__getitem__)  # stable: prefixes and those that extend them side by side
    ids, positions, leaves = np.zeros(n_tokens, np.int32), np.zeros(n_tokens, np.int32), np.arange(n_tokens, dtype=np.int32)
    starts = np.arange(n_tokens, dtype=np.int32)  # where the row of each token begins
    prefixes = np.full(n_tokens, -1, np.int32)
    outputs: list[NDArray[np.int64]] = []
    start = 0
    for index in cells:
        cell, suffix = batch[index], suffixes[batch[index].group]
        n_rows, n_text = len(cell.rows), cell.n_text_tokens
        n_row = n_text + len(suffix.ids)
        place = slice(start, start + cell.n_tokens)
        grid = ids[place].reshape(n_rows, n_row)
        grid[:, :n_text] = [text_ids[cell.group][row] for row in cell.rows]
        grid[:, n_text:] = suffix.ids
        steps = np.concatenate([np.arange(n_text), n_text - 1 + suffix.depths])
        ends = np.concatenate([np.full(n_text, n_row - 1), np.arange(n_text, n_row) + suffix.sizes - 1])
        rows = start + n_row * np.arange(n_rows)[:, None]
        positions[place] = np.tile(steps, n_rows) + len(groups[cell.group].prefix_ids)
        leaves[place] = (rows + ends).ravel()
        starts[place] = np.repeat(rows, n_row)
        prefixes[place] = prefix_of[index]
        outputs.append((rows + n_text + suffix.outputs).ravel())
        start = place.stop
    n_outputs = sum(map(len, outputs))
    wanted = np.concatenate([*outputs, np.zeros(output_size(n_outputs, n_tokens) - n_outputs, np.int64)])
    enters, prefix_leaves, prefix_positions = _slab_sight(slab, prefixes)
    return PackedBatch(
        ids=ids,
        enters=np.concatenate([enters, np.arange(n_tokens, dtype=np.int32)]),
        leaves=np.concatenate([prefix_leaves, leaves]),
        positions=np.concatenate([prefix_positions, positions]),
        outputs=wanted.astype(np.int32),
        blocks=_find_blocks(np.arange(n_tokens), starts, prefixes, slab),
        output_blocks=_find_blocks(wanted, starts, prefixes, slab),
        cells=tuple(cells),
        n_outputs=n_outputs,
    )


def output_size(n_outputs: int, n_tokens: int) -> int:
    """Return what outputs are padded to: a few sizes, so that few shapes are compiled, as outputs are a small and steady part of tokens."""
    sizes = (_whole_blocks(n_tokens >> shift) for shift in (6, 5, 4, 3, 2, 1, 0))
    return next((size for size in sizes if size >= n_outputs), _whole_blocks(n_outputs))


def _slab_sight(slab: SlabLayout, prefixes: Ints) -> tuple[Ints, Ints, Ints]:
    """Return `enters`, `leaves` and `positions` of the slab's tokens; a prefix that no text of the batch has is seen by none."""
    enters, leaves = np.ones(slab.n_tokens, np.int32), np.zeros(slab.n_tokens, np.int32)
    positions = np.zeros(slab.n_tokens, np.int32)
    for prefix, tokens in enumerate(slab.prefixes):
        place = slice(slab.starts[prefix], slab.starts[prefix + 1])
        family = [prefix, *(child for child, parent in enumerate(slab.parents) if parent == prefix)]
        texts = np.flatnonzero(np.isin(prefixes, family))
        positions[place] = np.arange(len(tokens) - (place.stop - place.start), len(tokens))
        if len(texts):
            enters[place], leaves[place] = texts[0], texts[-1]
    return enters, leaves, positions


def _find_blocks(queries: NDArray[np.int64], starts: Ints, prefixes: Ints, slab: SlabLayout) -> Blocks:
    """Find the blocks of keys for blocks of queries; `starts` and `prefixes` say for each token where its row begins, and its prefix."""
    n_slab, n_query = slab.n_tokens // BLOCK, len(queries) // BLOCK
    n_key = n_slab + len(starts) // BLOCK
    change = np.zeros((n_query, n_key + 1), np.int32)
    block = np.arange(len(queries)) // BLOCK
    np.add.at(change, (block, n_slab + starts[queries] // BLOCK), 1)
    np.add.at(change, (block, n_slab + queries // BLOCK + 1), -1)
    for prefix in np.unique(prefixes[queries]).tolist():
        of_prefix = np.unique(block[prefixes[queries] == prefix])
        while prefix >= 0:
            change[of_prefix, slab.starts[prefix] // BLOCK] += 1
            change[of_prefix, (slab.starts[prefix + 1] - 1) // BLOCK + 1] -= 1
            prefix = slab.parents[prefix]
    needed = change.cumsum(1)[:, :-1] > 0
    return Blocks(needed.sum(1, dtype=np.int32), np.argsort(~needed, axis=1, kind="stable").astype(np.int32))


def _whole_blocks(n: int) -> int:
    return -(-n // BLOCK) * BLOCK

"""A batch as one stream of tokens for attention kernels that take a whole batch at once: positions, and who sees whom.

Keys are those of the heads in use (the *slab*) followed by those of the stream. Both are laid out depth first along the prompt
trie, so that whatever a key is seen by stands side by side in the stream: heads before the texts that start with them, a text
before its tails, a tail token before its branches. «Query q sees key k» is then ``enters[k] <= q <= leaves[k]``, for causality
inside a text, for forks of tails, for shared heads and for other rows alike, and no mask is ever written out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metaeol_udf.encoder.forward.batching import Cell
from metaeol_udf.prompts.trie import HeadGroup

BLOCK = 128  # queries and keys that a kernel takes at a time; what no query of a block sees is not even read

Ints = NDArray[np.int32]


@dataclass(frozen=True)
class SlabLayout:
    """Where the heads stand in the slab. A head that extends another holds its own tokens only.

    Attributes:
        heads: Their tokens, depth first: a head is followed by those that extend it.
        parents: The head that each one extends, as an index, or -1.
        starts: Of each head in the slab, shape ``(n_heads + 1,)``.
        n_tokens: Of the slab: padded to 1, 2, 4, 8 ... blocks, so that few shapes are compiled.
    """

    heads: tuple[tuple[int, ...], ...]
    parents: tuple[int, ...]
    starts: tuple[int, ...]
    n_tokens: int


@dataclass(frozen=True)
class TailOrder:
    """A head group's tails, depth first.

    Attributes:
        ids: Tokens, shape ``(n_tail,)``.
        depths: Steps from the text's last token, shape ``(n_tail,)``.
        sizes: Tokens of the branch that starts at each token, itself included, shape ``(n_tail,)``.
        outputs: Tail token of each template's hidden state, -1 for the text's last token, shape ``(n_group,)``.
    """

    ids: Ints
    depths: Ints
    sizes: Ints
    outputs: Ints


@dataclass(frozen=True)
class Blocks:
    """Which blocks of keys each block of queries reads: how many, and which ones first."""

    counts: Ints  # shape (n_query_blocks,)
    order: Ints  # shape (n_query_blocks, n_key_blocks)


@dataclass(frozen=True)
class Stream:
    """A batch on the host. Sizes are padded; what pads sees itself, and nothing sees it.

    Attributes:
        ids: Tokens, shape ``(n_tokens,)``.
        enters: First token of the stream that sees a key, shape ``(n_slab + n_tokens,)``; leaves: the last one.
        positions: Of each key in its prompt, shape ``(n_slab + n_tokens,)``; the stream's own are its end.
        outputs: Tokens whose hidden states are wanted, shape ``(n_outputs,)``.
        blocks: For all tokens as queries; output_blocks: for the outputs.
        cells: Cells in the order of the stream, by their index in the batch.
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


def lay_out_slab(groups: Sequence[HeadGroup]) -> SlabLayout:
    """Lay out the heads of some groups; where a group extends another's head, that group must be among them."""
    found: dict[tuple[int, ...], tuple[int, ...]] = {}
    for group in groups:
        if group.head_ids:
            found.setdefault(group.head_ids, group.head_ids[: group.n_inherited])
    heads: list[tuple[int, ...]] = []
    for head in (head for head, parent in found.items() if not parent):
        heads += [head, *(child for child, parent in found.items() if parent == head)]
    parents = [heads.index(found[head]) if found[head] else -1 for head in heads]
    own = [len(head) - len(found[head]) for head in heads]
    starts = (0, *np.cumsum(own).tolist())
    return SlabLayout(tuple(heads), tuple(parents), starts, BLOCK << (max(0, starts[-1] - 1) // BLOCK).bit_length())


def order_tails(group: HeadGroup) -> TailOrder:
    """Put a group's tail trie into depth-first order."""
    paths = [tuple(np.flatnonzero(sees)) for sees in group.tail_sees]  # parents stand before children, so ancestors ascend
    order = np.array(sorted(range(len(paths)), key=paths.__getitem__), np.int32)
    place = {int(node): index for index, node in enumerate(order)}
    return TailOrder(
        ids=np.array(group.tail_ids, np.int32)[order],
        depths=np.array(group.tail_depths, np.int32)[order],
        sizes=group.tail_sees.sum(0).astype(np.int32)[order],
        outputs=np.array([place.get(node, -1) for node in group.outputs], np.int32),
    )


def lay_out_stream(
    batch: Sequence[Cell], groups: Sequence[HeadGroup], tails: Sequence[TailOrder], slab: SlabLayout,
    text_ids: Sequence[Mapping[int, Sequence[int]]], n_tokens: int,
) -> Stream:  # fmt: skip
    """Lay out a batch.

    Args:
        batch: Its cells.
        groups: The head groups that cells speak of.
        tails: Their tails in order.
        slab: Holds the heads of all those groups.
        text_ids: Token ids of each text in each group, indexed ``[group][row]``.
        n_tokens: Size to pad the stream to: whole blocks, and no less than the batch holds.
    """
    head_of = [slab.heads.index(groups[cell.group].head_ids) if groups[cell.group].head_ids else -1 for cell in batch]
    cells = sorted(range(len(batch)), key=head_of.__getitem__)  # stable: heads and those that extend them side by side
    ids, positions, leaves = np.zeros(n_tokens, np.int32), np.zeros(n_tokens, np.int32), np.arange(n_tokens, dtype=np.int32)
    starts = np.arange(n_tokens, dtype=np.int32)  # where the row of each token begins
    heads = np.full(n_tokens, -1, np.int32)
    outputs: list[NDArray[np.int64]] = []
    start = 0
    for index in cells:
        cell, tail = batch[index], tails[batch[index].group]
        n_rows, n_text = len(cell.rows), cell.n_text_tokens
        n_row = n_text + len(tail.ids)
        place = slice(start, start + cell.n_tokens)
        grid = ids[place].reshape(n_rows, n_row)
        grid[:, :n_text] = [text_ids[cell.group][row] for row in cell.rows]
        grid[:, n_text:] = tail.ids
        steps = np.concatenate([np.arange(n_text), n_text - 1 + tail.depths])
        ends = np.concatenate([np.full(n_text, n_row - 1), np.arange(n_text, n_row) + tail.sizes - 1])
        rows = start + n_row * np.arange(n_rows)[:, None]
        positions[place] = np.tile(steps, n_rows) + len(groups[cell.group].head_ids)
        leaves[place] = (rows + ends).ravel()
        starts[place] = np.repeat(rows, n_row)
        heads[place] = head_of[index]
        outputs.append((rows + n_text + tail.outputs).ravel())
        start = place.stop
    n_outputs = sum(map(len, outputs))
    wanted = np.concatenate([*outputs, np.zeros(_output_size(n_outputs, n_tokens) - n_outputs, np.int64)])
    enters, head_leaves, head_positions = _slab_sight(slab, heads)
    return Stream(
        ids=ids,
        enters=np.concatenate([enters, np.arange(n_tokens, dtype=np.int32)]),
        leaves=np.concatenate([head_leaves, leaves]),
        positions=np.concatenate([head_positions, positions]),
        outputs=wanted.astype(np.int32),
        blocks=_find_blocks(np.arange(n_tokens), starts, heads, slab),
        output_blocks=_find_blocks(wanted, starts, heads, slab),
        cells=tuple(cells),
        n_outputs=n_outputs,
    )


def _output_size(n_outputs: int, n_tokens: int) -> int:
    """A few sizes a stream only, so that few shapes are compiled: what is wanted is a small and steady part of the tokens."""
    sizes = (_whole_blocks(n_tokens >> shift) for shift in (6, 5, 4, 3, 2, 1, 0))
    return next((size for size in sizes if size >= n_outputs), _whole_blocks(n_outputs))


def _slab_sight(slab: SlabLayout, heads: Ints) -> tuple[Ints, Ints, Ints]:
    """`enters`, `leaves` and `positions` of the slab's tokens; a head that no text of the batch has is seen by none."""
    enters, leaves = np.ones(slab.n_tokens, np.int32), np.zeros(slab.n_tokens, np.int32)
    positions = np.zeros(slab.n_tokens, np.int32)
    for head, tokens in enumerate(slab.heads):
        place = slice(slab.starts[head], slab.starts[head + 1])
        family = [head, *(child for child, parent in enumerate(slab.parents) if parent == head)]
        texts = np.flatnonzero(np.isin(heads, family))
        positions[place] = np.arange(len(tokens) - (place.stop - place.start), len(tokens))
        if len(texts):
            enters[place], leaves[place] = texts[0], texts[-1]
    return enters, leaves, positions


def _find_blocks(queries: NDArray[np.int64], starts: Ints, heads: Ints, slab: SlabLayout) -> Blocks:
    """Blocks of keys for blocks of queries; `starts` and `heads` say for each token where its row begins and its head."""
    n_slab, n_query = slab.n_tokens // BLOCK, len(queries) // BLOCK
    n_key = n_slab + len(starts) // BLOCK
    change = np.zeros((n_query, n_key + 1), np.int32)
    block = np.arange(len(queries)) // BLOCK
    np.add.at(change, (block, n_slab + starts[queries] // BLOCK), 1)
    np.add.at(change, (block, n_slab + queries // BLOCK + 1), -1)
    for head in np.unique(heads[queries]).tolist():
        of_head = np.unique(block[heads[queries] == head])
        while head >= 0:
            change[of_head, slab.starts[head] // BLOCK] += 1
            change[of_head, (slab.starts[head + 1] - 1) // BLOCK + 1] -= 1
            head = slab.parents[head]
    needed = change.cumsum(1)[:, :-1] > 0
    return Blocks(needed.sum(1, dtype=np.int32), np.argsort(~needed, axis=1, kind="stable").astype(np.int32))


def _whole_blocks(n: int) -> int:
    return -(-n // BLOCK) * BLOCK

"""Which tokens go through the model together: cells of equal shape, packed into batches without padding."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """Texts of one head group with the same number of tokens, so that attention runs over them as one dense block.

    Attributes:
        group: Index of the head group.
        rows: Which texts of the group, shape ``(n_rows,)``.
        n_text_tokens: Tokens of each of them between head and tails.
        n_tokens: Tokens of the whole cell: rows times text and tail tokens.
    """

    group: int
    rows: tuple[int, ...]
    n_text_tokens: int
    n_tokens: int


def plan_batches(lengths: Sequence[Mapping[int, int]], n_tails: Sequence[int], max_batch_tokens: int) -> list[list[Cell]]:
    """Group texts into batches that fit the token budget. Nothing is padded.

    Longest texts first, so that the batch most likely to run out of memory runs first. Within a length, head groups
    follow each other, so that a batch may hold several of them: the linear layers do not care.

    Args:
        lengths: For each head group its texts and their tokens.
        n_tails: Tokens of each group's tail trie, shape ``(n_groups,)``.
        max_batch_tokens: Tokens a batch may hold; a text that is longer by itself makes a batch of its own.

    Returns:
        Batches of cells; each (group, text) stands in exactly one cell.
    """
    same: dict[tuple[int, int], list[int]] = defaultdict(list)
    for group, of_group in enumerate(lengths):
        for row, length in of_group.items():
            same[length, group].append(row)
    batches: list[list[Cell]] = []
    room = 0
    for length, group in sorted(same, key=lambda key: (-key[0], key[1])):
        rows = same[length, group]
        n_row = length + n_tails[group]
        while rows:
            if not batches or room < n_row:
                batches.append([])
                room = max_batch_tokens
            n_fit = max(1, min(len(rows), room // n_row))
            batches[-1].append(Cell(group, tuple(rows[:n_fit]), length, n_fit * n_row))
            room -= n_fit * n_row
            rows = rows[n_fit:]
    return batches


def share_evenly(lengths: Sequence[Mapping[int, int]], n_tails: Sequence[int], max_batch_tokens: int, n_lanes: int) -> int:
    """A token budget, at most `max_batch_tokens`, at which the number of batches is a multiple of the lanes that run them.

    Matters to few texts alone: three equal batches on two lanes would leave one of them idle for a quarter of the time.
    """
    if n_lanes == 1:
        return max_batch_tokens
    rows = [length + n_tail for of_group, n_tail in zip(lengths, n_tails, strict=True) for length in of_group.values()]
    n_rounds = -(-sum(rows) // (n_lanes * max_batch_tokens))
    # A row more than its share keeps what does not fit exactly from making another batch.
    return min(max_batch_tokens, sum(rows) // (n_lanes * n_rounds) + max(rows)) if rows else max_batch_tokens

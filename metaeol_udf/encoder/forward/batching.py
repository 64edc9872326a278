"""Which tokens go through the model together: cells of equal shape, batched without padding."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """Holds texts of one prefix group with the same number of tokens, so that attention runs over them as one dense block.

    Attributes:
        group: Index of the prefix group.
        rows: Which texts of the group, shape ``(n_rows,)``.
        n_text_tokens: Tokens of each of them between prefix and suffixes.
        n_tokens: Tokens of the whole cell: rows times text and suffix tokens.
    """

    group: int
    rows: tuple[int, ...]
    n_text_tokens: int
    n_tokens: int


def plan_batches(
    lengths: Sequence[Mapping[int, int]], n_suffixes: Sequence[int], max_batch_tokens: int, n_threads: int = 1
) -> list[list[Cell]]:
    """Group texts into batches that fit the token budget. Nothing is padded.

    Longest texts first, so that the batch most likely to run out of memory runs first. Within a length, prefix groups
    follow each other, so that a batch may hold several of them: the linear layers do not care.

    Args:
        lengths: For each prefix group its texts and their tokens.
        n_suffixes: Tokens of each group's suffix trie, shape ``(n_groups,)``.
        max_batch_tokens: Tokens a batch may hold; a text that is longer by itself makes a batch of its own.
        n_threads: Threads that run batches. With several, batches hold less where that makes their number a multiple of it: three
            equal batches on two threads would leave one of them idle for a quarter of the time.

    Returns:
        Batches of cells; each (group, text) stands in exactly one cell.
    """
    same: dict[tuple[int, int], list[int]] = defaultdict(list)
    for group, of_group in enumerate(lengths):
        for row, length in of_group.items():
            same[length, group].append(row)
    left = sum(len(rows) * (length + n_suffixes[group]) for (length, group), rows in same.items())
    n_unused = left / max(1, 2 * sum(map(len, same.values())))  # of a batch, on average: the next row did not fit
    n_batches = n_threads * math.ceil(left / (n_threads * max(1, max_batch_tokens - n_unused)))
    batches: list[list[Cell]] = []
    room, wanted = 0, 0.0
    for length, group in sorted(same, key=lambda key: (-key[0], key[1])):
        rows = same[length, group]
        n_row = length + n_suffixes[group]
        while rows:
            if room < n_row or wanted < n_row / 2:
                room = max_batch_tokens
                wanted = room if n_threads == 1 else left / max(1, n_batches - len(batches))  # an even share of what is left
                batches.append([])
            n_fit = max(1, min(len(rows), room // n_row, round(wanted / n_row)))
            batches[-1].append(Cell(group, tuple(rows[:n_fit]), length, n_fit * n_row))
            room, wanted, left = room - n_fit * n_row, wanted - n_fit * n_row, left - n_fit * n_row
            rows = rows[n_fit:]
    return batches

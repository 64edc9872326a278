"""Common starts of neighbouring texts (boilerplate, log lines, quoted mails): found in a window, and run once like a prefix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

_MIN_SHARED = 16  # tokens; shorter starts are found everywhere and save less than another cell costs
_MIN_SAVED = 64  # tokens that a common start must save in all


@dataclass(frozen=True)
class CommonStart:
    """Texts that begin with the same tokens.

    Attributes:
        n_tokens: Tokens in common; every text has at least one more.
        rows: The texts, positions in the window.
    """

    n_tokens: int
    rows: tuple[int, ...]


@dataclass
class _Interval:
    """Consecutive sorted texts from `first` that share `n_tokens`, with the best that was found inside them."""

    n_tokens: int
    first: int
    inner: list[tuple[int, CommonStart]] = field(default_factory=list)


def find_common_starts(ids: Sequence[Sequence[int]]) -> list[CommonStart]:
    """Choose disjoint sets of texts whose common starts save the most tokens.

    Sorted texts with a common start stand side by side, and the starts are nested like brackets: of a bracket and those
    inside it, whichever saves more is taken.

    Args:
        ids: Token ids of each text, shape ``(n_texts, varying)``.

    Returns:
        Sets of at least two texts; most texts are in none.
    """
    order = sorted(range(len(ids)), key=lambda row: list(ids[row]))
    open_intervals = [_Interval(0, 0)]
    for place in range(1, len(order) + 1):
        shared = _shared(ids[order[place - 1]], ids[order[place]]) if place < len(order) else 0
        first = place - 1
        while open_intervals[-1].n_tokens > shared:
            closed = open_intervals.pop()
            first = closed.first
            best = _best(closed, order[first:place])
            parent = open_intervals[-1]
            if parent.n_tokens < shared:  # what was inside stays inside the shorter bracket that opens now
                parent = _Interval(shared, first)
                open_intervals.append(parent)
            parent.inner += best
        if open_intervals[-1].n_tokens < shared:
            open_intervals.append(_Interval(shared, first))
    return [start for _, start in open_intervals[0].inner]


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """Tokens in common that leave each text one of its own; 0 where they are too few."""
    n_most = min(len(a), len(b)) - 1
    if n_most < _MIN_SHARED or a[:_MIN_SHARED] != b[:_MIN_SHARED]:
        return 0
    return next((i for i in range(_MIN_SHARED, n_most) if a[i] != b[i]), n_most)


def _best(interval: _Interval, rows: Sequence[int]) -> list[tuple[int, CommonStart]]:
    saved = (len(rows) - 1) * interval.n_tokens
    if saved >= max(_MIN_SAVED, sum(inside for inside, _ in interval.inner)):
        return [(saved, CommonStart(interval.n_tokens, tuple(rows)))]
    return interval.inner

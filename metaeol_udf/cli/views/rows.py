"""Prints rows of a table: what a search found, pairs of rows that say the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from metaeol_udf.cli.views.printing import say
from metaeol_udf.formatting import counted, first_words

if TYPE_CHECKING:
    from metaeol_udf.search import DuplicatePair, Hit


def show_hit_lists(console: Console, queries: Sequence[str], lists: Sequence[Sequence[Hit]]) -> None:
    """Print a list of hits for each query, an empty line between two lists."""
    for number, (query, hits) in enumerate(zip(queries, lists, strict=True)):
        if number:
            console.print()
        show_hits(console, query, hits)


def show_hits(console: Console, query: str, hits: Sequence[Hit]) -> None:
    """Print the nearest rows of a query, best first: score, key and the beginning of the text on one line."""
    say(console, f'"{query}"', style="bold")
    _show_rows(console, [(f"{hit.score:6.4f}", hit.key, _with_more(hit.text, counted(hit.more_rows, "more row"))) for hit in hits])


def show_pairs(console: Console, pairs: Sequence[DuplicatePair]) -> None:
    """Print pairs of rows, most similar first: the score and both rows with key and the beginning of the text, a line each.

    Rows of one text stand together, and the text stands there once.
    """
    if not pairs:
        console.print("no pair", markup=False, highlight=False)
    of_text: dict[str, list[Mapping[str, Any]]] = {}  # rows of the same text
    for pair in pairs:
        if pair.texts[0] is not None and pair.texts[0] == pair.texts[1]:
            keys = of_text.setdefault(pair.texts[0], [])
            keys += [key for key in pair.keys if key not in keys]
    rows: list[tuple[str, Mapping[str, Any], str | None]] = []
    for pair in pairs:
        (one, other), (text, other_text) = pair.keys, pair.texts
        if text is None or text != other_text:
            rows += [(f"{pair.score:6.4f}", one, _with_more(text, counted(pair.more_pairs, "more pair"))), (" " * 6, other, other_text)]
        elif text in of_text:
            first, *others = of_text.pop(text)
            text = _with_more(text, counted(pair.more_pairs, "more pair"))
            rows += [(f"{pair.score:6.4f}", first, text), *((" " * 6, key, "(the same text)") for key in others)]
    _show_rows(console, rows)


def _with_more(text: str | None, more: str) -> str | None:
    """Say of a text in how many more rows or pairs it stands."""
    return text if text is None or more.startswith("0 ") else f"(and {more}) {text}"


def _show_rows(console: Console, rows: Sequence[tuple[str, Mapping[str, Any], str | None]]) -> None:
    """Print rows of a table, a line each: what stands before the key, the key, and the beginning of the text."""
    keys = [first_words(" ".join(map(str, key.values())), 200) for _, key, _ in rows]
    width = min(48, max(map(len, keys), default=0))
    for (start, _, text), key in zip(rows, keys, strict=True):
        words = f"  {start}  {key:<{width}}  "
        line = words + first_words(text, max(20, (console.width if console.is_terminal else 140) - len(words)))
        console.print(line, markup=False, highlight=False, no_wrap=True, soft_wrap=True)

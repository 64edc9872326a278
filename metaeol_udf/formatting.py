"""Formats numbers, shares, times and texts for people: on a terminal, in a message, on a page."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

_HARMLESS = frozenset("\n\t\u00a0\u200c\u200d\u202f\u3000")  # line ends and spaces; what joins letters and pictures


def format_value(value: Any) -> str:
    """Format a value of a report: thousands apart, two decimals, mappings as `name value` pairs, nothing as `-`."""
    if isinstance(value, bool) or value is None:
        return "-" if value is None else str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.2f}"
    if isinstance(value, Mapping):
        parts = ((name, f"({format_value(item)})" if isinstance(item, Mapping) else format_value(item)) for name, item in value.items())
        return ", ".join(f"{name} {words}" for name, words in parts)
    if isinstance(value, (list, tuple)):
        return ", ".join(format_value(item) for item in value)
    return str(value)


def counted(n: int, noun: str) -> str:
    """Format a number of things: `1 text`, `2,000 texts`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def format_number(value: float) -> str:
    """Format a number for a figure or a table: thousands apart, decimals only where they say something."""
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def format_share(part: float, whole: float) -> str:
    """Format the share of a part in a whole as a percentage, `0 %` where there is no whole."""
    if not whole:
        return "0 %"
    share = 100 * part / whole
    return "under 0.1 %" if 0 < share < 0.1 else f"{share:.1f} %" if share < 99.95 or part == whole else "over 99.9 %"


def format_duration(seconds: float) -> str:
    """Format a duration in seconds: `0.4 s`, `77 s`, `12 min 5 s`, `3 h 20 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s" if seconds else "0 s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def visible(text: str, kept: Collection[str] = _HARMLESS) -> str:
    """Write control characters, which a terminal would obey, and those that turn the direction of a line as escapes.

    Args:
        text: Of a table, a file or a model.
        kept: Characters that stay as they are though they cannot be printed.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() or c in kept else ascii(c)[1:-1] for c in text)


def shorten(text: str, n_characters: int) -> str:
    """Shorten a text to at most `n_characters`, the last of which is then an ellipsis."""
    return text if len(text) <= n_characters else f"{text[: n_characters - 1]}…"


def first_words(text: str | None, n_characters: int) -> str:
    """Give the first words of a text on one line, in at most `n_characters`, with control characters made visible."""
    return shorten(visible(" ".join((text or "").split())), n_characters)


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Flatten nested mappings: each innermost value under its names, joined by dots."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{name}.")
        else:
            yield name, value

"""What happens to a text before it fills a prompt template."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from metaeol_udf.errors import InputError

CLEANUPS = ("paper", "none")


def clean_text(text: str, cleanup: str) -> str:
    """Clean a text as the template set asks.

    `paper` is what the authors' evaluation does (MetaEOL, arXiv:2402.18458), in this order: strip; append `.` if the last
    character is none of `. ? " '`; replace every `"` by `'`; a final `?` becomes `.`. `none` changes nothing.
    Either way, lone surrogates, which no tokenizer takes, become U+FFFD.

    Args:
        text: Any string.
        cleanup: `paper` or `none`.
    """
    if not text.isascii():
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if cleanup == "none":
        return text
    text = text.strip()
    if not text.endswith((".", "?", '"', "'")):
        text += "."
    text = text.replace('"', "'")
    return text[:-1] + "." if text.endswith("?") else text


def read_strings(given: object, *, what: str = "text") -> list[str]:
    """Read texts from any iterable: a list, a generator, an array, a column of pandas or Polars.

    Args:
        given: The texts. A single string is none, because its letters would be taken for texts.
        what: The word for a text in messages.

    Raises:
        InputError: It is none of that, or an item is no string; the message gives its position, from 0.
    """
    found: list[str] = []
    for position, item in enumerate(read_cells(given, what=what)):
        if item is None:
            raise InputError(f"{what} {position} is missing, and must be a string")
        found.append(item)
    return found


def read_cells(given: object, *, what: str = "text") -> list[str | None]:
    """Read the cells of a column: as `read_strings`, with None for a missing text (None, NaN and NA of pandas).

    Raises:
        InputError: As `read_strings`.
    """
    if hasattr(given, "columns"):
        raise InputError(f"{what}s must be an iterable of strings, found a {type(given).__name__}: choose a column of it, df['text']")
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable) or getattr(given, "ndim", 1) == 0:
        raise InputError(f"{what}s must be a list or another iterable of strings, found one {type(given).__name__}")
    found: list[str | None] = []
    for position, item in enumerate(given):
        if isinstance(item, str):
            found.append(str(item))
        elif item is None or type(item).__name__ == "NAType" or (isinstance(item, float) and item != item):
            found.append(None)
        else:
            raise InputError(f"{what} {position} is of type {type(item).__name__}, and must be a string")
    return found


def is_blank(text: str | None) -> bool:
    """Tell whether nothing is left of a text after stripping: such a text has no embedding."""
    return text is None or not text.strip()

"""What happens to a text before it fills a prompt template."""

from __future__ import annotations

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


def is_blank(text: str | None) -> bool:
    """Tell whether nothing is left of a text after stripping: such a text has no embedding."""
    return text is None or not text.strip()

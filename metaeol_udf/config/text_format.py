"""The template by which several columns become one text: its lines, and what goes with a part that is missing."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass

from metaeol_udf.errors import ConfigError
from metaeol_udf.formatting import shorten

#: What stands between two parts where no template is given.
BETWEEN = "\n\n"
_BREAK = re.compile(r"(\s*\n\s*)")


@dataclass(frozen=True)
class Line:
    """A line of a template.

    Attributes:
        before: The line breaks between it and the line before.
        parts: For each placeholder the characters directly before it on the line, and its column.
        end: The characters after the last placeholder; all of them where the line has none.
    """

    before: str
    parts: tuple[tuple[str, str], ...]
    end: str


def parse_format(template: str | None, columns: Sequence[str]) -> list[Line]:
    """Parse a template; None joins the columns by an empty line.

    Raises:
        ConfigError: A placeholder names none of the columns, a column has no placeholder, or a brace stands alone.
    """
    if template is None:
        return [Line(BETWEEN, (("", name),), "") for name in columns]
    shown = shorten(template, 200)
    lines: list[Line] = []
    parts: list[tuple[str, str]] = []
    named: set[str] = set()
    before = text = ""
    for literal, name in _pieces(template, shown):
        for i, piece in enumerate(_BREAK.split(literal)):
            if i % 2:  # a break: the line ends
                if parts or text:
                    lines.append(Line(before, tuple(parts), text))
                before, parts, text = piece, [], ""
            else:
                text += piece
        if name is not None:
            if name not in columns:
                raise ConfigError(
                    f"source.format_text {shown!r} names {{{shorten(name, 80)}}}, which is none of source.text: {', '.join(columns)}"
                )
            parts.append((text, name))
            text = ""
            named.add(name)
    if parts or text:
        lines.append(Line(before, tuple(parts), text))
    lacking = [name for name in columns if name not in named]
    if lacking:
        raise ConfigError(f"source.format_text {shown!r} has no {{{lacking[0]}}}, a column of source.text: add it, or leave the column out")
    return lines


def _pieces(template: str, shown: str) -> list[tuple[str, str | None]]:
    """Cut a template at its placeholders; `{{` and `}}` are braces."""
    try:
        found = [(literal, name, bool(spec or conversion)) for literal, name, spec, conversion in string.Formatter().parse(template)]
    except ValueError as error:
        raise ConfigError(f"source.format_text {shown!r} is no template ({error}): write {{{{ and }}}} for braces") from None
    if any(more for _, _, more in found):
        raise ConfigError(f"source.format_text {shown!r} has a format in a placeholder: a placeholder is the name of a column alone")
    return [(literal, name) for literal, name, _ in found]

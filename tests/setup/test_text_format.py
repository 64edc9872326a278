"""The template of a text: what it may be, and how it is cut into lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaeol_udf.config import parse_config
from metaeol_udf.config.text_format import Line, parse_format
from metaeol_udf.errors import ConfigError


def test_a_template_is_cut_into_lines_with_what_stands_before_each_placeholder() -> None:
    assert parse_format("New:\n{a} - {b}!\n\n  {{c}} {a}", ("a", "b")) == [
        Line("", (), "New:"),
        Line("\n", (("", "a"), (" - ", "b")), "!"),
        Line("\n\n  ", (("{c} ", "a"),), ""),
    ]
    assert parse_format(None, ("a", "b")) == [Line("\n\n", (("", "a"),), ""), Line("\n\n", (("", "b"),), "")]
    assert parse_format("\n{a.b c}\n", ("a.b c",)) == [Line("\n", (("", "a.b c"),), "")]


@given(st.lists(st.sampled_from(["{a}", "{b}", " ", "\n", "x", "{{", "}}", ": "]), max_size=12))
def test_the_lines_of_a_template_are_the_template(pieces: list[str]) -> None:
    template = "{a}" + "".join(pieces) + "{b}"
    lines = parse_format(template, ("a", "b"))
    written = "".join(f"{line.before}{''.join(f'{before}<{name}>' for before, name in line.parts)}{line.end}" for line in lines)
    assert written == template.format(a="<a>", b="<b>")


@pytest.mark.parametrize(
    ("text", "template", "words"),
    [
        (["a", "b"], "{a}", "has no {b}, a column of source.text"),
        (["a", "b"], "{a} {b} {c}", "names {c}, which is none of source.text: a, b"),
        (["a"], "{a:>10}", "a placeholder is the name of a column alone"),
        (["a"], "{a", "is no template"),
        (["a"], "{}", "names {}, which is none"),
        (["a", "a"], None, "source.text must be names of different columns"),
        (["a", 1], None, "source.text must be the name of a column, or a list of names"),
        ([], None, "source.text must be the name of a column, or a list of names"),
        ("a", "no placeholder", "has no {a}"),
    ],
)
def test_a_template_that_does_not_fit_the_columns_is_refused(text: object, template: str | None, words: str) -> None:
    source = {"table": "t", "key": ["id"], "text": text, "format_text": template}
    with pytest.raises(ConfigError) as caught:
        parse_config({"source": source, "embedding": {"model": "m"}})
    assert words in str(caught.value)

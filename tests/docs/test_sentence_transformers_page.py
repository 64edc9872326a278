"""The page for people who come from sentence-transformers: its example runs, and its names exist."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from metaeol_udf import MetaEOLEncoder

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "sentence-transformers.md").read_text(encoding="utf-8")


def test_the_names_of_the_page_exist() -> None:
    for name in ("encode_query", "encode_document", "similarity", "get_sentence_embedding_dimension", "get_embedding_dimension"):
        assert hasattr(MetaEOLEncoder, name)
        assert f"`{name}" in PAGE


@pytest.mark.slow
def test_the_example_prints_what_the_page_says(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model_dir.parents[1])
    ((code, expected),) = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE, flags=re.DOTALL)
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(code, {})
    assert output.getvalue() == expected

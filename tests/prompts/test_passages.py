"""Passages cover a text, hold no more tokens than they may, end where the setting says, and are the same wherever a text is split."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaeol_udf.prompts import clean_text
from metaeol_udf.prompts.passages import Span, split_text
from metaeol_udf.prompts.tokenizer import PromptTokenizer
from metaeol_udf.spec import Passage
from tests.prompts.test_prompts import NASTY, prompt_tokenizer

SENTENCES = "The old guitar hung on the wall. Who had played it? Nobody in the house knew. It was there when they came.\n" * 12
FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"  # one character on a screen: five code points


def spans_of(text: str, by: Passage, tokenizer: PromptTokenizer, cleanup: str = "paper") -> list[Span]:
    """Split a text, and check what holds for every text."""
    spans = split_text(text, by, cleanup, tokenizer)
    assert spans[0].start == len(text) - len(text.lstrip())
    assert spans[-1].end == len(text.rstrip())
    for before, after in pairwise(spans):
        assert before.start < after.start
        assert before.end < after.end
        assert not text[before.end : after.start].strip()
    for span in spans:
        passage = text[span.start : span.end]
        assert passage == passage.strip() != ""
        assert span.n_tokens == len(tokenizer.tokenize_inside([clean_text(passage, cleanup)])[0])
    return spans


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Callable[..., Path]) -> PromptTokenizer:
    return prompt_tokenizer(tiny_model("llama"))


@pytest.mark.parametrize("by", ["sentence", "token"])
@pytest.mark.parametrize("overlap", [0, 8])
def test_passages_of_sentences(by: str, overlap: int, tokenizer: PromptTokenizer) -> None:
    spans = spans_of(SENTENCES, Passage(tokens=48, overlap=overlap, by=by), tokenizer)
    assert len(spans) > 5
    assert max(span.n_tokens for span in spans) <= 48
    shares = [after.start < before.end for before, after in pairwise(spans)]
    if by == "sentence":
        assert all(SENTENCES[span.end - 1] in ".?" for span in spans)
    elif overlap:
        assert all(shares)
    if not overlap:
        assert not any(shares)


def test_where_a_passage_ends_does_not_depend_on_what_stands_before_it(tokenizer: PromptTokenizer) -> None:
    by = Passage(tokens=48, overlap=0)
    spans = spans_of(SENTENCES, by, tokenizer)
    rest = spans_of(SENTENCES[spans[2].start :], by, tokenizer)
    assert [span.end + spans[2].start for span in rest] == [span.end for span in spans[2:]]


def test_no_passage_ends_inside_a_character(tokenizer: PromptTokenizer) -> None:
    by = Passage(tokens=20, overlap=5, by="token")
    families = FAMILY * 40
    assert all(text_of(span, families).replace(FAMILY, "") == "" for span in spans_of(families, by, tokenizer))
    accents = unicodedata.normalize("NFD", "é" * 200)
    assert all(not unicodedata.combining(accents[span.start]) for span in spans_of(accents, by, tokenizer))


def text_of(span: Span, text: str) -> str:
    return text[span.start : span.end]


@pytest.mark.parametrize(
    "text", ["." * 5_000, "x" * 5_000, "é\u0301" * 900, "a " * 3_000, "a" + " " * 9_000 + "b", "。" * 900, "\U0001f468\u200d" * 900]
)
def test_texts_without_sentences_come_to_an_end(text: str, tokenizer: PromptTokenizer) -> None:
    for by in ("sentence", "token"):
        spans = spans_of(text, Passage(tokens=64, overlap=32, by=by), tokenizer)
        assert len(spans) >= 1
        assert max(span.n_tokens for span in spans) <= 64


@settings(max_examples=30, deadline=None)
@given(
    parts=st.lists(NASTY | st.sampled_from(["A sentence. ", "word ", "\n", FAMILY, "。"]), min_size=1, max_size=60),
    cleanup=st.sampled_from(["paper", "none"]),
    is_sentence=st.booleans(),
)
def test_any_text_is_covered(parts: list[str], cleanup: str, is_sentence: bool, tokenizer: PromptTokenizer) -> None:
    text = clean_text("".join(parts), "none")
    if text.strip():
        spans_of(text, Passage(tokens=24, overlap=7, by="sentence" if is_sentence else "token"), tokenizer, cleanup)

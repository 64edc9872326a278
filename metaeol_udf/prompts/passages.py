"""How a long text is split into passages: the same passages wherever it is split, none of which ends inside a character.

Without an overlap a passage depends on the text from its own beginning on alone: what stands before it does not change where it ends.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from metaeol_udf.prompts.cleanup import clean_text, is_blank
from metaeol_udf.prompts.tokenizer import PromptTokenizer
from metaeol_udf.spec import Passage

_CHARACTERS_AT_FIRST = 6  # per token, that are looked at for the end of a passage
_MOST_CHARACTERS = 32  # per token, of a passage; half of what a text may have that is trimmed
_LONGEST_CHARACTER = 32  # code points; more marks on a letter are not kept together

#: Ends of sentences, with the white space behind them. Chinese and Japanese full stops need none.
_SENTENCE_END = re.compile(r"""(?<=[.!?…])\s+|(?<=[.!?…]["'”’»)\]])\s+|[。！？][」』”’）]?\s*|\n\s*""")
_SPACE = re.compile(r"\s+")
_JOINER = "\u200d"
_JOINED = (range(0x1160, 0x1200), range(0x1F3FB, 0x1F400))  # vowels and ends of Korean syllables that are written apart; skin tones


@dataclass(frozen=True)
class Span:
    """Describes a passage of a text.

    Attributes:
        start: Its first character.
        end: The character after its last.
        n_tokens: Tokens of the passage alone, after it was cleaned.
    """

    start: int
    end: int
    n_tokens: int


def split_text(text: str, by: Passage, cleanup: str, tokenizer: PromptTokenizer) -> list[Span]:
    """Split a text into passages that cover it, but for white space between them.

    Args:
        text: A text that is not blank. Positions count its characters as Python does, which are code points.
        by: The size of passages.
        cleanup: Of the template set, which adds to a passage what it adds to a text.
        tokenizer: Says where tokens end: `has_offsets`.
    """
    return list(_spans(text, by, cleanup, tokenizer))


def spans_of(text: str, by: Passage, cleanup: str, max_tokens: int, tokenizer: PromptTokenizer) -> list[tuple[int, int]]:
    """Find the passages of a text, each by its first character and that after its last: one, the whole text, up to `max_tokens` tokens.

    A blank text has none. `text` holds no lone surrogate; the rest is as for `split_text`.
    """
    if is_blank(text):
        return []
    if not tokenizer.trim(clean_text(text, cleanup), max_tokens)[1]:
        return [(0, len(text))]
    return [(span.start, span.end) for span in split_text(text, by, cleanup, tokenizer)]


def _spans(text: str, by: Passage, cleanup: str, tokenizer: PromptTokenizer) -> Iterator[Span]:
    start, last, covered = _skip_space(text, 0), len(text.rstrip()), 0
    while start < last:
        rest = text[start : min(last, start + _MOST_CHARACTERS * by.tokens + _LONGEST_CHARACTER)]
        part, ends = _look(rest, by.tokens, tokenizer)
        is_all, n_most = start + len(part) == last, by.tokens
        while True:
            whole = is_all and len(ends) <= n_most
            most = ends[n_most - 1] if len(ends) > n_most else len(part)
            cut = len(part) if whole else _cut(rest, most, covered - start, by.by)
            passage, n_inside = rest[:cut].rstrip(), bisect_right(ends, cut)
            n_tokens = len(tokenizer.tokenize_inside([clean_text(passage, cleanup)])[0])
            if n_tokens <= by.tokens or n_most == 1:
                break
            n_most = max(1, min(n_most, n_inside) - (n_tokens - by.tokens))
        if start + cut <= covered:  # nothing but what is shared fits: begin where the last passage ended
            start = _skip_space(text, covered)
            continue
        yield Span(start, start + len(passage), n_tokens)
        covered = start + cut
        if covered >= last:
            return
        start = _skip_space(text, start + _next_start(rest[:cut], ends, n_inside, by))


def _look(rest: str, n_tokens: int, tokenizer: PromptTokenizer) -> tuple[str, list[int]]:
    """Look at the beginning of a text: return it, and where its tokens end.

    It has more tokens than a passage, or is the whole text, or is as long as a passage may be.
    """
    n_most = _MOST_CHARACTERS * n_tokens
    n_characters = _CHARACTERS_AT_FIRST * n_tokens
    while True:
        part = rest[:n_characters]
        ends = [end for _, end in tokenizer.offsets(part)]
        if len(ends) > n_tokens or len(part) == len(rest) or n_characters >= n_most:
            return part, ends
        n_characters = min(2 * n_characters, n_most)


def _cut(rest: str, most: int, shared: int, by: str) -> int:
    """Find where a passage ends that may have so many characters, of which the last passage had so many."""
    cut = _before_mark(rest, max(1, most)) or max(1, most)  # a character that does not fit is cut
    if by == "token":
        return cut
    after_half = range(max(cut // 2, shared) + 1, cut + 1)
    return _last(_SENTENCE_END, rest, after_half) or _last(_SPACE, rest, after_half) or cut


def _next_start(passage: str, ends: list[int], n_inside: int, by: Passage) -> int:
    """Find where the passage after one begins: at its end, or at what both share, which is less than half of it."""
    cut, place = len(passage), n_inside - by.overlap - 1
    if not by.overlap or place < 0:
        return cut
    first = _before_mark(passage, max(ends[place], cut // 2 + 1))
    if not first:
        return cut
    if by.by == "token":
        return first
    for pattern in (_SENTENCE_END, _SPACE):
        start = next((match.end() for match in pattern.finditer(passage) if first <= match.end() < cut), None)
        if start is not None:
            return start
    return cut


def _last(pattern: re.Pattern[str], text: str, among: range) -> int | None:
    """Find the last place in a range at which a match ends."""
    return max((match.end() for match in pattern.finditer(text, 0, among.stop + 1) if match.end() in among), default=None)


def _skip_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return place if found is None else found.end()


def _before_mark(text: str, place: int) -> int | None:
    """Go back to where the character begins that a place is inside of: a letter with its marks, or joined emoji, is one character.

    Returns:
        The place; None where that is the beginning of the text, or too far away.
    """
    for before in range(place, max(0, place - _LONGEST_CHARACTER), -1):
        if before >= len(text) or not _goes_on(text[before - 1], text[before]):
            return before
    return None


def _goes_on(before: str, character: str) -> bool:
    """Tell whether a code point belongs to the character before it."""
    is_joined = _JOINER in (before, character) or any(ord(character) in points for points in _JOINED)
    return is_joined or unicodedata.category(character).startswith("M")

"""The prompt trie of a template set, drawn as an SVG: which tokens of its prompts are computed, and which only once.

    python -m benchmarks.trie_figure [--templates metaeol] [--model DIR] [--text "A text."] [--out docs/figures/trie.svg]

Tokens are those of the model's own tokenizer, grouped as the encoder groups them; no model is loaded.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from metaeol_udf import TemplateSet
from metaeol_udf.prompts import clean_text
from metaeol_udf.prompts.tokenizer import PromptTokenizer
from metaeol_udf.prompts.trie import PrefixGroup, PromptTrie

_TEXT = "The new camera takes sharp pictures even at night."
_HEAD, _MIDDLE, _TAIL, _GREY = "#2b6cb0", "#b0413e", "#2f855a", "#555555"
_ROW, _CHARACTER, _MARGIN, _TOP = 34.0, 7.0, 16.0, 58.0  # pixels: height of a row, width of a character
_PREFIX_WIDTH, _MIDDLE_WIDTH, _GAP = 330.0, 190.0, 34.0


@dataclass(frozen=True)
class SuffixNode:
    """A token of the suffixes, with the tokens that may follow it."""

    word: str
    is_output: bool
    children: list[SuffixNode] = field(default_factory=list)


@dataclass(frozen=True)
class Branch:
    """One prefix group: a prefix, the text's pass after it, and the suffixes that fork from it.

    Attributes:
        prefix: Its tokens as characters; empty where the text comes first.
        n_prefix: How many they are.
        middle: The text's tokens, with what the cuts leave beside them, as characters.
        n_middle: How many they are.
        suffixes: First tokens of the suffixes.
        n_suffix: Tokens of all suffixes.
    """

    prefix: str
    n_prefix: int
    middle: str
    n_middle: int
    suffixes: list[SuffixNode]
    n_suffix: int


@dataclass(frozen=True)
class TrieFigure:
    """What is drawn.

    Attributes:
        name: Of the template set.
        branches: Its prefix groups.
        n_templates: Prompts of a text.
        n_whole: Tokens of the whole prompts of this text.
    """

    name: str
    branches: list[Branch]
    n_templates: int
    n_whole: int

    @property
    def n_once(self) -> int:
        """Tokens computed once a process."""
        return sum(branch.n_prefix for branch in self.branches)

    @property
    def n_computed(self) -> int:
        """Tokens computed for this text."""
        return sum(branch.n_middle + branch.n_suffix for branch in self.branches)


def make_figure(templates: TemplateSet, tokenizer: Any, text: str) -> TrieFigure:
    """Group a template set's tokens for one text as the encoder does.

    Args:
        templates: The set.
        tokenizer: One of transformers' tokenizers.
        text: The text in the slot.
    """
    prompt_tokenizer = PromptTokenizer(tokenizer)
    trie = PromptTrie(templates, prompt_tokenizer)
    cleaned = clean_text(text, templates.text_cleanup)
    whole = prompt_tokenizer.tokenize([templates.fill(template, cleaned) for template in templates.templates])
    branches = []
    for group, (ids,) in zip(trie.groups, trie.tokenize([cleaned]), strict=True):
        suffixes = _suffix_nodes(group, tokenizer, -1)
        branches.append(
            Branch(
                tokenizer.decode(group.prefix_ids), len(group.prefix_ids), tokenizer.decode(ids), len(ids), suffixes, len(group.suffix_ids)
            )
        )
    return TrieFigure(templates.name, branches, len(templates.templates), sum(map(len, whole)))


def _suffix_nodes(group: PrefixGroup, tokenizer: Any, parent: int) -> list[SuffixNode]:
    """The tokens that follow one of a group's suffix tokens, or the text where `parent` is -1."""
    nodes = []
    for place, token in enumerate(group.suffix_ids):
        seen = [other for other in range(len(group.suffix_ids)) if group.suffix_sees[place, other] and other != place]
        if max(seen, key=lambda other: group.suffix_depths[other], default=-1) == parent:
            nodes.append(SuffixNode(tokenizer.decode([token]), place in group.outputs, _suffix_nodes(group, tokenizer, place)))
    return nodes


def draw_svg(figure: TrieFigure) -> str:
    """The figure as SVG text."""
    parts: list[str] = []
    row, widest = 0, 0.0
    left = _MARGIN + _PREFIX_WIDTH + _GAP + _MIDDLE_WIDTH + _GAP
    for branch in figure.branches:
        n_rows = max(2, sum(map(_leaves, branch.suffixes)))
        top = _TOP + row * _ROW
        centre = top + n_rows * _ROW / 2
        start = _MARGIN + _PREFIX_WIDTH + _GAP
        parts += _wide_box(_MARGIN, centre, _PREFIX_WIDTH, branch.prefix, 46, f"{branch.n_prefix} tokens, once a process", _HEAD)
        parts.append(_line(_MARGIN + _PREFIX_WIDTH, centre, start, centre))
        parts += _wide_box(start, centre, _MIDDLE_WIDTH, branch.middle, 25, f"{branch.n_middle} tokens", _MIDDLE)
        first = top + (n_rows - sum(map(_leaves, branch.suffixes))) * _ROW / 2
        widest = max(widest, _draw_suffixes(branch.suffixes, left, first, (start + _MIDDLE_WIDTH, centre), parts))
        row += n_rows
    height = _TOP + row * _ROW + 44
    saved = 1 - figure.n_computed / figure.n_whole
    caption = (
        f"{figure.n_once} tokens of prefixes are computed once a process; for this text {figure.n_computed} tokens are computed, "
        f"where {figure.n_templates} whole prompts have {figure.n_whole} ({saved:.0%} less)"
    )
    titles = [
        (_MARGIN, "prefixes", _HEAD),
        (_MARGIN + _PREFIX_WIDTH + _GAP, "the text, once a prefix", _MIDDLE),
        (left, "suffixes, a fork each", _TAIL),
    ]
    prefix = [_words(x, 30, title, colour, size=15, bold=True) for x, title, colour in titles]
    foot = _words(_MARGIN, height - 16, caption, _GREY, size=13)
    width = max(widest + 130, _MARGIN * 2 + len(caption) * 6.4)
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif" role="img">'
    background = f'<title>Prompt trie of {escape(figure.name)}</title><rect width="100%" height="100%" fill="#ffffff"/>'
    return "\n".join([opening, background, *prefix, *parts, foot, "</svg>", ""])


def _leaves(node: SuffixNode) -> int:
    return max(1, sum(map(_leaves, node.children)))


def _draw_suffixes(nodes: Sequence[SuffixNode], left: float, top: float, parent: tuple[float, float], parts: list[str]) -> float:
    """Draw tokens that follow the same token, one below the other, and what follows them; returns the right edge."""
    widest = left
    for node in nodes:
        height = _leaves(node) * _ROW
        centre = top + height / 2
        width = max(1, len(node.word)) * _CHARACTER + 12
        parts += [_line(*parent, left, centre), _box(left, centre, width, 24, _TAIL)]
        parts.append(_words(left + 6, centre + 4, node.word.replace(" ", "␣"), "#1a202c", mono=True))
        right = left + width
        if node.is_output:
            parts.append(f'<circle cx="{right + 14:.1f}" cy="{centre:.1f}" r="5" fill="{_TAIL}"/>')
            parts.append(_words(right + 24, centre + 4, "hidden state", _GREY, size=12))
        widest = max(widest, right, _draw_suffixes(node.children, right + (14 if len(nodes) == 1 else 22), top, (right, centre), parts))
        top += height
    return widest


def _wide_box(left: float, centre: float, width: float, words: str, characters: int, count: str, colour: str) -> list[str]:
    """A box with wrapped words, and how many tokens they are below them."""
    lines = textwrap.wrap(words.strip(), characters, max_lines=2, placeholder=" …") or ["(the text comes first)"]
    height = 17.0 * len(lines) + 26
    top = centre - height / 2
    texts = [_words(left + 8, top + 18 + 17 * i, line, "#1a202c") for i, line in enumerate(lines)]
    return [_box(left, centre, width, height, colour), *texts, _words(left + 8, top + height - 7, count, colour, size=12, bold=True)]


def _box(left: float, centre: float, width: float, height: float, colour: str) -> str:
    return (
        f'<rect x="{left:.1f}" y="{centre - height / 2:.1f}" width="{width:.1f}" height="{height:.1f}" rx="5" '
        f'fill="{colour}" fill-opacity="0.08" stroke="{colour}"/>'
    )


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{_GREY}"/>'


def _words(x: float, y: float, words: str, colour: str, *, size: int = 13, bold: bool = False, mono: bool = False) -> str:
    style = (' font-weight="bold"' if bold else "") + (' font-family="monospace"' if mono else "")
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size - 1 if mono else size}" fill="{colour}"{style}>{escape(words)}</text>'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--templates", default="metaeol", help="a built-in set or a YAML file")
    parser.add_argument("--model", type=Path, default=Path("models/smollm2-135m-instruct"), help="folder with the tokenizer")
    parser.add_argument("--text", default=_TEXT)
    parser.add_argument("--out", type=Path, default=Path("docs/figures/trie.svg"))
    arguments = parser.parse_args()
    from transformers import AutoTokenizer

    figure = make_figure(TemplateSet.load(arguments.templates), AutoTokenizer.from_pretrained(arguments.model), arguments.text)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(draw_svg(figure), encoding="utf-8")
    print(f"{arguments.out}: {figure.n_computed} tokens computed for the text, {figure.n_whole} in whole prompts, {figure.n_once} once")


if __name__ == "__main__":
    main()

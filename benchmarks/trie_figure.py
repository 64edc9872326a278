"""The prompt trie of a template set, drawn as SVG: which tokens of its prompts are computed, and which only once.

    python -m benchmarks.trie_figure [--templates metaeol] [--model DIR] [--text "A text."] [--out docs/figures/trie.svg]
    python -m benchmarks.trie_figure --states conf/demo.yaml --out docs/figures/workflow.svg

Tokens are those of the model's own tokenizer, grouped as the encoder groups them. `--states` runs the model of a spec too, and
draws the hidden state of each prompt, the word that the prompt would go on with, and the mean of the states: the embedding.
"""

from __future__ import annotations

import argparse
import dataclasses
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import AutoTokenizer

from metaeol_udf import EmbeddingSpec, MetaEOLEncoder, TemplateSet
from metaeol_udf.explain.next_words import explain_text
from metaeol_udf.prompts import clean_text
from metaeol_udf.prompts.tokenizer import PromptTokenizer
from metaeol_udf.prompts.trie import PrefixGroup, PromptTrie

_TEXT = "The new camera takes sharp pictures even at night."
_PREFIX, _MIDDLE, _SUFFIX, _GREY, _INK = "#2b6cb0", "#b0413e", "#2f855a", "#555555", "#1a202c"
_ROW, _CHARACTER, _MARGIN, _TOP = 34.0, 7.0, 16.0, 58.0  # pixels: height of a row, width of a character
_PREFIX_WIDTH, _MIDDLE_WIDTH, _GAP = 350.0, 200.0, 34.0
_VALUES = (48, 4.0, 10.0)  # of a hidden state: how many are drawn, and the width and height of each
_MEAN_COLUMNS, _MEAN_VALUE = 4, 13.0  # of the mean's square, and the width of a value in it


@dataclass(frozen=True)
class SuffixNode:
    """A token of the suffixes, with the tokens that may follow it.

    Attributes:
        word: The token as characters.
        template: Position of the template whose output is this token's hidden state; None where there is no such template.
        children: The tokens that may follow.
    """

    word: str
    template: int | None
    children: list[SuffixNode] = field(default_factory=list)


@dataclass(frozen=True)
class Branch:
    """One prefix group: a prefix, the text's pass after it, and the suffixes that fork from it.

    Attributes:
        prefix: The prefix's tokens as characters; empty where the text comes first.
        n_prefix: Number of those tokens.
        middle: The text's tokens, with what the cuts leave beside them, as characters.
        n_middle: Number of those tokens.
        suffixes: First tokens of the suffixes.
        n_suffix: Number of tokens in all suffixes.
    """

    prefix: str
    n_prefix: int
    middle: str
    n_middle: int
    suffixes: list[SuffixNode]
    n_suffix: int


@dataclass(frozen=True)
class TrieFigure:
    """The content of a figure.

    Attributes:
        name: Name of the template set.
        branches: The set's prefix groups.
        n_templates: Number of prompts of a text.
        n_whole: Number of tokens in the whole prompts of this text.
        states: Hidden state of each template, float32, shape ``(n_templates, hidden_size)``; None where no model ran.
        words: The most probable next word of each template; empty where no model ran.
    """

    name: str
    branches: list[Branch]
    n_templates: int
    n_whole: int
    states: NDArray[np.float32] | None = None
    words: Sequence[str] = ()

    @property
    def n_once(self) -> int:
        """Tokens computed once a process."""
        return sum(branch.n_prefix for branch in self.branches)

    @property
    def n_computed(self) -> int:
        """Tokens computed for this text."""
        return sum(branch.n_middle + branch.n_suffix for branch in self.branches)


def make_figure(templates: TemplateSet, tokenizer: Any, text: str) -> TrieFigure:
    """Make a figure: group a template set's tokens for one text as the encoder does.

    Args:
        templates: The set.
        tokenizer: A tokenizer of transformers.
        text: The text in the slot.
    """
    prompt_tokenizer = PromptTokenizer(tokenizer)
    trie = PromptTrie(templates, prompt_tokenizer)
    cleaned = clean_text(text, templates.text_cleanup)
    whole = prompt_tokenizer.tokenize([templates.fill(template, cleaned) for template in templates.templates])
    branches = []
    for group, (ids,) in zip(trie.groups, trie.tokenize([cleaned]), strict=True):
        prefix, suffixes = group.prefix_ids, _suffix_nodes(group, tokenizer, -1)
        branches.append(Branch(tokenizer.decode(prefix), len(prefix), tokenizer.decode(ids), len(ids), suffixes, len(group.suffix_ids)))
    return TrieFigure(templates.name, branches, len(templates.templates), sum(map(len, whole)))


def _suffix_nodes(group: PrefixGroup, tokenizer: Any, parent: int) -> list[SuffixNode]:
    """List the suffix tokens that follow one of a group's suffix tokens, or the text where `parent` is -1."""
    nodes, templates = [], dict(zip(group.outputs, group.template_indices, strict=True))
    for place, token in enumerate(group.suffix_ids):
        seen = [other for other in range(len(group.suffix_ids)) if group.suffix_sees[place, other] and other != place]
        if max(seen, key=lambda other: group.suffix_depths[other], default=-1) == parent:
            nodes.append(SuffixNode(tokenizer.decode([token]), templates.get(place), _suffix_nodes(group, tokenizer, place)))
    return nodes


def run_model(spec: EmbeddingSpec, text: str) -> TrieFigure:
    """Make the figure of a spec's model, with the states that the model has for a text."""
    # The figure is about the mean itself, without what a spec may do to it afterwards.
    spec = dataclasses.replace(spec, normalize=False, truncate_dim=None, per_template=False, dtype="float32")
    encoder = MetaEOLEncoder.from_spec(spec, device="cpu")
    words = [template.words[0].visible for template in explain_text(spec, text, device="cpu", top=1).templates]
    (states,) = encoder.encode([text], per_template=True)
    figure = make_figure(encoder.templates, AutoTokenizer.from_pretrained(spec.model), text)
    return dataclasses.replace(figure, states=states, words=words)


def draw_svg(figure: TrieFigure) -> str:
    """Draw a figure as SVG text."""
    parts: list[str] = []
    outputs: dict[int, tuple[float, float]] = {}
    row, start = 0, _MARGIN + _PREFIX_WIDTH + _GAP
    left = widest = start + _MIDDLE_WIDTH + _GAP
    for branch in figure.branches:
        n_leaves = sum(map(_leaves, branch.suffixes))
        n_rows = max(2, n_leaves)
        top = _TOP + row * _ROW
        centre = top + n_rows * _ROW / 2
        parts += _wide_box(_MARGIN, centre, _PREFIX_WIDTH, branch.prefix, 46, f"{branch.n_prefix} tokens, once a process", _PREFIX)
        parts.append(_line(_MARGIN + _PREFIX_WIDTH, centre, start, centre))
        parts += _wide_box(start, centre, _MIDDLE_WIDTH, branch.middle, 25, f"{branch.n_middle} tokens", _MIDDLE)
        first = top + (n_rows - n_leaves) * _ROW / 2
        widest = max(widest, _draw_suffixes(branch.suffixes, left, first, (start + _MIDDLE_WIDTH, centre), parts, outputs))
        row += n_rows
    height = _TOP + row * _ROW + 44
    titles = [(_MARGIN, "prefixes", _PREFIX), (start, "the text, once a prefix", _MIDDLE), (left, "suffixes, a fork each", _SUFFIX)]
    if figure.states is None:
        parts += [_words(x + 10, y + 4, "hidden state", _GREY, size=12) for x, y in outputs.values()]
        right = widest + 130
    else:
        titles.append((widest + _GAP, "hidden states and their mean", _GREY))
        right = _draw_states(figure.states, figure.words, outputs, widest + _GAP, _TOP + row * _ROW / 2, parts)
    caption = (
        f"{figure.n_once} tokens of prefixes are computed once a process; for this text {figure.n_computed} tokens are computed, "
        f"where {figure.n_templates} whole prompts have {figure.n_whole} ({1 - figure.n_computed / figure.n_whole:.0%} less)"
    )
    heads = [_words(x, 30, title, colour, size=15, bold=True) for x, title, colour in titles]
    foot = _words(_MARGIN, height - 16, caption, _GREY, size=13)
    width = max(right, _MARGIN * 2 + len(caption) * 6.4)
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif" role="img">'
    background = f'<title>Prompt trie of {escape(figure.name)}</title><rect width="100%" height="100%" fill="#ffffff"/>'
    return "\n".join([opening, background, *heads, *parts, foot, "</svg>", ""])


def _leaves(node: SuffixNode) -> int:
    return max(1, sum(map(_leaves, node.children)))


def _draw_suffixes(
    nodes: Sequence[SuffixNode], left: float, top: float, parent: tuple[float, float], parts: list[str],
    outputs: dict[int, tuple[float, float]],
) -> float:  # fmt: skip
    """Draw suffixes: tokens after the same token, a row each, and what follows them. Notes where outputs are; returns the right edge."""
    widest = left
    for node in nodes:
        height = _leaves(node) * _ROW
        centre = top + height / 2
        width = max(1, len(node.word)) * _CHARACTER + 12
        parts += [_line(*parent, left, centre), _box(left, centre, width, 24, _SUFFIX)]
        parts.append(_words(left + 6, centre + 4, node.word.replace(" ", "␣"), _INK, mono=True))
        right = left + width
        if node.template is not None:
            outputs[node.template] = (right + 14, centre)
            parts.append(f'<circle cx="{right + 14:.1f}" cy="{centre:.1f}" r="5" fill="{_SUFFIX}"/>')
        step = 14 if len(nodes) == 1 else 22
        widest = max(widest, right, _draw_suffixes(node.children, right + step, top, (right, centre), parts, outputs))
        top += height
    return widest


def _draw_states(
    states: NDArray[np.float32], words: Sequence[str], outputs: dict[int, tuple[float, float]], left: float, middle: float, parts: list[str]
) -> float:
    """Draw the states of all templates, each beside its output, and their mean at `middle`; returns the right edge."""
    n_values, width, height = _VALUES
    right = left + n_values * width
    n_rows = n_values // _MEAN_COLUMNS
    mean_left, mean_top = right + 60, middle - n_rows * _MEAN_VALUE / 2
    for template, (x, y) in outputs.items():
        end = middle + (y - middle) * 0.3
        parts += [_line(x + 5, y, left - 4, y - 5), _line(right + 4, y - 5, mean_left - 4, end)]
        parts += _strip(states[template], left, y - 10, n_values, width, height)
        parts.append(_words(left, y + 13, f"would say: {words[template]}", _GREY, size=12))
    parts += _strip(states.mean(0), mean_left, mean_top, _MEAN_COLUMNS, _MEAN_VALUE, _MEAN_VALUE)
    parts.append(_words(mean_left, mean_top + n_rows * _MEAN_VALUE + 16, f"{states.shape[1]} numbers", _GREY, size=12))
    return mean_left + 90


def _strip(vector: NDArray[np.float32], left: float, top: float, n_columns: int, width: float, height: float) -> list[str]:
    """Draw the first values of a vector as a strip of colours, blue above zero and red below."""
    bound = 2 * float(np.quantile(np.abs(vector), 0.75))  # a few dimensions are huge in every vector: the quartile is not theirs
    return [
        f'<rect x="{left + i % n_columns * width:.1f}" y="{top + i // n_columns * height:.1f}" width="{width:g}" height="{height:g}" '
        f'fill="{_PREFIX if value > 0 else _MIDDLE}" fill-opacity="{min(1.0, abs(value) / bound):.2f}"/>'
        for i, value in enumerate(vector[: _VALUES[0]].tolist())
    ]


def _wide_box(left: float, centre: float, width: float, words: str, characters: int, count: str, colour: str) -> list[str]:
    """Draw a wide box: wrapped words, and the number of their tokens below them."""
    lines = textwrap.wrap(words.strip(), characters, max_lines=2, placeholder=" …") or ["(the text comes first)"]
    height = 17.0 * len(lines) + 26
    top = centre - height / 2
    texts = [_words(left + 8, top + 18 + 17 * i, line, _INK) for i, line in enumerate(lines)]
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
    parser.add_argument("--states", type=Path, metavar="SPEC", help="run the model of this YAML file, in place of --templates and --model")
    parser.add_argument("--text", default=_TEXT)
    parser.add_argument("--out", type=Path, default=Path("docs/figures/trie.svg"))
    arguments = parser.parse_args()
    if arguments.states:
        figure = run_model(EmbeddingSpec.load(arguments.states), arguments.text)
    else:
        figure = make_figure(TemplateSet.load(arguments.templates), AutoTokenizer.from_pretrained(arguments.model), arguments.text)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(draw_svg(figure), encoding="utf-8")
    print(f"{arguments.out}: {figure.n_computed} tokens computed for the text, {figure.n_whole} in whole prompts, {figure.n_once} once")


if __name__ == "__main__":
    main()

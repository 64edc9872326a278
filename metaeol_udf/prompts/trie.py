"""The prompt trie: which tokens of a template set's prompts are the same, so that each is computed once.

A prompt is ``prefix + text + suffix``. Prefixes are constant, so they are computed once a process. Templates with the same prefix
form a *prefix group*: the text runs once after their prefix, and the group's suffixes fork from it. Suffixes that begin alike share
their first tokens too. A template whose text is reversed reads another text, so it is in a group of its own kind.

Texts that begin alike (boilerplate, log lines, quoted mails) share their start in the same way: `find_common_starts`.

Prompts are cut where `boundaries.py` proves it right, a few tokens away from the text: the *middle* is ``end of prefix + text +
start of suffix``, tokenised as one string. While running, the cuts are proved again on samples, and where a proof fails
whole prompts are tokenised, every template by itself: slower, and as exact.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from metaeol_udf.prompts.boundaries import Cut, prove_cuts
from metaeol_udf.prompts.templates import TemplateSet
from metaeol_udf.prompts.tokenizer import PromptTokenizer

logger = logging.getLogger(__name__)

_SAMPLE_EVERY = 256  # texts between two proofs of the cuts while running
_MIN_SHARED = 16  # tokens; shorter starts are found everywhere and save less than another cell costs
LEAST_SAVED = {
    "cpu": 64,
    "cuda": 4_096,
}  # tokens that a common start must save in all; on a GPU a pass of one row costs as much as thousands


@dataclass(frozen=True)
class PrefixGroup:
    """Holds templates that share a prefix, and the trie of their suffixes.

    Attributes:
        prefix_ids: Tokens before the middle.
        template_indices: Position of each template in the set, shape ``(n_group,)``.
        suffix_ids: Tokens of the suffix trie, parents before children, shape ``(n_suffix,)``.
        suffix_depths: Steps from the text's last token, from 1, shape ``(n_suffix,)``.
        suffix_sees: Whether suffix token i attends to suffix token j, shape ``(n_suffix, n_suffix)``.
        outputs: Suffix token whose hidden state is each template's, -1 for the text's last token, shape ``(n_group,)``.
        prompt_lengths: Tokens of prefix and suffix in each template's whole prompt, shape ``(n_group,)``.
        n_inherited: Tokens of the prefix that are the prefix of another group.
    """

    prefix_ids: tuple[int, ...]
    template_indices: tuple[int, ...]
    suffix_ids: tuple[int, ...]
    suffix_depths: tuple[int, ...]
    suffix_sees: NDArray[np.bool_] = field(repr=False, compare=False)
    outputs: tuple[int, ...]
    prompt_lengths: tuple[int, ...]
    n_inherited: int = 0

    def tokens_computed(self, n_text_tokens: int) -> int:
        """Count the tokens that go through the model for a text of so many tokens."""
        return n_text_tokens + len(self.suffix_ids)

    def tokens_whole(self, n_text_tokens: int) -> int:
        """Count the tokens of the text's whole prompts."""
        return len(self.prompt_lengths) * n_text_tokens + sum(self.prompt_lengths)


class PromptTrie:
    """Tokenises texts into what has to be computed: prefix groups, and each text's tokens in each of them.

    Attributes:
        tokenizer: What it tokenises with.
        groups: The prefix groups. Their prefixes and suffixes are constant.
        is_cut: Whether prompts are cut at their boundaries; False means that whole prompts are tokenised, one group a template.
    """

    def __init__(self, templates: TemplateSet, tokenizer: PromptTokenizer, *, may_cut: bool = True) -> None:
        self._templates = templates
        self.tokenizer = tokenizer
        self._seen = 0
        self._cuts = prove_cuts(templates, tokenizer) if may_cut else None
        self.is_cut = self._cuts is not None
        self.groups = self._make_groups()

    def tokenize(self, cleaned_texts: Sequence[str]) -> list[list[list[int]]]:
        """Return the tokens that follow each group's prefix and precede its suffixes.

        Args:
            cleaned_texts: Texts after `clean_text`, not blank.

        Returns:
            One list a group, in the order of `groups`, of one list of token ids a text, in the order of the texts.
        """
        if self._cuts is not None and not self._holds_on_samples(cleaned_texts):
            logger.warning(
                "prompts cannot be cut around the text with this tokenizer: whole prompts are tokenised from now on, which is slower"
            )
            self._cuts, self.is_cut = None, False
            self.groups = self._make_groups()
        if self._cuts is None:
            fill = self._templates.fill
            return [self.tokenizer.tokenize([fill(template, text) for text in cleaned_texts]) for template in self._templates.templates]
        middles: dict[tuple[str, str, str], list[list[int]]] = {}
        for cut in self._cuts:
            start, order, end = kind = _kind_of_middle(cut)
            if kind not in middles:
                placed = cleaned_texts if order == "as_written" else [cut.template.order_words(text) for text in cleaned_texts]
                middles[kind] = self.tokenizer.tokenize_inside([start + text + end for text in placed])
        return [middles[_kind_of_middle(self._cuts[group.template_indices[0]])] for group in self.groups]

    def _holds_on_samples(self, cleaned_texts: Sequence[str]) -> bool:
        """Prove the cuts again on some of the texts that really come, each with the next template in turn."""
        assert self._cuts is not None
        for index in range(-self._seen % _SAMPLE_EVERY, len(cleaned_texts), _SAMPLE_EVERY):
            which = (self._seen + index) // _SAMPLE_EVERY % len(self._cuts)
            text = cleaned_texts[index]
            whole = self.tokenizer.tokenize([self._templates.fill(self._templates.templates[which], text)])
            if not self._cuts[which].equals(self.tokenizer, [text], whole):
                return False
        self._seen += len(cleaned_texts)
        return True

    def _make_groups(self) -> list[PrefixGroup]:
        if self._cuts is None:
            nothing = np.zeros((0, 0), bool)
            return [PrefixGroup((), (i,), (), (), nothing, (-1,), (0,)) for i in range(len(self._templates.templates))]
        keys = [(cut.prefix_ids, _kind_of_middle(cut)) for cut in self._cuts]
        return [_join(key[0], [i for i, other in enumerate(keys) if other == key], self._cuts) for key in dict.fromkeys(keys)]


def _kind_of_middle(cut: Cut) -> tuple[str, str, str]:
    """Return what stands before the text in a cut's middle, the order of the text's words, and what stands behind it."""
    return cut.prefix_end, cut.template.word_order, cut.suffix_start


def _join(prefix_ids: tuple[int, ...], members: Sequence[int], cuts: Sequence[Cut]) -> PrefixGroup:
    """Join the suffixes of one prefix group into a trie."""
    nodes: dict[tuple[int, ...], int] = {}  # a node is named by the tokens that lead to it
    for member in members:
        for path in _paths(cuts[member].suffix_ids):
            nodes.setdefault(path, len(nodes))
    sees = np.zeros((len(nodes), len(nodes)), bool)
    for path, node in nodes.items():
        sees[node, [nodes[before] for before in _paths(path)]] = True
    return PrefixGroup(
        prefix_ids=prefix_ids,
        template_indices=tuple(members),
        suffix_ids=tuple(path[-1] for path in nodes),
        suffix_depths=tuple(len(path) for path in nodes),
        suffix_sees=sees,
        outputs=tuple(nodes.get(cuts[member].suffix_ids, -1) for member in members),
        prompt_lengths=tuple(len(prefix_ids) + len(cuts[member].suffix_ids) for member in members),
    )


def _paths(ids: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    return (ids[:depth] for depth in range(1, len(ids) + 1))


@dataclass(frozen=True)
class CommonStart:
    """Describes texts that begin with the same tokens.

    Attributes:
        n_tokens: Tokens in common; every text has at least one more.
        rows: The texts, positions in the chunk.
    """

    n_tokens: int
    rows: tuple[int, ...]


@dataclass
class _Interval:
    """Describes consecutive sorted texts from `first` that share `n_tokens`, with the best that was found inside them."""

    n_tokens: int
    first: int
    inner: list[tuple[int, CommonStart]] = field(default_factory=list)


def find_common_starts(ids: Sequence[Sequence[int]], least_saved: int = LEAST_SAVED["cpu"]) -> list[CommonStart]:
    """Choose disjoint sets of texts whose common starts save the most tokens.

    Sorted texts with a common start stand side by side, and the starts are nested like brackets: of a bracket and those
    inside it, whichever saves more is taken.

    Args:
        ids: Token ids of each text, shape ``(n_texts, varying)``.
        least_saved: Tokens that a start must save.

    Returns:
        Sets of at least two texts; most texts are in none.
    """
    order = sorted(range(len(ids)), key=lambda row: list(ids[row]))
    open_intervals = [_Interval(0, 0)]
    for place in range(1, len(order) + 1):
        shared = _shared(ids[order[place - 1]], ids[order[place]]) if place < len(order) else 0
        first = place - 1
        while open_intervals[-1].n_tokens > shared:
            closed = open_intervals.pop()
            first = closed.first
            best = _best(closed, order[first:place], least_saved)
            parent = open_intervals[-1]
            if parent.n_tokens < shared:  # what was inside stays inside the shorter bracket that opens now
                parent = _Interval(shared, first)
                open_intervals.append(parent)
            parent.inner += best
        if open_intervals[-1].n_tokens < shared:
            open_intervals.append(_Interval(shared, first))
    return [start for _, start in open_intervals[0].inner]


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """Count the tokens in common that leave each text one of its own; 0 where they are too few."""
    n_most = min(len(a), len(b)) - 1
    if n_most < _MIN_SHARED or a[:_MIN_SHARED] != b[:_MIN_SHARED]:
        return 0
    return next((i for i in range(_MIN_SHARED, n_most) if a[i] != b[i]), n_most)


def _best(interval: _Interval, rows: Sequence[int], least_saved: int) -> list[tuple[int, CommonStart]]:
    saved = (len(rows) - 1) * interval.n_tokens
    if saved >= max(least_saved, sum(inside for inside, _ in interval.inner)):
        return [(saved, CommonStart(interval.n_tokens, tuple(rows)))]
    return interval.inner

"""The prompt trie: which tokens of a template set's prompts are the same, so that each is computed once.

A prompt is ``head + text + tail``. Heads are constant, so they are computed once a process. Templates with the same head
form a *head group*: the text runs once after their head, and the group's tails fork from it. Tails that begin alike share
their first tokens too.

Tokens do not stop at the seams: `tok(head) + tok(text) + tok(tail)` is not the tokenisation of the prompt, because a quote
at the seam merges with its neighbours. So the seams are cut a few tokens away from the text, in the constant parts: the
*middle* is ``end of head + text + start of tail``, tokenised as one string. At load the cuts are proved against whole
prompts over awkward texts, while running they are proved again on samples, and where the proof fails whole prompts are
tokenised, every template by itself: slower, and as exact.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from metaeol_udf.prompts.cleanup import clean_text
from metaeol_udf.prompts.templates import PromptTemplate, TemplateSet
from metaeol_udf.prompts.tokens import PromptTokenizer

logger = logging.getLogger(__name__)

_CUTS = ((1, 1), (2, 1), (1, 2), (2, 2), (3, 3), (4, 4))  # tokens of the head's end and of the tail's start left in the middle
_SAMPLE_EVERY = 256  # texts between two proofs of the cuts while running

#: Texts that begin and end in the ways that merge with a prompt's quotes, spaces and newlines.
AWKWARD_TEXTS = (
    "x", "A plain sentence.", "Ends with a question?", "\"Quoted\" twice \"", "'single'", "...", "?!", "(brackets)", "[x]", "{text}", "{}", "%s",
    "don't", "'s", "it's'", ": \"", "\"\"\"", "`code`", "a", "I", "7", "3.14", "1,000,000", "-5", "--", "—dash—", "…", "“curly”", "‘x’", "«g»",
    " x", "x ", "\tx\t", "x\n", "\n\nx\n\n", "x  y   z", "\u00a0x\u00a0", "\u200bx\u200b", "\ufeffx", "\x00", "a\x01b", "\x7f", "é", "e\u0301", "\u0301",
    "日本語", "日本語。", "中文\"引号\"", "العربية", "עברית", "русский", "ไทย", "हिन्दी", "한국어", "😀", "👩‍👩‍👧‍👦", "x😀", "😀\"", "🇩🇪",
    "<s>", "</s>", "<|endoftext|>", "<|im_start|>user", "<|im_end|>", "<unk>", "[INST]", "<bos>", "<pad>", "http://a.b/c?d=e&f=\"g\"", "<br />x<br />",
    "a_b", "CamelCase", "ALLCAPS", "x=y;", "#tag @name", "C:\\path\\", "\\", "/", "*", "**bold**", "~", "$5", "5%", "&amp;", "a\u2028b", "\ud7ff", "\U0010ffff",
)  # fmt: skip


@dataclass(frozen=True)
class HeadGroup:
    """Templates that share a head, and the trie of their tails.

    Attributes:
        head_ids: Tokens before the middle.
        template_indices: Position of each template in the set, shape ``(n_group,)``.
        tail_ids: Tokens of the tail trie, parents before children, shape ``(n_tail,)``.
        tail_depths: Steps from the text's last token, from 1, shape ``(n_tail,)``.
        tail_sees: Whether tail token i attends to tail token j, shape ``(n_tail, n_tail)``.
        outputs: Tail token whose hidden state is each template's, -1 for the text's last token, shape ``(n_group,)``.
        prompt_lengths: Tokens of head and tail in each template's whole prompt, shape ``(n_group,)``.
    """

    head_ids: tuple[int, ...]
    template_indices: tuple[int, ...]
    tail_ids: tuple[int, ...]
    tail_depths: tuple[int, ...]
    tail_sees: NDArray[np.bool_] = field(repr=False, compare=False)
    outputs: tuple[int, ...]
    prompt_lengths: tuple[int, ...]


@dataclass(frozen=True)
class _Cut:
    """One template, cut: ``prompt ids = head_ids + ids(head_end + text + tail_start) + tail_ids``."""

    head_ids: tuple[int, ...]
    head_end: str
    tail_start: str
    tail_ids: tuple[int, ...]


class PromptTrie:
    """Tokenises texts into what has to be computed: head groups, and each text's tokens in each of them.

    Attributes:
        tokenizer: What it tokenises with.
        groups: The head groups. Their heads and tails are constant.
        is_cut: Whether seams are cut; False means that whole prompts are tokenised, one group a template.
    """

    def __init__(self, templates: TemplateSet, tokenizer: PromptTokenizer, *, may_cut: bool = True) -> None:
        self._templates = templates
        self.tokenizer = tokenizer
        self._seen = 0
        self._cuts = self._prove_cuts() if may_cut and tokenizer.has_offsets else None
        self.is_cut = self._cuts is not None
        self.groups = self._make_groups()

    def tokenize(self, cleaned_texts: Sequence[str]) -> list[list[list[int]]]:
        """Tokens that follow each group's head and precede its tails.

        Args:
            cleaned_texts: Texts after `clean_text`, not blank.

        Returns:
            One list a group, in the order of `groups`, of one list of token ids a text, in the order of the texts.
        """
        if self._cuts is not None and not self._holds_on_samples(cleaned_texts):
            logger.warning("prompts cannot be cut around the text with this tokenizer: whole prompts are tokenised from now on, which is slower")
            self._cuts, self.is_cut = None, False
            self.groups = self._make_groups()
        if self._cuts is None:
            return self._tokenize_whole(cleaned_texts)
        middles = {}
        for cut in self._cuts:
            ends = (cut.head_end, cut.tail_start)
            if ends not in middles:
                middles[ends] = self.tokenizer.tokenize_inside([ends[0] + text + ends[1] for text in cleaned_texts])
        cuts = self._cuts
        return [middles[cuts[group.template_indices[0]].head_end, cuts[group.template_indices[0]].tail_start] for group in self.groups]

    def _tokenize_whole(self, cleaned_texts: Sequence[str]) -> list[list[list[int]]]:
        per_group = []
        for group in self.groups:
            template = self._templates.templates[group.template_indices[0]]
            ids = self.tokenizer.tokenize([self._templates.fill(template, text) for text in cleaned_texts])
            per_group.append(ids)
        return per_group

    def _prove_cuts(self) -> list[_Cut] | None:
        """Cut every template, or none: cuts that hold for all awkward texts, else None."""
        texts = [clean_text(text, self._templates.text_cleanup) for text in AWKWARD_TEXTS]
        texts = [text for text in texts if text.strip()]
        found = [self._prove_cut(template, texts) for template in self._templates.templates]
        proved = [cut for cut in found if cut is not None]
        return proved if len(proved) == len(found) else None

    def _prove_cut(self, template: PromptTemplate, texts: Sequence[str]) -> _Cut | None:
        whole = self.tokenizer.tokenize([self._templates.fill(template, text) for text in texts])
        for n_head, n_tail in _CUTS:
            cut = self._cut(template, n_head, n_tail, texts[0], whole[0])
            if cut is not None and self._equals(cut, texts, whole):
                return cut
        return None

    def _cut(self, template: PromptTemplate, n_head: int, n_tail: int, text: str, whole: Sequence[int]) -> _Cut | None:
        """Cut a template that many tokens away from the text; the constant ids are read off one whole prompt."""
        strips = self._templates.text_cleanup == "paper"
        head, tail = (template.head.lstrip(), template.tail.rstrip()) if strips else (template.head, template.tail)
        if strips and not tail:
            return None  # the end of the prompt is the text's own, stripped: no constant tail
        head_starts = [start for start, _ in self.tokenizer.offsets(head)]
        tail_ends = [end for _, end in self.tokenizer.offsets(tail)]
        head_end = head[head_starts[-n_head] :] if n_head <= len(head_starts) else head
        tail_start = tail[: tail_ends[n_tail - 1]] if n_tail <= len(tail_ends) else tail
        middle = tuple(self.tokenizer.tokenize_inside([head_end + text + tail_start])[0])
        n_before = self.tokenizer.n_leading + max(0, len(head_starts) - n_head)
        n_after = n_before + len(middle)
        if not middle or tuple(whole[n_before:n_after]) != middle:
            return None
        return _Cut(tuple(whole[:n_before]), head_end, tail_start, tuple(whole[n_after:]))

    def _equals(self, cut: _Cut, texts: Sequence[str], whole: Sequence[Sequence[int]]) -> bool:
        middles = self.tokenizer.tokenize_inside([cut.head_end + text + cut.tail_start for text in texts])
        return all([*cut.head_ids, *middle, *cut.tail_ids] == list(ids) for middle, ids in zip(middles, whole, strict=True))

    def _holds_on_samples(self, cleaned_texts: Sequence[str]) -> bool:
        """Prove the cuts again on some of the texts that really come, each with the next template in turn."""
        assert self._cuts is not None
        for index in range(-self._seen % _SAMPLE_EVERY, len(cleaned_texts), _SAMPLE_EVERY):
            which = (self._seen + index) // _SAMPLE_EVERY % len(self._cuts)
            text = cleaned_texts[index]
            whole = self.tokenizer.tokenize([self._templates.fill(self._templates.templates[which], text)])
            if not self._equals(self._cuts[which], [text], whole):
                return False
        self._seen += len(cleaned_texts)
        return True

    def _make_groups(self) -> list[HeadGroup]:
        if self._cuts is None:
            nothing = np.zeros((0, 0), bool)
            return [HeadGroup((), (i,), (), (), nothing, (-1,), (0,)) for i in range(len(self._templates.templates))]
        keys = [(cut.head_ids, cut.head_end, cut.tail_start) for cut in self._cuts]
        return [_join(key[0], [i for i, other in enumerate(keys) if other == key], self._cuts) for key in dict.fromkeys(keys)]


def _join(head_ids: tuple[int, ...], members: Sequence[int], cuts: Sequence[_Cut]) -> HeadGroup:
    """Join the tails of one head group into a trie."""
    nodes: dict[tuple[int, ...], int] = {}  # a node is named by the tokens that lead to it
    for member in members:
        for path in _paths(cuts[member].tail_ids):
            nodes.setdefault(path, len(nodes))
    sees = np.zeros((len(nodes), len(nodes)), bool)
    for path, node in nodes.items():
        sees[node, [nodes[before] for before in _paths(path)]] = True
    return HeadGroup(
        head_ids=head_ids,
        template_indices=tuple(members),
        tail_ids=tuple(path[-1] for path in nodes),
        tail_depths=tuple(len(path) for path in nodes),
        tail_sees=sees,
        outputs=tuple(nodes.get(cuts[member].tail_ids, -1) for member in members),
        prompt_lengths=tuple(len(head_ids) + len(cuts[member].tail_ids) for member in members),
    )


def _paths(ids: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    return (ids[:depth] for depth in range(1, len(ids) + 1))

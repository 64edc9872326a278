"""Where prompts may be cut around the text, so that one short string is tokenised in place of every whole prompt.

Tokens do not stop at the seams: `tok(head) + tok(text) + tok(tail)` is not the tokenisation of the prompt, because a quote
at the seam merges with its neighbours. So the cuts lie a few tokens away from the text, in the constant parts, and each is
proved against whole prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from metaeol_udf.prompts.boundary_texts import AWKWARD_TEXTS
from metaeol_udf.prompts.cleanup import clean_text
from metaeol_udf.prompts.templates import PromptTemplate, TemplateSet
from metaeol_udf.prompts.tokenizer import PromptTokenizer

_CUTS = ((1, 1), (2, 1), (1, 2), (2, 2), (3, 3), (4, 4))  # tokens of the head's end and of the tail's start left in the middle


@dataclass(frozen=True)
class Cut:
    """One template, cut: ``prompt ids = head_ids + ids(head_end + text + tail_start) + tail_ids``."""

    head_ids: tuple[int, ...]
    head_end: str
    tail_start: str
    tail_ids: tuple[int, ...]

    def equals(self, tokenizer: PromptTokenizer, texts: Sequence[str], whole: Sequence[Sequence[int]]) -> bool:
        """Whether cutting gives the ids of the whole prompts, for each of these cleaned texts."""
        middles = tokenizer.tokenize_inside([self.head_end + text + self.tail_start for text in texts])
        return all([*self.head_ids, *middle, *self.tail_ids] == list(ids) for middle, ids in zip(middles, whole, strict=True))


def prove_cuts(templates: TemplateSet, tokenizer: PromptTokenizer) -> list[Cut] | None:
    """Cut every template of a set, or none.

    Returns:
        Cuts that hold for all awkward texts, one a template, or None where some template has none.
    """
    if not tokenizer.has_offsets:
        return None
    cleaned = [clean_text(text, templates.text_cleanup) for text in AWKWARD_TEXTS]
    texts = [text for text in cleaned if text.strip()]
    cuts = []
    for template in templates.templates:
        cut = _prove_cut(templates, template, tokenizer, texts)
        if cut is None:
            return None
        cuts.append(cut)
    return cuts


def _prove_cut(templates: TemplateSet, template: PromptTemplate, tokenizer: PromptTokenizer, texts: Sequence[str]) -> Cut | None:
    whole = tokenizer.tokenize([templates.fill(template, text) for text in texts])
    strips = templates.text_cleanup == "paper"
    head, tail = (template.head.lstrip(), template.tail.rstrip()) if strips else (template.head, template.tail)
    if strips and not tail:
        return None  # the end of the prompt is the text's own, stripped: no constant tail
    for n_head, n_tail in _CUTS:
        cut = _cut(head, tail, tokenizer, n_head, n_tail, texts[0], whole[0])
        if cut is not None and cut.equals(tokenizer, texts, whole):
            return cut
    return None


def _cut(head: str, tail: str, tokenizer: PromptTokenizer, n_head: int, n_tail: int, text: str, whole: Sequence[int]) -> Cut | None:
    """Cut that many tokens away from the text; the constant ids are read off one whole prompt."""
    head_starts = [start for start, _ in tokenizer.offsets(head)]
    tail_ends = [end for _, end in tokenizer.offsets(tail)]
    head_end = head[head_starts[-n_head] :] if n_head <= len(head_starts) else head
    tail_start = tail[: tail_ends[n_tail - 1]] if n_tail <= len(tail_ends) else tail
    middle = tuple(tokenizer.tokenize_inside([head_end + text + tail_start])[0])
    n_before = tokenizer.n_leading + max(0, len(head_starts) - n_head)
    n_after = n_before + len(middle)
    if not middle or tuple(whole[n_before:n_after]) != middle:
        return None
    return Cut(tuple(whole[:n_before]), head_end, tail_start, tuple(whole[n_after:]))

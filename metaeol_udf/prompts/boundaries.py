"""Where prompts may be cut around the text, so that one short string is tokenised in place of every whole prompt.

Tokens do not stop at the boundaries: `tok(prefix) + tok(text) + tok(suffix)` is not the tokenisation of the prompt, because a quote
at a boundary merges with its neighbours. So the cuts lie a few tokens away from the text, in the constant parts, and each is
proved against whole prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from metaeol_udf.prompts.boundary_texts import AWKWARD_TEXTS
from metaeol_udf.prompts.cleanup import clean_text
from metaeol_udf.prompts.templates import PromptTemplate, TemplateSet
from metaeol_udf.prompts.tokenizer import PromptTokenizer

_CUTS = ((1, 1), (2, 1), (1, 2), (2, 2), (3, 3), (4, 4))  # tokens of the prefix's end and of the suffix's start left in the middle


@dataclass(frozen=True)
class Cut:
    """Holds one template, cut: ``prompt ids = prefix_ids + ids(prefix_end + text + suffix_start) + suffix_ids``."""

    template: PromptTemplate
    prefix_ids: tuple[int, ...]
    prefix_end: str
    suffix_start: str
    suffix_ids: tuple[int, ...]

    def equals(self, tokenizer: PromptTokenizer, texts: Sequence[str], whole: Sequence[Sequence[int]]) -> bool:
        """Tell whether cutting gives the ids of the whole prompts, for each of these cleaned texts."""
        placed = [self.template.order_words(text) for text in texts]
        middles = tokenizer.tokenize_inside([self.prefix_end + text + self.suffix_start for text in placed])
        return all([*self.prefix_ids, *middle, *self.suffix_ids] == list(ids) for middle, ids in zip(middles, whole, strict=True))


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
    prefix, suffix = (template.prefix.lstrip(), template.suffix.rstrip()) if strips else (template.prefix, template.suffix)
    if strips and not suffix:
        return None  # the end of the prompt is the text's own, stripped: no constant suffix
    for n_prefix, n_suffix in _CUTS:
        cut = _cut(template, prefix, suffix, tokenizer, n_prefix, n_suffix, texts[0], whole[0])
        if cut is not None and cut.equals(tokenizer, texts, whole):
            return cut
    return None


def _cut(
    template: PromptTemplate, prefix: str, suffix: str, tokenizer: PromptTokenizer, n_prefix: int, n_suffix: int, text: str,
    whole: Sequence[int],
) -> Cut | None:  # fmt: skip
    """Cut that many tokens away from the text; the constant ids are read off one whole prompt."""
    prefix_starts = [start for start, _ in tokenizer.offsets(prefix)]
    suffix_ends = [end for _, end in tokenizer.offsets(suffix)]
    prefix_end = prefix[prefix_starts[-n_prefix] :] if n_prefix <= len(prefix_starts) else prefix
    suffix_start = suffix[: suffix_ends[n_suffix - 1]] if n_suffix <= len(suffix_ends) else suffix
    middle = tuple(tokenizer.tokenize_inside([prefix_end + template.order_words(text) + suffix_start])[0])
    n_before = tokenizer.n_leading + max(0, len(prefix_starts) - n_prefix)
    n_after = n_before + len(middle)
    if not middle or tuple(whole[n_before:n_after]) != middle:
        return None
    return Cut(template, tuple(whole[:n_before]), prefix_end, suffix_start, tuple(whole[n_after:]))

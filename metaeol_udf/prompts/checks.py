"""What a template set costs and whether it does what MetaEOL needs: prompts that end where one word would stand."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from metaeol_udf.formatting import shorten
from metaeol_udf.prompts.cleanup import clean_text
from metaeol_udf.prompts.templates import PromptTemplate, TemplateSet
from metaeol_udf.prompts.tokenizer import PromptTokenizer
from metaeol_udf.prompts.trie import PromptTrie

#: Words of a cue, then a colon or a space, then a quote that opens; or a colon at the very end.
_CUE = re.compile(r"\w.*([:：\s]\s*[\"'“”„«»‘’「『]|[:：])$", re.DOTALL)
_SAMPLE = "The parcel came on Tuesday, two days later than we had been told, and one of the three boxes was open. "


@dataclass(frozen=True)
class TokenCost:
    """Holds the counts of tokens that a set makes of one text, by the real trie.

    Attributes:
        n_text_tokens: Of the text by itself.
        n_text_passes: Times that a text goes through the model, one a prefix group.
        prefixes: Tokens before the text, computed once a process.
        texts: Tokens of the text in all its passes, with what the cuts leave beside it.
        suffixes: Tokens after the text.
        whole: Tokens of the whole prompts: what one pass a prompt would compute.
        is_cut: Whether prompts are cut around the text, without which nothing is shared.
    """

    n_text_tokens: int
    n_text_passes: int
    prefixes: int
    texts: int
    suffixes: int
    whole: int
    is_cut: bool

    @property
    def computed(self) -> int:
        """Count the tokens computed for each text."""
        return self.texts + self.suffixes


@dataclass(frozen=True)
class SetCheck:
    """Holds what is known of a template set.

    Attributes:
        name: The set's.
        n_templates: Templates.
        n_prefixes: Different beginnings before the text; a reversed text makes another one.
        n_suffixes: Different endings after it.
        problems: What makes an embedding say something else than one word; none where all is well.
        warnings: What costs time or counts a template twice.
        tokens: Cost of one text; None where no tokenizer was given.
    """

    name: str
    n_templates: int
    n_prefixes: int
    n_suffixes: int
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    tokens: TokenCost | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return dataclasses.asdict(self) | {"tokens_per_text": None if self.tokens is None else self.tokens.computed}


def ends_in_cue(template: PromptTemplate) -> bool:
    """Tell whether a prompt ends where one word would stand: after a few words, behind an opening quote or a colon."""
    return _CUE.search(template.suffix.rstrip()) is not None


def count_tokens(templates: TemplateSet, trie: PromptTrie, n_text_tokens: int) -> TokenCost:
    """Count the tokens that a set computes for a text of that many tokens; cleaning the text may add one."""
    text, _ = trie.tokenizer.trim(_SAMPLE * (n_text_tokens // 8 + 1), n_text_tokens)
    cleaned = clean_text(text, templates.text_cleanup)
    lengths = [len(ids[0]) for ids in trie.tokenize([cleaned])]
    return TokenCost(
        n_text_tokens=len(trie.tokenizer.tokenize_inside([cleaned])[0]),
        n_text_passes=len(trie.groups),
        prefixes=sum(len(group.prefix_ids) for group in trie.groups),
        texts=sum(lengths),
        suffixes=sum(len(group.suffix_ids) for group in trie.groups),
        whole=sum(group.tokens_whole(n_tokens) for group, n_tokens in zip(trie.groups, lengths, strict=True)),
        is_cut=trie.is_cut,
    )


def check_templates(
    templates: TemplateSet, tokenizer: PromptTokenizer | None = None, *, n_text_tokens: int = 32, may_cut: bool = True
) -> SetCheck:
    """Check a template set, whose slots `TemplateSet` has checked already.

    Args:
        templates: The set.
        tokenizer: The model's; None leaves tokens out.
        n_text_tokens: Length of the example text, in tokens.
        may_cut: Whether the encoder cuts prompts of this model; it does not where the architecture is not known.
    """
    beginnings = {(template.prefix, template.word_order) for template in templates.templates}
    problems = [
        f'prompt {index} ({template.meta_task}) does not end in a cue for one word, such as `Topic: "`, but in {_end(template)!r}'
        for index, template in enumerate(templates.templates)
        if not ends_in_cue(template)
    ]
    kinds = Counter((template.prompt, template.word_order) for template in templates.templates)
    repeats = [prompt for (prompt, _), n in kinds.items() if n > 1]
    warnings = [f"a prompt stands in the set more than once and counts as often: {shorten(prompt, 80)}" for prompt in repeats]
    tokens = None
    if tokenizer is not None:
        tokens = count_tokens(templates, PromptTrie(templates, tokenizer, may_cut=may_cut), n_text_tokens)
        if not tokens.is_cut:
            warnings.append("prompts cannot be cut around the text with this model, so prefixes and texts are not shared")
        elif tokens.n_text_passes > len(beginnings):
            warnings.append(
                f"{len(beginnings)} prefixes need {tokens.n_text_passes} text passes: suffixes behind one prefix begin in different ways"
            )
    if len(beginnings) == len(templates.templates) > 1:
        warnings.append("no two prompts begin alike: a shared prefix lets the text go through the model once for all that share it")
    suffixes = {template.suffix for template in templates.templates}
    return SetCheck(templates.name, len(templates.templates), len(beginnings), len(suffixes), tuple(problems), tuple(warnings), tokens)


def _end(template: PromptTemplate) -> str:
    return template.prompt.rstrip()[-30:]

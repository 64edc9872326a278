"""Token ids of the prompts that methods run on, and what they cost: prefixes and texts shared as the engine shares them, and not."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.method_passes import PLACEHOLDER
from metaeol_udf import TemplateSet
from metaeol_udf.prompts import PromptTemplate, clean_text
from metaeol_udf.prompts.tokenizer import PromptTokenizer

Ids = list[list[int]]  # of one template's prompts, a text each

_QUOTE = ' "'  # opens the text in all templates that a placeholder can be put into

#: Our own wordings of a prompt that asks for what does not matter, for `PromptTemplate`s of contrastive steering.
AUXILIARY = {
    "beside": 'What is beside the point in this sentence: "{text}" means in one word: "',
    "filler": 'The filler words of this sentence: "{text}" mean in one word: "',
    "form": 'The form, not the content, of this sentence: "{text}" is in one word: "',
}


def prompt_ids(templates: TemplateSet, tokenizer: PromptTokenizer, texts: Sequence[str]) -> list[Ids]:
    """Token ids of each template's prompts, indexed ``[template][text]``."""
    cleaned = [clean_text(text, templates.text_cleanup) for text in texts]
    return [tokenizer.tokenize([templates.fill(template, text) for text in cleaned]) for template in templates.templates]


def placeholder_ids(templates: TemplateSet, tokenizer: PromptTokenizer, texts: Sequence[str]) -> list[Ids]:
    """The same with `PLACEHOLDER` between the prefix and the quote that opens the text.

    Raises:
        ValueError: A template has no such quote.
    """
    cleaned = [clean_text(text, templates.text_cleanup) for text in texts]
    return [_with_placeholder(template, tokenizer, cleaned) for template in templates.templates]


def _with_placeholder(template: PromptTemplate, tokenizer: PromptTokenizer, cleaned: Sequence[str]) -> Ids:
    if not template.prefix.endswith(_QUOTE):
        raise ValueError(f"a placeholder needs a prefix that ends with {_QUOTE!r}, found {template.prefix!r}")
    before = tokenizer.tokenize([template.prefix.removesuffix(_QUOTE)])[0]
    behind = tokenizer.tokenize_inside([(_QUOTE + text + template.suffix).rstrip() for text in cleaned])
    return [[*before, PLACEHOLDER, *ids] for ids in behind]


def shared_tokens(prompts: Sequence[Ids]) -> float:
    """Tokens a text on average where constant prefixes cost nothing and templates that begin alike share what they have in common.

    Args:
        prompts: Token ids, indexed ``[template][text]``, two texts or more.
    """
    prefixes = [_n_common(ids) for ids in prompts]
    n_texts = len(prompts[0])
    nodes = (
        {tuple(ids[text][:end]) for ids, prefix in zip(prompts, prefixes, strict=True) for end in range(prefix + 1, len(ids[text]) + 1)}
        for text in range(n_texts)
    )
    return sum(map(len, nodes)) / n_texts


def prepended_tokens(prompts: Sequence[Ids]) -> float:
    """Tokens a text under token prepending: all from the placeholder on, in each template, for their states depend on its last token."""
    n_tokens = sum(len(ids) - ids.index(PLACEHOLDER) for of_template in prompts for ids in of_template)
    return n_tokens / len(prompts[0])


def whole_tokens(prompts: Sequence[Ids]) -> float:
    """Tokens a text where every prompt is a pass of its own."""
    return sum(len(ids) for of_template in prompts for ids in of_template) / len(prompts[0])


def _n_common(prompts: Ids) -> int:
    """Tokens that all prompts begin with."""
    first, last = min(prompts), max(prompts)  # whatever these two share, those between them share
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))

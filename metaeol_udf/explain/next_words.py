"""What an embedding holds: the words that the model would say next after each prompt of a text.

An embedding is the mean of the hidden states from which these words come, so a meta-task shows in them (MetaEOL: Lei et al.
2024, arXiv:2402.18458).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from metaeol_udf.encoder.loading import check_room
from metaeol_udf.encoder.preparation import clean_and_trim
from metaeol_udf.errors import ConfigError
from metaeol_udf.explain.language_model import LanguageModel, load_language_model, next_token_probabilities
from metaeol_udf.formatting import visible
from metaeol_udf.prompts import TEXT_SLOT, PromptTemplate, TemplateSet
from metaeol_udf.prompts.cleanup import is_blank
from metaeol_udf.spec import EmbeddingSpec, output_layers

_SPACE = "␣"


@dataclass(frozen=True)
class Word:
    """Describes a token that may come next. Tokens that differ in a leading space or in case are words of their own.

    Attributes:
        text: Its characters, a leading space included; `<token N>` where it is only a part of a character, or none.
        token_id: Its number in the model's vocabulary.
        probability: From 0 to 1.
    """

    text: str
    token_id: int
    probability: float

    @property
    def visible(self) -> str:
        """Return the text with its leading spaces, line ends and the like made visible."""
        rest = self.text.lstrip(" ")
        start = _SPACE * (len(self.text) - len(rest))
        return start + visible(rest, kept=())


@dataclass(frozen=True)
class TemplateWords:
    """Holds the most probable words after one template's prompt.

    Attributes:
        meta_task: The template's.
        prompt: The template, with its slot.
        words: Most probable first.
        word_order: How the text stands in it, see `PromptTemplate`.
    """

    meta_task: str
    prompt: str
    words: tuple[Word, ...]
    word_order: str = "as_written"

    @property
    def cue(self) -> str:
        """Return what the prompt asks after the text, such as `Topic:`, and whether it asks about the text with its words reversed."""
        cue = self.prompt.partition(TEXT_SLOT)[2].strip().strip("\"'“”«»").strip()
        return cue if self.word_order == "as_written" else f"{cue} (words {self.word_order})"


@dataclass(frozen=True)
class Explanation:
    """Holds a text's words.

    Attributes:
        text: The cleaned text, as it stood in the prompts.
        is_trimmed: Whether it was longer than `max_tokens`.
        layer: Hidden state that the words were read from.
        n_layers: The model's layers: where `layer` is the same, the words are the model's own.
        templates: In the order of the set.
    """

    text: str
    is_trimmed: bool
    layer: int
    n_layers: int
    templates: tuple[TemplateWords, ...]

    def rows(self) -> list[dict[str, Any]]:
        """Return a row a word, for other programs: its template's number from 0, meta-task and prompt, and its rank from 1."""
        return [
            {
                "template": n,
                "meta_task": each.meta_task,
                "prompt": each.prompt,
                "word_order": each.word_order,
                "rank": rank,
                **dataclasses.asdict(word),
            }
            for n, each in enumerate(self.templates)
            for rank, word in enumerate(each.words, 1)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return dataclasses.asdict(self)


def explain_text(spec: EmbeddingSpec, text: str, *, device: str = "auto", top: int = 10, layer: int | float = -1) -> Explanation:
    """Find the most probable next words of a text's prompts.

    Args:
        spec: Names model, templates, dtype and `max_tokens`. Its own layer is where vectors are read, not words.
        text: Any text that is not blank; a long one is trimmed as the encoder trims it.
        device: `auto`, `cpu`, `cuda` or `cuda:N`; one device is used.
        top: Words of a template.
        layer: Hidden state to read, as `EmbeddingSpec.layer`: the last is the model's own output.

    Raises:
        ConfigError: The text is blank, or a setting is out of range.
        ModelFilesError: Model files are missing, truncated or altered, or there is no language-model head.
        EnvironmentFault: The device is not there.
    """
    if is_blank(text):
        raise ConfigError("the text to explain is blank: a blank text has no embedding")
    asked = dataclasses.replace(spec, layer=layer).layer  # which checks its form
    templates = TemplateSet.from_spec(spec)
    language_model = load_language_model(spec, device)
    tokenizer, n_layers = language_model.prompt_tokenizer, language_model.n_layers
    check_room(spec, templates, tokenizer, language_model.model)
    (index,) = output_layers(asked, n_layers)
    cleaned, is_trimmed = clean_and_trim(text, templates.text_cleanup, tokenizer, spec.max_tokens)
    prompts = tokenizer.tokenize([templates.fill(template, cleaned) for template in templates.templates])
    found = zip(templates.templates, prompts, strict=True)
    words = tuple(_explain_prompt(language_model, template, ids, index, top) for template, ids in found)
    return Explanation(cleaned, is_trimmed, index, n_layers, words)


def _explain_prompt(language_model: LanguageModel, template: PromptTemplate, ids: list[int], layer: int, top: int) -> TemplateWords:
    probabilities = next_token_probabilities(language_model, ids, layer)
    best = probabilities.topk(min(top, len(probabilities)))
    words = (
        Word(spell(language_model.tokenizer, token_id), token_id, probability)
        for token_id, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    )
    return TemplateWords(template.meta_task, template.prompt, tuple(words), template.word_order)


def spell(tokenizer: Any, token_id: int) -> str:
    """Return a token's characters as they stand inside a text.

    Some tokenizers drop the first token's leading space when they decode, so the token is decoded behind another one.
    """
    anchor = tokenizer("x", add_special_tokens=False)["input_ids"]
    before, both = (tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in (anchor, [*anchor, token_id]))
    text: str = both.removeprefix(before)
    return text if text and "\N{REPLACEMENT CHARACTER}" not in text else f"<token {token_id}>"

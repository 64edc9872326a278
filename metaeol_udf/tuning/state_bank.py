"""Hidden states of texts for all templates at many layers, from one pass: candidates are compared without running the model again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from metaeol_udf.encoder import MetaEOLEncoder
from metaeol_udf.encoder.preparation import prepare_texts
from metaeol_udf.prompts import TemplateSet
from metaeol_udf.prompts.trie import PromptTrie
from metaeol_udf.spec import output_layers
from metaeol_udf.terminal import counting

_CHUNK = 128  # texts whose hidden states are in float32 twice


@dataclass(frozen=True)
class StateBank:
    """Holds hidden states of distinct texts.

    Attributes:
        texts: Distinct texts, in the order of the first axis.
        templates: The template set, in the order of the second axis.
        layers: Indices into the model's hidden states, ascending, in the order of the third axis.
        n_layers: Layers of the model.
        states: float32, shape ``(n_texts, n_templates, n_layers_kept, hidden_size)``.
        tokens: Tokens computed a text by each subset of templates that was asked for; see `cost`.
    """

    texts: list[str]
    templates: TemplateSet
    layers: tuple[int, ...]
    n_layers: int
    states: NDArray[np.float32]
    encoder: MetaEOLEncoder
    tokens: dict[tuple[int, ...], float]

    def rows(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return the places of texts in `states`."""
        return np.array([self._places[text] for text in texts], np.int64)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {text: place for place, text in enumerate(self.texts)}

    def mean(self, templates: Sequence[int], layers: Sequence[int]) -> NDArray[np.float32]:
        """Compute the mean hidden state of every text over some templates and layers, shape ``(n_texts, hidden_size)``."""
        total = np.zeros((len(self.texts), self.states.shape[-1]), np.float32)
        for layer in layers:
            for template in templates:  # slices are views; an index of lists would copy hundreds of megabytes
                total += self.states[:, template, self.layers.index(layer)]
        return total / np.float32(len(templates) * len(layers))

    def cost(self, templates: Sequence[int], layers: Sequence[int]) -> float:
        """Return the tokens computed a text, times the share of the model's layers that run; prefixes count as run before."""
        key = tuple(templates)
        if key not in self.tokens:
            self.tokens[key] = tokens_per_text(self.encoder, subset(self.templates, key), self.texts)
        return self.tokens[key] * max(layers) / self.n_layers


def fill_bank(encoder: MetaEOLEncoder, texts: Sequence[str]) -> StateBank:
    """Run texts through the model once.

    Args:
        encoder: Its spec lists the layers to keep. Memory: 4 bytes times texts, templates, layers and hidden size.
        texts: Any strings; repeated ones run once.
    """
    distinct = list(dict.fromkeys(texts))
    engine = encoder.engine
    shape = (len(encoder.templates.templates), engine.n_states, engine.hidden_size)
    states = np.empty((len(distinct), *shape), np.float32)
    with counting("embedding", len(distinct)) as advance:
        for start in range(0, len(distinct), _CHUNK):
            chunk = distinct[start : start + _CHUNK]
            states[start : start + len(chunk)] = encoder.encode_layers(chunk)
            advance(len(chunk))
    n_layers = engine.n_layers
    return StateBank(distinct, encoder.templates, output_layers(encoder.spec.layer, n_layers), n_layers, states, encoder, {})


def subset(templates: TemplateSet, chosen: Sequence[int], name: str | None = None) -> TemplateSet:
    """Return some templates of a set, as a set."""
    return TemplateSet(name or templates.name, templates.text_cleanup, tuple(templates.templates[index] for index in chosen))


def tokens_per_text(encoder: MetaEOLEncoder, templates: TemplateSet, texts: Sequence[str]) -> float:
    """Count the tokens that a template set's trie computes for a text, the mean over some."""
    sample = texts[:: max(1, len(texts) // 1000)]
    trie = PromptTrie(templates, encoder.engine.trie.tokenizer)
    prepared = prepare_texts(sample, trie, templates, encoder.spec.max_tokens, encoder.batch_runner.max_batch_tokens, shares_starts=False)
    return float(prepared.tokens_computed.sum() / max(1, prepared.n_unique))

"""`MetaEOLEncoder`: texts in, vectors out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metaeol_udf.encoder.batches import BatchRunner
from metaeol_udf.encoder.loading import Engine, load_engine
from metaeol_udf.encoder.plan import plan_batches
from metaeol_udf.encoder.pooling import finish_vectors
from metaeol_udf.errors import MetaEOLError
from metaeol_udf.prompts import TemplateSet, clean_text
from metaeol_udf.prompts.cleanup import is_blank
from metaeol_udf.spec import EmbeddingSpec

_WINDOW_TEXTS = 8192  # planned together; more texts of equal length make fuller cells
_WINDOW_CHARACTERS = 2_000_000  # about half a million tokens, which bounds the planner's memory


@dataclass(frozen=True)
class Encoded:
    """What became of a list of texts. All arrays follow the order of the texts.

    Attributes:
        vectors: float32, shape ``(n_texts, dim)``; zeros where there is an error.
        errors: None where all is well, else a code: `null_text`, `empty_text`, `non_finite`, `oom` or `error: TypeName`.
        trimmed: Whether the text was longer than `max_tokens`.
        tokens_computed: Tokens that went through the model for this text; 0 for a repeated one. The first text after a load
            also carries the heads.
        tokens_saved: Tokens that one pass a prompt would have computed beyond those.
    """

    vectors: NDArray[np.float32]
    errors: list[str | None]
    trimmed: NDArray[np.bool_]
    tokens_computed: NDArray[np.int64]
    tokens_saved: NDArray[np.int64]


class MetaEOLEncoder:
    """A loaded model with a template set (MetaEOL: Lei et al. 2024, arXiv:2402.18458).

    Made where it runs and never pickled: a driver may have no GPU. Not thread-safe.

    Attributes:
        spec: What is computed.
        templates: The template set.
        dim: Length of a vector.
        engine: The loaded model.
        batch_runner: Runs planned batches; knows how many tokens fit.
    """

    def __init__(self, spec: EmbeddingSpec, templates: TemplateSet, engine: Engine, max_batch_tokens: int | str = "auto") -> None:
        self.spec = spec
        self.templates = templates
        self.engine = engine
        self.batch_runner = BatchRunner(engine, max_batch_tokens)
        width = min(spec.truncate_dim or engine.hidden_size, engine.hidden_size)
        self.dim = width * (len(templates.templates) if spec.per_template else 1)
        self._head_tokens_to_report = engine.runner.n_head_tokens

    @classmethod
    def from_pretrained(
        cls, model: str, *, templates: TemplateSet, layer: int | float = -1, dtype: str = "auto", device: str = "auto",
        revision: str | None = None, max_tokens: int = 512, max_batch_tokens: int | str = "auto",
    ) -> MetaEOLEncoder:  # fmt: skip
        """Load a model.

        Args:
            model: Folder of a checkpoint, or a hub id in the local cache.
            templates: The template set.
            layer: Index into the hidden states as transformers counts them, or a fraction of depth.
            dtype: `auto`, `float32`, `bfloat16` or `float16`.
            device: `auto`, `cpu`, `cuda` or `cuda:N`.
            revision: Commit of a hub id.
            max_tokens: Tokens kept of a text.
            max_batch_tokens: Tokens of one forward pass, or `auto`.

        Raises:
            ConfigError: A setting is out of range, or there is no such model.
            ModelFilesError: Model files are missing, truncated or altered.
            EnvironmentFault: The device is not there.
        """
        spec = EmbeddingSpec(
            model=model, revision=revision, templates=templates.name, layer=layer, dtype=dtype, max_tokens=max_tokens,
            templates_json=templates.to_json(),
        )  # fmt: skip
        return cls.from_spec(spec, device=device, max_batch_tokens=max_batch_tokens)

    @classmethod
    def from_spec(cls, spec: EmbeddingSpec, *, device: str = "auto", max_batch_tokens: int | str = "auto") -> MetaEOLEncoder:
        """Load the model that a spec names; raises as `from_pretrained`."""
        templates = TemplateSet.from_spec(spec)
        return cls(spec, templates, load_engine(spec, templates, device), max_batch_tokens)

    def encode(self, texts: Sequence[str], *, per_template: bool = False) -> NDArray[np.float32]:
        """Embed texts.

        Every string has a vector here, blank ones too; it is tables that hold NULL for them, see `encode_rows`.

        Args:
            texts: Any strings. Longer ones are trimmed to `max_tokens`.
            per_template: Return each template's hidden state by itself, before any averaging, truncation or scaling.

        Returns:
            Shape ``(n_texts, dim)``, or ``(n_texts, n_templates, hidden_size)``; rows in the order of `texts`.

        Raises:
            MetaEOLError: A text could not be embedded; the message gives its position and the reason.
        """
        n_templates, hidden_size = len(self.templates.templates), self.engine.hidden_size
        shape = (len(texts), n_templates, hidden_size) if per_template else (len(texts), self.dim)
        vectors = np.empty(shape, np.float32)
        for window in _windows(texts):
            states, errors, *_ = self._encode_window(texts[window.start : window.stop], per_template or self.spec.per_template)
            failed = next(((i, error) for i, error in enumerate(errors) if error is not None), None)
            if failed is not None:
                raise MetaEOLError(f"text {window.start + failed[0]} could not be embedded: {failed[1]}")
            vectors[window.start : window.stop] = states if per_template else finish_vectors(states, self.spec)
        return vectors

    def encode_rows(self, texts: Sequence[str | None]) -> Encoded:
        """Embed the cells of a column: never raises for a row.

        NULL and blank texts get an error in place of a vector, and so does a text on which the model fails.
        """
        errors: list[str | None] = ["null_text" if text is None else "empty_text" if is_blank(text) else None for text in texts]
        encoded = Encoded(
            np.zeros((len(texts), self.dim), np.float32), errors, np.zeros(len(texts), bool),
            np.zeros(len(texts), np.int64), np.zeros(len(texts), np.int64),
        )  # fmt: skip
        present = np.array([i for i, error in enumerate(errors) if error is None], np.int64)
        for window in _windows([texts[i] or "" for i in present]):
            rows = present[window.start : window.stop]
            states, failures, trimmed, computed, saved = self._encode_window([texts[i] or "" for i in rows], self.spec.per_template)
            encoded.vectors[rows] = finish_vectors(states, self.spec)
            encoded.trimmed[rows], encoded.tokens_computed[rows], encoded.tokens_saved[rows] = trimmed, computed, saved
            for row, failure in zip(rows, failures, strict=True):
                if failure is None and not np.isfinite(encoded.vectors[row]).all():
                    failure = "non_finite"
                if failure is not None:
                    errors[row] = failure
                    encoded.vectors[row] = 0.0
        return encoded

    def _encode_window(
        self, texts: Sequence[str], per_template: bool
    ) -> tuple[NDArray[np.float32], list[str | None], NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
        """Hidden states (their mean, or one a template), errors, trims and token counts of one window of texts."""
        trims = [self._clean(text) for text in texts]
        cleaned = [text for text, _ in trims]
        places = {text: place for place, text in enumerate(dict.fromkeys(cleaned))}
        unique = list(places)
        ids = self.engine.tokenize(unique)
        groups = self.engine.trie.groups
        lengths = [[len(text) for text in group] for group in ids]
        batches = plan_batches(lengths, [len(group.tail_ids) for group in groups], self.batch_runner.max_batch_tokens)
        states, failures = self.batch_runner.run(batches, ids, len(unique), per_template)
        computed = np.zeros(len(unique), np.int64)
        whole = np.zeros(len(unique), np.int64)
        for group, of_group in zip(groups, lengths, strict=True):
            n_texts = np.array(of_group, np.int64)
            computed += n_texts + len(group.tail_ids)
            whole += len(group.prompt_lengths) * n_texts + sum(group.prompt_lengths)
        at = np.array([places[text] for text in cleaned], np.int64)
        first = np.zeros(len(texts), bool)
        first[np.unique(at, return_index=True)[1]] = True
        tokens = np.where(first, computed[at], 0)
        if len(texts):
            tokens[0] += self._head_tokens_to_report
            self._head_tokens_to_report = 0
        return states[at], [failures[i] for i in at], np.array([cut for _, cut in trims], bool), tokens, whole[at] - tokens

    def _clean(self, text: str) -> tuple[str, bool]:
        """Clean a text, trim it, and clean the cut end too, so that it closes like any other."""
        cleanup = self.templates.text_cleanup
        kept, is_cut = self.engine.trie.tokenizer.trim(clean_text(text, cleanup), self.spec.max_tokens)
        return clean_text(kept, cleanup) if is_cut else kept, is_cut


def _windows(texts: Sequence[str]) -> Iterator[range]:
    """Consecutive ranges of texts that are planned together."""
    start = n_characters = 0
    for end, text in enumerate(texts):
        if end > start and (end - start == _WINDOW_TEXTS or n_characters + len(text) > _WINDOW_CHARACTERS):
            yield range(start, end)
            start, n_characters = end, 0
        n_characters += len(text)
    if start < len(texts):
        yield range(start, len(texts))

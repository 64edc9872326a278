"""`MetaEOLEncoder`: texts in, vectors out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from metaeol_udf.encoder.batch_runner import BatchRunner
from metaeol_udf.encoder.checkpoint.files import resolve_spec
from metaeol_udf.encoder.loading import Engine, load_engine
from metaeol_udf.encoder.preparation import Window, prepare_window
from metaeol_udf.encoder.vectors.output import finish_vectors
from metaeol_udf.encoder.vectors.postprocess import load_postprocess
from metaeol_udf.errors import MetaEOLError
from metaeol_udf.prompts import TemplateSet
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
            also carries the prefixes.
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
        self._post = load_postprocess(spec)
        width = engine.hidden_size if self._post is None else self._post.dim
        self.dim = min(spec.truncate_dim or width, width) * (len(templates.templates) if spec.per_template else 1)
        self._prefix_tokens_to_report = engine.runner.n_prefix_tokens

    @classmethod
    def from_pretrained(
        cls, model: str, *, templates: TemplateSet, layer: int | float | Sequence[int | float] = -1, dtype: str = "auto",
        device: str = "auto", quantization: str | None = None, revision: str | None = None, max_tokens: int = 512,
        max_batch_tokens: int | str = "auto",
    ) -> MetaEOLEncoder:  # fmt: skip
        """Load a model.

        Args:
            model: Folder of a checkpoint, or a hub id in the local cache.
            templates: The template set.
            layer: Index into the hidden states as transformers counts them, or a fraction of depth, or several to average.
            dtype: `auto`, `float32`, `bfloat16` or `float16`.
            device: `auto`, `cpu`, `cuda` or `cuda:N`.
            quantization: `int8` or `int4` weights, or None.
            revision: Commit of a hub id.
            max_tokens: Tokens kept of a text.
            max_batch_tokens: Tokens of one forward pass, or `auto`.

        Raises:
            ConfigError: A setting is out of range, or there is no such model.
            ModelFilesError: Model files are missing, truncated or altered.
            EnvironmentFault: The device is not there.
        """
        layers = layer if isinstance(layer, (int, float)) else tuple(layer)
        spec = EmbeddingSpec(
            model=model, revision=revision, templates=templates.name, layer=layers, dtype=dtype, quantization=quantization,
            max_tokens=max_tokens, templates_json=templates.to_json(),
        )  # fmt: skip
        return cls.from_spec(spec, device=device, max_batch_tokens=max_batch_tokens)

    @classmethod
    def from_spec(cls, spec: EmbeddingSpec, *, device: str = "auto", max_batch_tokens: int | str = "auto") -> MetaEOLEncoder:
        """Load the model that a spec names; raises as `from_pretrained`."""
        templates = TemplateSet.from_spec(spec)
        if spec.postprocess is not None and not spec.is_resolved:
            spec = resolve_spec(spec)[0]  # sees that what was fitted goes with the rest
        return cls(spec, templates, load_engine(spec, templates, device), max_batch_tokens)

    def encode(self, texts: Sequence[str], *, per_template: bool = False) -> NDArray[np.float32]:
        """Embed texts.

        Every string has a vector here, blank ones too; it is tables that hold NULL for them, see `encode_rows`.

        Args:
            texts: Any strings. Longer ones are trimmed to `max_tokens`.
            per_template: Return each template's hidden state by itself, before post-processing, truncation or scaling.

        Returns:
            Shape ``(n_texts, dim)``, or ``(n_texts, n_templates, hidden_size)``; rows in the order of `texts`.

        Raises:
            MetaEOLError: A text could not be embedded; the message gives its position and the reason.
        """
        n_templates, hidden_size = len(self.templates.templates), self.engine.hidden_size
        shape = (len(texts), n_templates, hidden_size) if per_template else (len(texts), self.dim)
        vectors = np.empty(shape, np.float32)
        for place, window, states in self._states(texts, per_template or self.spec.per_template, per_layer=False):
            vectors[place] = (states if per_template else finish_vectors(states, self.spec, self._post))[window.unique]
        return vectors

    def encode_layers(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Hidden states of all templates at all layers that `spec.layer` lists, from one pass: what tuning chooses from.

        Args:
            texts: As in `encode`; a few hundred at a time, for there are many hidden states to a text.

        Returns:
            Shape ``(n_texts, n_templates, n_layers, hidden_size)``, layers ascending.

        Raises:
            MetaEOLError: As in `encode`.
        """
        shape = (len(self.templates.templates), self.engine.n_states, self.engine.hidden_size)
        kept = np.empty((len(texts), *shape), np.float32)
        for place, window, states in self._states(texts, per_template=True, per_layer=True):
            kept[place] = states[window.unique]
        return kept

    def _states(self, texts: Sequence[str], per_template: bool, per_layer: bool) -> Iterator[tuple[slice, Window, NDArray[np.float32]]]:
        """Run texts window by window: their place, the window, and the states of its unique texts."""
        ranges = list(_windows(texts))
        windows = self._prepared(texts[r.start : r.stop] for r in ranges)
        for place, ahead in zip(ranges, windows, strict=True):
            window = ahead.result()
            states, failures = self.batch_runner.run(window, len(self.templates.templates), per_template, per_layer)
            failed = next(((i, error) for i, error in enumerate(failures[u] for u in window.unique) if error is not None), None)
            if failed is not None:
                raise MetaEOLError(f"text {place.start + failed[0]} could not be embedded: {failed[1]}")
            yield slice(place.start, place.stop), window, states

    def encode_rows(self, texts: Sequence[str | None]) -> Encoded:
        """Embed the cells of a column: never raises for a row.

        NULL and blank texts get an error in place of a vector, and so does a text on which the model fails.
        """
        return next(self.encode_stream([texts]))

    def encode_stream(self, windows: Iterable[Sequence[str | None]]) -> Iterator[Encoded]:
        """Embed lists of cells one after the other, each as `encode_rows` does.

        While the model runs on one list, the next is cleaned, tokenised and planned in a thread. `windows` itself is only
        ever advanced by the caller's thread, one list ahead.

        Yields:
            One result a list, in order.
        """
        pending: deque[tuple[list[str | None], NDArray[np.int64], list[str]]] = deque()

        def present() -> Iterator[list[str]]:
            for texts in windows:
                errors: list[str | None] = ["null_text" if t is None else "empty_text" if is_blank(t) else None for t in texts]
                rows = np.array([i for i, error in enumerate(errors) if error is None], np.int64)
                found = [text for text, error in zip(texts, errors, strict=True) if text is not None and error is None]
                pending.append((errors, rows, found))
                yield found

        for ahead in self._prepared(present()):
            errors, rows, found = pending.popleft()
            yield self._encode(ahead.result, errors, rows, found)

    def _encode(self, prepare: Callable[[], Window], errors: list[str | None], rows: NDArray[np.int64], texts: Sequence[str]) -> Encoded:
        """Run a window of `texts`, which stand at `rows` and have no error yet."""
        n_rows = len(errors)
        encoded = Encoded(
            np.zeros((n_rows, self.dim), np.float32), errors, np.zeros(n_rows, bool), np.zeros(n_rows, np.int64), np.zeros(n_rows, np.int64)
        )
        if len(rows):
            self._fill(encoded, prepare, rows, texts)
            encoded.tokens_computed[rows[0]] += self._prefix_tokens_to_report
            encoded.tokens_saved[rows[0]] -= self._prefix_tokens_to_report
            self._prefix_tokens_to_report = 0
        return encoded

    def _fill(self, encoded: Encoded, prepare: Callable[[], Window], rows: NDArray[np.int64], texts: Sequence[str]) -> None:
        """Fill in `rows`; where a text cannot even be prepared, halves are tried until it stands alone."""
        try:
            window = prepare()
        except Exception as error:  # noqa: BLE001 - whatever one text does to the tokenizer, the others are embedded
            if len(rows) == 1:
                encoded.errors[rows[0]] = f"error: {type(error).__name__}"
                return
            middle = len(rows) // 2
            for part in (slice(0, middle), slice(middle, None)):
                self._fill(encoded, partial(self._prepare, texts[part]), rows[part], texts[part])
            return
        states, failures = self.batch_runner.run(window, len(self.templates.templates), self.spec.per_template)
        finished = finish_vectors(states, self.spec, self._post)
        for unique in np.flatnonzero(~np.isfinite(finished).all(1)):
            failures[unique] = failures[unique] or "non_finite"
        finished[np.array([failure is not None for failure in failures])] = 0.0
        encoded.vectors[rows], encoded.trimmed[rows] = finished[window.unique], window.trimmed
        encoded.tokens_computed[rows] = window.tokens_computed
        encoded.tokens_saved[rows] = window.tokens_whole - window.tokens_computed
        for row, unique in zip(rows, window.unique, strict=True):
            encoded.errors[row] = failures[unique]

    def _prepare(self, texts: Sequence[str]) -> Window:
        engine, runner, max_tokens = self.engine, self.batch_runner, self.spec.max_tokens
        return prepare_window(
            texts, engine.trie, self.templates, max_tokens, runner.max_batch_tokens, engine.runner.has_prefixes, runner.lanes.n
        )

    def _prepared(self, windows: Iterable[Sequence[str]]) -> Iterator[Future[Window]]:
        """Prepare windows one ahead of the one in use."""
        with ThreadPoolExecutor(1, thread_name_prefix="metaeol-prepare") as pool:
            ahead: Future[Window] | None = None
            for texts in windows:
                following = pool.submit(self._prepare, texts)
                if ahead is not None:
                    yield ahead
                ahead = following
            if ahead is not None:
                yield ahead


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

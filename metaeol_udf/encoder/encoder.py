"""`MetaEOLEncoder`: texts in, vectors out."""

from __future__ import annotations

import dataclasses
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from metaeol_udf.cosine import unit_rows
from metaeol_udf.encoder.batch_runner import BatchRunner
from metaeol_udf.encoder.checkpoint.resolve import ResolvedSpec, check_one_vector, resolve_local
from metaeol_udf.encoder.encoded import Encoded, check_options
from metaeol_udf.encoder.loading import Engine, load_engine
from metaeol_udf.encoder.preparation import PreparedTexts, cut_chunks, prepare_texts
from metaeol_udf.encoder.sharing import share_engine
from metaeol_udf.encoder.vectors.output import finish_vectors
from metaeol_udf.encoder.vectors.postprocess import load_postprocess
from metaeol_udf.errors import InputError, MetaEOLError
from metaeol_udf.prompts import TemplateSet
from metaeol_udf.prompts.cleanup import is_blank, read_cells, read_strings
from metaeol_udf.spec import EmbeddingSpec, Passage
from metaeol_udf.terminal import bar

_CHUNK_TEXTS = 8192  # planned together; more texts of equal length make fuller cells
_CHUNK_TEXTS_SHOWN = 512  # where a bar shows them
_CHUNK_CHARACTERS = 2_000_000  # about half a million tokens, which bounds the planner's memory


class MetaEOLEncoder:
    """Embeds texts with a loaded model and a template set (MetaEOL: Lei et al. 2024, arXiv:2402.18458).

    Made where it runs and never pickled: a driver may have no GPU. Several threads may use one: their texts take turns on the device.

    Attributes:
        spec: What is computed.
        templates: The template set.
        dim: Length of a vector.
        engine: The loaded model.
        batch_runner: Runs planned batches; knows how many tokens fit.
    """

    def __init__(self, spec: EmbeddingSpec, templates: TemplateSet, engine: Engine, max_batch_tokens: int | str = "auto") -> None:
        self.spec = spec
        self._splits_by = spec.splits_by
        self.templates = templates
        self.engine = engine
        self.batch_runner = BatchRunner(engine, max_batch_tokens)
        self._post = load_postprocess(spec)
        width = engine.hidden_size if self._post is None else self._post.dim
        self.dim = min(spec.truncate_dim or width, width) * (len(templates.templates) if spec.per_template else 1)
        self._prefix_tokens_to_report = engine.runner.n_prefix_tokens
        self._n_computed = self._n_whole = 0
        self._lane = ThreadPoolExecutor(1, thread_name_prefix="metaeol-lane")  # the only thread that runs the model, in the order of calls
        self._preparing = Lock()

    @classmethod
    def from_pretrained(
        cls, model: str | Path, *, templates: TemplateSet | str | Path = "metaeol", layer: int | float | Sequence[int | float] = -1,
        dtype: str = "auto", device: str = "auto", quantization: str | None = None, revision: str | None = None, max_tokens: int = 512,
        normalize: bool = False, truncate_dim: int | None = None, postprocess: str | None = None, max_batch_tokens: int | str = "auto",
        long_texts: str = "trim", passage: Passage | Mapping[str, Any] | None = None,
    ) -> MetaEOLEncoder:  # fmt: skip
        """Load a model.

        Args:
            model: Folder of a checkpoint, or a hub id in the local cache.
            templates: The template set, the name of a built-in one, or the path of a file with one.
            layer: Index into the hidden states as transformers counts them, or a fraction of depth, or several to average.
            dtype: `auto`, `float32`, `bfloat16` or `float16`.
            device: `auto`, `cpu`, `cuda` or `cuda:N`.
            quantization: One of `spec.QUANTIZATIONS`, or None.
            revision: Commit of a hub id.
            max_tokens: Tokens kept of a text.
            normalize: Scale vectors to length 1.
            truncate_dim: Keep the first so many numbers of a vector.
            postprocess: File of what `metaeol fit` fitted.
            max_batch_tokens: Tokens of one forward pass, or `auto`.
            long_texts: `trim`, or `mean`: the vector of a longer text is the mean of its passages, weighted by their tokens.
            passage: How `mean` splits a text; None: as by default.

        Raises:
            ConfigError: A setting is out of range, or there is no such model.
            ModelFilesError: Model files are missing, truncated or altered.
            EnvironmentFault: The device is not there.
        """
        layers = layer if isinstance(layer, (int, float, str)) else tuple(layer)  # a string is refused as what it is
        chosen = templates if isinstance(templates, TemplateSet) else TemplateSet.load(templates)
        spec = EmbeddingSpec(
            model=str(model), revision=revision, templates=chosen.name, layer=layers, dtype=dtype, quantization=quantization,
            max_tokens=max_tokens, normalize=normalize, truncate_dim=truncate_dim, postprocess=postprocess,
            templates_json=chosen.to_json(), long_texts=long_texts, passage=Passage.of(passage or Passage()),
        )  # fmt: skip
        return cls.from_spec(spec, device=device, max_batch_tokens=max_batch_tokens)

    @classmethod
    def from_spec(
        cls, spec: EmbeddingSpec | ResolvedSpec | Mapping[str, Any] | str | Path, *, device: str = "auto",
        max_batch_tokens: int | str = "auto",
    ) -> MetaEOLEncoder:  # fmt: skip
        """Load the model that a spec names, or that a mapping or file with a spec's settings does. Raises as `from_pretrained`.

        Of a resolved spec it is the model at its `place`.
        """
        spec = dataclasses.replace(spec.spec, model=spec.place) if isinstance(spec, ResolvedSpec) else EmbeddingSpec.of(spec)
        check_one_vector(spec)
        templates = TemplateSet.from_spec(spec)
        if spec.postprocess is not None and not spec.is_resolved:
            spec = resolve_local(spec).spec  # sees that what was fitted goes with the rest
        return cls(spec, templates, load_engine(spec, templates, device), max_batch_tokens)

    def share(self, resolved: ResolvedSpec, *, max_batch_tokens: int | str = "auto") -> MetaEOLEncoder | None:
        """Make an encoder of another spec that uses the weights of this one; None where the model must be loaded for it.

        It must not be used at the same time as this one: the weights are those of one model, and the tokenizer is one.

        Args:
            resolved: The other spec.
            max_batch_tokens: Tokens of one forward pass, or `auto`.

        Raises:
            ConfigError: As `from_spec`.
        """
        spec = dataclasses.replace(resolved.spec, model=resolved.place)
        check_one_vector(spec)
        templates = TemplateSet.from_spec(spec)
        engine = share_engine(self.engine, self.spec, spec, templates)
        return None if engine is None else MetaEOLEncoder(spec, templates, engine, max_batch_tokens)

    def describe(self) -> dict[str, Any]:
        """Describe how texts are embedded.

        Returns:
            `model`; `runner`: `decoder`, `stream`, `fork` or `whole`, see `encoder/runners.py`; `reasons`: why no faster one is used;
            `device`; `dtype`; `dim`; and `share_of_tokens`: tokens computed until now over those of whole prompts, None before the
            first text.
        """
        engine = self.engine
        share = self._n_computed / self._n_whole if self._n_whole else None
        return {
            "model": self.spec.model, "runner": engine.runner.name, "reasons": list(engine.reasons), "device": str(engine.device),
            "dtype": str(engine.dtype).removeprefix("torch."), "dim": self.dim, "share_of_tokens": share,
        }  # fmt: skip

    def encode(
        self, texts: str | Iterable[str], *, per_template: bool = False, normalize_embeddings: bool = False,
        truncate_dim: int | None = None, convert_to_tensor: bool = False, show_progress_bar: bool = False,
        batch_size: int | None = None, **others: Any,
    ) -> Any:  # fmt: skip
        """Embed texts.

        Every string has a vector here, blank ones too; it is tables that hold NULL for them, see `encode_rows`.

        Args:
            texts: One string, or any iterable of strings: a list, a generator, an array, a column of pandas or Polars. Longer ones
                are trimmed to `max_tokens`, or split, as `long_texts` says.
            per_template: Return each template's hidden state by itself, before post-processing, truncation or scaling. (The
                setting `per_template` of a spec is another thing: it keeps the templates' finished vectors side by side.)
            normalize_embeddings: Scale vectors to length 1, as the setting `normalize` does.
            truncate_dim: Keep the first so many numbers of a vector, as the setting does; a vector that is scaled is scaled after that.
            convert_to_tensor: Return a tensor of torch, on the CPU, in place of an array.
            show_progress_bar: Show on standard error how far it is.
            batch_size: No meaning here; taken so that calls written for sentence-transformers run. Batches are planned by tokens, see
                `max_batch_tokens`.
            **others: Refused, with what to do instead where sentence-transformers has such an option.

        Returns:
            float32, shape ``(n_texts, dim)``, or ``(n_texts, n_templates, hidden_size)``; rows in the order of `texts`. For one string
            without the first axis.

        Raises:
            InputError: An item is no string, or the options do not go together.
            TypeError: There is no such option.
            MetaEOLError: A text could not be embedded; the message gives its position and the reason.
        """
        check_options(others)
        if batch_size is not None:
            warnings.warn("batch_size has no effect: batches are planned by tokens, see max_batch_tokens", stacklevel=2)
        is_one = isinstance(texts, str)
        given = [texts] if isinstance(texts, str) else read_strings(texts)
        dim = self._dim_of_call(per_template, normalize_embeddings, truncate_dim)
        n_templates, hidden_size = len(self.templates.templates), self.engine.hidden_size
        shape = (len(given), n_templates, hidden_size) if per_template else (len(given), dim)
        vectors = np.empty(shape, np.float32)
        n_chunk = _CHUNK_TEXTS_SHOWN if show_progress_bar else _CHUNK_TEXTS
        with bar("embedding", len(given)) if show_progress_bar else nullcontext(lambda n: None) as advance:
            for place, states in self._states(given, per_template or self.spec.per_template, per_layer=False, n_chunk=n_chunk):
                vectors[place] = states if per_template else finish_vectors(states, self.spec, self._post)[:, :dim]
                advance(place.stop - place.start)
        if normalize_embeddings or (self.spec.normalize and truncate_dim is not None):
            vectors = unit_rows(vectors).astype(np.float32, copy=False)
        found: Any = torch.from_numpy(vectors) if convert_to_tensor else vectors
        return found[0] if is_one else found

    def _dim_of_call(self, per_template: bool, normalize: bool, truncate_dim: int | None) -> int:
        """Return the length of the vectors that a call of `encode` asks for."""
        if per_template and (normalize or truncate_dim is not None):
            raise InputError("per_template gives hidden states, which normalize_embeddings and truncate_dim do not change: drop one")
        if (normalize or truncate_dim is not None) and (self.spec.values != "float32" or self.spec.per_template):
            raise InputError("normalize_embeddings and truncate_dim are for whole float32 vectors: set them in the spec")
        if truncate_dim is not None and not (type(truncate_dim) is int and 1 <= truncate_dim <= self.dim):
            raise InputError(f"truncate_dim must be an integer from 1 to {self.dim}, found {truncate_dim!r}")
        return self.dim if truncate_dim is None else truncate_dim

    def encode_query(self, texts: str | Iterable[str], **options: Any) -> Any:
        """Embed queries: as `encode`, because texts and queries share one space and one set of templates."""
        return self.encode(texts, **options)

    def encode_document(self, texts: str | Iterable[str], **options: Any) -> Any:
        """Embed documents: as `encode`, see `encode_query`."""
        return self.encode(texts, **options)

    @staticmethod
    def similarity(a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
        """Compute the cosine of each vector of `a` with each of `b`, shape ``(n_a, n_b)``; one vector counts as a list of one."""
        left, right = (unit_rows(np.atleast_2d(np.asarray(vectors, np.float32))) for vectors in (a, b))
        if left.shape[1:] != right.shape[1:]:
            raise InputError(f"vectors of {left.shape[-1]} and of {right.shape[-1]} numbers cannot be compared")
        return (left @ right.T).astype(np.float32)

    def get_embedding_dimension(self) -> int:
        """Return the length of a vector, `dim`."""
        return self.dim

    get_sentence_embedding_dimension = get_embedding_dimension

    @property
    def max_seq_length(self) -> int:
        """Return the tokens that are kept of a text; the prompt around it comes on top."""
        return self.spec.max_tokens

    @property
    def device(self) -> torch.device:
        """Return the device that the model is on."""
        return self.engine.device

    def __repr__(self) -> str:
        """Name what is computed, and where."""
        engine, spec = self.engine, self.spec
        dtype = str(engine.dtype).removeprefix("torch.")
        return (
            f"MetaEOLEncoder({spec.model!r}, templates={spec.templates!r}, layer={spec.layer}, dim={self.dim}, {dtype} on {engine.device})"
        )

    def __reduce__(self) -> Any:
        """Refuse to be pickled: a model is loaded where it runs."""
        raise TypeError(
            "a MetaEOLEncoder is made where it runs and cannot be pickled: send its `spec` and call MetaEOLEncoder.from_spec there"
        )

    def encode_layers(self, texts: Iterable[str]) -> NDArray[np.float32]:
        """Read the hidden states of all templates at all layers that `spec.layer` lists, from one pass: what tuning chooses from.

        Args:
            texts: As in `encode`; a few hundred at a time, for there are many hidden states to a text.

        Returns:
            Shape ``(n_texts, n_templates, n_layers, hidden_size)``, layers ascending.

        Raises:
            MetaEOLError: As in `encode`.
        """
        given = read_strings(texts)
        shape = (len(self.templates.templates), self.engine.n_states, self.engine.hidden_size)
        kept = np.empty((len(given), *shape), np.float32)
        for place, states in self._states(given, per_template=True, per_layer=True):
            kept[place] = states
        return kept

    def _states(
        self, texts: Sequence[str], per_template: bool, per_layer: bool, n_chunk: int = _CHUNK_TEXTS
    ) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Run texts chunk by chunk: the place of each chunk, and the hidden states of its texts."""
        start = 0
        for ahead in self._prepare_ahead(cut_chunks(texts, n_chunk, _CHUNK_CHARACTERS, len)):
            prepared = ahead.result()
            running = self._lane.submit(self.batch_runner.run, prepared, len(self.templates.templates), per_template, per_layer)
            states, failures = running.result()
            failed = next(((i, error) for i, error in enumerate(failures[u] for u in prepared.unique) if error is not None), None)
            if failed is not None:
                raise MetaEOLError(f"text {start + failed[0]} could not be embedded: {failed[1]}")
            stop = start + len(prepared.unique)
            yield slice(start, stop), states[prepared.unique]
            start = stop

    def encode_rows(self, texts: Iterable[str | None]) -> Encoded:
        """Embed the cells of a column: never raises for what a text holds.

        Missing (None, NaN) and blank texts get an error in place of a vector, and so does a text on which the model fails.
        """
        return next(self.encode_batches([read_cells(texts)]))

    def encode_batches(self, chunks: Iterable[Sequence[str | None]]) -> Iterator[Encoded]:
        """Embed lists of cells, one list after the other, each as `encode_rows` does.

        While the model runs on one list, a thread cleans, tokenises and plans the next, and the caller uses the last one's vectors. Only
        the caller's thread advances `chunks`, two lists ahead.

        Yields:
            One result a list, in order.
        """
        pending: deque[tuple[list[str | None], NDArray[np.int64], list[str]]] = deque()

        def valid() -> Iterator[list[str]]:
            for cells in chunks:
                errors: list[str | None] = ["null_text" if t is None else "empty_text" if is_blank(t) else None for t in cells]
                rows = np.array([i for i, error in enumerate(errors) if error is None], np.int64)
                texts = [text for text, error in zip(cells, errors, strict=True) if text is not None and error is None]
                pending.append((errors, rows, texts))
                yield texts

        running: deque[Future[Encoded]] = deque()
        try:
            for ahead in self._prepare_ahead(valid()):
                wait([ahead])  # here: in the lane it would keep other threads' texts waiting
                running.append(self._lane.submit(self._encode, *pending.popleft(), ahead))
                if len(running) > 1:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for left in running:
                left.cancel()

    def _encode(self, errors: list[str | None], rows: NDArray[np.int64], texts: Sequence[str], ahead: Future[PreparedTexts]) -> Encoded:
        """Embed the cells of a list, in the lane."""
        encoded = self._no_vectors(errors)
        if len(rows):
            self._fill(encoded, rows, texts, ahead)
            self._count_prefixes(encoded, rows[0])
        return encoded

    def _no_vectors(self, errors: list[str | None]) -> Encoded:
        """Make a result without any vector yet."""
        n = len(errors)
        return Encoded(np.zeros((n, self.dim), np.float32), errors, np.zeros(n, bool), np.zeros(n, np.int64), np.zeros(n, np.int64))

    def _count_prefixes(self, encoded: Encoded, row: np.int64) -> None:
        """Count the tokens of the prefixes once after a load, with the first text."""
        encoded.tokens_computed[row] += self._prefix_tokens_to_report
        encoded.tokens_saved[row] -= self._prefix_tokens_to_report
        self._prefix_tokens_to_report = 0

    def _fill(self, encoded: Encoded, rows: NDArray[np.int64], texts: Sequence[str], ahead: Future[PreparedTexts] | None = None) -> None:
        """Fill in `rows`. If preparing fails, split the texts in halves until the failing text is isolated."""
        try:
            prepared = self._prepare(texts) if ahead is None else ahead.result()
        except Exception as error:  # noqa: BLE001 - whatever one text does to the tokenizer, the others are embedded
            if len(rows) == 1:
                encoded.errors[rows[0]] = f"error: {type(error).__name__}"
                return
            middle = len(rows) // 2
            for part in (slice(0, middle), slice(middle, None)):
                self._fill(encoded, rows[part], texts[part])
            return
        states, failures = self.batch_runner.run(prepared, len(self.templates.templates), self.spec.per_template)
        encoded.work.extend(self.batch_runner.take_work())
        finished = finish_vectors(states, self.spec, self._post)
        for unique in np.flatnonzero(~np.isfinite(finished).all(1)):
            failures[unique] = failures[unique] or "non_finite"
        finished[np.array([failure is not None for failure in failures])] = 0.0
        encoded.vectors[rows], encoded.trimmed[rows] = finished[prepared.unique], prepared.trimmed
        encoded.tokens_computed[rows] = prepared.tokens_computed
        encoded.tokens_saved[rows] = prepared.tokens_whole - prepared.tokens_computed
        for row, unique in zip(rows, prepared.unique, strict=True):
            encoded.errors[row] = failures[unique]

    def _prepare(self, texts: Sequence[str]) -> PreparedTexts:
        engine, runner, max_tokens = self.engine, self.batch_runner, self.spec.max_tokens
        with self._preparing:  # a tokenizer is not made for several threads
            prepared = prepare_texts(
                texts, engine.trie, self.templates, max_tokens, runner.max_batch_tokens, engine.runner.has_prefixes, runner.n_threads,
                engine.device.type, self._splits_by,
            )  # fmt: skip
            self._n_computed += int(prepared.tokens_computed.sum())
            self._n_whole += int(prepared.tokens_whole.sum())
        return prepared

    def _prepare_ahead(self, chunks: Iterable[Sequence[str]]) -> Iterator[Future[PreparedTexts]]:
        """Prepare chunks in a thread, one ahead of the chunk in use."""
        with ThreadPoolExecutor(1, thread_name_prefix="metaeol-prepare") as pool:
            ahead: Future[PreparedTexts] | None = None
            for texts in chunks:
                following = pool.submit(self._prepare, texts)
                if ahead is not None:
                    yield ahead
                ahead = following
            if ahead is not None:
                yield ahead

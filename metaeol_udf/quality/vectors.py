"""Vectors of many texts from an encoder in this process, with what they cost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaeol_udf.config import EncoderConfig
from metaeol_udf.encoder import MetaEOLEncoder
from metaeol_udf.encoder.checkpoint.resolve import resolve_local
from metaeol_udf.errors import MetaEOLError
from metaeol_udf.spec import EmbeddingSpec
from metaeol_udf.terminal import counting, waiting

_CHUNK_TEXTS = 2048  # planned together
_CHUNK_TEXTS_CPU = 256  # which take a CPU long enough: the bar moves with each


class LocalVectors:
    """Turns texts into vectors, with the settings of a job. Loads the model when it is first called.

    Attributes:
        spec: What is computed; resolved.
        encoder: The loaded model; None before the first call.
        cost: What the last call took: texts, trimmed texts, tokens computed and saved, and seconds by phase.
    """

    def __init__(self, config: EncoderConfig) -> None:
        """Check model, layer and templates.

        Raises:
            ConfigError: One of them does not exist.
            ModelFilesError: The model's files are not whole.
        """
        self.spec: EmbeddingSpec = resolve_local(config.embedding).spec
        self._runtime = config.runtime
        self.encoder: MetaEOLEncoder | None = None
        self.cost: dict[str, Any] = {"through": "encoder"}

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts, none of them blank: shape ``(n_texts, dim)``, rows in their order. As `require_all` says, none may fail."""
        if self.encoder is None:
            started, runtime = time.perf_counter(), self._runtime
            with waiting("loading the model"):
                self.encoder = MetaEOLEncoder.from_spec(self.spec, device=runtime.device, max_batch_tokens=runtime.max_batch_tokens)
            self.cost["seconds"] = {"load": time.perf_counter() - started}
        encoder = self.encoder
        # Texts of like length side by side make full batches; the longest first, so that memory that is too small shows at once.
        order = np.argsort([-len(text) for text in texts], kind="stable")
        n_chunk = _CHUNK_TEXTS_CPU if encoder.device.type == "cpu" else _CHUNK_TEXTS
        chunks = [order[start : start + n_chunk] for start in range(0, len(texts), n_chunk)]
        vectors = np.empty((len(texts), encoder.dim), np.float32)
        counts: Counter[str] = Counter()
        started = time.perf_counter()
        with counting("embedding", len(texts)) as advance:
            embedded = encoder.encode_batches([texts[row] for row in rows] for rows in chunks)
            for rows, encoded in zip(chunks, embedded, strict=True):
                require_all(encoded.errors)
                vectors[rows] = encoded.vectors
                counts["texts_trimmed"] += int(encoded.trimmed.sum())
                counts["tokens_computed"] += int(encoded.tokens_computed.sum())
                counts["tokens_saved"] += int(encoded.tokens_saved.sum())
                advance(len(rows))
        self.cost |= {"unique_texts": len(texts), **counts}
        self.cost["seconds"]["embed"] = time.perf_counter() - started
        return vectors


def require_all(errors: Iterable[str | None]) -> None:
    """Require a vector for every text: scores over some of the texts would not be those of the set.

    Raises:
        MetaEOLError: One has none; the message counts them by reason.
    """
    failures = Counter(error for error in errors if error is not None)
    if failures:
        reasons = ", ".join(f"{error} {count}" for error, count in sorted(failures.items()))
        raise MetaEOLError(f"{failures.total()} texts could not be embedded, so nothing was scored: {reasons}")

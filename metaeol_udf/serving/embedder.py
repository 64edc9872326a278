"""A loaded spec that answers as a table would: a text without a vector there has none here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaeol_udf.encoder import MetaEOLEncoder
from metaeol_udf.encoder.checkpoint.resolve import ResolvedSpec, resolve_local
from metaeol_udf.errors import ConfigError, InputError, MetaEOLError
from metaeol_udf.prompts.cleanup import read_cells
from metaeol_udf.spec import EmbeddingSpec


class SpecEmbedder:
    """Turns texts into the vectors of one spec. Several threads may use one.

    Attributes:
        spec: What is computed; resolved.
        fingerprint: Of the spec: what a table's `metaeol.<column>.fingerprint` names.
        encoder: The loaded model.
    """

    def __init__(
        self, spec: ResolvedSpec | EmbeddingSpec | Mapping[str, Any] | str | Path, *, fingerprint: str | None = None, device: str = "auto",
        max_batch_tokens: int | str = "auto",
    ) -> None:  # fmt: skip
        """Load the model of a spec.

        Args:
            spec: The spec, resolved or not, a mapping of its settings, or the path of a spec file or of a job's configuration.
            fingerprint: What the spec's fingerprint must be, such as that of the table that is searched; None takes any.
            device: `auto`, `cpu`, `cuda` or `cuda:N`.
            max_batch_tokens: Tokens of one forward pass, or `auto`.

        Raises:
            ConfigError: A setting is wrong, or the fingerprint is another. No model has been loaded then.
            ModelFilesError: The model's files are not whole.
        """
        resolved = spec if isinstance(spec, ResolvedSpec) else resolve_local(EmbeddingSpec.of(spec))
        require_fingerprint(resolved.fingerprint, fingerprint)
        self.spec, self.fingerprint = resolved.spec, resolved.fingerprint
        self.encoder = MetaEOLEncoder.from_spec(resolved, device=device, max_batch_tokens=max_batch_tokens)

    @property
    def dim(self) -> int:
        """Return the length of a vector."""
        return self.encoder.dim

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts: shape ``(n_texts, dim)``, rows in their order.

        Raises:
            InputError: `texts` is a single string, or an item is no string or a blank one, for which a table holds NULL.
            MetaEOLError: The model failed on a text; the message counts them by reason and quotes none.
        """
        given = read_cells(texts)
        if None in given:
            raise InputError(f"text {given.index(None)} is of type NoneType, and must be a string")
        if not given:
            return np.empty((0, self.dim), np.float32)
        encoded = self.encoder.encode_rows(given)
        blank = [number for number, error in enumerate(encoded.errors) if error == "empty_text"]
        if blank:
            raise InputError(f"text {blank[0]} is blank: it has no embedding")
        failures = Counter(error for error in encoded.errors if error is not None)
        if failures:
            reasons = ", ".join(f"{error} {count}" for error, count in sorted(failures.items()))
            raise MetaEOLError(f"{failures.total()} texts could not be embedded: {reasons}")
        return encoded.vectors


def require_fingerprint(found: str, wanted: str | None) -> None:
    """Require that a spec is the one that is wanted.

    Raises:
        ConfigError: It is another: cosines of vectors of two specs mean nothing.
    """
    if wanted is not None and found != wanted:
        raise ConfigError(f"the spec's fingerprint is {found}, and {wanted} is asked for: vectors of two specs cannot be compared")

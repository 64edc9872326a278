"""What comes of a list of texts: vectors, errors and counts."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from metaeol_udf.encoder.gpu.device_work import DeviceWork


@dataclass(frozen=True)
class Encoded:
    """Holds what became of a list of texts. All arrays follow the order of the texts.

    Attributes:
        vectors: float32, shape ``(n_texts, dim)``; zeros where there is an error.
        errors: None where all is well, else a code: `null_text`, `empty_text`, `non_finite`, `oom` or `error: TypeName`.
        trimmed: Whether the text was longer than `max_tokens`, and cut there.
        tokens_computed: Tokens that went through the model for this text; 0 for a repeated one. The first text after a load
            also carries the prefixes.
        tokens_saved: Tokens that one pass a prompt would have computed beyond those.
        work: What the device did for these texts.
    """

    vectors: NDArray[np.float32]
    errors: list[str | None]
    trimmed: NDArray[np.bool_]
    tokens_computed: NDArray[np.int64]
    tokens_saved: NDArray[np.int64]
    work: list[DeviceWork] = field(default_factory=list)

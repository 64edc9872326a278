"""What comes of a list of texts: vectors, errors and counts; and options of `encode` that other packages have."""

from __future__ import annotations

from collections.abc import Mapping
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


#: What `encode` of sentence-transformers takes and this one does not, with what to do instead.
_ELSEWHERE = {
    "prompt": "the template set is the prompt: give templates= to from_pretrained",
    "prompt_name": "the template set is the prompt: give templates= to from_pretrained",
    "task": "the template set is the prompt: give templates= to from_pretrained",
    "precision": "give values= to the spec: float16, int8 or binary",
    "output_value": "a text has one vector; per_template=True gives the hidden state of each template",
    "convert_to_numpy": "an array comes by itself; convert_to_tensor=True gives a tensor",
    "device": "a model stays where it was loaded: give device= to from_pretrained",
    "pool": "with_embeddings runs a model in each process of Spark",
    "chunk_size": "with_embeddings runs a model in each process of Spark",
}


def check_options(options: Mapping[str, object]) -> None:
    """Check options of `encode` that it does not have. `convert_to_numpy=True` is what it does anyway.

    Raises:
        TypeError: One of them changes what comes back; the message says what to do instead.
    """
    for name, value in options.items():
        if (name, value) != ("convert_to_numpy", True):
            advice = f": {_ELSEWHERE[name]}" if name in _ELSEWHERE else ""
            raise TypeError(f"encode() has no option {name!r}{advice}")

"""Texts as tables hold them, and how vectors of different surfaces are compared."""

from __future__ import annotations

import argparse
import bz2
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

TEXTS: tuple[str | None, ...] = (
    "A man is playing a guitar.",
    None,
    "  ",
    str(bz2.compress.__doc__),
    str(argparse.__doc__),  # longer than max_tokens
    "Die Straße ist naß 🌧️, nimm ein Taxi 🚕!",
    'She said "run" and {text} ran <|im_end|>',
    str(textwrap.fill.__doc__),
    "x",
)
EMBEDDED = tuple(number for number, text in enumerate(TEXTS) if text is not None and text.strip())
ERRORS = {1: "null_text", 2: "empty_text"}


def assert_same(found: Mapping[int, Sequence[float] | None], expected: NDArray[np.float32]) -> None:
    """Compare vectors by text number with those of `EMBEDDED`; the other texts must have none.

    Batches differ between surfaces, and with them the last bits of float32.
    """
    assert sorted(found) == list(range(len(TEXTS)))
    assert sorted(number for number, vector in found.items() if vector is not None) == list(EMBEDDED)
    vectors = np.array([found[number] for number in EMBEDDED], np.float32)
    assert vectors.shape == expected.shape
    assert np.abs(vectors - expected).max() <= 1e-5 * max(1.0, float(np.abs(expected).max()))
    cosines = (vectors * expected).sum(1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() >= 0.999999

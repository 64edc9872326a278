"""What a fast way of the GPU has to show before it is used."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_COSINE = {torch.float32: 0.99999, torch.bfloat16: 0.995, torch.float16: 0.995}  # to the slower way in the same dtype, by it
MIN_FLOAT8_COSINE = 0.99  # where activations are rounded to 8 bits, the last bit of a sum decides what they are rounded to

_MOST_LETTERS = 300


def worst_cosine(ours: Tensor, expected: Tensor) -> float:
    """Return the least cosine of rows, ``(..., hidden_size)`` each; -1 where a row is not finite. Waits for the device."""
    return float(F.cosine_similarity(ours.float(), expected.float(), dim=-1).nan_to_num(nan=-1.0).min()) if ours.numel() else 1.0


def explain(error: Exception) -> str:
    """Return an error of the compiler or of a recording in one line. Such errors speak of code and shapes, never of a text."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:_MOST_LETTERS]}"

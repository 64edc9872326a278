"""The independent answer: one prompt at a time, no padding, straight through transformers, written without the package."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray


def clean_as_paper(text: str) -> str:
    """The authors' clean-up, restated."""
    text = text.strip()
    if not text or text[-1] not in ".?\"'":
        text = text + "."
    text = text.replace('"', "'")
    return text[: len(text) - 1] + "." if text[-1] == "?" else text


@functools.lru_cache(maxsize=2)
def _load(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    config = transformers.AutoConfig.from_pretrained(folder)
    # Older releases of transformers take sdpa for Gemma 2, which does not know its soft cap.
    options = {"attn_implementation": "eager"} if getattr(config, "attn_logit_softcapping", None) else {}
    model = transformers.AutoModel.from_pretrained(folder, dtype=dtype, **options)
    return transformers.AutoTokenizer.from_pretrained(folder), model.eval()


def one_at_a_time(
    folder: Path, prompts: Sequence[str], texts: Sequence[str], layer: int, cleanup: str = "paper", dtype: torch.dtype = torch.float32
) -> NDArray[np.float32]:
    """Last token's hidden state of each filled prompt, shape ``(n_texts, n_prompts, hidden_size)``."""
    tokenizer, model = _load(folder, dtype)
    rows = []
    for text in texts:
        cleaned = clean_as_paper(text) if cleanup == "paper" else text
        states = []
        for prompt in prompts:
            head, tail = prompt.split("{text}")
            filled = head + cleaned + tail
            filled = filled.strip() if cleanup == "paper" else filled
            ids = tokenizer(filled, split_special_tokens=True, return_tensors="pt").input_ids
            with torch.no_grad():
                states.append(model(input_ids=ids, output_hidden_states=True).hidden_states[layer][0, -1].float().numpy())
        rows.append(states)
    return np.array(rows, np.float32)


def worst_cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Smallest cosine between matching vectors."""
    return float(((a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))).min())

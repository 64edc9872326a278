"""What people would run instead of this package, written out plainly, on the same model, texts and prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from metaeol_udf import TemplateSet
from metaeol_udf.prompts import clean_text


def _prompts(templates: TemplateSet, texts: Sequence[str]) -> list[str]:
    cleaned = [clean_text(text, templates.text_cleanup) for text in texts]
    return [templates.fill(template, text) for text in cleaned for template in templates.templates]


class PublishedLoop:
    """How the paper's script runs: 16 texts at a time in input order with all their prompts, left padding, logits, all hidden states."""

    def __init__(self, model: Path, dtype: torch.dtype = torch.float32) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(model, padding_side="left")
        self._model: Any = AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval()

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], templates: TemplateSet) -> NDArray[np.float32]:
        """Mean over templates of the last layer at the last token, shape ``(n_texts, hidden_size)``."""
        vectors = []
        for start in range(0, len(texts), 16):
            batch = texts[start : start + 16]
            encoded = self._tokenizer(_prompts(templates, batch), padding=True, return_tensors="pt")
            states = self._model(**encoded, output_hidden_states=True, return_dict=True).hidden_states[-1][:, -1]
            vectors.append(states.float().view(len(batch), len(templates.templates), -1).mean(1).numpy())
        return np.concatenate(vectors)


class SortedBatches:
    """A careful user of transformers: the bare model, prompts sorted by length, right padding, batches of 4,096 padded tokens."""

    def __init__(self, model: Path, dtype: torch.dtype = torch.float32) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(model, padding_side="right")
        self._model: Any = AutoModel.from_pretrained(model, dtype=dtype).eval()

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], templates: TemplateSet) -> NDArray[np.float32]:
        """Mean over templates of the last layer at the last token, shape ``(n_texts, hidden_size)``."""
        ids = self._tokenizer(_prompts(templates, texts))["input_ids"]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        states = np.empty((len(ids), self._model.config.hidden_size), np.float32)
        while order:
            n_fit = 1
            while n_fit < len(order) and len(ids[order[n_fit]]) * (n_fit + 1) <= 4096:
                n_fit += 1
            rows, order = order[:n_fit], order[n_fit:]
            batch = self._tokenizer.pad({"input_ids": [ids[i] for i in rows]}, return_tensors="pt")
            hidden = self._model(**batch, use_cache=False).last_hidden_state
            states[rows] = hidden[torch.arange(len(rows)), batch["attention_mask"].sum(1) - 1].float().numpy()
        return states.reshape(len(texts), len(templates.templates), -1).mean(1)

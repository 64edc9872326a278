"""What people would run instead of this package, written out plainly, on the same model, texts and prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

from metaeol_udf import TemplateSet
from metaeol_udf.prompts import clean_text

Vectors = NDArray[np.float32]
Encode = Callable[[Sequence[str]], Vectors]

_MAX_LOGITS_BYTES = 3 * 2**30


def fill_prompts(templates: TemplateSet, texts: Sequence[str]) -> list[str]:
    """All prompts, text after text."""
    cleaned = [clean_text(text, templates.text_cleanup) for text in texts]
    return [templates.fill(template, text) for text in cleaned for template in templates.templates]


def load_causal_model(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The model with its language-model head, as transformers loads it; the baselines share one."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


class PublishedLoop:
    """How the paper's script runs: 16 texts at a time in input order with all their prompts, left padding, logits, all hidden states.

    Fewer texts at a time where the logits of 16 would take more than 3 GiB, which pads less and so is in the loop's favour.
    """

    def __init__(self, folder: Path, model: Any) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self._model = model

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], templates: TemplateSet) -> Vectors:
        """Mean over templates of the last layer at the last token, shape ``(n_texts, hidden_size)``."""
        vectors = []
        waiting = list(texts)
        while waiting:
            n_texts = self._n_fitting(waiting[:16], templates)
            batch, waiting = waiting[:n_texts], waiting[n_texts:]
            encoded = self._tokenizer(fill_prompts(templates, batch), padding=True, return_tensors="pt")
            states = self._model(**encoded, output_hidden_states=True, return_dict=True).hidden_states[-1][:, -1]
            vectors.append(states.float().view(len(batch), len(templates.templates), -1).mean(1).numpy())
        return np.concatenate(vectors)

    def _n_fitting(self, texts: Sequence[str], templates: TemplateSet) -> int:
        ids = self._tokenizer(fill_prompts(templates, texts))["input_ids"]
        n_templates = len(templates.templates)
        for n_texts in range(len(texts), 1, -1):
            n_prompts = n_texts * n_templates
            n_padded = n_prompts * max(map(len, ids[:n_prompts]))
            if n_padded * self._model.config.vocab_size * self._model.dtype.itemsize <= _MAX_LOGITS_BYTES:
                return n_texts
        return 1


class SortedBatches:
    """A careful user of transformers: the bare model, prompts sorted by length, right padding, batches of 4,096 padded tokens."""

    def __init__(self, folder: Path, model: Any) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="right")
        self._model = model.base_model

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], templates: TemplateSet) -> Vectors:
        """Mean over templates of the last layer at the last token, shape ``(n_texts, hidden_size)``."""
        ids = self._tokenizer(fill_prompts(templates, texts))["input_ids"]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        states = np.empty((len(ids), self._model.config.hidden_size), np.float32)
        while order:
            n_fit = 1
            while n_fit < len(order) and len(ids[order[n_fit]]) * (n_fit + 1) <= 4096:
                n_fit += 1
            rows, order = order[:n_fit], order[n_fit:]
            batch = self._tokenizer.pad({"input_ids": [ids[i] for i in rows]}, return_tensors="pt")
            states[rows] = _last_states(self._model, batch, use_cache=False)
        return states.reshape(len(texts), len(templates.templates), -1).mean(1)


class MeanOfCalls:
    """As with sentence-transformers: one `encode` a template, longest texts first, right padding, 32 at a time, last token; then the mean.

    Written out after that library's `SentenceTransformer.encode`, which needs no more than transformers for it.
    """

    def __init__(self, folder: Path, model: Any) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="right")
        self._model = model.base_model

    def encode(self, texts: Sequence[str], templates: TemplateSet) -> Vectors:
        """Mean over templates of the last layer at the last token, shape ``(n_texts, hidden_size)``."""
        prompts = fill_prompts(templates, texts)
        n_templates = len(templates.templates)
        calls = [self._encode_prompts(prompts[index::n_templates]) for index in range(n_templates)]
        mean: Vectors = np.mean(calls, axis=0, dtype=np.float32)
        return mean

    @torch.inference_mode()
    def _encode_prompts(self, prompts: Sequence[str]) -> Vectors:
        order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
        states = np.empty((len(prompts), self._model.config.hidden_size), np.float32)
        for start in range(0, len(order), 32):
            rows = order[start : start + 32]
            states[rows] = _last_states(self._model, self._tokenizer([prompts[i] for i in rows], padding=True, return_tensors="pt"))
        return states


def _last_states(model: Any, batch: Any, **options: Any) -> Vectors:
    """The last layer at each row's last token, of rows that are padded on the right."""
    hidden = model(**batch, **options).last_hidden_state
    last: Vectors = hidden[torch.arange(len(hidden)), batch["attention_mask"].sum(1) - 1].float().numpy()
    return last

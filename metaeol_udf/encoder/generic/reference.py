"""The plain loop that every fast path is checked against: one prompt at a time, no padding, transformers' own forward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from metaeol_udf.errors import ModelFilesError
from metaeol_udf.prompts import TemplateSet, clean_text
from metaeol_udf.prompts.tokenizer import PromptTokenizer


@torch.inference_mode()
def encode_plainly(
    model: Any, tokenizer: PromptTokenizer, templates: TemplateSet, texts: Sequence[str], layers: Sequence[int],
    n_templates: int | None = None,
) -> NDArray[np.float32]:  # fmt: skip
    """Compute the hidden state of every prompt's last token, one forward pass a prompt.

    Args:
        model: A transformers base model (no language-model head), in eval mode.
        tokenizer: Turns whole prompts into token ids.
        templates: The template set.
        texts: Texts that are neither blank nor too long.
        layers: Indices into the hidden states as transformers counts them, from 0 (embeddings) to the number of layers.
        n_templates: How many of the templates, from the first; None: all.

    Returns:
        float32, shape ``(n_texts, n_templates, n_layers, hidden_size)``.

    Raises:
        ModelFilesError: The model's hidden states have another form than one vector a token.
    """
    rows = []
    for text in texts:
        cleaned = clean_text(text, templates.text_cleanup)
        prompts = [templates.fill(template, cleaned) for template in templates.templates[:n_templates]]
        rows.append(torch.stack([_last_states(model, ids, layers) for ids in tokenizer.tokenize(prompts)]))
    return torch.stack(rows).numpy()


def _last_states(model: Any, ids: Sequence[int], layers: Sequence[int]) -> torch.Tensor:
    input_ids = torch.tensor([ids], device=model.device)
    states = model(input_ids=input_ids, use_cache=False, output_hidden_states=True).hidden_states
    size = model.config.get_text_config().hidden_size
    odd = next((layer for layer in layers if states[layer].shape != (1, len(ids), size)), None)
    if odd is not None:
        raise ModelFilesError(
            f"the hidden states of a {model.config.model_type} at layer {odd} have shape {tuple(states[odd].shape)}, which is no vector of "
            f"{size} numbers a token"
        )
    return torch.stack([states[layer][0, -1] for layer in layers]).float().cpu()

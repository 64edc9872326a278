"""Other people's loops on random token ids: the published script's, and one that is written with care."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu_shapes import Group, Shape

PUBLISHED_TEXTS = 16  # that the published script takes at a time

Prompt = tuple[list[int], list[int]]  # tokens before the text and behind it


def make_model(shape: Shape, device: torch.device, dtype: torch.dtype) -> Any:
    """Make a Llama of transformers with random weights, with its language-model head."""
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden_size, intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.n_layers, num_attention_heads=shape.n_heads, num_key_value_heads=shape.n_kv_heads,
        head_dim=shape.head_dim, max_position_embeddings=4096, bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    with torch.device(device):
        return transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def make_prompts(templates: Sequence[Group], vocabulary: int) -> list[Prompt]:
    """Draw the tokens of each prompt around the text."""
    rng = np.random.default_rng(5)
    sizes = [(group.n_prefix, n_behind) for group in templates for n_behind in group.n_behind]
    return [(rng.integers(1, vocabulary, before).tolist(), rng.integers(1, vocabulary, behind).tolist()) for before, behind in sizes]


@torch.inference_mode()
def run_published(model: Any, prompts: Sequence[Prompt], texts: Sequence[list[int]]) -> Tensor:
    """Embed texts as the paper's script does: 16 at a time in input order with all prompts, left padding, logits, all hidden states.

    Returns:
        The mean over prompts of the last layer at the last token, shape ``(n_texts, hidden_size)``, on the host.
    """
    vectors = []
    for start in range(0, len(texts), PUBLISHED_TEXTS):
        chunk = texts[start : start + PUBLISHED_TEXTS]
        rows = [[*before, *text, *behind] for text in chunk for before, behind in prompts]
        longest = max(map(len, rows))
        ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows], device=model.device)
        states = model(input_ids=ids, attention_mask=(ids != 0).long(), output_hidden_states=True).hidden_states[-1][:, -1]
        vectors.append(states.float().view(len(chunk), len(prompts), -1).mean(1).cpu())
    return torch.cat(vectors)


@torch.inference_mode()
def run_careful(model: Any, prompts: Sequence[Prompt], texts: Sequence[list[int]], max_batch_tokens: int) -> Tensor:
    """Embed texts as somebody does who takes care: no logits, texts sorted by length, what stands before the text computed once a prompt.

    Returns:
        As `run_published`.
    """
    from transformers import DynamicCache

    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    total = torch.zeros(len(texts), model.config.hidden_size, device=model.device)
    for before, behind in prompts:
        alone = DynamicCache()
        model.model(input_ids=torch.tensor([before], device=model.device), past_key_values=alone, use_cache=True)
        start = 0
        while start < len(order):
            n_rows = max(1, max_batch_tokens // (len(texts[order[min(start + 255, len(order) - 1)]]) + len(behind)))
            rows = order[start : start + n_rows]
            cache = DynamicCache()
            for index, layer in enumerate(alone.layers):
                cache.update(*(kept.expand(len(rows), -1, -1, -1) for kept in (layer.keys, layer.values)), index)
            ids = [torch.tensor([*texts[row], *behind]) for row in rows]
            padded = torch.stack([F.pad(row, (0, len(ids[-1]) - len(row))) for row in ids]).to(model.device)
            states = model.model(input_ids=padded, past_key_values=cache, use_cache=True).last_hidden_state
            ends = torch.tensor([len(row) - 1 for row in ids], device=model.device)  # what pads stands behind, where nothing sees it
            total[rows] += states[torch.arange(len(rows), device=model.device), ends].float()
            start += len(rows)
    return (total / len(prompts)).cpu()

"""A model with its language-model head, which embedding does without: for looking at next words and for writing some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from metaeol_udf.encoder.checkpoint.architectures import RUN_WHOLE, text_model_type
from metaeol_udf.encoder.checkpoint.files import check_weights, model_shape
from metaeol_udf.encoder.checkpoint.hf_loading import load_hf_model, load_tokenizer, quiet_transformers
from metaeol_udf.encoder.checkpoint.location import model_folder
from metaeol_udf.encoder.checkpoint.manifest import verify_folder
from metaeol_udf.encoder.loading import choose_devices, choose_dtype
from metaeol_udf.errors import ConfigError, EnvironmentFault
from metaeol_udf.prompts.tokenizer import PromptTokenizer
from metaeol_udf.spec import EmbeddingSpec

_FINAL_NORMS = ("norm", "ln_f", "final_layer_norm")  # transformers' names of what stands between the last layer and the head


@dataclass(frozen=True)
class LanguageModel:
    """Holds a loaded model.

    Attributes:
        model: transformers' model with its head, in eval mode.
        tokenizer: transformers' tokenizer.
        prompt_tokenizer: The same under the rules of prompts: a text is only ever data.
        n_layers: Transformer layers; there is one hidden state more.
    """

    model: Any
    tokenizer: Any
    prompt_tokenizer: PromptTokenizer
    n_layers: int


def load_language_model(spec: EmbeddingSpec, device_name: str = "auto") -> LanguageModel:
    """Load the model that a spec names, with its head, on one device. `quantization` does not count here: weights are whole.

    Raises:
        ConfigError: There is no such model.
        ModelFilesError: Files are missing, truncated or altered, or the checkpoint has no head.
        EnvironmentFault: The device is not there, or too small.
    """
    device = choose_devices(device_name)[0]
    folder = model_folder(spec.model, spec.revision)
    check_weights(folder)
    verify_folder(folder)
    with quiet_transformers():
        tokenizer = load_tokenizer(folder)
        model = load_hf_model(folder, choose_dtype(spec.dtype, device), AutoModelForCausalLM)
    try:
        model = model.to(device)
    except torch.OutOfMemoryError:
        raise EnvironmentFault(f"the model in {folder} does not fit {device}: set runtime.device=cpu") from None
    return LanguageModel(model, tokenizer, PromptTokenizer(tokenizer), model_shape(folder)[0])


def open_tokenizer(model: str) -> tuple[PromptTokenizer, bool]:
    """Open the tokenizer of a model whose weights are left alone: a folder, or a hub id in the local cache.

    Returns:
        The tokenizer, and whether the encoder cuts prompts around the text for that architecture.
    """
    folder = model_folder(model)
    model_shape(folder)  # which says what is wrong with a configuration
    with quiet_transformers():
        return PromptTokenizer(load_tokenizer(folder)), text_model_type(folder) not in RUN_WHOLE


@torch.inference_mode()
def next_token_probabilities(language_model: LanguageModel, ids: Sequence[int], layer: int) -> Tensor:
    """Compute the probabilities of the token after a prompt, as the model's own head gives them.

    Args:
        language_model: The model.
        ids: Token ids of a whole prompt.
        layer: Hidden state that is read, from 0 (embeddings) to the number of layers (the model's own output). Another than
            the last goes through the final norm and the head as if it were the last: the «logit lens».

    Returns:
        float32 on the CPU, shape ``(vocabulary,)``; sums to 1.

    Raises:
        ConfigError: An earlier layer, of a model whose final norm is not known.
    """
    model = language_model.model
    inputs = {"input_ids": torch.tensor([ids], device=model.device), "use_cache": False}
    if layer == language_model.n_layers:
        logits = model(**inputs).logits
    else:
        state = model.base_model(**inputs, output_hidden_states=True).hidden_states[layer]
        # The final norm gets another input: what comes after it, scaling and soft caps too, stays the model's own.
        handle = _final_norm(model).register_forward_pre_hook(lambda _module, _inputs: (state,))
        try:
            logits = model(**inputs).logits
        finally:
            handle.remove()
    probabilities: Tensor = logits[0, -1].float().softmax(-1).cpu()
    return probabilities


def _final_norm(model: Any) -> torch.nn.Module:
    body = getattr(model.base_model, "decoder", model.base_model)  # OPT keeps a decoder inside
    for name in _FINAL_NORMS:
        norm = getattr(body, name, None)
        if isinstance(norm, torch.nn.Module):
            return norm
    raise ConfigError(f"the final norm of architecture {model.config.model_type!r} is not known: leave --layer at -1, the last")

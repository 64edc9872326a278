"""Turns what a checkpoint stores in another way into plain weights: quantised matrices, and a base model with an adapter beside it.

Either result is proved: hidden states of a few tokens before and after must agree. A model that is made once for many jobs may take that
time.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metaeol_udf.errors import EnvironmentFault, ModelFilesError, one_line

_ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings")
_COPIES = re.compile(r"(\.modules_to_save|\.original_module)?\.weight$")  # what peft may add to the name of a layer that is kept whole
_PROBE_TOKENS = 24
MIN_COSINE = 0.995  # of hidden states of the same weights: 16 bits may round them once more
_MIN_COSINE_QUANTISED = 0.98  # where the quantised model rounds what goes into a layer, too
_ROWS = 1024  # of an identity matrix that go through a quantised layer at once


def ask_to_unpack(config: Any) -> bool:
    """Make transformers unpack a quantised checkpoint while it reads it, where it can.

    Args:
        config: The model's configuration, which is changed. One without quantisation stays as it is.

    Returns:
        Whether the checkpoint is quantised.
    """
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    stored = getattr(config, "quantization_config", None) or {}
    stored = stored if isinstance(stored, dict) else stored.to_dict()
    kind = AUTO_QUANTIZATION_CONFIG_MAPPING.get(str(stored.get("quant_method")))
    if kind is not None and "dequantize" in inspect.signature(kind).parameters:
        config.quantization_config = stored | {"dequantize": True}
    return bool(stored)


def dequantize(model: Any, dtype: torch.dtype, label: str) -> None:
    """Write the matrices of a quantised model out in full, in place.

    Args:
        model: A causal language model, as transformers read it from a quantised checkpoint.
        dtype: Of the weights.
        label: The source's name, for messages.

    Raises:
        ModelFilesError: This kind of quantisation cannot be unpacked, or its result does not compute what the quantised model computes.
    """
    packed = [name for name, module in model.named_modules() if _is_packed(module)]
    expected = probe(model) if packed else None  # some layers unpack themselves when they run first, and keep what they unpacked
    write_out(model, packed, dtype, label)
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None:
        quantizer.remove_quantization_config(model)
    for name, parameter in model.named_parameters():  # no buffers: those of rotary positions stay as they are
        if not parameter.is_floating_point() or parameter.element_size() < 2:
            raise ModelFilesError(f"the quantised weights of {label} cannot be unpacked here: {name} stays {parameter.dtype}")
        parameter.data = parameter.data.to(dtype)
    model.config.dtype = dtype
    if expected is not None:
        compare(model, expected, _MIN_COSINE_QUANTISED, f"the quantised weights of {label}")


def _is_packed(module: nn.Module) -> bool:
    """Tell whether a layer stands for a matrix and holds something else than that matrix."""
    weight = getattr(module, "weight", None)
    shape = (getattr(module, "out_features", None), getattr(module, "in_features", None))
    if not all(isinstance(size, int) for size in shape):
        return False
    if type(weight) is not nn.Parameter or not weight.is_floating_point() or weight.element_size() < 2 or tuple(weight.shape) != shape:
        return True
    return not {name for name, _ in module.named_parameters(recurse=False)} <= {"weight", "bias"}  # scales beside it


@torch.no_grad()
def write_out(model: Any, names: Sequence[str], dtype: torch.dtype, label: str) -> None:
    """Replace packed layers by plain ones, whose matrix is what the packed layer makes of an identity matrix.

    Args:
        model: The model, which is changed.
        names: Of the layers.
        dtype: Of the matrices.
        label: The source's name, for messages.

    Raises:
        ModelFilesError: A layer does not run here.
    """
    for name in names:
        module = model.get_submodule(name)
        try:
            bias = getattr(module, "bias", None)
            offset = bias.to(torch.float32) if isinstance(bias, torch.Tensor) else 0.0
            plain = nn.Linear(module.in_features, module.out_features, bias=isinstance(bias, torch.Tensor), dtype=dtype)
            for start in range(0, module.in_features, _ROWS):
                rows = torch.eye(module.in_features, dtype=model.dtype)[start : start + _ROWS]
                plain.weight[:, start : start + _ROWS] = (module(rows).to(torch.float32) - offset).T.to(dtype)
        except Exception as error:  # each library of packed layers has its own errors
            raise ModelFilesError(
                f"the quantised weights of {label} cannot be unpacked here: {type(error).__name__} in {name}: {str(error)[:200]}"
            ) from error
        if isinstance(bias, torch.Tensor):
            plain.bias.copy_(bias)
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, plain)


def merge_adapter(model: Any, adapter: Path, allow_pickle: bool) -> Any:
    """Add an adapter's changes to the weights of its base model.

    Args:
        model: The base model, with plain weights.
        adapter: Folder of the adapter, as peft writes it.
        allow_pickle: Read pickled weights, which can run code.

    Returns:
        The base model with other weights.

    Raises:
        EnvironmentFault: peft is not installed.
        ModelFilesError: The adapter is damaged, does not fit the base model or is of a kind that cannot be merged.
    """
    try:
        from peft import PeftConfig, PeftModel, get_peft_model_state_dict
    except ImportError as error:
        raise EnvironmentFault("merging an adapter needs peft: install the extra `metaeol-udf[prepare]`") from error
    stored = _adapter_shapes(adapter, allow_pickle)
    try:
        config = PeftConfig.from_pretrained(str(adapter))
        if config.is_prompt_learning:
            raise ModelFilesError(
                f"the adapter in {adapter} is of the kind {config.peft_type.value}, which changes no weights and cannot be merged"
            )
        _make_room_for_tokens(model, stored)
        peft_model = PeftModel.from_pretrained(model, str(adapter), config=config, local_files_only=True)
        wanted = set(get_peft_model_state_dict(peft_model, save_embedding_layers=False))
        expected = probe(peft_model)
        merged = peft_model.merge_and_unload(safe_merge=True)
    except ModelFilesError:
        raise
    except Exception as error:  # peft says in many ways that an adapter does not fit
        raise ModelFilesError(
            f"the adapter in {adapter} does not fit its base model: {type(error).__name__}: {one_line(error)[:300]}"
        ) from error
    lost, unknown = sorted(wanted - stored.keys()), sorted(stored.keys() - wanted)
    unknown = [name for name in unknown if not _COPIES.sub("", name).endswith((*_EMBEDDINGS, "lm_head"))]
    if lost or unknown:
        said = f"lacks {lost[0]}" if lost else f"has {unknown[0]}, which the base model does not have"
        raise ModelFilesError(f"the adapter in {adapter} {said}")
    compare(merged, expected, MIN_COSINE, f"the adapter in {adapter}")
    return merged


def _adapter_shapes(adapter: Path, allow_pickle: bool) -> dict[str, tuple[int, ...]]:
    """Read names and shapes of an adapter's tensors."""
    safe, pickled = (adapter / name for name in _ADAPTER_WEIGHTS)
    if safe.is_file():
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(safe, framework="pt") as file:
                return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
        except (SafetensorError, OSError) as error:
            raise ModelFilesError(f"adapter file {safe} is damaged: {error}") from error
    if not pickled.is_file():
        raise ModelFilesError(f"adapter file {safe} is missing")
    if not allow_pickle:
        raise ModelFilesError(f"{adapter} holds pickled weights, and unpickling runs code; if you trust them, use --allow-pickle")
    return {name: tuple(tensor.shape) for name, tensor in torch.load(pickled, map_location="meta", weights_only=True).items()}


def _make_room_for_tokens(model: Any, stored: dict[str, tuple[int, ...]]) -> None:
    """Give the base model as many token embeddings as an adapter brings that was trained with new tokens."""
    rows = max((shape[0] for name, shape in stored.items() if _COPIES.sub("", name).endswith(_EMBEDDINGS)), default=0)
    if rows > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(rows)


@torch.no_grad()
def probe(model: Any) -> torch.Tensor:
    """Compute hidden states of a few tokens, shape ``(n_layers + 1, n_tokens, hidden_size)``, in float32."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model.get_input_embeddings().weight.shape[0], (1, _PROBE_TOKENS), generator=generator)
    model.eval()
    output = model(input_ids=ids, output_hidden_states=True)
    return torch.stack([states[0].to(torch.float32) for states in output.hidden_states])


def compare(model: Any, expected: torch.Tensor, bound: float, what: str) -> None:
    """See that a model computes hidden states that `probe` computed before.

    Raises:
        ModelFilesError: The cosine is below the bound.
    """
    worst = torch.nn.functional.cosine_similarity(probe(model), expected, dim=-1).min().item()
    if not worst >= bound:
        raise ModelFilesError(f"{what}: plain weights compute something else (cosine {worst:.4f}, at least {bound} is due)")

"""A transformers model whose layers stand on several devices: what goes into a layer is brought to where the layer is."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn


def count_module_bytes(modules: Iterable[nn.Module]) -> int:
    """Count the bytes of modules' weights."""
    tensors = {id(t): t for module in modules for t in chain(module.parameters(), module.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def place_layers(model: nn.Module, layers: Iterable[nn.Module], devices: Sequence[torch.device], outside: torch.device) -> None:
    """Move a model to devices, layer by layer, in place.

    Args:
        model: The model.
        layers: Its decoder layers.
        devices: Of the layers that run; what is left of others stays where it is.
        outside: Of embeddings, final norm and all else.
    """
    if {*devices} <= {outside}:
        model.to(outside)
        return
    inside = {id(module) for layer in layers for module in layer.modules()}
    for module in model.modules():
        if id(module) in inside:
            continue
        for name, parameter in module.named_parameters(recurse=False):
            module.register_parameter(name, nn.Parameter(parameter.to(outside), requires_grad=False))
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(outside)  # stays what it is: stored or not
        if module._parameters or module._buffers:
            module.register_forward_pre_hook(partial(_bring, outside), with_kwargs=True)
    for layer, device in zip(layers, devices, strict=False):
        layer.to(device)
        layer.register_forward_pre_hook(partial(_bring, device), with_kwargs=True)


def _bring(device: torch.device, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    return _carried(args, device), {name: _carried(value, device) for name, value in kwargs.items()}


def _carried(value: Any, device: torch.device) -> Any:
    """Return a value with its tensors on a device. A mapping stays the same one: layers write into it for those above them."""
    if isinstance(value, Tensor):
        return value.to(device)
    if type(value) in (tuple, list):
        return type(value)(_carried(part, device) for part in value)
    if isinstance(value, MutableMapping):
        value.update({name: _carried(part, device) for name, part in value.items()})
    return value

"""Weights of transformers' own layers in few bits: matrices are kept quantized, and widened when their module runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from metaeol_udf.encoder.forward.decoder import Linear
from metaeol_udf.encoder.forward.quantization import Float8Linear, QuantizedLinear, quantize_linear

_LEAST_ROW = 32  # numbers: what has shorter rows is a filter over neighbouring tokens, small and easily spoiled
_ROUTERS = ("gate", "router")  # names of modules that choose experts, which a rounding could change
_LEAST_SHARE = 0.5  # of a model's numbers must be in few bits, or the setting would not do what it says


def quantize_modules(layer: nn.Module, kind: str) -> None:
    """Quantize the linear layers and the stacked experts of a decoder layer, in place.

    Args:
        layer: With plain weights.
        kind: As `quantize` takes it.

    Raises:
        TypeError: Its weights do not fit the kind, or most of them stand in modules of another form.
    """
    n_all = sum(parameter.numel() for parameter in layer.parameters())
    for name, module in list(layer.named_modules()):
        if type(module) is nn.Linear and not name.endswith(_ROUTERS):
            parent, _, attribute = name.rpartition(".")
            setattr(layer.get_submodule(parent), attribute, LinearInFewBits(quantize_linear(Linear(module.weight, module.bias), kind)))
        elif not isinstance(module, nn.Linear):
            names = [own for own, tensor in module.named_parameters(recurse=False) if _is_stack(module, tensor)]
            if names and kind == "fp8":
                raise TypeError(f"fp8 does not know the weights of a {type(module).__name__}")
            if names:
                _narrow(module, names, kind)
    share = 1 - sum(parameter.numel() for parameter in layer.parameters()) / max(1, n_all)
    if share < _LEAST_SHARE:
        raise TypeError(f"{kind} reaches {share:.0%} of a {type(layer).__name__}'s weights, as the others are no linear layers")


def has_experts(model: nn.Module) -> bool:
    """Tell whether a model holds stacked experts, between which it chooses for each token."""
    return any(tensor.dim() > 2 and _is_stack(module, tensor) for module in model.modules() for tensor in module.parameters(recurse=False))


def _is_stack(module: nn.Module, tensor: Tensor) -> bool:
    """Tell whether a parameter holds matrices: those of experts, or one that is stored transposed."""
    return (
        tensor.is_floating_point()
        and tensor.shape[-1] >= _LEAST_ROW
        and (tensor.dim() > 2 or (isinstance(module, Conv1D) and tensor.dim() > 1))
    )


class LinearInFewBits(nn.Module):
    """Works as `nn.Linear`, with quantized weights.

    Attributes:
        in_features: Numbers of an input.
        out_features: Numbers of an output.
    """

    bias: Tensor | None
    steps: Tensor
    scale: Tensor

    def __init__(self, linear: QuantizedLinear | Float8Linear) -> None:
        super().__init__()
        self._make: Callable[..., QuantizedLinear | Float8Linear] = type(linear)
        self._dtype = linear.scale.dtype
        self.out_features, self.in_features = len(linear.weight), linear.weight.shape[1] * (2 if linear.weight.dtype == torch.uint8 else 1)
        self.register_buffer("steps", linear.weight)
        self.register_buffer("scale", linear.scale)
        self.register_buffer("bias", linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map shape ``(..., n_in)`` to ``(..., n_out)``."""
        linear = self._make(self.steps, self.bias, scale=self.scale)
        return linear(x.flatten(0, -2)).view(*x.shape[:-1], self.out_features)

    @property
    def weight(self) -> Tensor:
        """Return the weights in floating point, for models that look at them."""
        return self._make(self.steps, scale=self.scale).wide(self._dtype)


class _Widening(nn.Module):
    """Keeps parameters of a module in few bits, and shows them in floating point while the module runs.

    A class of this and of the module's own takes the module's place, so that it stays what it was for whoever looks.
    """

    shapes: dict[str, torch.Size]
    dtype_of_wide: torch.dtype
    wide: threading.local  # several threads run a model

    def forward(self, *arguments: Any, **options: Any) -> Any:
        """Run the module."""
        self.wide.tensors = {name: self._widen(name) for name in self.shapes}
        try:
            return super().forward(*arguments, **options)
        finally:
            self.wide.tensors = {}

    def _widen(self, name: str) -> Tensor:
        packed = QuantizedLinear(self.get_buffer(f"{name}_steps"), scale=self.get_buffer(f"{name}_scale"))
        return packed.wide(self.dtype_of_wide).view(self.shapes[name])

    def __getattr__(self, name: str) -> Any:
        """Return a parameter that is kept in few bits, or what a module has under a name."""
        if name not in self.__dict__.get("shapes", {}):
            return super().__getattr__(name)
        tensors = getattr(self.wide, "tensors", {})
        return tensors[name] if name in tensors else self._widen(name)


def _narrow(module: nn.Module, names: list[str], kind: str) -> None:
    """Keep parameters of a module in few bits, expert by expert: wide copies of all of them would be large."""
    shapes = {}
    for name in names:
        tensor = module._parameters.pop(name)
        assert tensor is not None
        shapes[name] = tensor.shape
        matrices = tensor.flatten(0, -3) if tensor.dim() > 2 else tensor[None]
        parts = [quantize_linear(Linear(matrix), kind) for matrix in matrices]
        module.register_buffer(f"{name}_steps", torch.cat([part.weight for part in parts]))
        module.register_buffer(f"{name}_scale", torch.cat([part.scale for part in parts if isinstance(part, QuantizedLinear)]))
        module.__dict__["dtype_of_wide"] = tensor.dtype
    module.__dict__ |= {"shapes": shapes, "wide": threading.local()}
    module.__class__ = type(f"{type(module).__name__}InFewBits", (_Widening, type(module)), {})

"""The last layer that runs, for the outputs alone: what comes after its attention takes each token by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class OutputsOnly:
    """Lets modules of a layer run for the outputs of a token sequence alone; other tokens get zeros, which nobody reads.

    Attributes:
        modules: Those modules, by their names in the layer: what is called after the attention, takes nothing but the hidden states and
            holds matrices. Output projections, MLPs and experts are such.
    """

    def __init__(self, layer: nn.Module, is_attended: Callable[[], bool]) -> None:
        """Begin to look at a layer; `find` ends that.

        Args:
            layer: The last one that runs.
            is_attended: Tells whether the layer's attention was computed.
        """
        self.modules: list[str] = []
        self._layer, self._is_attended = layer, is_attended
        self._found: list[str] = []
        self._late: set[str] = set()
        self._now = threading.local()
        self._hooks: list[Any] = []
        for name, module in layer.named_modules():
            if name and any(tensor.dim() > 1 for tensor in (*module.parameters(), *module.buffers())):
                self._hooks.append(module.register_forward_pre_hook(self._noter(name)))
                self._hooks.append(module.register_forward_hook(self._judge(name), with_kwargs=True))

    def _noter(self, name: str) -> Callable[..., None]:
        def note(_module: nn.Module, _args: tuple[Any, ...]) -> None:
            if self._is_attended():
                self._late.add(name)

        return note

    def _judge(self, name: str) -> Callable[..., None]:
        def judge(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
            out = output[0] if isinstance(output, tuple) else output  # experts may return what chose them, too
            is_plain = len(args) == len(tensors) == 1 and isinstance(out, Tensor) and tensors[0].dim() == out.dim() == 3
            if name in self._late and is_plain and tensors[0].shape[:2] == out.shape[:2]:
                self._found.append(name)

        return judge

    def find(self) -> None:
        """Stop looking, and begin to run what was found for the outputs alone."""
        self.close()
        self.modules = [name for name in self._found if not any(name.startswith(f"{other}.") for other in self._found)]
        for name in self.modules:
            module = self._layer.get_submodule(name)
            self._hooks.append(module.register_forward_pre_hook(self._pick))
            self._hooks.append(module.register_forward_hook(self._spread))

    def close(self) -> None:
        """Leave the layer as it was."""
        while self._hooks:
            self._hooks.pop().remove()

    def set_outputs(self, outputs: Tensor | None) -> None:
        """Set the places of the outputs in this thread's token sequence; None: all tokens run."""
        self._now.outputs = outputs

    def _pick(self, _module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor] | None:
        outputs = getattr(self._now, "outputs", None)
        if outputs is None:
            return None
        x: Tensor = args[0]
        self._now.n_tokens = x.shape[1]
        return (x.index_select(1, outputs.to(x.device)),)

    def _spread(self, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        outputs = getattr(self._now, "outputs", None)
        if outputs is None:
            return None
        out = output[0] if isinstance(output, tuple) else output
        whole = out.new_zeros(1, self._now.n_tokens, out.shape[2]).index_copy_(1, outputs.to(out.device), out)
        return (whole, *output[1:]) if isinstance(output, tuple) else whole

"""The text part of a transformers model, run no further than the output layer, with hidden states read on the way."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_CHUNK = 16  # tokens


class TextModel:
    """Runs a transformers base model and returns the hidden states that are asked for.

    Layers above the last one that is read do not run: the model is left by an exception, which costs nothing.

    Attributes:
        model: The part of the model that takes token ids.
        config: Its configuration.
        layers: Its decoder layers.
        taps: Indices into the hidden states of what is read, ascending, from 0 (embeddings) to the number of layers.
        device: Where token ids go.
    """

    def __init__(self, model: Any, taps: Sequence[int]) -> None:
        """Find the layers and read them from now on.

        Args:
            model: A base model that takes text, in eval mode.
            taps: See the class.

        Raises:
            TypeError: The model is not made of decoder layers in one list.
        """
        self.model: Any = model
        self.config: Any = self.model.config.get_text_config()
        self.layers = find_layers(self.model, self.config.num_hidden_layers)
        self.taps = tuple(taps)
        self.device: torch.device = self.model.get_input_embeddings().weight.device
        self._takes = set(inspect.signature(self.model.forward).parameters)
        self._attention = self.model.config._attn_implementation
        self._chunk_sizes: dict[Any, int] = {}
        self._reading = threading.local()
        self._hooks = [
            self.layers[tap].register_forward_pre_hook(self._reader(tap), with_kwargs=True) for tap in self.taps if tap < len(self.layers)
        ]

    def close(self) -> None:
        """Stop reading: the model is as it was."""
        for hook in self._hooks:
            hook.remove()
        if self.model.config._attn_implementation != self._attention:
            self.model.set_attn_implementation(self._attention)
        for module, size in self._chunk_sizes.items():
            module.chunk_size = size

    def shorten_chunks(self) -> None:
        """Let layers with a state scan shorter chunks on a CPU: each step is padded to whole ones, and has a few tokens."""
        if self.device.type == "cpu":
            sizes = {module: getattr(module, "chunk_size", None) for module in self.model.modules()}
            self._chunk_sizes = {module: size for module, size in sizes.items() if isinstance(size, int) and size > _CHUNK}
            for module in self._chunk_sizes:
                module.chunk_size = _CHUNK

    def takes(self, name: str) -> bool:
        """Tell whether the model's forward has such an argument."""
        return name in self._takes

    def drop_unused_layers(self) -> None:
        """Give up the weights of layers that never run. The layers stay: models look at their attributes."""
        drop_weights(self.layers[self.taps[-1] :])

    def run(self, ids: Tensor, read: Callable[[Tensor], Tensor], **inputs: Any) -> tuple[list[Tensor], Any]:
        """Run the model.

        Args:
            ids: Token ids, shape ``(n_rows, n_tokens)``.
            read: Picks from hidden states of shape ``(n_rows, n_tokens, hidden_size)`` what is wanted of them.
            inputs: Further arguments of the model's forward.

        Returns:
            What was picked at each tap; and what the model returned, None where it was left early.

        Raises:
            TypeError: The hidden states have another form.
        """
        self._reading.states, self._reading.read = [], read
        output = None
        try:
            output = self.model(input_ids=ids, **inputs)
            if self.taps[-1] == len(self.layers):
                self._keep(output.last_hidden_state)
        except _LastTapReadError:
            pass
        finally:
            states, self._reading.states, self._reading.read = self._reading.states, [], None
        return states, output

    def _reader(self, tap: int) -> Callable[..., None]:
        is_last = tap == self.taps[-1]

        def read(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if getattr(self._reading, "read", None) is None:
                return
            self._keep(args[0] if args else kwargs["hidden_states"])
            if is_last:
                raise _LastTapReadError

        return read

    def _keep(self, states: Tensor) -> None:
        if states.dim() != 3 or states.shape[-1] != self.config.hidden_size:
            raise TypeError(f"hidden states of shape {tuple(states.shape)}, where (rows, tokens, {self.config.hidden_size}) was expected")
        self._reading.states.append(self._reading.read(states))


class _LastTapReadError(Exception):
    """Leaves a model's forward once all is read."""


def drop_weights(layers: Iterable[nn.Module]) -> None:
    """Give up the weights of layers that never run. The layers stay: models look at their attributes."""
    for layer in layers:
        for tensor in (*layer.parameters(), *layer.buffers()):
            tensor.data = tensor.data.new_empty(0)


def find_layers(model: nn.Module, n_layers: int) -> nn.ModuleList:
    """Find the list of decoder layers, nearest to the top.

    Raises:
        TypeError: There is none of that length.
    """
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module) == n_layers]
    if not lists:
        raise TypeError(f"no list of {n_layers} layers")
    return min(lists, key=lambda item: item[0].count("."))[1]

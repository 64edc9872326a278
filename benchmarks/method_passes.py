"""Two published changes of the forward pass, written plainly on a transformers decoder: token prepending and contrastive steering.

Prompts of one template are batched with others of exactly their length, so nothing is padded, and what all of them begin with runs
once: neither method reaches into it. Decoder blocks are counted from 0 here and hidden
states as transformers counts them: hidden state ``n`` leaves block ``n - 1``. Models must be laid out as Llama is
(`layers[i].self_attn.o_proj`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

PLACEHOLDER = -1  # stands in token ids for the token that is put in front of the text; it has no id of its own

Prompts = Sequence[list[int]]
PreHook = Callable[[Any, tuple[Any, ...]], tuple[Any, ...]]


@dataclass(frozen=True)
class Prepending:
    """Token prepending (Fu et al. 2024, arXiv:2412.11556): blocks before which the placeholder takes the last token's state.

    With ``h`` the input of block ``b``, p the placeholder and N the last token: ``h[p] = h[N]`` for ``start <= b < stop``, so that
    every token of the text attends to what the block before made of the whole prompt. Below `start` the placeholder is a random
    vector that is drawn once, as in the authors' code; from `stop` on it goes its own way.

    Attributes:
        start: First such block. The authors' settings have 1.
        stop: The block after the last one; equal to `start`, nothing is ever put anywhere.
    """

    start: int
    stop: int


class Rule(Enum):
    """What takes the place of ``v``, the attention's output at the last token, given the auxiliary prompt's ``u``.

    `SCALED` and `RESTORED` are the two norm adjustments of the method, `SHRUNK` is a control that has no auxiliary prompt.
    """

    SCALED = "a (v - u)"
    RESTORED = "(v - u) |v| / |v - u|"
    SHRUNK = "a v"


@dataclass(frozen=True)
class Steering:
    """Contrastive prompting (Cheng et al. 2025, arXiv:2505.12831): one block's attention output at the last token is replaced.

    ``v`` and ``u`` are what the method calls contextualised value vectors: the concatenated heads before the output projection, at
    the last token of the prompt and of an auxiliary prompt that asks for what does not matter.

    Attributes:
        block: The block that is steered.
        rule: How.
        factor: ``a`` in the rule; `RESTORED` has none and ignores it.
    """

    block: int
    rule: Rule
    factor: float = 1.0

    def apply(self, v: Tensor, u: Tensor) -> Tensor:
        """Steer vectors of shape ``(n_prompts, n_heads * head_dim)``. Where ``v`` equals ``u``, what `SCALED` and `RESTORED` leave is 0."""
        if self.rule is Rule.SHRUNK:
            return self.factor * v
        difference = v - u
        if self.rule is Rule.SCALED:
            return self.factor * difference
        length, of_difference = (torch.linalg.vector_norm(x, dim=-1, keepdim=True) for x in (v, difference))
        restored: Tensor = difference * length / of_difference.clamp_min(torch.finfo(v.dtype).tiny)
        return restored


class MethodPasses:
    """Runs prompts through a decoder, plainly or changed, and keeps the last token's hidden states at several layers.

    Attributes:
        layers: The hidden states that are kept, from 0 to the number of blocks.
    """

    def __init__(self, model: Any, layers: Sequence[int], max_batch_tokens: int = 2048) -> None:
        """Set up.

        Args:
            model: A transformers base model in eval mode.
            layers: Hidden states to keep; negative ones count from the end.
            max_batch_tokens: Tokens of one forward pass.

        Raises:
            ValueError: There is no such layer.
        """
        self._model, self._max_batch_tokens = model, max_batch_tokens
        self.n_blocks = len(model.layers)
        if any(not -self.n_blocks - 1 <= layer <= self.n_blocks for layer in layers):
            raise ValueError(f"layers must be within -{self.n_blocks + 1} and {self.n_blocks}, found {list(layers)}")
        self.layers = [layer % (self.n_blocks + 1) for layer in layers]
        generator = torch.Generator().manual_seed(0)
        self.placeholder = torch.randn(model.config.hidden_size, generator=generator).to(model.dtype)  # as wide as the authors draw it

    def plain(self, prompts: Prompts) -> Tensor:
        """Hidden states of the last token, float32, shape ``(n_prompts, n_layers, hidden_size)``."""
        return self.prepended(prompts, Prepending(0, 0))

    @torch.inference_mode()
    def prepended(self, prompts: Prompts, prepending: Prepending) -> Tensor:
        """The same under token prepending; each prompt has `PLACEHOLDER` once (for `plain`, at most once)."""
        found = torch.empty(len(prompts), len(self.layers), self._model.config.hidden_size)
        blocks = list(self._model.layers)[prepending.start : prepending.stop]
        for rows, ids, cache in self._batches(prompts):
            with _pre_hooks([(block, _put_last_at(ids)) for block in blocks]):
                outputs = self._model(inputs_embeds=self._embed(ids), past_key_values=cache, output_hidden_states=True)
            found[rows] = self._last_states(outputs)
        return found

    @torch.inference_mode()
    def attention_outputs(self, prompts: Prompts, blocks: Sequence[int]) -> Tensor:
        """Attention's output at the last token before its projection, shape ``(n_prompts, n_blocks, n_heads * head_dim)``.

        No block above the highest one runs.
        """
        modules = [self._model.layers[block].self_attn.o_proj for block in blocks]
        found = torch.empty(len(prompts), len(blocks), modules[0].in_features, dtype=self._model.dtype)
        for rows, ids, cache in self._batches(prompts):
            kept: dict[int, Tensor] = {}
            hooks = [(module, _keep_last(kept, place)) for place, module in enumerate(modules)]
            with _first_blocks(self._model, max(blocks) + 1), _pre_hooks(hooks):
                self._model(input_ids=ids, past_key_values=cache)
            found[rows] = torch.stack([kept[place] for place in range(len(blocks))], 1)
        return found

    @torch.inference_mode()
    def steered(self, prompts: Prompts, auxiliary: Sequence[Tensor], steerings: Sequence[Steering]) -> Tensor:
        """Hidden states under each steering, shape ``(n_steerings, n_prompts, n_layers, hidden_size)``.

        Steering touches the last token only, and no token sees a later one: so all but the last token run once, and the last token once
        for each steering.

        Args:
            prompts: Token ids, two or more each.
            auxiliary: ``u`` for each steering, shape ``(n_prompts, n_heads * head_dim)`` each.
            steerings: What to do.
        """
        found = torch.empty(len(steerings), len(prompts), len(self.layers), self._model.config.hidden_size)
        for rows, ids, cache in self._batches(prompts):
            self._model(input_ids=ids[:, :-1], past_key_values=cache)
            for at, (steering, u) in enumerate(zip(steerings, auxiliary, strict=True)):
                module = self._model.layers[steering.block].self_attn.o_proj
                with _pre_hooks([(module, _steer_last(steering, u[rows]))]):
                    outputs = self._model(input_ids=ids[:, -1:], past_key_values=cache, output_hidden_states=True)
                found[at, rows] = self._last_states(outputs)
                cache.crop(-1)
        return found

    def _embed(self, ids: Tensor) -> Tensor:
        embedded: Tensor = self._model.embed_tokens(ids.clamp_min(0))
        return torch.where((ids == PLACEHOLDER)[..., None], self.placeholder, embedded)

    def _last_states(self, outputs: Any) -> Tensor:
        return torch.stack([outputs.hidden_states[layer][:, -1] for layer in self.layers], 1).float()

    def _batches(self, prompts: Prompts) -> Iterator[tuple[list[int], Tensor, DynamicCache]]:
        """Rows of equal length that fit the token budget, with their ids behind the common start, and a cache that holds that start."""
        n_start = _n_shared(prompts)
        start = DynamicCache(config=self._model.config)
        if n_start:
            self._model(input_ids=torch.tensor([prompts[0][:n_start]]), past_key_values=start)
        by_length: dict[int, list[int]] = {}
        for row, ids in enumerate(prompts):
            by_length.setdefault(len(ids), []).append(row)
        for length, rows in by_length.items():
            n_most = max(1, self._max_batch_tokens // length)
            for first in range(0, len(rows), n_most):
                part = rows[first : first + n_most]
                cache = copy.deepcopy(start)
                if n_start:
                    cache.batch_repeat_interleave(len(part))
                yield part, torch.tensor([prompts[row][n_start:] for row in part]), cache


def _n_shared(prompts: Prompts) -> int:
    """Tokens that all prompts begin with, less the placeholder and what lies behind it, less two tokens that each keeps for itself."""
    first, last = min(prompts), max(prompts)  # whatever these two share, those between them share
    n_most = min(map(len, prompts)) - 2
    return next((i for i in range(n_most) if first[i] != last[i] or first[i] == PLACEHOLDER), max(0, n_most))


def _put_last_at(ids: Tensor) -> PreHook:
    rows, places = (ids == PLACEHOLDER).nonzero(as_tuple=True)

    def put(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = inputs[0].clone()
        hidden[rows, places] = hidden[rows, -1]
        return (hidden, *inputs[1:])

    return put


def _keep_last(kept: dict[int, Tensor], place: int) -> PreHook:
    def keep(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        kept[place] = inputs[0][:, -1].clone()
        return inputs

    return keep


def _steer_last(steering: Steering, u: Tensor) -> PreHook:
    def steer(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        values = inputs[0].clone()
        values[:, -1] = steering.apply(values[:, -1], u)
        return (values, *inputs[1:])

    return steer


@contextmanager
def _pre_hooks(hooks: Sequence[tuple[Any, PreHook]]) -> Iterator[None]:
    with ExitStack() as stack:
        for module, hook in hooks:
            stack.callback(module.register_forward_pre_hook(hook).remove)
        yield


@contextmanager
def _first_blocks(model: Any, n_blocks: int) -> Iterator[None]:
    """A model that ends after so many blocks; its output is of no use, what hooks saw is."""
    blocks = model.layers
    model.layers = blocks[:n_blocks]
    try:
        yield
    finally:
        model.layers = blocks

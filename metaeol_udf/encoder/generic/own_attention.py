"""Attention in place of transformers' own: for one token sequence of many texts, and for rows after prefixes of several lengths.

Transformers asks a registered function for the attention of each layer, and another one for masks. Norms, rotary positions, gates and
experts stay the model's own. What a layer lets a token see (windows, chunks) is a function of two positions that transformers gives to
the mask function: it is recorded once.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from metaeol_udf.encoder.forward.attention import Block, PrefixCache, Rules, Sees, carry_blocks, pad, weigh

NAME = "metaeol_token_sequence"

_now = threading.local()


@dataclass(frozen=True)
class MaskRule:
    """Stands for a mask: of batch, head, position of the query and position of the key, whether one sees the other."""

    function: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass
class LayerRecord:
    """Holds what a pass showed of each layer's attention.

    Attributes:
        rules: The mask that the layer was given, by index of the layer.
        n_shared: Query heads that share a key-value head, by index of the layer.
    """

    rules: dict[int, MaskRule | None] = field(default_factory=dict)
    n_shared: dict[int, int] = field(default_factory=dict)

    def note(self, index: int, query: Tensor, key: Tensor, value: Tensor, rule: MaskRule | None) -> Tensor:
        """Note a layer; the result is of the right shape and means nothing."""
        if rule is not None and not isinstance(rule, MaskRule):
            raise TypeError(f"layer {index} makes a mask of its own")
        self.rules[index], self.n_shared[index] = rule, query.shape[1] // key.shape[1]
        return value.new_zeros(1, query.shape[2], query.shape[1], value.shape[-1])

    def keys(self) -> dict[int, Hashable]:
        """Return the key in `masks` of each layer; layers that were given the same mask share it."""
        return {index: (id(rule), self.n_shared[index]) for index, rule in self.rules.items()}

    def masks(self, device: torch.device) -> Rules:
        """Return what layers let a token see, as `make_layout` takes it."""
        return {key: (self.n_shared[index], sees_by(self.rules[index], device)) for index, key in self.keys().items()}


def sees_by(rule: MaskRule | None, device: torch.device) -> Sees | None:
    """Return which positions see which by a layer's own rule; None where each sees all before it."""
    if rule is None:
        return None
    nothing = torch.zeros(1, 1, dtype=torch.long, device=device)
    return lambda queries, keys: rule.function(nothing, nothing, queries.to(device), keys.to(device)).cpu()


@dataclass(frozen=True)
class SequenceBatch:
    """Holds what attention has to know of a batch.

    Attributes:
        blocks: Rows that attention takes together.
        keys: The key of each layer's masks in a block.
        kept: Where keys and values of the only row go, by index of the layer; or None.
        carried: The blocks on devices of layers that stand elsewhere. The layers fill it.
    """

    blocks: Sequence[Block]
    keys: dict[int, Hashable]
    kept: dict[int, tuple[Tensor, Tensor]] | None = None
    carried: dict[torch.device, Sequence[Block]] = field(default_factory=dict)

    def attend(
        self, index: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, softcap: float | None, sinks: Tensor | None
    ) -> Tensor:
        """Compute the attention of all tokens.

        Args:
            index: The layer's.
            query: Normed and rotated, shape ``(n_tokens, n_heads, head_dim)``.
            key: The same, shape ``(n_tokens, n_kv_heads, head_dim)``.
            value: Shape ``(n_tokens, n_kv_heads, value_dim)``.
            scaling: Of the scores.
            softcap: See `Decoder`.
            sinks: A score that every query gives to nothing, shape ``(n_heads,)``, or None.

        Returns:
            Shape ``(n_tokens, n_heads, value_dim)``.
        """
        n_heads, n_kv = query.shape[1], key.shape[1]
        query = query * scaling
        sinks = None if sinks is None else sinks.view(n_kv, n_heads // n_kv)
        parts = []
        for block in self._blocks_on(query.device):
            span = slice(block.start, block.stop)
            keys = _with_prefixes(block, key[span], [None if p is None else p[2 * index] for _, _, p in block.prefixes])
            values = _with_prefixes(block, value[span], [None if p is None else p[2 * index + 1] for _, _, p in block.prefixes])
            if self.kept is not None:
                self.kept[index] = (keys[0], values[0])
            rows = pad(query[span].flatten(1), block.tokens).view(block.n_rows, block.n_tokens, n_kv, n_heads // n_kv, -1).transpose(1, 2)
            mask = block.masks[self.keys[index]]
            weighed = [
                weigh(rows[:, :, start:stop], keys[:, :, :n_keys], values[:, :, :n_keys], mask[:, start:stop, :, :n_keys], softcap, sinks)
                for start, stop, n_keys in block.query_blocks
            ]
            attended = (weighed[0] if len(weighed) == 1 else torch.cat(weighed, dim=2)).transpose(1, 2).flatten(0, 1)
            attended = attended if block.tokens is None else attended.index_select(0, block.tokens.kept)
            parts.append(attended.flatten(1, 2))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _blocks_on(self, device: torch.device) -> Sequence[Block]:
        if self.blocks[0].outputs.device == device:
            return self.blocks
        if device not in self.carried:
            self.carried[device] = carry_blocks(self.blocks, device)
        return self.carried[device]


@dataclass(frozen=True)
class ForkedRows:
    """Holds what attention has to know of rows whose caches begin with a prefix each, padded on the left to one length.

    Attributes:
        n_unseen: How many places of the padding each row has, shape ``(n_rows,)``.
        masks: Rules and their masks, by rule and device. The layers of a step fill it, and share a mask where they are given the same
            rule.
    """

    n_unseen: Tensor
    masks: dict[tuple[int, torch.device], tuple[MaskRule | None, Tensor]] = field(default_factory=dict)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, rule: MaskRule | None, scaling: float, softcap: float | None, sinks: Tensor | None
    ) -> Tensor:
        """Compute the attention of the last tokens of each row to all that its cache holds.

        Args:
            query: Shape ``(n_rows, n_heads, n_tokens, head_dim)``.
            key: Shape ``(n_rows, n_kv_heads, n_seen, head_dim)``.
            value: Shape ``(n_rows, n_kv_heads, n_seen, value_dim)``.
            rule: The layer's; None where each token sees all before it.
            scaling: Of the scores.
            softcap: Only None is known here.
            sinks: Only None is known here.

        Returns:
            Shape ``(n_rows, n_tokens, n_heads, value_dim)``.

        Raises:
            TypeError: The layer's attention is of another kind.
        """
        if softcap is not None or sinks is not None or not (rule is None or isinstance(rule, MaskRule)):
            raise TypeError("attention of a kind that forked rows do not know")
        place = (id(rule), query.device)
        if place not in self.masks:
            self.masks[place] = (rule, self._mask(rule, query.shape[2], key.shape[2]).to(query.device))
        n_shared = query.shape[1] // key.shape[1]
        key, value = (heads.repeat_interleave(n_shared, dim=1) if n_shared > 1 else heads for heads in (key, value))
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, self.masks[place][1], scale=scaling).transpose(1, 2)

    def _mask(self, rule: MaskRule | None, n_tokens: int, n_seen: int) -> Tensor:
        """Return who sees whom, shape ``(n_rows, 1, n_tokens, n_seen)``."""
        keys = torch.arange(n_seen, device=self.n_unseen.device) - self.n_unseen[:, None, None, None]  # positions
        queries = keys[..., n_seen - n_tokens :].transpose(2, 3)
        nothing = torch.zeros_like(self.n_unseen)[:, None, None, None]
        return (keys <= queries if rule is None else rule.function(nothing, nothing, queries, keys)) & (keys >= 0)


def _with_prefixes(block: Block, own: Tensor, prefixes: Sequence[Tensor | None]) -> Tensor:
    """Put the prefixes' keys or values before those of the block's tokens, to shape ``(n_rows, n_kv_heads, n_prefix + n_tokens, dim)``."""
    n_kv, dim = own.shape[1:]
    seen = own.new_empty(block.n_rows, n_kv, block.n_prefix + block.n_tokens, dim)
    for (start, stop, _), prefix in zip(block.prefixes, prefixes, strict=True):
        n_own = 0 if prefix is None else prefix.shape[1]
        if prefix is not None:
            seen[start:stop, :, :n_own] = prefix
        if n_own < block.n_prefix:
            seen[start:stop, :, n_own : block.n_prefix] = 0  # unseen, but what is not a number would be so in sums too
    rows = pad(own.flatten(1), block.tokens).view(block.n_rows, block.n_tokens, n_kv, dim)
    seen[:, :, block.n_prefix :] = rows.transpose(1, 2)
    return seen


@contextlib.contextmanager
def attending(batch: SequenceBatch | ForkedRows | LayerRecord) -> Iterator[None]:
    """Let this thread's attention be that of a batch inside a `with`."""
    _now.batch = batch
    try:
        yield
    finally:
        _now.batch = None


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, scaling: float | None = None,
    softcap: float | None = None, s_aux: Tensor | None = None, **_options: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Compute a layer's attention, as transformers calls it: heads of shape ``(n_rows, n_heads, n_tokens, head_dim)``."""
    batch = getattr(_now, "batch", None)
    index: Any = module.layer_idx
    if batch is None:
        raise RuntimeError("this model's attention runs token sequences alone")
    if isinstance(batch, LayerRecord):
        return batch.note(index, query, key, value, attention_mask), None
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if isinstance(batch, ForkedRows):
        return batch.attend(query, key, value, attention_mask, scaling, softcap, s_aux), None
    query, key, value = (heads[0].transpose(0, 1) for heads in (query, key, value))
    return batch.attend(index, query, key, value, scaling, softcap, s_aux)[None], None


def _describe_mask(*, mask_function: Callable[..., Tensor], **_sizes: Any) -> MaskRule:
    return MaskRule(mask_function)


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, _describe_mask)  # a rule goes where a mask would


def to_prefix_cache(kept: dict[int, tuple[Tensor, Tensor]]) -> PrefixCache:
    """Return the keys and values of all layers in their order: those of layer ``i`` at ``2 * i`` and after it."""
    return tuple(tensor for index in sorted(kept) for tensor in kept[index])

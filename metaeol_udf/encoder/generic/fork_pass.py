"""Models that carry a state from token to token: a prefix runs once into a cache, and texts and suffixes fork from copies of it."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from metaeol_udf.encoder.forward.batching import Cell
from metaeol_udf.encoder.generic.own_attention import NAME, ForkedRows, LayerRecord, attending
from metaeol_udf.encoder.generic.text_model import TextModel
from metaeol_udf.prompts.trie import PrefixGroup

logger = logging.getLogger(__name__)

_STATES = ("conv_states", "recurrent_states")  # of a cache's layer: dicts of tensors with a row for each text


@dataclass(frozen=True)
class _Branch:
    """Describes suffix tokens that follow each other without a fork, and what forks from the last of them.

    Attributes:
        nodes: Suffix tokens, indices into `PrefixGroup.suffix_ids`.
        branches: What comes after them.
    """

    nodes: tuple[int, ...]
    branches: tuple[_Branch, ...]


class ForkPass:
    """Runs a transformers model over a template set's trie: rows of equal length after copies of their prefixes' caches.

    Rows of several prefix groups go together where each attention layer goes through transformers' interface: their caches are padded
    on the left to one length, and attention leaves the padding out. See `Runner`.

    Attributes:
        text_model: What it runs.
        joins_groups: Whether rows of several groups go together.
    """

    name = "fork"
    has_prefixes = True

    def __init__(self, text_model: TextModel, groups: Sequence[PrefixGroup]) -> None:
        """Run the prefixes."""
        self.text_model = text_model
        self._groups: Sequence[PrefixGroup] = ()
        self._shapes: list[_Shape] = []
        self._caches: dict[tuple[int, ...], Any] = {(): DynamicCache(config=text_model.config)}
        text_model.shorten_chunks()
        self.joins_groups = False
        self.joins_groups = self._can_join()
        self.n_prefix_tokens = sum(len(group.prefix_ids) for group in groups)
        self.use_groups(groups)

    @torch.inference_mode()
    def use_groups(self, groups: Sequence[PrefixGroup]) -> None:
        """Set the groups that cells speak of: prefixes that are new run, prefixes that are no longer used are given up."""
        self._groups = groups
        self._shapes = [_Shape(_branches(group), tuple(group.outputs)) for group in groups]
        in_use = {group.prefix_ids for group in groups} | {()}
        self._caches = {ids: cache for ids, cache in self._caches.items() if ids in in_use}
        for group in groups:
            if group.prefix_ids not in self._caches:
                inherited = group.prefix_ids[: group.n_inherited]
                before = inherited if inherited in self._caches else ()
                cache = copy.deepcopy(self._caches[before])
                new = torch.tensor([group.prefix_ids[len(before) :]])
                self._step(_Rows(cache, torch.zeros(1, dtype=torch.long), len(before)), new)
                self._caches[group.prefix_ids] = cache

    @torch.inference_mode()
    def run(self, batch: Sequence[Cell], text_ids: Sequence[Mapping[int, Sequence[int]]]) -> list[Tensor]:
        """Compute the hidden state of every prompt's last token, as `Runner.run` says."""
        together: dict[Any, list[int]] = defaultdict(list)
        for place, cell in enumerate(batch):
            joins = self.joins_groups and self._groups[cell.group].prefix_ids
            together[(cell.n_text_tokens, self._shapes[cell.group]) if joins else place].append(place)
        found: dict[int, Tensor] = {}
        for places in together.values():
            states = self._run_cells([batch[place] for place in places], text_ids)
            found.update(zip(places, torch.split(states, [len(batch[place].rows) for place in places]), strict=True))
        return [found[place] for place in range(len(batch))]

    def _run_cells(self, cells: Sequence[Cell], text_ids: Sequence[Mapping[int, Sequence[int]]]) -> Tensor:
        """Run cells whose texts are of one length and whose suffixes fork alike; their rows follow each other in the result."""
        groups, shape = [self._groups[cell.group] for cell in cells], self._shapes[cells[0].group]
        sizes = torch.tensor([len(cell.rows) for cell in cells])
        longest = max(len(group.prefix_ids) for group in groups)
        n_unseen = torch.tensor([longest - len(group.prefix_ids) for group in groups]).repeat_interleave(sizes)
        rows = _Rows(_join([self._caches[group.prefix_ids] for group in groups], sizes.tolist()), n_unseen, longest)
        texts = torch.tensor([list(text_ids[cell.group][row]) for cell in cells for row in cell.rows])
        suffixes = torch.tensor([group.suffix_ids for group in groups], dtype=torch.long).repeat_interleave(sizes, dim=0)
        found: dict[int, Tensor] = {}
        first = shape.branches[0] if len(shape.branches) == 1 else _Branch((), shape.branches)  # what follows the text without a fork
        states = self._step(rows, torch.cat([texts, suffixes[:, list(first.nodes)]], dim=1))
        found.update((node, states[:, texts.shape[1] + step]) for step, node in enumerate((-1, *first.nodes), -1) if node in shape.outputs)
        self._run_branches(first.branches, shape, rows, suffixes, found)
        return torch.stack([found[node] for node in shape.outputs], dim=1).float()

    def _run_branches(self, branches: Sequence[_Branch], shape: _Shape, rows: _Rows, suffixes: Tensor, found: dict[int, Tensor]) -> None:
        """Run the suffixes that fork here, those of equal length together; `rows` is used up."""
        n_rows = len(suffixes)
        alike = [[b for b in branches if len(b.nodes) == length] for length in sorted({len(b.nodes) for b in branches})]
        for place, together in enumerate(alike):
            own = rows if place == len(alike) - 1 else rows.copy()
            own.take(torch.arange(n_rows).repeat(len(together)))
            states = self._step(own, torch.cat([suffixes[:, list(branch.nodes)] for branch in together]))
            for branch, of_branch in zip(together, torch.split(states, n_rows), strict=True):
                found.update((node, of_branch[:, step]) for step, node in enumerate(branch.nodes) if node in shape.outputs)
            going_on = [number for number, branch in enumerate(together) if branch.branches]
            for number in going_on:
                after = own if number == going_on[-1] else own.copy()
                after.take(torch.arange(n_rows) + number * n_rows)
                self._run_branches(together[number].branches, shape, after, suffixes, found)

    def _step(self, rows: _Rows, ids: Tensor) -> Tensor:
        """Run tokens after those of a cache, which grows; hidden states of shape ``(n_rows, n_tokens, n_taps * hidden_size)``."""
        model = self.text_model
        inputs: dict[str, Any] = {"past_key_values" if model.takes("past_key_values") else "cache_params": rows.cache}
        if model.takes("position_ids"):
            positions = torch.arange(rows.n_tokens, rows.n_tokens + ids.shape[1]) - rows.n_unseen[:, None]
            inputs["position_ids"] = positions.to(model.device)
        attention = attending(ForkedRows(rows.n_unseen.to(model.device))) if self.joins_groups else contextlib.nullcontext()
        with attention:
            states = model.run(ids.to(model.device), lambda x: x, use_cache=True, **inputs)[0]
        rows.n_tokens += ids.shape[1]
        return torch.cat(states, dim=-1)

    @torch.inference_mode()
    def _can_join(self) -> bool:
        """Try whether each attention layer goes through transformers' interface; if not, leave the model's own attention in place."""
        model, before = self.text_model.model, self.text_model.model.config._attn_implementation
        record = LayerRecord()
        cache = copy.deepcopy(self._caches[()])
        try:
            model.set_attn_implementation(NAME)
            with attending(record):
                self._step(_Rows(cache, torch.zeros(1, dtype=torch.long), 0), torch.zeros(1, 2, dtype=torch.long))
            with_keys = {index for index, layer in enumerate(cache.layers) if _keys(layer) is not None}
            if set(record.rules) == with_keys and all(map(_can_join_layer, cache.layers)):
                return True
        except Exception:  # the model runs with its own attention instead
            logger.info("rows of several prefix groups cannot go together", exc_info=True)
        model.set_attn_implementation(before)
        return False


@dataclass(frozen=True)
class _Shape:
    """Describes a suffix trie apart from its tokens: groups of one shape can go together."""

    branches: tuple[_Branch, ...]
    outputs: tuple[int, ...]


@dataclass
class _Rows:
    """Holds a cache of rows.

    Attributes:
        cache: Transformers'.
        n_unseen: How many places of its beginning are padding, shape ``(n_rows,)``.
        n_tokens: Places that it holds, padding included.
    """

    cache: Any
    n_unseen: Tensor
    n_tokens: int

    def copy(self) -> _Rows:
        return _Rows(copy.deepcopy(self.cache), self.n_unseen, self.n_tokens)

    def take(self, rows: Tensor) -> None:
        """Keep these rows, in this order; a row may be taken more than once."""
        if not torch.equal(rows, torch.arange(len(self.n_unseen))):
            self.cache.reorder_cache(rows)
            self.n_unseen = self.n_unseen[rows]


def _join(caches: Sequence[Any], sizes: Sequence[int]) -> Any:
    """Make one cache of copies of each cache's only row, padded on the left to one length."""
    joined = copy.deepcopy(caches[0])
    n_rows = sum(sizes)
    if len(caches) == 1:
        joined.reorder_cache(torch.zeros(n_rows, dtype=torch.long))
        return joined
    for index, layer in enumerate(joined.layers):
        layers = [cache.layers[index] for cache in caches]
        if _keys(layer) is not None:
            layer.keys = _pad_left([of_group.keys for of_group in layers], sizes)
            layer.values = _pad_left([of_group.values for of_group in layers], sizes)
        for name in _STATES:
            for state, tensor in getattr(layer, name, {}).items():
                if tensor is not None:
                    parts = [getattr(of_group, name)[state] for of_group in layers]
                    getattr(layer, name)[state] = torch.cat([part.expand(n, *part.shape[1:]) for part, n in zip(parts, sizes, strict=True)])
    return joined


def _pad_left(tensors: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """Put keys or values of shape ``(1, n_heads, n_tokens, dim)`` below each other, each as often as `sizes` says."""
    _, n_heads, _, dim = tensors[0].shape
    padded = tensors[0].new_zeros(sum(sizes), n_heads, max(tensor.shape[2] for tensor in tensors), dim)
    start = 0
    for tensor, size in zip(tensors, sizes, strict=True):
        padded[start : start + size, :, padded.shape[2] - tensor.shape[2] :] = tensor
        start += size
    return padded


def _keys(layer: Any) -> Tensor | None:
    """Return the keys that a cache's layer holds, if it holds any."""
    keys = getattr(layer, "keys", None)
    return keys if isinstance(keys, Tensor) and keys.numel() else None


def _can_join_layer(layer: Any) -> bool:
    """Tell whether all that a cache's layer holds is known: keys and values of all tokens, and states."""
    if getattr(layer, "is_sliding", False):  # it gives up tokens by their place in the cache
        return False
    tensors = {name for name, value in vars(layer).items() if isinstance(value, Tensor)}
    states = {name for name, value in vars(layer).items() if isinstance(value, dict) and any(isinstance(x, Tensor) for x in value.values())}
    return tensors <= {"keys", "values"} and states <= set(_STATES)


def _branches(group: PrefixGroup) -> tuple[_Branch, ...]:
    """Cut a suffix trie where it forks; tokens of the trie stand after their parents."""
    parents = [max((j for j in range(i) if group.suffix_sees[i, j]), default=-1) for i in range(len(group.suffix_ids))]

    def cut(start: int) -> tuple[_Branch, ...]:
        found = []
        for node in (i for i, before in enumerate(parents) if before == start):
            nodes = [node]
            while parents.count(nodes[-1]) == 1:
                nodes.append(parents.index(nodes[-1]))
            found.append(_Branch(tuple(nodes), cut(nodes[-1])))
        return tuple(found)

    return cut(-1)

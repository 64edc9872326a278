"""Models that carry a state from token to token: a prefix runs once into a cache, and texts and suffixes fork from copies of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from metaeol_udf.encoder.forward.batching import Cell
from metaeol_udf.encoder.generic.text_model import TextModel
from metaeol_udf.prompts.trie import PrefixGroup


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
    """Runs a transformers model over a template set's trie, each cell as rows of equal length after a copy of its prefix's cache.

    See `Runner`.

    Attributes:
        text_model: What it runs.
    """

    name = "fork"
    has_prefixes = True

    def __init__(self, text_model: TextModel, groups: Sequence[PrefixGroup]) -> None:
        """Run the prefixes."""
        self.text_model = text_model
        self._groups: Sequence[PrefixGroup] = ()
        self._branches: list[tuple[_Branch, ...]] = []
        self._caches: dict[tuple[int, ...], Any] = {(): DynamicCache(config=text_model.config)}
        self.n_prefix_tokens = sum(len(group.prefix_ids) for group in groups)
        self.use_groups(groups)

    @torch.inference_mode()
    def use_groups(self, groups: Sequence[PrefixGroup]) -> None:
        """Set the groups that cells speak of: prefixes that are new run, prefixes that are no longer used are given up."""
        self._groups = groups
        self._branches = [_branches(group) for group in groups]
        in_use = {group.prefix_ids for group in groups} | {()}
        self._caches = {ids: cache for ids, cache in self._caches.items() if ids in in_use}
        for group in groups:
            if group.prefix_ids not in self._caches:
                inherited = group.prefix_ids[: group.n_inherited]
                before = inherited if inherited in self._caches else ()
                cache = copy.deepcopy(self._caches[before])
                self._step(torch.tensor([group.prefix_ids[len(before) :]]), cache, len(before))
                self._caches[group.prefix_ids] = cache

    @torch.inference_mode()
    def run(self, batch: Sequence[Cell], text_ids: Sequence[Mapping[int, Sequence[int]]]) -> list[Tensor]:
        """Compute the hidden state of every prompt's last token, as `Runner.run` says."""
        return [self._run_cell(cell, text_ids[cell.group]) for cell in batch]

    def _run_cell(self, cell: Cell, text_ids: Mapping[int, Sequence[int]]) -> Tensor:
        group = self._groups[cell.group]
        ids = torch.tensor([list(text_ids[row]) for row in cell.rows])
        cache = copy.deepcopy(self._caches[group.prefix_ids])
        n_before = len(group.prefix_ids)
        if n_before:
            cache.reorder_cache(torch.zeros(len(ids), dtype=torch.long, device=self.text_model.device))
        found = {-1: self._step(ids, cache, n_before)[:, -1]}
        self._run_branches(self._branches[cell.group], group, cache, n_before + ids.shape[1], len(ids), found)
        return torch.stack([found[node] for node in group.outputs], dim=1).float()

    def _run_branches(
        self, branches: Sequence[_Branch], group: PrefixGroup, cache: Any, n_before: int, n_rows: int, found: dict[int, Tensor]
    ) -> None:
        """Run the suffixes that fork here; the last one takes the cache itself."""
        for place, branch in enumerate(branches):
            own = cache if place == len(branches) - 1 else copy.deepcopy(cache)
            ids = torch.tensor([[group.suffix_ids[node] for node in branch.nodes]] * n_rows)
            states = self._step(ids, own, n_before)
            found.update((node, states[:, step]) for step, node in enumerate(branch.nodes) if node in group.outputs)
            self._run_branches(branch.branches, group, own, n_before + len(branch.nodes), n_rows, found)

    def _step(self, ids: Tensor, cache: Any, n_before: int) -> Tensor:
        """Run tokens after those of a cache, which grows; hidden states of shape ``(n_rows, n_tokens, n_taps * hidden_size)``."""
        model = self.text_model
        inputs: dict[str, Any] = {"past_key_values" if model.takes("past_key_values") else "cache_params": cache}
        if model.takes("position_ids"):
            inputs["position_ids"] = torch.arange(n_before, n_before + ids.shape[1], device=model.device).expand(len(ids), -1)
        return torch.cat(model.run(ids.to(model.device), lambda x: x, use_cache=True, **inputs)[0], dim=-1)


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

"""The slowest exact path, for models that no other one runs exactly: whole prompts through transformers' own forward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from metaeol_udf.encoder.forward.batching import Cell
from metaeol_udf.prompts.trie import PrefixGroup


class WholePass:
    """Runs cells of whole prompts of equal length: no padding, no cache, no mask, so nothing can differ from one at a time.

    See `Runner`. Transformers' own forward is not meant to be called by several threads.

    Attributes:
        layers: Indices into the hidden states of what is read.
    """

    name = "whole"
    n_prefix_tokens = 0
    has_prefixes = False

    def __init__(self, model: Any, layers: Sequence[int]) -> None:
        self._model = model
        self.layers = layers

    def at(self, layers: Sequence[int]) -> WholePass:
        """Make a pass of the same model that reads other layers."""
        return WholePass(self._model, layers)

    def use_groups(self, groups: Sequence[PrefixGroup]) -> None:
        """Do nothing: whole prompts have no prefixes."""

    @torch.inference_mode()
    def run(self, batch: Sequence[Cell], text_ids: Sequence[Mapping[int, Sequence[int]]]) -> list[Tensor]:
        """Compute the hidden state of every prompt's last token, as `Runner.run` says."""
        states = []
        for cell in batch:
            ids = torch.tensor([list(text_ids[cell.group][row]) for row in cell.rows], device=self._model.device)
            outputs = self._model(input_ids=ids, use_cache=False, output_hidden_states=True)
            states.append(torch.cat([outputs.hidden_states[layer][:, -1:] for layer in self.layers], dim=-1).float())
        return states

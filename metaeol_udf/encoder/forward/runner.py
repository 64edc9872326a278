"""What runs batches of cells: one interface for all paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from metaeol_udf.encoder.forward.batching import Cell
from metaeol_udf.prompts.trie import PrefixGroup


class Runner(Protocol):
    """Runs batches of a trie's cells through a model.

    Attributes:
        name: What reports call it.
        n_prefix_tokens: Tokens that the template set's prefixes took.
        has_prefixes: Whether it runs prefixes once and texts after them, and several threads may run batches; else it must be given whole
            prompts by one thread.
    """

    name: str
    n_prefix_tokens: int
    has_prefixes: bool

    def use_groups(self, groups: Sequence[PrefixGroup]) -> None:
        """Set the prefix groups that cells speak of."""

    def run(self, batch: Sequence[Cell], text_ids: Sequence[Mapping[int, Sequence[int]]]) -> list[Tensor]:
        """Compute the hidden state of every prompt's last token.

        Args:
            batch: Cells that go through the model together.
            text_ids: Token ids of each text in each group, indexed ``[group][row]``.

        Returns:
            One float32 tensor a cell, shape ``(n_rows, n_group_templates, n_taps * hidden_size)``, on the model's device.
        """
        ...

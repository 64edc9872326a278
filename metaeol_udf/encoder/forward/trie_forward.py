"""The forward pass over batches of cells: from token ids to the hidden states that templates ask for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metaeol_udf.encoder.forward.attention import Block, Layout, Part, PrefixCache, Rules, Sees, attend, make_blocks, make_layout, rotate
from metaeol_udf.encoder.forward.batching import Cell
from metaeol_udf.encoder.forward.decoder import Decoder, Norm
from metaeol_udf.prompts.trie import PrefixGroup

_MAX_KEPT_TEXT_TOKENS = 96  # layouts of longer texts are large and rarely met again, so they are made anew


@dataclass(frozen=True)
class Batch:
    """Holds cells in one token sequence, as layers take them.

    Attributes:
        blocks: Rows that attention takes together.
        outputs: Places of the outputs in the token sequence, shape ``(n_outputs,)``.
        rotations: Of queries and keys, for each (rotary table, scaling) in use: complex64, shape ``(n_tokens, 1, head_dim / 2)``.
    """

    blocks: tuple[Block, ...]
    outputs: Tensor
    rotations: dict[tuple[int, float], Tensor]


class TokenSequencePass(ABC):
    """Runs cells as one token sequence over a template set's trie. Prefixes go through the model once, when this is made. See `Runner`.

    Attributes:
        taps: Indices into the hidden states of what is read, ascending.
    """

    has_prefixes = True

    def __init__(self, groups: Sequence[PrefixGroup], taps: Sequence[int], rules: Rules, device: torch.device) -> None:
        """Run the prefixes.

        Args:
            groups: The template set's prefix groups.
            taps: See the class.
            rules: What layers let a token see, as `make_layout` takes them.
            device: Where token ids go.
        """
        self.taps = tuple(taps)
        self._rules = rules
        self._device = device
        self._groups: Sequence[PrefixGroup] = ()
        self._prefixes: dict[tuple[int, ...], PrefixCache | None] = {}
        self._layouts: dict[tuple[PrefixGroup, int], Layout] = {}
        self.n_prefix_tokens = sum(len(group.prefix_ids) for group in groups)
        self.use_groups(groups)

    def use_groups(self, groups: Sequence[PrefixGroup]) -> None:
        """Set the groups that cells speak of: prefixes that are new run, prefixes that are no longer used are given up."""
        self._groups = groups
        in_use = {group.prefix_ids for group in groups}
        self._prefixes = {ids: prefix for ids, prefix in self._prefixes.items() if ids in in_use}
        for group in groups:
            if group.prefix_ids not in self._prefixes:
                self._prefixes[group.prefix_ids] = self._run_prefix(group)

    @torch.inference_mode()
    def run(self, batch: Sequence[Cell], text_ids: Sequence[Mapping[int, Sequence[int]]]) -> list[Tensor]:
        """Compute the hidden state of every prompt's last token, as `Runner.run` says."""
        parts, start = [], 0
        ids: list[int] = []
        for cell in batch:
            group = self._groups[cell.group]
            layout = self._layout(group, cell.n_text_tokens)
            parts.append(Part(layout, self._prefixes[group.prefix_ids], len(cell.rows), start, start + cell.n_tokens))
            start += cell.n_tokens
            for row in cell.rows:
                ids += text_ids[cell.group][row]
                ids += group.suffix_ids
        states = self._forward(torch.tensor(ids), parts, None).float()
        sizes = [part.n_rows * len(part.layout.outputs) for part in parts]
        return [state.view(part.n_rows, -1, states.shape[-1]) for part, state in zip(parts, torch.split(states, sizes), strict=True)]

    def _layout(self, group: PrefixGroup, n_text: int) -> Layout:
        layout = self._layouts.get((group, n_text))
        if layout is None:
            layout = make_layout(group, n_text, self._rules, self._device)
            if n_text <= _MAX_KEPT_TEXT_TOKENS and not group.n_inherited:
                self._layouts[group, n_text] = layout
        return layout

    @torch.inference_mode()
    def _run_prefix(self, group: PrefixGroup) -> PrefixCache | None:
        """Compute the keys and values of a prefix, a layer each; what the prefix inherits is not run again."""
        if not group.prefix_ids:
            return None
        inherited, own = group.prefix_ids[: group.n_inherited], group.prefix_ids[group.n_inherited :]
        alone = PrefixGroup(inherited, (0,), (), (), group.suffix_sees[:0, :0], (-1,), (0,))
        part = Part(make_layout(alone, len(own), self._rules, self._device), self._prefixes.get(inherited), 1, 0, len(own))
        kept: list[Tensor] = []
        self._forward(torch.tensor(own), [part], kept)
        return tuple(kept)

    @abstractmethod
    def _forward(self, ids: Tensor, parts: Sequence[Part], kept: list[Tensor] | None) -> Tensor:
        """Compute the hidden states at the outputs of all parts, one after the other, shape ``(n_outputs, n_taps * hidden_size)``.

        Args:
            ids: Token ids of all parts, on the CPU, shape ``(n_tokens,)``.
            parts: The cells, in the order of the token sequence.
            kept: Where to append keys and values of the only part, as `PrefixCache` has them; or None.
        """


class TriePass(TokenSequencePass):
    """Runs a decoder over a template set's trie.

    Attributes:
        decoder: What it runs.
        taps: As in `TokenSequencePass`; the last one is that above the decoder's layers.
    """

    name = "decoder"

    def __init__(self, decoder: Decoder, groups: Sequence[PrefixGroup], taps: Sequence[int] = ()) -> None:
        self.decoder = decoder
        n_shared = decoder.n_heads // decoder.n_kv_heads
        rules: Rules = {window: (n_shared, _within(window)) for window in {layer.window for layer in decoder.layers}}
        super().__init__(groups, taps or (len(decoder.layers),), rules, decoder.token_table.device)

    def _forward(self, ids: Tensor, parts: Sequence[Part], kept: list[Tensor] | None) -> Tensor:
        """Compute hidden states, as `TokenSequencePass` says; kept are keys and values together, shape ``(2, n_kv_heads, n, head_dim)``."""
        decoder = self.decoder
        positions = torch.cat([part.layout.positions.repeat(part.n_rows) for part in parts])
        outputs = torch.cat([part.output_rows() for part in parts])
        x = decoder.embed(ids.to(decoder.token_table.device), positions)
        if not decoder.layers:
            return x[outputs]
        batch = Batch(tuple(make_blocks(parts)), outputs, _rotate_at(positions, decoder))
        tapped = []
        for index in range(len(decoder.layers)):
            if index in self.taps and kept is None:
                tapped.append(x[batch.outputs])  # a copy: the layer may overwrite `x`
            x, batch = self.carry_to_layer(index, x, batch)
            x = self._run_layer(index, x, batch, kept)
        x = x if decoder.final_norm is None else decoder.final_norm(x)
        return torch.cat([*(states.to(x.device) for states in tapped), x], dim=-1) if tapped else x

    def carry_to_layer(self, index: int, x: Tensor, batch: Batch) -> tuple[Tensor, Batch]:
        """Bring a batch to the device of a layer; here all layers stand on one."""
        return x, batch

    def _run_layer(self, index: int, x: Tensor, batch: Batch, kept: list[Tensor] | None) -> Tensor:
        """Run one layer over the token sequence `x`, which the layer may overwrite.

        The last layer makes keys and values of all tokens, and the rest only for the outputs.
        """
        decoder, layer = self.decoder, self.decoder.layers[index]
        dim, is_last = decoder.head_dim, index == len(decoder.layers) - 1
        n_query, n_key = decoder.n_heads * dim, decoder.n_kv_heads * dim
        h = x if layer.attention_norm is None else layer.attention_norm(x)
        of_queries, of_keys = batch.rotations.get((layer.rope, layer.scaling)), batch.rotations.get((layer.rope, 1.0))
        if is_last:
            projected = [layer.qkv.rows(0, n_query)(h[batch.outputs]), layer.qkv.rows(n_query, n_query + 2 * n_key)(h)]
            of_queries, x = None if of_queries is None else of_queries[batch.outputs], x[batch.outputs]
        else:
            projected = [layer.qkv(h)]
        rotate(projected[0][:, :n_query], layer.q_norm, of_queries, layer.scaling, dim)
        rotate(projected[-1][:, -2 * n_key : -n_key], layer.k_norm, of_keys, 1.0, dim)
        attended = [attend(decoder, layer, index, block, projected, of_outputs=is_last, kept=kept) for block in batch.blocks]
        added = layer.attention_out(attended[0] if len(attended) == 1 else torch.cat(attended))
        x = _add(x, added, layer.after_attention_norm)
        added = layer.mlp.out(layer.mlp.inner(x if layer.mlp_norm is None else layer.mlp_norm(x)))
        return _add(x, added, layer.after_mlp_norm)


def _within(window: int | None) -> Sees | None:
    """Say which positions see which in a window: the latest `window` ones, their own included."""
    return None if window is None else lambda queries, keys: queries - keys < window


def _rotate_at(positions: Tensor, decoder: Decoder) -> dict[tuple[int, float], Tensor]:
    used = {(layer.rope, scaling) for layer in decoder.layers for scaling in (1.0, layer.scaling) if decoder.ropes}
    return {(rope, scaling): decoder.ropes[rope][positions][:, None] * scaling for rope, scaling in used}


def _add(residual: Tensor, added: Tensor, norm: Norm | None) -> Tensor:
    """Add what a part of the layer made to the residual stream; overwrite `residual`."""
    return residual.add_(added if norm is None else norm(added))

"""The GPU's forward pass: full batches as one padded packed batch in few shapes, all others cell by cell."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from metaeol_udf.encoder.forward.attention import carry_blocks
from metaeol_udf.encoder.forward.batching import Cell
from metaeol_udf.encoder.forward.decoder import Decoder
from metaeol_udf.encoder.forward.quantization import Float8Linear
from metaeol_udf.encoder.forward.trie_forward import Batch, TriePass
from metaeol_udf.encoder.gpu.cuda_graphs import GraphCache
from metaeol_udf.encoder.gpu.device_copy import to_device
from metaeol_udf.encoder.gpu.device_map import DeviceOf, device_of, find_stages, move
from metaeol_udf.encoder.gpu.flex_attention import LayerCache, flatten_packed_batch, run_layer, run_layers, unflatten_packed_batch
from metaeol_udf.encoder.gpu.packed_batch import (
    BLOCK,
    SlabLayout,
    SuffixOrder,
    lay_out_packed_batch,
    lay_out_slab,
    order_suffixes,
    output_size,
)
from metaeol_udf.encoder.gpu.proof import MIN_COSINE, MIN_FLOAT8_COSINE, explain, worst_cosine
from metaeol_udf.prompts.trie import PrefixGroup

logger = logging.getLogger(__name__)

Cells = Sequence[Cell]
TextIds = Sequence[Mapping[int, Sequence[int]]]
Shape = tuple[int, int, int]  # tokens, tokens of prefixes, outputs: what is compiled anew


class PackedPass(TriePass):
    """Runs full batches as one packed batch, padded to one of a few sizes, so that compiled code and CUDA graphs fit them.

    Prefixes, and batches that fill no size well (the last ones of a chunk, those after running out of memory), run cell by cell.
    The first packed batch of each shape is proved against cells. Where it differs, or cannot be compiled, batches of that shape run cell
    by cell from then on.

    Attributes:
        sizes: Tokens that packed batches are padded to, ascending; without any, all batches run cell by cell.
        stages: The decoder's layers by device.
        graphs: Records passes, where a model is so small that launches cost; else None.
        tokens_before: Tokens that still run cell by cell, so that a short job does not wait for a compiler.
        n_batches: Batches by the path that they took: `graph`, `compiled` or `cells`.
        refused: Why batches of a shape run cell by cell.
        min_cosine: Of a packed batch to its cells, at least, where packed batches of its shape are to be used.
        least_full: Share of a size that a batch must fill; one that fills less runs cell by cell rather than pay for padding.
        worst_proof: Least cosine of a packed batch to its cells that was found.
    """

    def __init__(
        self, decoder: Decoder, groups: Sequence[PrefixGroup], *, layer_function: Callable[..., Tensor] | None = run_layer,
        tokens_before: int = 0, least_full: float = 0.75, where: DeviceOf = device_of, taps: Sequence[int] = (),
    ) -> None:  # fmt: skip
        """Run the prefixes.

        Args:
            decoder: What it runs.
            groups: The template set's prefix groups.
            layer_function: `flex.run_layer`, or that compiled; None where there is no compiler, so that all runs cell by cell.
            tokens_before: See the class.
            least_full: See the class.
            where: Says on which device a layer stands.
            taps: As in `TriePass`; where there are several, all runs cell by cell.
        """
        self.sizes: tuple[int, ...] = ()
        self.stages = find_stages(decoder, where)
        self.tokens_before = tokens_before
        self._layer_function = layer_function
        self.least_full = least_full
        self.graphs: GraphCache | None = None
        self._proved: set[Shape] = set()
        self.refused: dict[Shape, str] = {}
        self.n_batches: Counter[str] = Counter()
        self.worst_proof = 1.0
        is_float8 = any(isinstance(layer.mlp.out, Float8Linear) for layer in decoder.layers)
        self.min_cosine = MIN_FLOAT8_COSINE if is_float8 else MIN_COSINE[decoder.token_table.dtype]
        self._own_groups = tuple(groups)
        self._suffixes: list[SuffixOrder] = []
        self._slabs: dict[SlabLayout, list[LayerCache]] = {}  # that of the template set, and the latest one with more prefixes
        super().__init__(decoder, groups, taps)

    def set_batch_tokens(self, max_batch_tokens: int) -> None:
        """Choose `sizes` for batches of at most so many tokens."""
        wanted = (max_batch_tokens, max_batch_tokens // 4)
        usable = self._layer_function is not None and self.decoder.layers and len(self.taps) == 1
        self.sizes = tuple(sorted({-(-size // BLOCK) * BLOCK for size in wanted if size})) if usable else ()

    def use_groups(self, groups: Sequence[PrefixGroup]) -> None:
        """Set the groups, as `TriePass.use_groups` does."""
        super().use_groups(groups)
        keys = [(group.suffix_ids, group.suffix_depths, group.outputs, id(group.suffix_sees)) for group in groups]
        orders = {key: order_suffixes(group) for key, group in dict(zip(keys, groups, strict=True)).items()}
        self._suffixes = [orders[key] for key in keys]  # texts with a common start keep their group's suffixes

    @torch.inference_mode()
    def run(self, batch: Cells, text_ids: TextIds) -> list[Tensor]:
        """Run a batch, as `TriePass.run` does; the result holds until the next call."""
        n_tokens = sum(cell.n_tokens for cell in batch)
        size = next((size for size in self.sizes if size >= n_tokens), 0)
        self.tokens_before = max(0, self.tokens_before - n_tokens)
        if n_tokens < self.least_full * size or not size or self.tokens_before:
            return self._run_cells(batch, text_ids)
        layout, caches, is_constant = self._slab_for(batch)
        n_outputs = sum(len(cell.rows) * len(self._groups[cell.group].outputs) for cell in batch)
        shape = (size, layout.n_tokens, output_size(n_outputs, size))
        if shape in self.refused:
            return self._run_cells(batch, text_ids)
        try:
            states = self._run_packed(batch, text_ids, size, layout, caches, is_constant)
        except torch.OutOfMemoryError:
            if self.graphs is not None:
                self.graphs.clear()
            raise
        except Exception as error:  # noqa: BLE001 - compilers fail in many ways; what is wrong with a text fails in cells as well
            self._refuse(shape, explain(error))
            return self._run_cells(batch, text_ids)
        return states if shape in self._proved else self._prove(shape, batch, text_ids, states)

    def _run_cells(self, batch: Cells, text_ids: TextIds) -> list[Tensor]:
        self.n_batches["cells"] += 1
        return super().run(batch, text_ids)

    def _prove(self, shape: Shape, batch: Cells, text_ids: TextIds, states: Sequence[Tensor]) -> list[Tensor]:
        expected = super().run(batch, text_ids)
        cosine = min(worst_cosine(ours, cells) for ours, cells in zip(states, expected, strict=True))
        self.worst_proof = min(self.worst_proof, cosine)
        if cosine >= self.min_cosine:
            self._proved.add(shape)
        else:
            self._refuse(shape, f"its cosine to cells is {cosine:.6f}")
        return expected

    def _refuse(self, shape: Shape, why: str) -> None:
        self.refused[shape] = why
        logger.warning("packed batches of %d tokens, %d of prefixes and %d outputs run cell by cell, which is slower: %s", *shape, why)

    def _run_packed(
        self, batch: Cells, text_ids: TextIds, size: int, layout: SlabLayout, caches: Sequence[LayerCache], is_constant: bool
    ) -> list[Tensor]:
        packed = lay_out_packed_batch(batch, self._groups, self._suffixes, layout, text_ids, size)
        n_wanted = len(packed.outputs)

        def forward(flat: Tensor) -> Tensor:
            devices = {stage.device for stage in self.stages}
            packed_batches = {
                device: unflatten_packed_batch(flat.to(device), size, layout.n_tokens, n_wanted, self.decoder) for device in devices
            }
            assert self._layer_function is not None
            return run_layers(self.decoder, self.stages, packed_batches, caches, self._layer_function)

        flat = to_device(flatten_packed_batch(packed), self.decoder.token_table.device)
        # A recording reads the slab that it was made with, so passes over other prefixes than the template set's are not recorded.
        graphs, shape = self.graphs if is_constant else None, (size, n_wanted, layout)
        self.n_batches["graph" if graphs is not None and graphs.replays(shape) else "compiled"] += 1
        states = forward(flat) if graphs is None else graphs.run(shape, flat, forward)
        sizes = [len(batch[index].rows) * len(self._groups[batch[index].group].outputs) for index in packed.cells]
        parts = dict(zip(packed.cells, torch.split(states[: packed.n_outputs], sizes), strict=True))
        return [parts[index].view(len(cell.rows), -1, states.shape[-1]) for index, cell in enumerate(batch)]

    def _slab_for(self, batch: Cells) -> tuple[SlabLayout, list[LayerCache], bool]:
        """Return the prefixes of the template set, and of the batch's groups where they have others; and whether they have none."""
        own = [group for group in self._own_groups if group.prefix_ids in self._prefixes]
        always = lay_out_slab(own)
        layout = lay_out_slab([*own, *(self._groups[index] for index in sorted({cell.group for cell in batch}))])
        if layout not in self._slabs:
            self._slabs = {kept: caches for kept, caches in self._slabs.items() if kept == always}
            self._slabs[layout] = [self._fill_slab(layout, stage.device, index) for stage in self.stages for index in stage.layers]
        return layout, self._slabs[layout], layout == always

    def _fill_slab(self, layout: SlabLayout, device: torch.device, index: int) -> LayerCache:
        shape = (2, 1, self.decoder.n_kv_heads, layout.n_tokens, self.decoder.head_dim)
        slab = torch.zeros(shape, dtype=self.decoder.token_table.dtype, device=device)
        for prefix, start, stop in zip(layout.prefixes, layout.starts, layout.starts[1:], strict=False):
            cache = self._prefixes[prefix]
            if cache is not None:
                slab[:, 0, :, start:stop] = cache[index][:, :, start - stop :]
        return slab[0], slab[1]

    def carry_to_layer(self, index: int, x: Tensor, batch: Batch) -> tuple[Tensor, Batch]:
        """Bring cells to where a layer stands; prefixes are there already, each layer's at the layer."""
        stage = next((stage for stage in self.stages[1:] if stage.layers.start == index), None)
        if stage is None:
            return x, batch
        moved = move(dataclasses.replace(batch, blocks=()), stage.device)
        return x.to(stage.device), dataclasses.replace(moved, blocks=carry_blocks(batch.blocks, stage.device))

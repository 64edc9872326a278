"""Any model whose attention goes through transformers' interface: texts of many lengths as one token sequence, prefixes run once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from metaeol_udf.encoder.forward.attention import Part, make_blocks
from metaeol_udf.encoder.forward.trie_forward import TokenSequencePass
from metaeol_udf.encoder.generic.last_layer import OutputsOnly
from metaeol_udf.encoder.generic.own_attention import NAME, LayerRecord, SequenceBatch, attending, to_prefix_cache
from metaeol_udf.encoder.generic.text_model import TextModel
from metaeol_udf.prompts.trie import PrefixGroup


class SequencePass(TokenSequencePass):
    """Runs a transformers model over a template set's trie, without padding.

    Attributes:
        text_model: What it runs.
    """

    name = "stream"

    @torch.inference_mode()
    def __init__(self, text_model: TextModel, groups: Sequence[PrefixGroup]) -> None:
        """Record what each layer's attention sees, and run the prefixes.

        Raises:
            TypeError: A layer's attention does not go through transformers' interface.
        """
        self.text_model = text_model
        text_model.model.set_attn_implementation(NAME)
        record, last = LayerRecord(), text_model.taps[-1] - 1
        self._outputs_only = OutputsOnly(text_model.layers[last], lambda: last in record.rules) if last >= 0 else None
        try:
            with attending(record):
                self._run(torch.zeros(2, dtype=torch.long), torch.arange(2, device=text_model.device), torch.arange(2))
        finally:
            if self._outputs_only is not None:
                self._outputs_only.find()
        missing = set(range(text_model.taps[-1])) - set(record.rules)
        if missing:
            raise TypeError(f"the attention of layer {min(missing)} does not go through transformers' interface")
        self._keys = record.keys()
        super().__init__(groups, text_model.taps, record.masks(text_model.device), text_model.device)

    def _forward(self, ids: Tensor, parts: Sequence[Part], kept: list[Tensor] | None) -> Tensor:
        positions = torch.cat([part.layout.positions.repeat(part.n_rows) for part in parts])
        outputs = torch.cat([part.output_rows() for part in parts])
        keys_and_values: dict[int, tuple[Tensor, Tensor]] = {}
        self._set_outputs(outputs)
        try:
            with attending(SequenceBatch(make_blocks(parts), self._keys, None if kept is None else keys_and_values)):
                states = self._run(ids, positions, outputs)
        finally:
            self._set_outputs(None)
        if kept is not None:
            kept += to_prefix_cache(keys_and_values)
        return torch.cat([state.to(states[-1].device) for state in states], dim=-1)

    def _set_outputs(self, outputs: Tensor | None) -> None:
        if self._outputs_only is not None:
            self._outputs_only.set_outputs(outputs)

    def _run(self, ids: Tensor, positions: Tensor, outputs: Tensor) -> list[Tensor]:
        model = self.text_model
        rows = ids[None].to(model.device)
        wanted = {"position_ids": positions[None], "logits_to_keep": None}  # a number there would let a model drop tokens on its way
        inputs: dict[str, Any] = {name: value for name, value in wanted.items() if model.takes(name)}
        # A mask of ones keeps transformers from taking positions that go back for the start of another text.
        return model.run(rows, lambda x: x[0, outputs.to(x.device)], attention_mask=torch.ones_like(rows), use_cache=False, **inputs)[0]

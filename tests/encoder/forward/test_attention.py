"""Cells that attention takes together equal cells by themselves, and only those are padded that cost little."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from metaeol_udf import MetaEOLEncoder, TemplateSet
from metaeol_udf.encoder.forward.attention import Block, Part, make_blocks
from metaeol_udf.encoder.forward.trie_forward import TriePass
from metaeol_udf.encoder.preparation import PreparedTexts, prepare_texts
from tests.encoder.oracle import worst_cosine
from tests.encoder.test_exactness import TEXTS


def load(folder: Path, templates: str = "metaeol") -> tuple[MetaEOLEncoder, TriePass]:
    encoder = MetaEOLEncoder.from_pretrained(str(folder), templates=TemplateSet.load(templates), device="cpu", dtype="float32")
    assert isinstance(encoder.engine.runner, TriePass)
    return encoder, encoder.engine.runner


def prepared_of(encoder: MetaEOLEncoder, texts: list[str], max_batch_tokens: int = 100_000) -> PreparedTexts:
    prepared = prepare_texts(texts, encoder.engine.trie, encoder.templates, 512, max_batch_tokens, shares_starts=True)
    encoder.engine.runner.use_groups(prepared.groups)
    return prepared


def blocks_of(encoder: MetaEOLEncoder, runner: TriePass, texts: list[str]) -> list[Block]:
    """The blocks of one batch that holds all texts."""
    prepared = prepared_of(encoder, texts)
    (batch,) = prepared.batches
    parts, start = [], 0
    for cell in batch:
        group = prepared.groups[cell.group]
        parts.append(
            Part(
                runner._layout(group, cell.n_text_tokens), runner._prefixes[group.prefix_ids], len(cell.rows), start, start + cell.n_tokens
            )
        )
        start += cell.n_tokens
    blocks = make_blocks(parts)
    assert [block.start for block in blocks] == [0, *(block.stop for block in blocks[:-1])]
    assert blocks[-1].stop == start
    assert sum(block.n_rows for block in blocks) == sum(part.n_rows for part in parts)
    return blocks


@pytest.mark.long
@pytest.mark.parametrize("templates", ["metaeol", "metaeol-fast", pytest.param("metaeol-separate", marks=pytest.mark.slow)])
@pytest.mark.parametrize("shape", ["llama", "mistral", "qwen3", "gemma2", "gemma3", "gpt2", "opt"])
def test_cells_together_equal_cells_by_themselves(shape: str, templates: str, tiny_model: Callable[..., Path]) -> None:
    encoder, runner = load(tiny_model(shape), templates)
    prepared = prepared_of(encoder, TEXTS)
    (batch,) = prepared.batches
    assert len(batch) > 4
    together = runner.run(batch, prepared.text_ids)
    alone = [runner.run([cell], prepared.text_ids)[0] for cell in batch]
    for ours, expected in zip(together, alone, strict=True):
        assert ours.shape == expected.shape
        assert worst_cosine(ours.flatten(0, 1).numpy(), expected.flatten(0, 1).numpy()) >= 0.99999
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)


def test_lengths_that_are_near_share_a_block_and_others_do_not(tiny_model: Callable[..., Path]) -> None:
    encoder, runner = load(tiny_model("llama"), "metaeol-fast")
    near = ["the people play music " + "by the river " * n for n in (3, 4, 4, 5)]
    (block,) = blocks_of(encoder, runner, near)
    assert block.tokens is not None
    assert len(block.tokens.kept) == block.stop < len(block.tokens.places) == block.n_rows * block.n_tokens
    far = blocks_of(encoder, runner, ["good", "the people play music " * 30])
    assert len(far) == 2
    long = blocks_of(encoder, runner, ["people go and see new work " * 60, "the old guitar is bad today " * 60])
    assert all(len(block.prefixes) == 1 and block.n_tokens > 256 and len(block.query_blocks) > 2 for block in long)


def test_what_pads_is_never_seen(tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, _ = load(tiny_model("llama"))
    texts = ["a good day", "the people play music", "is it new? the river is"]
    expected = encoder.encode(texts)
    empty = torch.Tensor.new_empty

    def poisoned(self: torch.Tensor, *arguments: object, **options: object) -> torch.Tensor:
        return empty(self, *arguments, **options).fill_(torch.nan)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)
    monkeypatch.setattr(torch, "empty_like", lambda x: torch.full_like(x, torch.nan))
    found = encoder.encode(texts)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, expected)

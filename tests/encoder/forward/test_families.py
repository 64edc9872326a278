"""Families that are entries of a table: exact with all settings that they read, and left to another runner with any other one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metaeol_udf import MetaEOLEncoder, TemplateSet
from metaeol_udf.encoder import decoder_pass
from metaeol_udf.encoder.checkpoint.families import FAMILIES, LLAMA
from metaeol_udf.encoder.forward import hf_weights
from metaeol_udf.encoder.forward.decoder import Decoder
from metaeol_udf.encoder.forward.quantization import QuantizedLinear
from metaeol_udf.encoder.forward.trie_forward import TriePass
from metaeol_udf.encoder.gpu.packed_forward import PackedPass
from tests.encoder.gpu.test_packed_batch import both
from tests.encoder.oracle import one_at_a_time, worst_cosine
from tests.tiny_configs import save_any_tiny_model, tiny_config

TEMPLATES = TemplateSet.load("metaeol")
TEXTS = [*("a good day", "x", 'she said "run"', "日本語 text", "<|end|> </s> <s>"), "the river and music " * 30, "word " * 60 + "end"]
LAYERS = (1, 2, -1)
_MIXED = ["sliding_attention", "full_attention"] * 2
_SWITCH = 600  # tokens: longer than all prompts here, shorter than a table of positions
_LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75, "original_max_position_embeddings": _SWITCH,
    "short_factor": [1.0, 1.5, 2.0, 2.5, 3.0, 4.0], "long_factor": [4.0, 8.0, 12.0, 16.0, 20.0, 24.0],
}  # fmt: skip
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10000.0}

#: Settings beside a tiny model's, away from their defaults: windows of 24 tokens are shorter than any prompt.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "olmo2": ("olmo2", {"attention_bias": True}),
    "olmo3": ("olmo3", {"rope_parameters": {"full_attention": _YARN, "sliding_attention": {"rope_type": "default", "rope_theta": 500.0}}}),
    "phi3": ("phi3", {"sliding_window": 24}),
    "phi4-mini": ("phi3", {"rope_parameters": _LONGROPE, "original_max_position_embeddings": _SWITCH}),
}  # fmt: skip
QUICK, SLOW = ("phi4-mini",), ("olmo2", "phi3")  # the first are in `make test-fast`, too
every_case = pytest.mark.parametrize(
    "case",
    [
        *QUICK,
        *(pytest.param(name, marks=pytest.mark.slow if name in SLOW else pytest.mark.long) for name in CASES if name not in QUICK),
    ],
)


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Make, once, the folder of a case's tiny model."""
    made: dict[str, Path] = {}

    def make(case: str) -> Path:
        if case not in made:
            name, settings = CASES[case]
            config = tiny_config(name)
            plain = {**config.to_dict(), **settings}
            config = type(config)(**{key: value for key, value in plain.items() if key not in ("model_type", "transformers_version")})
            made[case] = save_any_tiny_model(config, tmp_path_factory.mktemp(case))
        return made[case]

    return make


def load(folder: Path, **options: Any) -> MetaEOLEncoder:
    settings = {"dtype": "float32", "device": "cpu", "max_tokens": 200, **options}
    return MetaEOLEncoder.from_pretrained(str(folder), templates=TEMPLATES, **settings)


def plain(folder: Path, layer: int = -1, texts: list[str] = TEXTS, **options: Any) -> np.ndarray[Any, Any]:
    return one_at_a_time(folder, [template.prompt for template in TEMPLATES.templates], texts, layer, **options)


def decoder_of(ours: MetaEOLEncoder) -> Decoder:
    assert isinstance(ours.engine.runner, TriePass), ours.engine.reasons
    return ours.engine.runner.decoder


@every_case
def test_every_layer_equals_one_prompt_at_a_time(case: str, folder_of: Callable[[str], Path]) -> None:
    folder = folder_of(case)
    ours = load(folder, layer=LAYERS)
    assert ours.engine.runner.name == "decoder", ours.engine.reasons
    states = ours.encode_layers(TEXTS)
    for place, layer in enumerate(LAYERS):
        assert worst_cosine(states[:, :, place], plain(folder, layer)) >= 0.99999


@every_case
def test_bfloat16_loses_about_what_transformers_loses(case: str, folder_of: Callable[[str], Path]) -> None:
    folder, texts = folder_of(case), TEXTS[:4]
    ours = load(folder, dtype="bfloat16")
    assert ours.engine.runner.name == "decoder", ours.engine.reasons
    wide, own = plain(folder, texts=texts), plain(folder, texts=texts, dtype=torch.bfloat16)
    lost = 1 - worst_cosine(ours.encode(texts, per_template=True), wide)
    assert lost <= 4 * (1 - worst_cosine(own, wide)) + 1e-4


@every_case
def test_in_few_bits_and_over_two_devices_a_family_is_what_it_was(case: str, folder_of: Callable[[str], Path]) -> None:
    folder, texts = folder_of(case), TEXTS[:4]
    narrow = load(folder, quantization="int8")
    assert all(isinstance(layer.qkv, QuantizedLinear) for layer in decoder_of(narrow).layers)
    assert 0.99 <= worst_cosine(narrow.encode(texts, per_template=True), plain(folder, texts=texts)) < 0.9999999
    decoder = decoder_of(narrow)
    late = {id(layer) for layer in decoder.layers[2:]}
    # To torch both are the CPU, so moves are made and change nothing.
    split = PackedPass(decoder, narrow.engine.trie.groups, least_full=0.0, where=lambda x: torch.device("cpu", int(id(x) in late)))
    assert len(split.stages) == 2
    cells, ours = both(narrow, split, texts)
    assert worst_cosine(ours, cells) >= 0.99999


def test_a_prompt_beyond_a_switch_of_rotary_positions_is_not_for_the_decoder(folder_of: Callable[[str], Path]) -> None:
    """Below the switch the table ends there: rotating on as a short prompt does would be wrong without a word."""
    folder = folder_of("phi4-mini")
    (table,) = decoder_of(load(folder, max_tokens=300)).ropes
    assert len(table) > _SWITCH
    assert torch.isfinite(table[:_SWITCH].real).all()
    assert torch.isnan(table[_SWITCH:, :6].real).all()  # 12 of a head's 16 numbers rotate
    texts = ["the river and music " * 170, "short"]
    ours = load(folder, max_tokens=800)
    assert ours.engine.runner.name == "whole"
    assert "rotary positions change with the length" in ours.engine.reasons[0]
    assert worst_cosine(ours.encode(texts, per_template=True), plain(folder, texts=texts)) >= 0.99999


def test_a_setting_that_a_family_does_not_read_sends_the_model_to_the_next_runner(
    folder_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of("olmo3")
    monkeypatch.setitem(FAMILIES, "olmo3", dataclasses.replace(FAMILIES["olmo3"], reads=LLAMA.reads))
    ours = load(folder)
    assert ours.engine.runner.name == "stream"
    assert ours.engine.reasons == ("decoder: this olmo3 sets layer_types, sliding_window, which the decoder does not know",)
    assert worst_cosine(ours.encode(TEXTS, per_template=True), plain(folder)) >= 0.99999


@pytest.mark.parametrize(
    ("case", "wrong"),
    [
        ("olmo3", {"has_windows": False}),
        ("olmo2", {"after_mlp_norm": None}),
    ],
)
def test_a_family_that_is_described_wrongly_is_found_out_and_not_used(
    case: str, wrong: dict[str, Any], folder_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder, name = folder_of(case), CASES[case][0]
    monkeypatch.setitem(FAMILIES, name, FAMILIES[name].but(**wrong))
    ours = load(folder)
    assert ours.engine.runner.name == "stream"
    assert "decoder: its cosine to transformers is" in caplog.text
    assert worst_cosine(ours.encode(TEXTS[:2], per_template=True), plain(folder, texts=TEXTS[:2])) >= 0.99999


def test_projections_that_are_not_what_they_seem_are_not_read(folder_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of a group with a bias, and a linear layer of another kind: reading their weights alone would lose numbers."""
    build = hf_weights.build_decoder

    def alter_bias(model: Any, *arguments: Any) -> Any:
        model.layers[1].mlp.up_proj.bias = torch.nn.Parameter(torch.ones(96))
        return build(model, *arguments)

    monkeypatch.setattr(decoder_pass, "build_decoder", alter_bias)
    ours = load(folder_of("olmo2"))
    assert ours.engine.runner.name == "stream"
    assert ours.engine.reasons == ("decoder: some projections of one input have a bias and others have none",)

"""Another spec of a model that is loaded uses its weights, and its vectors are those of a load of its own."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from metaeol_udf import EmbeddingSpec, MetaEOLEncoder
from metaeol_udf.encoder import loading
from metaeol_udf.encoder.checkpoint.resolve import ResolvedSpec, resolve_local
from metaeol_udf.spec import Passage

TEXTS = ["a good day", "the people play music by the river and the old guitar is great", "word " * 40 + "end", "日本語 text", "a good day"]
#: What an entry of `embeddings` may say otherwise than the first one, with one model.
OTHERS = [
    {"templates": "metaeol-fast"}, {"templates": "metaeol-separate", "layer": 1}, {"layer": (1, 2)}, {"layer": 1, "normalize": True},
    {"layer": 0}, {"truncate_dim": 5}, {"per_template": True}, {"max_tokens": 20},
    {"long_texts": "mean", "passage": Passage(tokens=16, overlap=2)},
]  # fmt: skip


@pytest.fixture
def n_loads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count how often weights are read."""
    loads, load = [0], loading.load_text_model

    def count(*args: object) -> object:
        loads[0] += 1
        return load(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(loading, "load_text_model", count)
    return loads


def resolved(folder: Path, **settings: object) -> ResolvedSpec:
    return resolve_local(EmbeddingSpec(model=str(folder), **{"dtype": "float32", "max_tokens": 64, **settings}))  # type: ignore[arg-type]


def load(spec: ResolvedSpec) -> MetaEOLEncoder:
    return MetaEOLEncoder.from_spec(spec, device="cpu")


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("lfm2", "jamba")]


@pytest.mark.parametrize("model_type", ["llama", "qwen3_moe", *SLOW])  # decoder, stream, fork and whole
def test_vectors_of_another_spec_are_those_of_a_load_of_its_own(
    model_type: str, tiny_model: Callable[..., Path], n_loads: list[int]
) -> None:
    folder = tiny_model(model_type)
    first = load(resolved(folder))
    before = first.encode(TEXTS)
    n_loads[0] = 0
    encoder = first
    for settings in OTHERS:
        other = resolved(folder, **settings)
        shared = encoder.share(other)
        assert shared is not None, settings
        assert n_loads == [0]
        assert shared.engine.runner.name == first.engine.runner.name
        np.testing.assert_allclose(shared.encode(TEXTS), load(other).encode(TEXTS), atol=2e-5, err_msg=str(settings))
        n_loads[0] = 0
        encoder = shared  # the next one comes from the first load, whatever this one reads
    np.testing.assert_array_equal(first.encode(TEXTS), before)


def test_an_encoder_that_shares_weights_is_its_own_again(tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model("llama")
    spec, other = resolved(folder), resolved(folder, templates="metaeol-fast", layer=1)
    first = load(spec)
    shared = first.share(other)
    assert shared is not None
    again = shared.share(spec)
    assert again is not None
    np.testing.assert_array_equal(again.encode(TEXTS), first.encode(TEXTS))


@pytest.mark.slow
@pytest.mark.parametrize("layer", [1, 2, -1])
def test_quantized_and_16_bit_weights_are_shared_too(layer: int, tiny_model: Callable[..., Path]) -> None:
    for settings in ({"quantization": "int8"}, {"dtype": "bfloat16"}):
        folder = tiny_model("llama")
        first, other = load(resolved(folder, **settings)), resolved(folder, templates="metaeol-fast", layer=layer, **settings)
        shared = first.share(other)
        assert shared is not None
        np.testing.assert_allclose(shared.encode(TEXTS), load(other).encode(TEXTS), atol=5e-2, rtol=5e-2)


def test_where_the_loaded_model_is_not_enough_it_must_be_loaded(tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model("llama")
    first = load(resolved(folder, layer=1))
    refused = {
        "a deeper layer": resolved(folder, layer=2),
        "another dtype": resolved(folder, layer=1, dtype="bfloat16"),
        "other weights": resolved(folder, layer=1, quantization="int8"),
        "more positions than there are rotary tables for": resolved(folder, layer=1, max_tokens=600),
        "another model": dataclasses.replace(
            resolved(folder, layer=1), spec=dataclasses.replace(resolved(folder, layer=1).spec, model_hash="0" * 64)
        ),
    }
    assert {why: first.share(spec) for why, spec in refused.items()} == dict.fromkeys(refused)


def test_a_window_that_longer_prompts_reach_must_be_proved_by_a_load(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model("gemma3"), tmp_path / "gemma3")
    config = json.loads((folder / "config.json").read_text())
    window = load(resolved(folder, max_tokens=8)).engine.n_most_tokens + 10
    (folder / "config.json").write_text(json.dumps({**config, "sliding_window": window}))
    first = load(resolved(folder, max_tokens=8))
    assert first.share(resolved(folder, max_tokens=17)) is not None
    assert first.share(resolved(folder, max_tokens=20)) is None


@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_a_runner_that_differs_over_another_trie_is_not_used(
    dtype: str, tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)  # so that `auto` means float32
    folder = tiny_model("llama")
    first = load(resolved(folder, dtype=dtype))
    kept = type(first.engine.runner)._run_prefix  # type: ignore[attr-defined]

    def wrong(self: object, group: object) -> object:
        cache = kept(self, group)
        return None if cache is None else tuple(part * 1.005 for part in cache)  # a cosine of 0.9997: right for 16 bits alone

    monkeypatch.setattr(type(first.engine.runner), "_run_prefix", wrong)
    with torch.inference_mode():
        assert first.share(resolved(folder, templates="metaeol-fast", dtype=dtype)) is None

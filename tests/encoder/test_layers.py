"""Several output layers from one pass: each equals one prompt at a time, and their mean is what a list of layers gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from metaeol_udf import EmbeddingSpec, MetaEOLEncoder, TemplateSet
from metaeol_udf.errors import ConfigError
from metaeol_udf.spec import output_layers
from tests.encoder.oracle import one_at_a_time, worst_cosine

TEXTS = ["a good day", "the people play music by the river", "x", 'she said "run"', "a good day", "word " * 40 + "end"]


def encoder(folder: Path, layer: object, templates: str = "metaeol") -> MetaEOLEncoder:
    return MetaEOLEncoder.from_pretrained(
        str(folder), templates=TemplateSet.load(templates), layer=layer, dtype="float32", device="cpu"  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize("shape", ["llama", "gemma3", "gpt2", "opt", "gpt_neox"])
@pytest.mark.parametrize("layers", [(0, 1, 2, 3, 4), pytest.param((1, 3), marks=pytest.mark.slow), (2, -1)])
def test_layers_of_one_pass_equal_one_prompt_at_a_time(shape: str, layers: tuple[int, ...], tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model(shape)
    prompts = [template.prompt for template in TemplateSet.load("metaeol").templates]
    ours = encoder(folder, layers)
    states = ours.encode_layers(TEXTS)
    assert states.shape == (len(TEXTS), 8, len(layers), ours.engine.hidden_size)
    plain = np.stack([one_at_a_time(folder, prompts, TEXTS, layer) for layer in layers], axis=2)
    assert worst_cosine(states, plain) >= 0.99999
    np.testing.assert_allclose(ours.encode(TEXTS, per_template=True), plain.mean(2), atol=2e-5, rtol=1e-3)
    np.testing.assert_allclose(ours.encode(TEXTS), plain.mean((1, 2)), atol=2e-5, rtol=1e-3)


def test_a_list_of_layers_is_read_from_yaml_and_has_a_fingerprint_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("model: m\nlayer: [-1, 0.5]\n")
    spec = EmbeddingSpec.load(path)
    assert spec.layer == (-1, 0.5)
    assert output_layers(spec.layer, 30) == (15, 30)
    assert len({spec.fingerprint(), EmbeddingSpec(model="m").fingerprint(), EmbeddingSpec(model="m", layer=0.5).fingerprint()}) == 3
    assert hash(spec) == hash(EmbeddingSpec.load(path))


@pytest.mark.parametrize("layer", [[], [True], ["last"], [1.5], {}])
def test_a_list_of_anything_else_is_refused(layer: object) -> None:
    with pytest.raises(ConfigError, match="layer must be an integer index"):
        EmbeddingSpec.from_mapping({"model": "m", "layer": layer})


def test_a_layer_beyond_the_model_is_refused_in_a_list_too() -> None:
    with pytest.raises(ConfigError, match="the model has 4 layers"):
        output_layers((1, 9), 4)

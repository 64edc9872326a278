"""Post-processing read off a model's head: no text is needed, and the directions of frequent words are gone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import transformers
import yaml

from metaeol_udf import MetaEOLEncoder, cli
from metaeol_udf.encoder.vectors.output import PostProcessing
from metaeol_udf.encoder.vectors.postprocess_fit import keep_middle
from metaeol_udf.errors import ConfigError
from tests.encoder.oracle import worst_cosine

TEXTS = ["a good day", "the people play music by the river", "is it new?"]


def middle_of(head: np.ndarray, kept: int) -> np.ndarray:
    """The middle right singular vectors of a matrix, in columns: the published definition, by another routine than ours."""
    right = np.linalg.svd(head.astype(np.float64), full_matrices=False)[2]
    first = (right.shape[0] - kept) // 2
    return right[first : first + kept].T


@pytest.fixture(scope="module")
def head() -> np.ndarray:
    generator = np.random.default_rng(3)
    return generator.normal(size=(300, 12)) * np.linspace(3, 0.1, 12)


def test_the_middle_directions_of_the_head_are_kept_strongest_first(head: np.ndarray) -> None:
    states = np.random.default_rng(4).normal(size=(5, 12)).astype(np.float32)
    ours, theirs = keep_middle(head.T @ head, 6)(states), states @ middle_of(head, 6)
    assert ours.shape == (5, 6)
    assert np.abs(np.abs(ours) - np.abs(theirs)).max() < 1e-4  # a direction's sign is free


def test_without_a_number_the_dimensions_stay_and_the_cosines_are_those_of_the_kept_directions(head: np.ndarray) -> None:
    states = np.random.default_rng(5).normal(size=(5, 12)).astype(np.float32)
    turned_back, directions = keep_middle(head.T @ head)(states), keep_middle(head.T @ head, 11)(states)
    assert turned_back.shape == (5, 12)
    assert np.allclose(turned_back @ turned_back.T, directions @ directions.T, atol=1e-4)


@pytest.mark.parametrize("n_components", [0, 13])
def test_a_number_out_of_range_is_refused(n_components: int, head: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="from 1 to the 12 dimensions"):
        keep_middle(head.T @ head, n_components)


@pytest.mark.parametrize("shape", ["llama", "gpt2"])
def test_the_command_reads_the_head_of_the_model_and_an_encoder_uses_the_file(
    shape: str, with_head: Callable[..., Path], tmp_path: Path
) -> None:
    folder, out = with_head(shape), tmp_path / "head.safetensors"
    conf = tmp_path / "spec.yaml"
    conf.write_text(yaml.safe_dump({"embedding": {"model": str(folder), "dtype": "float32"}, "runtime": {"device": "cpu"}}))
    assert cli.run(["fit", str(conf), "--method", "unembedding", "--components", "8", "--out", str(out)]) == 0
    fitted = MetaEOLEncoder.from_pretrained(folder, dtype="float32", device="cpu", postprocess=str(out), templates="metaeol-fast", layer=1)
    assert fitted.dim == PostProcessing.from_bytes(out.read_bytes()).dim == 8
    unfitted = MetaEOLEncoder.from_pretrained(folder, dtype="float32", device="cpu", templates="metaeol-fast", layer=1)
    weight = transformers.AutoModelForCausalLM.from_pretrained(folder).get_output_embeddings().weight.detach().numpy()
    expected = unfitted.encode(TEXTS) @ middle_of(weight, 8)
    assert worst_cosine(np.abs(fitted.encode(TEXTS)), np.abs(expected).astype(np.float32)) > 0.9999


def test_a_checkpoint_without_a_head_is_refused(
    tiny_model: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conf = tmp_path / "spec.yaml"
    conf.write_text(yaml.safe_dump({"embedding": {"model": str(tiny_model("llama"))}}))
    assert cli.run(["fit", str(conf), "--method", "unembedding", "--out", str(tmp_path / "x.safetensors")]) == 5
    assert "has no language-model head" in capsys.readouterr().err


def test_an_unknown_method_offers_the_nearest(tiny_model: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conf = tmp_path / "spec.yaml"
    conf.write_text(yaml.safe_dump({"embedding": {"model": str(tiny_model("llama"))}}))
    assert cli.run(["fit", str(conf), "--method", "unembeding", "--out", str(tmp_path / "x.safetensors")]) == 2
    assert "did you mean 'unembedding'" in capsys.readouterr().err

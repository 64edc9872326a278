"""Post-processing: what is fitted is what was asked for, it travels in a spec, and it is refused where it does not belong."""

from __future__ import annotations

import base64
import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from metaeol_udf import EmbeddingSpec, MetaEOLEncoder, TemplateSet
from metaeol_udf.encoder.checkpoint.resolve import resolve_local
from metaeol_udf.encoder.vectors.output import PostProcessing, finish_vectors
from metaeol_udf.encoder.vectors.postprocess_fit import Moments, fit_postprocess
from metaeol_udf.errors import ConfigError, InputError

TEXTS = ["a good day", "the people play music by the river", "x", 'she said "run"', "the old guitar is great"]


@pytest.fixture
def vectors() -> NDArray[np.float32]:
    """500 vectors of 12 dimensions with a mean, different spreads and a common direction."""
    random = np.random.default_rng(3)
    mixed = random.normal(size=(500, 12)) * np.linspace(0.2, 3, 12) @ random.normal(size=(12, 12))
    return (mixed + random.normal(size=12) * 5).astype(np.float32)


def fitted(vectors: NDArray[np.float32], method: str, **options: Any) -> NDArray[np.float32]:
    return fit_postprocess(Moments.of(vectors), method, **options)(vectors)


def test_moments_add_up_over_partitions(vectors: NDArray[np.float32]) -> None:
    together = Moments.of(vectors[:7]) + Moments.of(vectors[7:300]) + Moments.of(vectors[300:])
    np.testing.assert_allclose(together.mean, vectors.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(together.covariance, np.cov(vectors.astype(np.float64).T, bias=True), rtol=1e-9, atol=1e-9)
    assert together.n == 500


def test_mean_removal_and_standardisation(vectors: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(fitted(vectors, "mean"), vectors - vectors.mean(0), atol=1e-4)
    standard = fitted(vectors, "standardize")
    np.testing.assert_allclose(standard, (vectors - vectors.mean(0)) / vectors.std(0), atol=1e-3)


def test_top_components_are_gone_and_the_rest_is_untouched(vectors: NDArray[np.float32]) -> None:
    centred = (vectors - vectors.mean(0)).astype(np.float64)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)  # an independent way to the same directions
    expected = centred - centred @ directions[:2].T @ directions[:2]
    np.testing.assert_allclose(fitted(vectors, "remove_top", n_components=2), expected, atol=1e-3)


def test_whitening_makes_all_directions_equally_wide(vectors: NDArray[np.float32]) -> None:
    white = fitted(vectors, "whiten", shrinkage=0.0)
    np.testing.assert_allclose(np.cov(white.T.astype(np.float64), bias=True), np.eye(12), atol=1e-3)
    turned = fitted(vectors, "whiten", shrinkage=1.0)  # no direction is changed in width, up to one factor
    ratio = np.linalg.norm(turned, axis=1) / np.linalg.norm(vectors - vectors.mean(0), axis=1)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)


def test_whitening_keeps_the_widest_directions_first(vectors: NDArray[np.float32]) -> None:
    few, all_of_them = (fitted(vectors, "whiten", shrinkage=0.5, n_components=n) for n in (4, 12))
    np.testing.assert_allclose(few, all_of_them[:, :4], rtol=1e-5, atol=1e-5)  # products of other widths may round otherwise
    spreads = all_of_them.std(0)
    assert (np.diff(spreads) <= 1e-4).all()


def test_whitening_without_a_choice_of_directions_keeps_dimensions_and_cosines(vectors: NDArray[np.float32]) -> None:
    turned_back, turned = (fitted(vectors, "whiten", shrinkage=0.5, n_components=n) for n in (None, 12))
    np.testing.assert_allclose(turned_back @ turned_back.T, turned @ turned.T, atol=1e-3)
    barely = fitted(vectors, "whiten", shrinkage=1.0)
    centred = vectors - vectors.mean(0)
    np.testing.assert_allclose(barely / np.linalg.norm(barely), centred / np.linalg.norm(centred), atol=1e-4)


def test_fewer_texts_than_dimensions_give_finite_vectors() -> None:
    few = np.random.default_rng(0).normal(size=(120, 300)).astype(np.float32)
    assert np.isfinite(fitted(few, "whiten", shrinkage=0.0)).all()


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"method": "magic"}, ConfigError, "one of mean, standardize, remove_top, whiten"),
    ({"method": "whiten", "shrinkage": 1.5}, ConfigError, "from 0 to 1"),
    ({"method": "whiten", "n_components": 13}, ConfigError, "from 1 to the 12"),
    ({"method": "remove_top", "n_components": 12}, ConfigError, "components"),
])  # fmt: skip
def test_settings_out_of_range_are_refused(options: dict[str, Any], error: type[Exception], message: str, vectors: Any) -> None:
    with pytest.raises(error, match=message):
        fit_postprocess(Moments.of(vectors), **options)


def test_too_few_texts_are_refused(vectors: NDArray[np.float32]) -> None:
    with pytest.raises(InputError, match="at least 100"):
        fit_postprocess(Moments.of(vectors[:50]))


def test_a_file_reads_back_what_was_written(vectors: NDArray[np.float32]) -> None:
    for method in ("mean", "standardize", "remove_top", "whiten"):
        post = fit_postprocess(Moments.of(vectors), method, fitted_for={"layer": "3"})
        again = PostProcessing.from_bytes(post.to_bytes())
        np.testing.assert_array_equal(again(vectors), post(vectors))
        assert again.fitted_for == {"layer": "3"}
        assert (again.hidden_size, again.dim) == (12, 12)


@pytest.mark.parametrize("content", [b"", b"\x08", b"not a file at all, but longer than eight bytes"])
def test_a_damaged_file_is_refused(content: bytes) -> None:
    with pytest.raises(ConfigError, match="damaged"):
        PostProcessing.from_bytes(content)


@pytest.mark.parametrize("tensors", [
    {"scale": np.ones(4, np.float32)},
    {"mean": np.ones(4, np.float32), "weights": np.ones(4, np.float32)},
    {"mean": np.ones(4, np.float32), "scale": np.ones(5, np.float32)},
    {"mean": np.full(4, np.nan, np.float32)},
])  # fmt: skip
def test_a_file_of_other_tensors_is_refused(tensors: dict[str, Any], tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "p.safetensors")
    with pytest.raises(ConfigError, match="mean"):
        PostProcessing.from_bytes((tmp_path / "p.safetensors").read_bytes())


def spec_with(folder: Path, path: Path, method: str = "mean", **settings: Any) -> EmbeddingSpec:
    """A spec for a model, with post-processing fitted on noise and written to a path."""
    plain = EmbeddingSpec(model=str(folder), dtype="float32")
    size = MetaEOLEncoder.from_spec(plain, device="cpu").engine.hidden_size
    noise = np.random.default_rng(1).normal(size=(200, size)).astype(np.float32)
    path.write_bytes(fit_postprocess(Moments.of(noise), method, fitted_for=resolve_local(plain).made_with).to_bytes())
    return dataclasses.replace(plain, postprocess=str(path), **settings)


def test_the_encoder_applies_it_to_the_mean_before_it_truncates_and_scales(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    folder, path = tiny_model("llama"), tmp_path / "white.safetensors"
    spec = spec_with(folder, path, "whiten", truncate_dim=5, normalize=True)
    states = MetaEOLEncoder.from_spec(EmbeddingSpec(model=str(folder), dtype="float32"), device="cpu").encode(TEXTS)
    expected = PostProcessing.from_bytes(path.read_bytes())(states)[:, :5]
    ours = MetaEOLEncoder.from_spec(spec, device="cpu")
    assert ours.dim == 5
    np.testing.assert_allclose(ours.encode(TEXTS), expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-4)


def test_a_resolved_spec_carries_it_to_workers_that_cannot_see_the_file(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    folder, path = tiny_model("llama"), tmp_path / "mean.safetensors"
    spec = spec_with(folder, path)
    expected = MetaEOLEncoder.from_spec(spec, device="cpu").encode(TEXTS)
    resolved = resolve_local(spec)
    assert resolved.dim == resolved.hidden_size
    path.unlink()
    travelled = pickle.loads(pickle.dumps(resolved))
    np.testing.assert_array_equal(MetaEOLEncoder.from_spec(travelled, device="cpu").encode(TEXTS), expected)
    assert base64.b64decode(travelled.spec.postprocess_content)[8:9] == b"{"
    assert "postprocess_content" not in repr(resolved)  # a log line shall not hold a matrix


def test_its_content_belongs_to_the_fingerprint_and_its_place_does_not(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_model("llama")
    specs = [spec_with(folder, tmp_path / name, method) for name, method in (("a", "mean"), ("b", "mean"), ("c", "whiten"))]
    first, moved, other = (resolve_local(spec).fingerprint for spec in specs)
    plain = resolve_local(EmbeddingSpec(model=str(folder), dtype="float32")).fingerprint
    assert first == moved
    assert len({first, other, plain}) == 3


@pytest.mark.parametrize(("change", "message"), [
    ({"layer": 1}, r"another embedding.layer \(4\): leave embedding.layer to embedding.spec"),
    ({"templates": "prompteol"}, "another embedding.templates"),
    ({"truncate_dim": 4000}, "post-processing gives"),
])  # fmt: skip
def test_what_was_fitted_on_other_vectors_is_refused(
    change: dict[str, Any], message: str, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    spec = spec_with(tiny_model("llama"), tmp_path / "p")
    with pytest.raises(ConfigError, match=message):
        resolve_local(dataclasses.replace(spec, **change))
    with pytest.raises(ConfigError, match=message):
        MetaEOLEncoder.from_spec(dataclasses.replace(spec, **change), device="cpu")


def test_what_was_fitted_on_another_size_of_model_is_refused(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(PostProcessing(np.zeros(7, np.float32)).to_bytes())
    with pytest.raises(ConfigError, match="fitted on vectors of length 7"):
        resolve_local(EmbeddingSpec(model=str(tiny_model("llama")), postprocess=str(tmp_path / "p")))


def test_other_weights_are_a_warning(tiny_model: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = spec_with(tiny_model("llama"), tmp_path / "p")
    post = PostProcessing.from_bytes((tmp_path / "p").read_bytes())
    assert post.fitted_for is not None
    (tmp_path / "p").write_bytes(dataclasses.replace(post, fitted_for={**post.fitted_for, "model_hash": "other"}).to_bytes())
    resolve_local(spec)
    assert "fitted on other model files" in caplog.text


def test_a_missing_file_says_which_command_makes_it(tiny_model: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="metaeol fit"):
        resolve_local(EmbeddingSpec(model=str(tiny_model("llama")), postprocess="nowhere.safetensors"))


def test_a_spec_file_finds_it_beside_itself_and_a_job_names_the_spec_file(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("model: m\nlayer: 3\npostprocess: my.safetensors\n")
    spec = EmbeddingSpec.load(tmp_path / "my.yaml")
    assert spec.postprocess == str(tmp_path / "my.safetensors")
    job = EmbeddingSpec.from_mapping({"spec": str(tmp_path / "my.yaml"), "layer": 2, "column": "v"})
    assert job == dataclasses.replace(spec, layer=2)


@pytest.mark.parametrize(("settings", "message"), [
    ({"values": "int4"}, "float32, int8, binary"),
    ({"values": "int8", "normalize": True}, "cannot hold"),
    ({"postprocess": "p", "per_template": True}, "per_template"),
    ({"postprocess": 3}, "path of a safetensors file"),
])  # fmt: skip
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EmbeddingSpec.from_mapping({"model": "m", **settings})


def test_int8_and_binary_values(vectors: NDArray[np.float32]) -> None:
    vectors = np.concatenate([vectors, np.zeros((1, 12), np.float32)])
    whole = finish_vectors(vectors, EmbeddingSpec(model="m", values="int8"))
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(whole, np.rint(whole))
    np.testing.assert_array_equal(np.abs(whole[:-1]).max(1), 127)
    cosines = (whole[:-1] * vectors[:-1]).sum(1) / np.linalg.norm(whole[:-1], axis=1) / np.linalg.norm(vectors[:-1], axis=1)
    assert cosines.min() > 0.9999
    assert not whole[-1].any()
    binary = finish_vectors(vectors, EmbeddingSpec(model="m", values="binary"))
    np.testing.assert_array_equal(binary, np.where(vectors < 0, -1, 1))


@pytest.mark.parametrize("settings", [{"values": "float32"}, {"values": "int8"}, {"values": "binary"}, {"normalize": True}])
def test_a_vector_that_is_not_finite_stays_so_that_it_is_seen(settings: dict[str, Any]) -> None:
    states = np.array([[1.0, np.nan, 2.0], [1.0, np.inf, 2.0], [1.0, 2.0, 3.0]], np.float32)
    with np.errstate(invalid="ignore"):
        finished = finish_vectors(states, EmbeddingSpec(model="m", **settings))
    assert np.isfinite(finished).all(1).tolist() == [False, False, True]


def test_templates_are_still_averaged_before(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_model("llama")
    ours = MetaEOLEncoder.from_spec(spec_with(folder, tmp_path / "p", "remove_top"), device="cpu")
    post = PostProcessing.from_bytes((tmp_path / "p").read_bytes())
    np.testing.assert_allclose(ours.encode(TEXTS), post(ours.encode(TEXTS, per_template=True).mean(1)), atol=1e-4)
    assert TemplateSet.load("metaeol").digest() == (post.fitted_for or {})["templates"]

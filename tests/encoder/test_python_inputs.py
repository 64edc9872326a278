"""What Python users hand over: one string, any iterable of strings, and what is neither, which is refused with its position."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from metaeol_udf import EmbeddingSpec, MetaEOLEncoder, TemplateSet
from metaeol_udf.errors import ConfigError, InputError
from tests.encoder.test_exactness import TEXTS


@pytest.fixture(scope="module")
def ours(tiny_model_dir: Path) -> MetaEOLEncoder:
    return MetaEOLEncoder.from_pretrained(tiny_model_dir, dtype="float32", device="cpu")


def test_a_string_is_one_text(ours: MetaEOLEncoder) -> None:
    one = ours.encode("hello")
    assert one.shape == (ours.dim,)
    np.testing.assert_allclose(one, ours.encode(["hello"])[0], atol=1e-6)
    assert ours.encode("hello", per_template=True).shape == (8, 32)
    assert ours.encode("").shape == (ours.dim,)
    assert ours.encode([]).shape == (0, ours.dim)


@pytest.mark.parametrize(
    "make",
    [tuple, iter, lambda texts: (text for text in texts), np.array, pd.Series, lambda texts: np.array(texts, dtype=object)],
    ids=["tuple", "iterator", "generator", "array", "series", "objects"],
)
def test_any_iterable_of_strings_is_a_list_of_texts(make: Callable[[list[str]], Any], ours: MetaEOLEncoder) -> None:
    texts = ["a text", "another one", "a text"]
    np.testing.assert_allclose(ours.encode(make(texts)), ours.encode(texts), atol=1e-6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a", None], "text 1 is missing, and must be a string"),
        (["a", float("nan")], "text 1 is missing"),
        (pd.Series(["a", pd.NA]), "text 1 is missing"),
        (["a", "b", 3], "text 2 is of type int"),
        (iter(["a", 1.5]), "text 1 is of type float"),
        ([["a"]], "text 0 is of type list"),
        ([b"a"], "text 0 is of type bytes"),
        (b"abc", "found one bytes"),
        ({"a": "b"}, "found one dict"),
        (None, "found one NoneType"),
        (7, "found one int"),
        (np.array("a text"), "found one ndarray"),
        (pd.DataFrame({"text": ["a"]}), r"found a DataFrame: choose a column of it, df\['text'\]"),
    ],
)
def test_what_is_no_list_of_strings_is_refused_with_its_position(given: Any, message: str, ours: MetaEOLEncoder) -> None:
    for encode in (ours.encode, ours.encode_layers, ours.encode_query, ours.encode_document):
        with pytest.raises(InputError, match=message):
            encode(iter(["a", 1.5]) if message.endswith("float") else given)


def test_rows_may_be_missing_and_a_string_is_no_column(ours: MetaEOLEncoder) -> None:
    rows = ours.encode_rows(pd.Series(["a", None, float("nan"), pd.NA, " "], dtype=object))
    assert rows.errors == [None, "null_text", "null_text", "null_text", "empty_text"]
    with pytest.raises(InputError, match="found one str"):
        ours.encode_rows("hello")
    with pytest.raises(InputError, match="text 1 is of type int"):
        ours.encode_rows(["a", 1])  # type: ignore[list-item]


def test_options_mean_what_they_mean_in_sentence_transformers(ours: MetaEOLEncoder, capsys: pytest.CaptureFixture[str]) -> None:
    plain = ours.encode(TEXTS[:4])
    np.testing.assert_allclose(np.linalg.norm(ours.encode(TEXTS[:4], normalize_embeddings=True), axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(ours.encode(TEXTS[:4], truncate_dim=8), plain[:, :8])
    short = ours.encode(TEXTS[:4], truncate_dim=8, normalize_embeddings=True)
    np.testing.assert_allclose(short, plain[:, :8] / np.linalg.norm(plain[:, :8], axis=1, keepdims=True), atol=1e-5)
    tensor = ours.encode(TEXTS[:4], convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(tensor.numpy(), plain)
    with pytest.warns(UserWarning, match="batch_size has no effect.*max_batch_tokens"):
        np.testing.assert_allclose(ours.encode(TEXTS[:4], batch_size=2), plain, atol=1e-6)
    np.testing.assert_allclose(ours.encode(TEXTS[:4], show_progress_bar=True), plain, atol=1e-6)
    assert "4/4" in capsys.readouterr().err
    np.testing.assert_allclose(ours.encode_query(TEXTS[0]), plain[0], atol=1e-6)
    np.testing.assert_allclose(np.diag(ours.similarity(plain, plain)), 1, atol=1e-5)
    assert ours.similarity(plain[0], plain).shape == (1, 4)
    assert ours.get_sentence_embedding_dimension() == ours.get_embedding_dimension() == ours.dim == plain.shape[1]
    assert (ours.max_seq_length, ours.device) == (512, torch.device("cpu"))


def test_a_vector_that_the_spec_scales_is_scaled_after_it_is_cut(tiny_model_dir: Path) -> None:
    unit = MetaEOLEncoder.from_pretrained(str(tiny_model_dir), dtype="float32", device="cpu", normalize=True, truncate_dim=16)
    assert unit.dim == 16
    np.testing.assert_allclose(np.linalg.norm(unit.encode(TEXTS[:3], truncate_dim=4), axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_template": True, "truncate_dim": 3}, "per_template gives hidden states"),
        ({"truncate_dim": 0}, "truncate_dim must be an integer from 1 to 32, found 0"),
        ({"truncate_dim": 33}, "truncate_dim must be an integer from 1 to 32, found 33"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], message: str, ours: MetaEOLEncoder) -> None:
    with pytest.raises(InputError, match=message):
        ours.encode(["a"], **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_name": "query"}, "has no option 'prompt_name': the template set is the prompt"),
        ({"precision": "int8"}, "has no option 'precision': give values= to the spec"),
        ({"output_value": "token_embeddings"}, "has no option 'output_value': a text has one vector"),
        ({"convert_to_numpy": False}, "has no option 'convert_to_numpy': an array comes by itself"),
        ({"device": "cpu"}, "has no option 'device': a model stays where it was loaded"),
        ({"colour": 1}, r"has no option 'colour'$"),
    ],
)
def test_options_of_sentence_transformers_that_are_not_here_say_what_to_do(
    options: dict[str, Any], message: str, ours: MetaEOLEncoder
) -> None:
    with pytest.raises(TypeError, match=message):
        ours.encode(["a"], **options)
    assert ours.encode(["a"], convert_to_numpy=True).shape == (1, ours.dim)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"templates": None}, "must be a TemplateSet, the name of a built-in set or the path of a file, found NoneType"),
        ({"layer": "28"}, "embedding.layer must be an integer index .*, found '28'"),
        ({"device": "gpu"}, "runtime.device must be auto, cpu, cuda or cuda:N, found 'gpu'; did you mean 'cuda'"),
        ({"device": "cuda:first"}, "runtime.device must be auto, cpu, cuda or cuda:N, found 'cuda:first'"),
    ],
)
def test_wrong_settings_of_a_load_are_named(options: dict[str, Any], message: str, tiny_model_dir: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        MetaEOLEncoder.from_pretrained(tiny_model_dir, **{"device": "cpu", **options})


def test_vectors_of_two_lengths_are_not_compared(ours: MetaEOLEncoder) -> None:
    with pytest.raises(InputError, match="vectors of 3 and of 32 numbers cannot be compared"):
        ours.similarity(np.zeros((2, 3)), ours.encode(["a"]))


def test_templates_and_specs_come_as_a_name_a_path_a_mapping_or_an_object(
    tiny_model_dir: Path, tmp_path: Path, ours: MetaEOLEncoder
) -> None:
    mapping = {"model": str(tiny_model_dir), "dtype": "float32"}
    file = tmp_path / "spec.yaml"
    file.write_text(yaml.safe_dump(mapping))
    expected = ours.encode("a text")
    for spec in (mapping, file, str(file), EmbeddingSpec.from_mapping(mapping)):
        np.testing.assert_allclose(MetaEOLEncoder.from_spec(spec, device="cpu").encode("a text"), expected, atol=1e-6)
    for templates in ("metaeol", TemplateSet.load("metaeol")):
        loaded = MetaEOLEncoder.from_pretrained(str(tiny_model_dir), templates=templates, dtype="float32", device="cpu")
        np.testing.assert_allclose(loaded.encode("a text"), expected, atol=1e-6)
    with pytest.raises(ConfigError, match=r"a spec must be an EmbeddingSpec, a mapping of its settings or the path of a file, found int"):
        MetaEOLEncoder.from_spec(3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no built-in set and no file 'metaeal'; did you mean"):
        MetaEOLEncoder.from_pretrained(str(tiny_model_dir), templates="metaeal")


def test_an_encoder_says_what_it_is_and_is_not_pickled(ours: MetaEOLEncoder) -> None:
    assert repr(ours).startswith("MetaEOLEncoder('")
    assert "templates='metaeol', layer=-1, dim=32, float32 on cpu)" in repr(ours)
    with pytest.raises(TypeError, match="made where it runs and cannot be pickled: send its `spec`"):
        pickle.dumps(ours)

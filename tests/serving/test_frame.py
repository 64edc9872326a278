"""Vectors for a column of a pandas frame; those of Polars are in `tests/integrations/test_polars.py`."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from metaeol_udf import EmbeddingSpec, MetaEOLEncoder, embed_frame
from metaeol_udf.errors import InputError

TEXTS = ["A man is playing a guitar.", None, "  ", "The bank raised its rates.", float("nan")]


@pytest.fixture(scope="module")
def encoder(tiny_model_dir: Path) -> MetaEOLEncoder:
    return MetaEOLEncoder.from_spec(EmbeddingSpec(model=str(tiny_model_dir), dtype="float32"), device="cpu")


def test_rows_get_the_encoders_vectors_or_the_reason_why_there_is_none(encoder: MetaEOLEncoder) -> None:
    frame = pd.DataFrame({"body": TEXTS}, index=list("edcba"))
    made = embed_frame(frame, encoder, text="body", output="v")
    assert list(frame.columns) == ["body"]
    assert list(made.columns) == ["body", "v", "v_error"]
    assert list(made.index) == list("edcba")
    assert list(made["v_error"]) == [None, "null_text", "empty_text", None, "null_text"]
    assert [vector is None for vector in made["v"]] == [False, True, True, False, True]
    found = np.stack([made["v"].iloc[0], made["v"].iloc[3]])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, encoder.encode([TEXTS[0], TEXTS[3]]), atol=2e-5)


def test_a_mapping_and_a_file_of_a_spec_give_the_same(encoder: MetaEOLEncoder, tiny_model_dir: Path, tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": [TEXTS[0]]})
    settings = {"model": str(tiny_model_dir), "dtype": "float32"}
    file = tmp_path / "spec.yaml"
    file.write_text(f"model: {tiny_model_dir}\ndtype: float32\n")
    expected = encoder.encode([TEXTS[0]])[0]
    for spec in (settings, file):
        np.testing.assert_allclose(embed_frame(frame, spec, device="cpu")["embedding"].iloc[0], expected, atol=2e-5)


def test_an_empty_frame_gets_empty_columns(encoder: MetaEOLEncoder) -> None:
    made = embed_frame(pd.DataFrame({"text": pd.Series([], dtype=object)}), encoder)
    assert (len(made), list(made.columns)) == (0, ["text", "embedding", "embedding_error"])


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pd.DataFrame({"texts": ["a"]}), "no column 'text'; did you mean 'texts'"),
        (pd.DataFrame({"text": ["a", 7]}), "row 1 is of type int"),
        (pd.DataFrame({"text": ["a"], "embedding_error": [1]}), "has a column 'embedding_error' already"),
        (pd.DataFrame([["a", "b"]], columns=["text", "text"]), "has 2 columns 'text'"),
        (["a"], "found a list of builtins"),
        (SimpleNamespace(), "found a SimpleNamespace of types"),
        (pd.Series(["a"]), "found a Series of pandas"),
    ],
)
def test_a_frame_that_is_none_or_does_not_fit_is_refused(frame: Any, message: str, encoder: MetaEOLEncoder) -> None:
    with pytest.raises(InputError, match=message):
        embed_frame(frame, encoder)

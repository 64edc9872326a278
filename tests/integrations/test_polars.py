"""A frame of Polars gets what one of pandas gets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from metaeol_udf import EmbeddingSpec, MetaEOLEncoder, embed_frame
from metaeol_udf.errors import InputError

polars = pytest.importorskip("polars", reason="polars is not installed")


def test_a_polars_frame_gets_what_a_pandas_frame_gets(tiny_model_dir: Path) -> None:
    encoder = MetaEOLEncoder.from_spec(EmbeddingSpec(model=str(tiny_model_dir), dtype="float32"), device="cpu")
    texts = ["A man is playing a guitar.", None, " ", "The bank raised its rates."]
    made = embed_frame(polars.DataFrame({"text": texts}), encoder)
    assert made.schema["embedding"] == polars.List(polars.Float32)
    assert made["embedding_error"].to_list() == [None, "null_text", "empty_text", None]
    expected = embed_frame(pd.DataFrame({"text": texts}), encoder)["embedding"]
    found = made["embedding"].to_list()
    assert [vector is None for vector in found] == [False, True, True, False]
    np.testing.assert_allclose([found[0], found[3]], [expected[0], expected[3]], atol=2e-5)


def test_a_frame_without_rows_and_one_that_is_lazy(tiny_model_dir: Path) -> None:
    encoder = MetaEOLEncoder.from_spec(EmbeddingSpec(model=str(tiny_model_dir), dtype="float32"), device="cpu")
    empty = polars.DataFrame({"text": []}, schema={"text": polars.String})
    made = embed_frame(empty, encoder)
    assert (made.height, made.columns) == (0, ["text", "embedding", "embedding_error"])
    with pytest.raises(InputError, match="collect it first"):
        embed_frame(empty.lazy(), encoder)

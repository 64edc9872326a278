"""Ten thousand texts that nobody would think of through the engine, two hundred through Spark."""

from __future__ import annotations

import numpy as np
from bench import Bench
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metaeol_udf import MetaEOLEncoder

N_CORE, N_LIST, N_SPARK = 10_000, 100, 200

words = st.sampled_from(
    ["the", "river", "{text}", "<|im_end|>", '"', "'", "\n", "\x00", "\u202e", "e\u0301", "\U0001f469\u200d", "ಕ", "  ", "\ufffd"]
)
texts = st.one_of(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), st.lists(words, max_size=12).map(" ".join))


def _settings(n: int) -> settings:
    return settings(max_examples=n, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def test_any_text_has_one_output_and_equal_texts_have_equal_vectors(encoder: MetaEOLEncoder) -> None:
    seen = 0

    @_settings(N_CORE // N_LIST)
    @given(st.lists(texts, min_size=N_LIST, max_size=N_LIST))
    def check(batch: list[str]) -> None:
        nonlocal seen
        seen += len(batch)
        found = encoder.encode_rows(batch)
        assert found.vectors.shape == (len(batch), encoder.dim)
        assert np.isfinite(found.vectors).all()
        assert set(found.errors) <= {None, "empty_text"}
        assert all(vector.any() == (error is None) for vector, error in zip(found.vectors, found.errors, strict=True))
        again = encoder.encode_rows(batch[::-1])
        np.testing.assert_allclose(again.vectors[::-1], found.vectors, atol=2e-5)
        first = {text: n for n, text in reversed(list(enumerate(batch)))}
        np.testing.assert_array_equal(found.vectors, found.vectors[[first[text] for text in batch]])

    check()
    assert seen >= N_CORE


def test_any_text_comes_through_spark_as_through_the_engine(bench: Bench) -> None:
    batches: list[list[str]] = []

    @_settings(20)
    @given(st.lists(texts, min_size=N_SPARK, max_size=N_SPARK, unique=True))
    def keep(batch: list[str]) -> None:
        batches.append(batch)

    keep()
    kept = dict(enumerate(max(batches, key=lambda batch: sum(map(len, batch)))))
    bench.write(list(kept.items()))
    report = bench.run()
    assert report["rows_embedded"] + report["rows_failed"] == N_SPARK
    bench.check_all_right(dict(kept))

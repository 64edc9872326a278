"""A table's long texts as the mean of their passages: the job, a stream's run and a search take the encoder's own vectors."""

from __future__ import annotations

import numpy as np
from pyspark.sql import SparkSession

from metaeol_udf import MetaEOLEncoder
from metaeol_udf.search import search_table
from tests.table_bench import Bench

MEAN = {"max_tokens": 24, "long_texts": "mean", "passage": {"tokens": 16, "overlap": 4}}
LONG = "The lamp is broken. It arrived so. The box was open, and nobody signed for it. What can be done? " * 4


def test_a_long_text_has_the_vector_of_the_encoder_and_is_found_by_its_whole(spark: SparkSession, bench: Bench) -> None:
    texts = [LONG + "The guitar plays a song.", LONG + "Send a new one.", "a short text"]
    bench.write(list(enumerate(texts)))
    report = bench.run(embedding=MEAN)
    assert (report["rows_embedded"], report["rows_trimmed"]) == (3, 0)
    config = bench.config(embedding=MEAN)
    expected = MetaEOLEncoder.from_spec(config.embedding, device="cpu").encode(texts)
    stored = np.array([bench.rows()[number]["embedding"] for number in range(3)], np.float32)
    np.testing.assert_allclose(stored, expected, atol=2e-5)
    assert np.abs(stored[0] - stored[1]).max() > 1e-4  # which differ after max_tokens alone
    (hits,) = search_table(config, texts[1], k=2, spark=spark)
    assert hits[0].key == {"id": 1}
    assert abs(hits[0].score - 1) < 1e-5
    assert bench.run(embedding=MEAN)["status"] == "nothing_to_do"

"""Faults 1 to 6: what stands in a text."""

from __future__ import annotations

import numpy as np
from bench import Bench
from pyspark.sql import functions as F


def test_fault_01_a_null_text_has_its_error_and_the_job_goes_on(bench: Bench) -> None:
    bench.write([(1, None), (2, "fine")])
    report = bench.run()
    assert (report["rows_embedded"], report["rows_failed"]) == (1, 1)
    assert bench.rows()[1]["embedding_error"] == "null_text"
    bench.check_all_right()


def test_fault_02_an_empty_or_blank_text_has_its_error(bench: Bench) -> None:
    bench.write([(1, ""), (2, " \t\n"), (3, "\u00a0\u2003"), (4, "fine")])
    bench.run()
    assert {row["embedding_error"] for key, row in bench.rows().items() if key < 4} == {"empty_text"}
    bench.check_all_right()


def test_fault_03_invalid_utf8_is_repaired_and_embedded(bench: Bench) -> None:
    bench.write([(1, "fine")])
    broken = bench.spark.range(2, 3).select("id", F.unhex(F.lit("61FFFE62")).cast("string").alias("text"))
    broken.write.format("delta").mode("append").save(bench.path)
    report = bench.run()
    assert (report["rows_embedded"], report["rows_failed"]) == (2, 0)
    found = np.array(bench.rows()[2]["embedding"], np.float32)
    np.testing.assert_allclose(found, bench.encoder.encode(["a\ufffd\ufffdb"])[0], atol=2e-5)
    assert bench.run()["status"] == "nothing_to_do"


def test_fault_04_control_bidi_joiner_and_combining_characters_are_embedded_alike_every_time(bench: Bench) -> None:
    texts = ["a\x00b\x1b[31m", "\u202eabc\u202c", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\u0301\u0308", "\ufeffx\u200b"]
    bench.write([(n, text) for n, text in enumerate(texts)])
    bench.run()
    bench.check_all_right(dict(enumerate(texts)))
    first = {key: row["embedding"] for key, row in bench.rows().items()}
    bench.run(target={"table": str(bench.folder / "again")}, embedding={"column": "embedding"})
    for key, row in bench.rows("again").items():
        np.testing.assert_allclose(row["embedding"], first[key], atol=2e-5)


def test_fault_05_a_text_of_ten_megabytes_is_trimmed_and_the_prompt_is_whole(bench: Bench) -> None:
    start = "the river rose by two metres " * 40
    bench.write([(1, start + "x" * 10_000_000), (2, start + "and another end"), (3, "short")])
    report = bench.run()
    assert (report["rows_embedded"], report["rows_trimmed"]) == (3, 2)
    rows = bench.rows()
    # The same leading tokens are kept, and the prompt after them: a cut prompt would have no part in the vector.
    np.testing.assert_allclose(rows[1]["embedding"], rows[2]["embedding"], atol=2e-5)
    assert not np.allclose(rows[1]["embedding"], rows[3]["embedding"], atol=1e-3)


def test_fault_06_braces_quotes_and_special_tokens_are_text(bench: Bench) -> None:
    texts = ["{text} {} {0} %s ${x}", "\"quoted\" 'twice' `thrice`", "<|im_end|><s></s><|endoftext|>", "ends with a brace {"]
    bench.write([(n, text) for n, text in enumerate(texts)])
    assert bench.run()["rows_failed"] == 0
    bench.check_all_right(dict(enumerate(texts)))
    assert len({tuple(row["embedding"]) for row in bench.rows().values()}) == len(texts)

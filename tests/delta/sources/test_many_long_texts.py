"""A thousand real long texts in passages: an edit of ten and a deletion of five cost the passages that they change."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from delta import DeltaTable
from pyspark.sql import Row

from metaeol_udf import MetaEOLEncoder
from tests.corpus import corpus_texts
from tests.table_bench import Bench

N_TEXTS, EDITED, DELETED = 1_000, range(0, 1_000, 100), range(7, 507, 100)


@pytest.fixture(scope="module")
def texts() -> dict[int, str]:
    found = dict.fromkeys(text for text in corpus_texts() if 1_500 < len(text) < 4_000)
    return dict(enumerate(list(found)[:N_TEXTS]))


@pytest.mark.slow
@pytest.mark.parametrize("overlap", [0, 16])
def test_an_edit_of_ten_of_a_thousand_long_texts_computes_the_passages_that_it_changes(
    bench: Bench, texts: dict[int, str], overlap: int
) -> None:
    assert len(texts) == N_TEXTS
    split = {"max_tokens": 256, "long_texts": "passages", "passage": {"tokens": 128, "overlap": overlap}}
    settings: dict[str, Any] = {"embedding": split, "target": {"table": str(bench.folder / "parts")}}
    bench.write(list(texts.items()))
    first = bench.run(**settings)
    before = passages(bench, texts)
    assert first["unique_texts"] == len(set(before)) > 3 * N_TEXTS

    now = {n: edited(text) if n in EDITED else text for n, text in texts.items() if n not in DELETED}
    changes = bench.spark.createDataFrame([(n, now[n]) for n in EDITED], "id long, text string")
    table = DeltaTable.forPath(bench.spark, bench.path)
    table.alias("t").merge(changes.alias("c"), "t.id = c.id").whenMatchedUpdate(set={"text": "c.text"}).execute()
    table.delete(f"id IN ({', '.join(map(str, DELETED))})")
    report = bench.run(**settings)
    after = passages(bench, now)
    new = set(after) - set(before)
    assert report["unique_texts"] == len(new)
    # An overlap carries an edit to the end of its text; without one a passage soon begins where one began before.
    assert len(new) <= (3 if overlap == 0 else 10) * len(EDITED)
    assert report["rows_failed"] == 0
    encoder = MetaEOLEncoder.from_spec(bench.config(**settings).embedding.of_one_passage(), device="cpu")
    looked_at = [*sorted(new), *sorted(after)[:: len(after) // 100]]
    np.testing.assert_allclose([after[text]["embedding"] for text in looked_at], encoder.encode(looked_at), atol=2e-5)
    assert bench.run(**settings)["status"] == "nothing_to_do"


def edited(text: str) -> str:
    """Put words into the middle of a text."""
    place = text.index(" ", len(text) // 2)
    return f"{text[:place]} which nobody had expected{text[place:]}"


def passages(bench: Bench, texts: dict[int, str]) -> dict[str, Row]:
    """Check that the passages in the table cover each text, and nothing else; gives one row of each passage by its words."""
    rows = bench.table("parts").orderBy("id", "passage").collect()
    assert {row["id"] for row in rows} == texts.keys()
    covered, numbers = dict.fromkeys(texts, 0), dict.fromkeys(texts, 0)
    for row in rows:
        text, end = texts[row["id"]], covered[row["id"]]
        assert row["passage"] == numbers[row["id"]]
        assert not text[end : row["start"]].strip()
        assert row["end"] > end
        covered[row["id"]], numbers[row["id"]] = row["end"], row["passage"] + 1
    assert not any(text[covered[n] :].strip() for n, text in texts.items())
    return {texts[row["id"]][row["start"] : row["end"]]: row for row in rows}

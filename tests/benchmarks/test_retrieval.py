"""BM25 against scores worked out by hand, and the sets that the retrieval benchmark makes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.retrieval import gain, rank_by_bm25, xquad_task
from metaeol_udf.evaluation.retrieval import score_ranking


def test_bm25_ranks_as_worked_out_by_hand() -> None:
    documents = ["the cat sat", "the cat and the dog and the cat", "a bird"]

    def score(n_holders: int, often: int, length: int) -> float:
        mean_length = (3 + 8 + 2) / 3
        weight = math.log(1 + (3 - n_holders + 0.5) / (n_holders + 0.5))
        return weight * often * 2.2 / (often + 1.2 * (0.25 + 0.75 * length / mean_length))

    assert score(2, 1, 3) < score(2, 2, 8) + score(1, 1, 8)
    assert score(2, 1, 3) > 0
    ranking = rank_by_bm25(["Cat, dog?", "cat", "birds"], documents, 4)
    assert ranking[0].tolist() == [1, 0, 2, -1]
    assert ranking[1].tolist() == ([0, 1, 2, -1] if score(2, 1, 3) > score(2, 2, 8) else [1, 0, 2, -1])
    assert ranking[2].tolist() == [0, 1, 2, -1]  # no word in common: their order


def test_questions_of_a_published_file_find_their_paragraphs(tmp_path: Path) -> None:
    path = tmp_path / "xquad.en.json"
    paragraphs = [{"context": "One. ", "qas": [{"question": "a?"}, {"question": "b?"}]}, {"context": "Two.", "qas": [{"question": "c?"}]}]
    path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    task = xquad_task(path)
    assert (task.queries, task.documents, task.relevance) == (["a?", "b?", "c?"], ["One.", "Two."], [{0: 1.0}, {0: 1.0}, {1: 1.0}])


def test_a_gain_is_of_the_same_queries() -> None:
    better, worse = (score_ranking(np.tile(np.roll(np.arange(100), shift), (50, 1)), [{0: 1.0}] * 50, 100) for shift in (0, 2))
    mean, low, high = gain(better, worse)
    assert mean == pytest.approx(100 * (1 - 1 / math.log2(4)))
    assert (low, high) == (pytest.approx(mean), pytest.approx(mean))  # every query gains the same

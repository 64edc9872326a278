"""nDCG, MRR and recall against values worked out by hand, and the folders and rows that retrieval sets are read from."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest

from metaeol_udf.errors import ConfigError
from metaeol_udf.evaluation import RetrievalScore, RetrievalTask, evaluate, load_tasks, score_retrieval
from metaeol_udf.evaluation.retrieval import rank_documents, score_ranking
from metaeol_udf.evaluation.retrieval_data import make_retrieval


def at_angles(*degrees: float) -> np.ndarray:
    """Vectors of different lengths, powers of two, at these angles."""
    radians = np.radians(degrees)
    return np.column_stack([np.cos(radians), np.sin(radians)]).astype(np.float32) * 2.0 ** np.arange(len(degrees))[:, None]


def test_the_figures_are_those_worked_out_by_hand() -> None:
    # The first query finds its gains 1, 0, 3 in this order; the second its only document at rank 3; a fourth document answers neither.
    ranking = np.array([[0, 1, 2, 3], [1, 3, 0, 2]])
    score = score_ranking(ranking, [{0: 1.0, 2: 3.0}, {0: 1.0}], 4)
    first = (1 / math.log2(2) + 3 / math.log2(4)) / (3 / math.log2(2) + 1 / math.log2(3))
    assert score.ndcg_of_queries == pytest.approx([100 * first, 100 / math.log2(4)])
    assert score.ndcg == pytest.approx(100 * (first + 0.5) / 2)
    assert score.mrr == pytest.approx(100 * (1 + 1 / 3) / 2)
    assert score.recall == {1: pytest.approx(100 * (1 / 2 + 0) / 2), 10: 100, 100: 100}
    assert (score.n_queries, score.n_documents, score.ndcg_interval, score.recall_intervals[10]) == (2, 4, None, None)


def test_what_stands_behind_the_tenth_rank_counts_for_recall_alone() -> None:
    score = score_ranking(np.arange(100)[None], [{10: 1.0, 99: 1.0}], 200)
    assert (score.ndcg, score.mrr, score.recall) == (0, 0, {1: 0, 10: 0, 100: 100})
    # Twelve answers, ten of them first: the best order can show ten, so nDCG is whole, and recall is not.
    many = score_ranking(np.arange(100)[None], [dict.fromkeys([*range(10), 150, 160], 1.0)], 200)
    assert many.ndcg == pytest.approx(100)
    assert many.recall[10] == pytest.approx(100 * 10 / 12)


def test_documents_are_ranked_by_cosine_and_equal_ones_in_their_order() -> None:
    documents = at_angles(90, 10, 40, 10, 40)  # their lengths grow, which must not count
    assert rank_documents(at_angles(0, 60), documents, 4).tolist() == [[1, 3, 2, 4], [2, 4, 0, 1]]
    assert rank_documents(at_angles(0), documents, 7, [3]).tolist() == [[1, 2, 4, 0, -1, -1, -1]]
    draw = np.random.default_rng(0)
    queries, many = draw.normal(size=(30, 8)), draw.normal(size=(500, 8))
    cosines = [[q @ d / np.linalg.norm(q) / np.linalg.norm(d) for d in many] for q in queries]
    assert rank_documents(queries, many, 20).tolist() == np.argsort(-np.array(cosines), axis=1)[:, :20].tolist()


def test_an_interval_holds_the_mean_and_narrows_with_more_queries() -> None:
    draw = np.random.default_rng(1)

    def width(n: int) -> float:
        ranking = np.stack([draw.permutation(100) for _ in range(n)])
        score = score_ranking(ranking, [{0: 1.0}] * n, 100, resamples=400)
        assert score.ndcg_interval is not None
        low, high = score.ndcg_interval
        assert low < score.ndcg < high
        # What the normal distribution says of a mean of so many.
        assert high - low == pytest.approx(2 * 1.96 * score.ndcg_of_queries.std() / math.sqrt(n), rel=0.2)
        return high - low

    assert width(1600) < width(100) / 2


@pytest.mark.parametrize(
    ("queries", "documents", "relevance", "message"),
    [
        (np.ones((1, 2)), np.ones((1, 3)), [{0: 1.0}], "must have the shapes"),
        (np.ones((1, 2)), np.full((1, 2), np.nan), [{0: 1.0}], "1 documents have a vector that is not finite"),
        (np.ones((1, 2)), np.ones((1, 2)), [{}], "each must have one at least"),
        (np.ones((2, 2)), np.ones((1, 2)), [{0: 1.0}], "found 2 ranked queries and 1 with documents"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    queries: np.ndarray, documents: np.ndarray, relevance: list[dict[int, float]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        score_retrieval(queries, documents, relevance)


CORPUS = [
    {"_id": "d1", "title": "Cats", "text": "They purr.", "metadata": {}},
    {"_id": "d2", "title": "", "text": " "},
    {"_id": "q2", "text": "Dogs bark."},
]
QUERIES = [{"_id": "q1", "text": "who purrs?"}, {"_id": "q2", "text": "who barks?"}, {"_id": "q3", "text": "of the training part"}]
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t1\nq1\tq2\t0\nq2\td1\t1\n"


def write(folder: Path, corpus: list[dict[str, object]] = CORPUS, qrels: str = QRELS, suffix: str = "") -> Path:
    (folder / "qrels").mkdir(parents=True)
    for name, rows in (("corpus", corpus), ("queries", QUERIES)):
        lines = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
        (folder / f"{name}.jsonl{suffix}").write_bytes(gzip.compress(lines) if suffix else lines)
    (folder / "qrels" / "test.tsv").write_text(qrels)
    return folder


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_folder_of_the_beir_form_is_a_task(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / "retrieval" / "pets", suffix=suffix)
    (task,) = load_tasks(tmp_path)
    # d2 is blank: nothing finds it, and it counts. q2 is a document too: it is not ranked for itself.
    expected = RetrievalTask("pets", ["who purrs?", "who barks?"], ["Cats They purr.", "Dogs bark."], [{0: 2.0, 2: 1.0}, {0: 1.0}], [-1, 1])
    assert task == expected
    (alone,) = load_tasks(tmp_path / "retrieval" / "pets", ["pets"])
    assert alone == expected
    (one,) = load_tasks(tmp_path, limit=1)
    assert isinstance(one, RetrievalTask)
    assert (len(one.queries), one.documents) == (1, expected.documents)


def test_a_task_is_scored_by_what_it_says(tmp_path: Path) -> None:
    write(tmp_path / "pets")
    vectors = {"who purrs?": [1.0, 0.0], "who barks?": [0.0, 1.0], "Cats They purr.": [1.0, 0.1], "Dogs bark.": [0.1, 1.0]}
    found = evaluate(lambda texts: np.array([vectors[text] for text in texts], np.float32), load_tasks(tmp_path / "pets"), resamples=10)[
        "pets"
    ]
    assert isinstance(found, RetrievalScore)
    assert found.mrr == 100  # q2 is passed over for itself, so the other document comes first
    assert found.recall[100] == pytest.approx(100 * (1 / 2 + 1) / 2)  # the blank one is never found


@pytest.mark.parametrize(
    ("corpus", "qrels", "message"),
    [
        (CORPUS, QRELS + "q9\td1\t1\n", "line 6: query-id must be an _id of queries.jsonl"),
        (CORPUS, QRELS + "q2\td9\t1\n", "line 6: corpus-id must be an _id of corpus.jsonl"),
        (CORPUS, QRELS + "q2\td1\t0\n", "line 6: a pair of query-id and corpus-id must not stand twice"),
        (CORPUS, QRELS + "q2\tq2\tsecret\n", "line 6: score must be a number"),
        (CORPUS, "query-id\tcorpus-id\tscore\nq1\td1\t0\nq2\td1\t0\n", "no query has a document with a score over 0"),
        ([*CORPUS, CORPUS[0]], QRELS, "corpus.jsonl, line 4: _id must be a string that no other line has"),
        ([{"_id": 1, "text": "secret"}], QRELS, "line 1: _id must be a string"),
        ([{"_id": "d1", "text": None}], QRELS, "line 1: text must be a string"),
    ],
)
def test_a_damaged_folder_is_refused_by_file_and_line(tmp_path: Path, corpus: list[dict[str, object]], qrels: str, message: str) -> None:
    write(tmp_path / "pets", corpus, qrels)
    with pytest.raises(ConfigError, match=message) as caught:
        load_tasks(tmp_path / "pets")
    assert "secret" not in str(caught.value)


def test_lines_that_are_no_objects_and_missing_files_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "pets")
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "secret"')
    with pytest.raises(ConfigError, match=r"queries\.jsonl, line 1: a line must be one JSON object$"):
        load_tasks(folder)
    (folder / "queries.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"cannot read .*queries\.jsonl"):
        load_tasks(folder)


def test_titles_and_bodies_make_a_set() -> None:
    titles, bodies = ["a", "b", "a", " ", "same", "c"], ["1", "2", "3", "4", "same", "2"]
    task = make_retrieval("own", titles, bodies)
    assert (task.queries, task.documents) == (["a", "b", "c"], ["1", "2", "3"])
    assert task.relevance == [{0: 1.0, 2: 1.0}, {1: 1.0}, {1: 1.0}]

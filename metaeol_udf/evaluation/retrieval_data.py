"""Retrieval sets: queries, documents, and which document answers which query. Folders of the form that BEIR made usual.

| file | a line is |
| --- | --- |
| `corpus.jsonl`, `corpus.jsonl.gz` | a JSON object with `_id`, `text` and perhaps `title`, which is put before the text |
| `queries.jsonl`, `queries.jsonl.gz` | a JSON object with `_id` and `text` |
| `qrels/test.tsv` | `query-id`, `corpus-id`, `score` under a header; a score over 0: how well it answers |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from metaeol_udf.errors import ConfigError
from metaeol_udf.evaluation.rows import check_line, read_objects, read_rows, read_score
from metaeol_udf.files import is_file

QRELS_COLUMNS = ("query-id", "corpus-id", "score")


@dataclass(frozen=True)
class RetrievalTask:
    """Holds queries and the documents to find for them. What is said of a query follows the order of `queries`.

    Attributes:
        name: The folder's.
        queries: Those that some document answers.
        documents: The corpus; documents without a text have no vector, and stand in no place here.
        relevance: Gain of each document that answers the query, by its place in `documents`. Blank documents have places behind all others:
            they are never found, and still count among what there is to find.
        passed_over: Place of the document that bears the query's own id without being judged, which is not ranked for it; -1: none.
    """

    name: str
    queries: list[str]
    documents: list[str]
    relevance: list[dict[int, float]]
    passed_over: list[int]

    @property
    def texts(self) -> list[str]:
        """Return all queries, then all documents."""
        return self.queries + self.documents

    def sample(self, limit: int, seed: int) -> RetrievalTask:
        """Draw queries at random, in their order. All documents stay: fewer would be easier to tell apart."""
        kept = np.sort(np.random.default_rng(seed).permutation(len(self.queries))[:limit])
        return replace(
            self,
            queries=[self.queries[row] for row in kept],
            relevance=[self.relevance[row] for row in kept],
            passed_over=[self.passed_over[row] for row in kept],
        )

    def keep_documents(self, limit: int, seed: int) -> RetrievalTask:
        """Keep the documents that answer a query or bear its id, and others drawn at random up to `limit` in all, in their order."""
        n_documents, needed = len(self.documents), {row for row in self.passed_over if row >= 0}
        needed |= {row for gains in self.relevance for row in gains if row < n_documents}
        others = [row for row in np.random.default_rng(seed).permutation(n_documents).tolist() if row not in needed]
        kept = sorted([*needed, *others[: max(0, limit - len(needed))]])
        # Blank documents have places behind all others, and stay there.
        place = {row: new for new, row in enumerate(kept)}
        relevance = [{place.get(row, row - n_documents + len(kept)): gain for row, gain in gains.items()} for gains in self.relevance]
        passed_over = [place.get(row, -1) for row in self.passed_over]
        return replace(self, documents=[self.documents[row] for row in kept], relevance=relevance, passed_over=passed_over)


def is_retrieval_folder(folder: Path) -> bool:
    """Tell whether a folder holds a retrieval set."""
    return any(is_file(folder / f"corpus.jsonl{suffix}") for suffix in ("", ".gz"))


def read_retrieval(name: str, folder: Path) -> RetrievalTask:
    """Read a folder of the BEIR form.

    Raises:
        ConfigError: A file is missing or breaks the form, or a judgement names a query or document that is not there. The message gives
            file, line and rule, and never quotes a text.
    """
    documents = _read_texts(_one_of(folder, "corpus.jsonl"), has_titles=True)
    queries = _read_texts(_one_of(folder, "queries.jsonl"), has_titles=False)
    with_text = [each for each, text in documents.items() if text]
    places = {each: place for place, each in enumerate([*with_text, *(each for each, text in documents.items() if not text)])}
    judged: dict[str, dict[str, float]] = {}
    path = folder / "qrels" / "test.tsv"
    for line, (query, document, score) in read_rows(path, QRELS_COLUMNS):
        check_line(path, line, query in queries, "query-id must be an _id of queries.jsonl")
        check_line(path, line, document in documents, "corpus-id must be an _id of corpus.jsonl")
        of_query = judged.setdefault(query, {})
        check_line(path, line, document not in of_query, "a pair of query-id and corpus-id must not stand twice")
        of_query[document] = read_score(path, line, score)
    asked = [query for query in queries if any(score > 0 for score in judged.get(query, {}).values())]
    if not asked or not with_text:
        raise ConfigError(f"{path}: no query has a document with a score over 0")
    return RetrievalTask(
        name,
        [queries[query] for query in asked],
        [documents[each] for each in with_text],
        [{places[document]: score for document, score in judged[query].items() if score > 0} for query in asked],
        [places[query] if documents.get(query) and query not in judged[query] else -1 for query in asked],
    )


def make_retrieval(name: str, titles: Sequence[str], bodies: Sequence[str]) -> RetrievalTask:
    """Make a set of rows without labels: a row's title shall find the row's body, which is a proxy for what people look for.

    Equal bodies are one document; a title that several rows have finds the bodies of all of them.

    Args:
        name: Of the task.
        titles: One a row.
        bodies: One a row, in the same order. Rows whose title or body is blank are left out, and so are rows where both are the same text.
    """
    places: dict[str, int] = {}
    found: dict[str, dict[int, float]] = {}
    for title, body in zip(titles, bodies, strict=True):
        if title.strip() and body.strip() and title.strip() != body.strip():
            found.setdefault(title, {})[places.setdefault(body, len(places))] = 1.0
    return RetrievalTask(name, list(found), list(places), list(found.values()), [-1] * len(found))


def _one_of(folder: Path, name: str) -> Path:
    return next((path for path in (folder / name, folder / f"{name}.gz") if is_file(path)), folder / name)


def _read_texts(path: Path, *, has_titles: bool) -> dict[str, str]:
    """Read the texts of a file by their ids; a blank document is the empty string, and a blank query an error."""
    texts: dict[str, str] = {}
    for line, found in read_objects(path):
        each, text, title = found.get("_id"), found.get("text"), found.get("title") if has_titles else None
        check_line(path, line, isinstance(each, str) and each not in texts, "_id must be a string that no other line has")
        check_line(path, line, isinstance(text, str), "text must be a string")
        check_line(path, line, title is None or isinstance(title, str), "title must be a string")
        whole = f"{title or ''} {text}".strip()
        check_line(path, line, bool(whole) or has_titles, "text must not be blank")
        texts[str(each)] = whole
    return texts

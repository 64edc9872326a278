"""How well vectors find: nDCG@10, MRR@10 and recall over queries, with bootstrap confidence intervals.

The figures are those of TREC's evaluation and of BEIR (Thakur et al. 2021, arXiv:2104.08663): gains are the judged scores as they are, the
discount is the binary logarithm of the rank plus one, and every figure is the mean over queries, times 100.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from metaeol_udf.cosine import unit_rows
from metaeol_udf.evaluation.scores import Interval, percentile_interval

DEPTH = 10  # of nDCG and MRR
RECALL_DEPTHS = (1, 10, 100)
_CELLS_AT_ONCE = 16_000_000  # of the matrix of cosines: 128 MB


@dataclass(frozen=True)
class RetrievalScore:
    """Holds what a ranking of documents reaches, times 100. Intervals are of 95 %, over queries; None without resamples.

    Attributes:
        n_queries: Queries scored.
        n_documents: Documents among which they look.
        ndcg: nDCG@10: gains of the first ten documents, discounted by their rank, over those of the best order.
        ndcg_interval: Its interval.
        mrr: MRR@10: one over the rank of the first document that answers, 0 beyond ten.
        mrr_interval: Its interval.
        recall: Share of the documents that answer among the first so many, by that number.
        recall_intervals: Their intervals.
        ndcg_of_queries: nDCG@10 of each query, shape ``(n_queries,)``: what two models' difference is measured with.
    """

    n_queries: int
    n_documents: int
    ndcg: float
    ndcg_interval: Interval | None
    mrr: float
    mrr_interval: Interval | None
    recall: dict[int, float]
    recall_intervals: dict[int, Interval | None]
    ndcg_of_queries: NDArray[np.float64] = field(repr=False, compare=False)


def score_retrieval(
    queries: NDArray[np.floating],
    documents: NDArray[np.floating],
    relevance: Sequence[Mapping[int, float]],
    passed_over: Sequence[int] | None = None,
    *,
    resamples: int = 0,
    seed: int = 0,
) -> RetrievalScore:
    """Score vectors by the cosine of each query with each document.

    Args:
        queries: Shape ``(n_queries, dim)``.
        documents: Shape ``(n_documents, dim)``.
        relevance: Of each query the gains, over 0, of the documents that answer it, by their rows. Rows past the last are of documents
            without a vector, which nothing finds.
        passed_over: Of each query a row that is not ranked; -1: none. None: none for any query.
        resamples: Bootstrap resamples for the intervals; 0 gives none.
        seed: Of the resampling.

    Raises:
        ValueError: The shapes do not go together, a vector is not finite, or a query has no document.
    """
    if queries.ndim != 2 or documents.ndim != 2 or queries.shape[1] != documents.shape[1]:
        raise ValueError(f"queries and documents must have the shapes (n, dim) and (m, dim), found {queries.shape} and {documents.shape}")
    for what, vectors in (("queries", queries), ("documents", documents)):
        n_bad = int((~np.isfinite(vectors).all(axis=1)).sum())
        if n_bad:
            raise ValueError(f"{n_bad} {what} have a vector that is not finite")
    ranking = rank_documents(queries, documents, max(RECALL_DEPTHS), passed_over)
    return score_ranking(ranking, relevance, len(documents), resamples=resamples, seed=seed)


def rank_documents(
    queries: NDArray[np.floating], documents: NDArray[np.floating], k: int, passed_over: Sequence[int] | None = None
) -> NDArray[np.int64]:
    """Find the `k` documents nearest to each query by cosine, equal ones in their order.

    Returns:
        Rows of `documents`, best first, shape ``(n_queries, k)``; -1 where there is no further one.
    """
    n_documents, ranking = len(documents), np.full((len(queries), k), -1, np.int64)
    asked, known = unit_rows(queries), unit_rows(documents)
    step = max(1, _CELLS_AT_ONCE // max(1, n_documents))
    for start in range(0, len(queries), step):
        cosines = asked[start : start + step] @ known.T
        for row, of_query in enumerate(cosines, start):
            own = -1 if passed_over is None else passed_over[row]
            if own >= 0:
                of_query[own] = -np.inf
            least = np.partition(of_query, n_documents - k)[n_documents - k] if n_documents > k else -np.inf
            candidates = np.flatnonzero(of_query >= least)
            best = candidates[np.argsort(-of_query[candidates], kind="stable")][:k]
            best = best[best != own]
            ranking[row, : len(best)] = best
    return ranking


def score_ranking(
    ranking: NDArray[np.int64], relevance: Sequence[Mapping[int, float]], n_documents: int, *, resamples: int = 0, seed: int = 0
) -> RetrievalScore:
    """Score a ranking, whatever made it.

    Args:
        ranking: Rows of documents, best first, shape ``(n_queries, k)`` with `k` at least 100 or all documents; -1: none.
        relevance: As in `score_retrieval`.
        n_documents: Documents that were ranked.
        resamples: As in `score_retrieval`.
        seed: As in `score_retrieval`.

    Raises:
        ValueError: The numbers of queries differ, or a query has no document.
    """
    if len(ranking) != len(relevance) or not all(relevance):
        raise ValueError(f"found {len(ranking)} ranked queries and {len(relevance)} with documents: each must have one at least")
    gains = np.zeros(ranking.shape)
    for row, of_query in enumerate(relevance):
        gains[row] = [of_query.get(int(document), 0.0) for document in ranking[row]]
    figures = np.column_stack([_ndcg(gains, relevance), _reciprocal_rank(gains), *(_recall(gains, relevance, k) for k in RECALL_DEPTHS)])
    means = figures.mean(axis=0)
    samples = _resampled_means(figures, resamples, seed)
    intervals = [percentile_interval(column) for column in samples.T]
    return RetrievalScore(
        len(ranking), n_documents, float(means[0]), intervals[0], float(means[1]), intervals[1],
        dict(zip(RECALL_DEPTHS, map(float, means[2:]), strict=True)), dict(zip(RECALL_DEPTHS, intervals[2:], strict=True)), figures[:, 0],
    )  # fmt: skip


def _ndcg(gains: NDArray[np.float64], relevance: Sequence[Mapping[int, float]]) -> NDArray[np.float64]:
    discounts = 1 / np.log2(np.arange(2, DEPTH + 2))
    first = gains[:, :DEPTH]
    best = np.zeros((len(gains), DEPTH))
    for row, of_query in enumerate(relevance):
        ideal = sorted(of_query.values(), reverse=True)[:DEPTH]
        best[row, : len(ideal)] = ideal
    found: NDArray[np.float64] = 100 * (first @ discounts[: first.shape[1]]) / (best @ discounts)
    return found


def _reciprocal_rank(gains: NDArray[np.float64]) -> NDArray[np.float64]:
    answers = gains[:, :DEPTH] > 0
    found: NDArray[np.float64] = np.where(answers.any(axis=1), 100 / (answers.argmax(axis=1) + 1), 0.0)
    return found


def _recall(gains: NDArray[np.float64], relevance: Sequence[Mapping[int, float]], k: int) -> NDArray[np.float64]:
    found: NDArray[np.float64] = 100 * (gains[:, :k] > 0).sum(axis=1) / np.array([len(of_query) for of_query in relevance])
    return found


def _resampled_means(figures: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """Average the figures of queries drawn with replacement, shape ``(resamples, n_figures)``."""
    draw, n = np.random.default_rng(seed), len(figures)
    samples = np.empty((resamples, figures.shape[1]))
    for i in range(resamples):
        samples[i] = np.bincount(draw.integers(0, n, n), minlength=n) @ figures / n
    return samples

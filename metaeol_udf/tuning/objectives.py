"""What tuning optimises: agreement with people on labelled pairs, queries that find their documents, or, without labels, a stated proxy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from metaeol_udf.cosine import unit_rows
from metaeol_udf.errors import InputError
from metaeol_udf.evaluation.data import StsTask
from metaeol_udf.evaluation.retrieval import score_retrieval
from metaeol_udf.evaluation.retrieval_data import RetrievalTask
from metaeol_udf.evaluation.scores import Interval, pair_cosines, score_sts

_LEAST_PAIRS = 20
_LEAST_WORDS = 8  # of a text that is cut in two
_RESAMPLES = 1_000  # of the intervals


@dataclass(frozen=True)
class Objective:
    """Holds pairs of texts, or queries and documents, and tells how good vectors of them are.

    Attributes:
        name: The task's.
        firsts: First texts, or queries.
        seconds: Second texts, or documents.
        gold: Scores by people, shape ``(n_pairs,)``; None for queries, and for the proxy: a text's halves, whose vectors should find each
            other.
        relevance: Of each query the gains of the documents that answer it, by their places in `seconds`; None for pairs.
        passed_over: Of each query the place of a document that is not ranked, or -1.
    """

    name: str
    firsts: list[str]
    seconds: list[str]
    gold: NDArray[np.float64] | None
    relevance: list[dict[int, float]] | None = None
    passed_over: list[int] | None = None

    @property
    def figure(self) -> str:
        """Name what `score` gives, times 100."""
        if self.relevance is not None:
            return "nDCG@10"
        return "Spearman" if self.gold is not None else "mean reciprocal rank of a text's other half"

    def score(self, vectors1: NDArray[np.float32], vectors2: NDArray[np.float32]) -> float:
        """Return Spearman's correlation, nDCG@10, or the mean reciprocal rank of a half's other half among all; times 100."""
        if self.relevance is not None:
            return score_retrieval(vectors1, vectors2, self.relevance, self.passed_over).ndcg
        if self.gold is not None:
            return score_sts(vectors1, vectors2, self.gold).all
        return mean_reciprocal_rank(vectors1, vectors2)

    def interval(self, vectors1: NDArray[np.float32], vectors2: NDArray[np.float32]) -> Interval | None:
        """Return the 95 % interval of `score` over pairs or queries; None for the proxy."""
        if self.relevance is not None:
            return score_retrieval(vectors1, vectors2, self.relevance, self.passed_over, resamples=_RESAMPLES).ndcg_interval
        return None if self.gold is None else score_sts(vectors1, vectors2, self.gold, resamples=_RESAMPLES).all_interval

    def taken(self, rows: Sequence[int]) -> Objective:
        """Return some of the pairs, or some of the queries with all documents."""
        firsts = [self.firsts[row] for row in rows]
        if self.relevance is not None:
            passed_over = None if self.passed_over is None else [self.passed_over[row] for row in rows]
            return replace(self, firsts=firsts, relevance=[self.relevance[row] for row in rows], passed_over=passed_over)
        gold = None if self.gold is None else self.gold[list(rows)]
        return replace(self, firsts=firsts, seconds=[self.seconds[row] for row in rows], gold=gold)

    def tied(self) -> list[tuple[str, str]]:
        """List two texts of each pair or query that must stay in one half; of a query it is the query alone."""
        return list(zip(self.firsts, self.seconds if self.relevance is None else self.firsts, strict=True))


def labelled(tasks: Sequence[StsTask | RetrievalTask]) -> list[Objective]:
    """Return labelled pairs and retrieval sets as objectives."""
    return [
        Objective(task.name, task.sentences1, task.sentences2, task.gold)
        if isinstance(task, StsTask)
        else Objective(task.name, task.queries, task.documents, None, task.relevance, task.passed_over)
        for task in tasks
    ]


def halves(texts: Sequence[str]) -> Objective:
    """Make the proxy for texts without labels: each is cut in two by its words, and the halves shall be each other's nearest.

    Raises:
        InputError: Too few texts are long enough.
    """
    words = [text.split() for text in dict.fromkeys(texts)]
    longer = [each for each in words if len(each) >= _LEAST_WORDS]
    if len(longer) < 2 * _LEAST_PAIRS:
        raise InputError(f"tuning without labels takes at least {2 * _LEAST_PAIRS} texts of {_LEAST_WORDS} words, found {len(longer)}")
    cut = [len(each) // 2 for each in longer]
    firsts = [" ".join(each[:at]) for each, at in zip(longer, cut, strict=True)]
    return Objective("halves", firsts, [" ".join(each[at:]) for each, at in zip(longer, cut, strict=True)], None)


def mean_reciprocal_rank(vectors1: NDArray[np.float32], vectors2: NDArray[np.float32]) -> float:
    """Compute the mean reciprocal rank of each second vector among all second ones, by cosine to its first one; times 100."""
    own = pair_cosines(vectors1, vectors2)
    cosines = unit_rows(vectors1) @ unit_rows(vectors2).T
    ranks = 1 + (cosines > own[:, None] + 1e-12).sum(1)
    return float(100 * (1 / ranks).mean())


def split_in_two(objectives: Sequence[Objective], seed: int = 0) -> tuple[list[Objective], list[Objective]]:
    """Split objectives into one half to choose on and one to score on, so that no text is in both.

    Pairs that share a text, directly or through others, stay together, over all objectives: sets overlap. Of a retrieval set the queries
    are split, and the documents are looked through by both halves.

    Raises:
        InputError: An objective is left with too few pairs on a side.
    """
    groups = _connected([tied for o in objectives for tied in o.tied()])
    sizes = np.bincount(groups)
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]  # the largest first, so that the halves come out even
    to_choose_on, load = np.zeros(len(sizes), bool), [0, 0]
    for group in order:
        lighter = int(load[1] < load[0])
        to_choose_on[group] = lighter == 0
        load[lighter] += int(sizes[group])
    sides: tuple[list[Objective], list[Objective]] = ([], [])
    start = 0
    for objective in objectives:
        chosen = to_choose_on[groups[start : start + len(objective.firsts)]]
        start += len(objective.firsts)
        for side, mask in zip(sides, (chosen, ~chosen), strict=True):
            if mask.sum() < _LEAST_PAIRS:
                what = "pairs" if objective.relevance is None else "queries"
                raise InputError(
                    f"{objective.name} has {int(mask.sum())} {what} in one half, of {_LEAST_PAIRS} that tuning needs: add {what}"
                )
            side.append(objective.taken(np.flatnonzero(mask).tolist()))
    return sides


def texts_of(objectives: Sequence[Objective]) -> list[str]:
    """List all texts of the objectives, each once."""
    return list(dict.fromkeys(chain.from_iterable((*o.firsts, *o.seconds) for o in objectives)))


def _connected(pairs: Sequence[tuple[str, str]]) -> NDArray[np.int64]:
    """Return the number of the group of texts that each pair belongs to."""
    parent: dict[str, str] = {}

    def root(text: str) -> str:
        parent.setdefault(text, text)
        while parent[text] != text:
            parent[text] = parent[parent[text]]
            text = parent[text]
        return text

    for first, second in pairs:
        parent[root(first)] = root(second)
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(root(first), len(numbers)) for first, _ in pairs], np.int64)

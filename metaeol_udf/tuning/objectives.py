"""What tuning optimises: agreement with people on labelled pairs, or, where there are no labels, a stated proxy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from metaeol_udf.cosine import unit_rows
from metaeol_udf.errors import InputError
from metaeol_udf.evaluation.data import StsTask
from metaeol_udf.evaluation.scores import pair_cosines, score_sts

_LEAST_PAIRS = 20
_LEAST_WORDS = 8  # of a text that is cut in two


@dataclass(frozen=True)
class Objective:
    """Holds pairs of texts, and tells how good vectors of them are.

    Attributes:
        name: The task's.
        firsts: First texts.
        seconds: Second texts.
        gold: Scores by people, shape ``(n_pairs,)``; None for the proxy: a text's halves, whose vectors should find each other.
    """

    name: str
    firsts: list[str]
    seconds: list[str]
    gold: NDArray[np.float64] | None

    def score(self, vectors1: NDArray[np.float32], vectors2: NDArray[np.float32]) -> float:
        """Return Spearman's correlation times 100, or the mean reciprocal rank of a half's other half among all, times 100."""
        if self.gold is not None:
            return score_sts(vectors1, vectors2, self.gold).all
        return mean_reciprocal_rank(vectors1, vectors2)

    def taken(self, rows: Sequence[int]) -> Objective:
        """Return some of the pairs."""
        gold = None if self.gold is None else self.gold[list(rows)]
        return Objective(self.name, [self.firsts[row] for row in rows], [self.seconds[row] for row in rows], gold)


def labelled(tasks: Sequence[StsTask]) -> list[Objective]:
    """Return labelled pairs as objectives."""
    return [Objective(task.name, task.sentences1, task.sentences2, task.gold) for task in tasks]


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

    Pairs that share a text, directly or through others, stay together, over all objectives: sets overlap.

    Raises:
        InputError: An objective is left with too few pairs on a side.
    """
    groups = _connected([(first, second) for o in objectives for first, second in zip(o.firsts, o.seconds, strict=True)])
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
                raise InputError(
                    f"{objective.name} has {int(mask.sum())} pairs in one half, of {_LEAST_PAIRS} that tuning needs: add pairs"
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

"""Sentence pairs with gold scores, half of them to choose with and half to report on, and Spearman's correlation of cosines with them."""

from __future__ import annotations

import gzip
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

_SEED = 20261  # of the sample of pairs and of the resamples

Similarities = Mapping[str, NDArray[np.float64]]  # of each set's pairs


@dataclass(frozen=True)
class PairSet:
    """Pairs of one set, in random order.

    Attributes:
        name: File name without its endings.
        texts: Positions of both texts among all texts, shape ``(n_pairs, 2)``.
        scores: Gold scores, shape ``(n_pairs,)``.
    """

    name: str
    texts: NDArray[np.int64]
    scores: NDArray[np.float64]

    @property
    def n_choosing(self) -> int:
        """Pairs from the start on that parameters are chosen with; the rest is reported on."""
        return len(self.scores) // 2


@dataclass(frozen=True)
class PairSample:
    """Distinct texts and the pairs that they make up."""

    texts: list[str]
    sets: list[PairSet]

    def similarities(self, vectors: NDArray[np.float32], subtracts_mean: bool) -> dict[str, NDArray[np.float64]]:
        """Cosines of each set's pairs.

        Args:
            vectors: Of all texts, shape ``(n_texts, dim)``.
            subtracts_mean: Take the mean off first: that of the choosing halves' texts, over all sets.
        """
        x = vectors.astype(np.float64)
        if subtracts_mean:
            x = x - x[np.unique(np.concatenate([s.texts[: s.n_choosing].ravel() for s in self.sets]))].mean(0)
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        return {s.name: (x[s.texts[:, 0]] * x[s.texts[:, 1]]).sum(1) for s in self.sets}

    def choosing_score(self, similarities: Similarities) -> float:
        """Mean over the sets of Spearman x 100 on the halves to choose with."""
        return float(np.mean([spearman(similarities[s.name][: s.n_choosing], s.scores[: s.n_choosing]) for s in self.sets]))

    def reported_scores(self, similarities: Similarities) -> dict[str, float]:
        """Spearman x 100 of each set on the half to report on, and their mean under `mean`."""
        found = {s.name: spearman(similarities[s.name][s.n_choosing :], s.scores[s.n_choosing :]) for s in self.sets}
        return {**found, "mean": float(np.mean(list(found.values())))}

    def gain(self, similarities: Similarities, base: Similarities, n_resamples: int = 2000) -> tuple[float, float]:
        """95 % interval of the gain over `base` in the mean reported score, from resampled pairs."""
        rng = np.random.default_rng(_SEED)
        gains = np.zeros(n_resamples)
        for pairs in self.sets:
            rows = rng.integers(pairs.n_choosing, len(pairs.scores), (len(pairs.scores) - pairs.n_choosing, n_resamples))
            ours, theirs, gold = (_ranks(x[rows]) for x in (similarities[pairs.name], base[pairs.name], pairs.scores))
            gains += 100 * (_correlate(ours, gold) - _correlate(theirs, gold)) / len(self.sets)
        low, high = np.percentile(gains, [2.5, 97.5])
        return float(low), float(high)


def load_pairs(data: Path, names: Sequence[str], n_pairs: int) -> PairSample:
    """Draw pairs from the sets in `data/sts`, always the same ones.

    Args:
        data: Folder of the evaluation data.
        names: Files there, without `.tsv.gz`.
        n_pairs: Of each set; all where it has fewer.

    Raises:
        FileNotFoundError: There is no such set.
    """
    positions: dict[str, int] = {}
    sets = []
    for name in names:
        with gzip.open(data / "sts" / f"{name}.tsv.gz", "rt", encoding="utf-8", newline="\n") as file:
            head, *rows = (line.rstrip("\n").split("\t") for line in file)
        columns = [head.index(column) for column in ("sentence1", "sentence2", "score")]
        chosen = random.Random(_SEED).sample(rows, min(n_pairs, len(rows)))
        texts = [[positions.setdefault(row[column], len(positions)) for column in columns[:2]] for row in chosen]
        sets.append(PairSet(name, np.array(texts), np.array([float(row[columns[2]]) for row in chosen])))
    return PairSample(list(positions), sets)


def spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Spearman's rank correlation x 100; ties share their mean rank."""
    return float(100 * _correlate(_ranks(a[:, None]), _ranks(b[:, None]))[0])


def _ranks(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    ranks: NDArray[np.float64] = pd.DataFrame(columns).rank().to_numpy()
    return ranks


def _correlate(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson's correlation of matching columns; 0 where one has a single value, as a resample of few pairs may."""
    a, b = a - a.mean(0), b - b.mean(0)
    sizes = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    found: NDArray[np.float64] = np.divide((a * b).sum(0), sizes, out=np.zeros(sizes.shape), where=sizes > 0)
    return found

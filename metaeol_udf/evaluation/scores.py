"""How well vectors agree with people: Spearman's rank correlation over pairs, with bootstrap confidence intervals.

The figure of the MetaEOL paper (Lei et al. 2024, arXiv:2402.18458), as of SimCSE before it, is **one** correlation over
all pairs of a set, whatever subsets they come from ("all"). SentEval's own is a correlation a subset and the mean of those.
The two differ, so both are given by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]


@dataclass(frozen=True)
class StsScore:
    """Holds Spearman's correlation of cosines with gold scores, times 100; NaN where one of the two does not vary.

    Attributes:
        n_pairs: Pairs scored.
        all: One correlation over all pairs: the paper's figure.
        all_interval: 95 % bootstrap interval of `all`; None without resamples.
        mean: Mean over subsets of a correlation each, without those that are NaN.
        mean_interval: 95 % bootstrap interval of `mean`, pairs drawn within each subset; None without resamples.
        subsets: Each subset's correlation, by name.
    """

    n_pairs: int
    all: float
    all_interval: Interval | None
    mean: float
    mean_interval: Interval | None
    subsets: dict[str, float]


def score_sts(
    vectors1: NDArray[np.floating],
    vectors2: NDArray[np.floating],
    gold: NDArray[np.floating],
    subsets: Sequence[str] | None = None,
    *,
    resamples: int = 0,
    seed: int = 0,
) -> StsScore:
    """Score pairs of vectors by the cosine of each pair.

    Args:
        vectors1: Of the first sentences, shape ``(n_pairs, dim)``.
        vectors2: Of the second sentences, same shape.
        gold: Scores by people, shape ``(n_pairs,)``; only their order counts.
        subsets: Each pair's subset; None makes all pairs one subset.
        resamples: Bootstrap resamples for the intervals; 0 gives none, and takes no time.
        seed: Of the resampling.

    Raises:
        ValueError: The lengths differ, or a vector is not finite.
    """
    cosines = pair_cosines(vectors1, vectors2)
    people: NDArray[np.float64] = np.asarray(gold, np.float64)
    names = ["all"] * len(gold) if subsets is None else list(subsets)
    if not len(cosines) == len(people) == len(names):
        raise ValueError(f"found {len(cosines)} pairs of vectors, {len(people)} gold scores and {len(names)} subsets: they must be equal")
    parts = {name: np.flatnonzero(np.array(names) == name) for name in dict.fromkeys(names)}
    found = {name: spearman(cosines[rows], people[rows]) for name, rows in parts.items()}
    whole = percentile_interval(_resampled(cosines, people, resamples, seed))
    by_part = [_resampled(cosines[rows], people[rows], resamples, seed + 1 + i) for i, rows in enumerate(parts.values())]
    return StsScore(
        len(people),
        spearman(cosines, people),
        whole,
        _mean(np.array(list(found.values()))),
        percentile_interval(np.array([_mean(column) for column in np.transpose(by_part)])),  # of each resample, the mean over subsets
        found,
    )


def pair_cosines(vectors1: NDArray[np.floating], vectors2: NDArray[np.floating]) -> NDArray[np.float64]:
    """Compute the cosine of each pair in float64, shape ``(n_pairs,)``; 0 where a vector is all zeros.

    Raises:
        ValueError: The shapes differ, or a vector is not finite.
    """
    if vectors1.shape != vectors2.shape or vectors1.ndim != 2:
        raise ValueError(f"vectors of pairs must have one shape (n_pairs, dim), found {vectors1.shape} and {vectors2.shape}")
    first, second = vectors1.astype(np.float64), vectors2.astype(np.float64)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    if not np.isfinite(lengths).all():
        raise ValueError(f"{(~np.isfinite(lengths)).sum()} pairs have a vector that is not finite")
    products = np.einsum("pd,pd->p", first, second)
    cosines: NDArray[np.float64] = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    return cosines


def spearman(values: NDArray[np.float64], gold: NDArray[np.float64]) -> float:
    """Compute Spearman's rank correlation times 100, tied values at their mean rank; NaN where either does not vary."""
    weights = np.ones(len(values))
    return _correlation(_ranker(values)(weights), _ranker(gold)(weights), weights)


def percentile_interval(samples: NDArray[np.float64]) -> Interval | None:
    """Find the bounds of the middle 95 % of bootstrap samples, shape ``(n_resamples,)``; NaN samples do not count. None without samples."""
    if not samples.size:
        return None
    known = samples[~np.isnan(samples)]
    low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (np.nan, np.nan)
    return float(low), float(high)


def _resampled(values: NDArray[np.float64], gold: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """Compute Spearman's correlation of pairs drawn with replacement, shape ``(resamples,)``.

    A resample is a count a pair, and ranks follow from counts along an order that is sorted once: no resample is sorted.
    """
    draw = np.random.default_rng(seed)
    rank_values, rank_gold, n = _ranker(values), _ranker(gold), len(values)
    samples = np.empty(resamples)
    for i in range(resamples):
        counts = np.bincount(draw.integers(0, n, n), minlength=n).astype(np.float64)
        samples[i] = _correlation(rank_values(counts), rank_gold(counts), counts)
    return samples


def _ranker(values: NDArray[np.float64]) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Make a function from how often each value counts to the mean rank of each, equal values sharing theirs."""
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    n_groups = len(sizes)

    def ranks(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        in_group = np.bincount(group, weights=counts, minlength=n_groups)
        mean_rank: NDArray[np.float64] = (np.cumsum(in_group) - (in_group - 1) / 2)[group]
        return mean_rank

    return ranks


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Compute Pearson's correlation times 100 of values that count `weights` times each."""
    total = weights.sum()
    x, y = x - (weights @ x) / total, y - (weights @ y) / total
    x_spread, y_spread = weights @ (x * x), weights @ (y * y)
    # Ranks are multiples of one half, so a spread below this is rounding of values that are all equal.
    if min(x_spread, y_spread) < 1e-3:
        return float("nan")
    return float(100 * (weights @ (x * y)) / np.sqrt(x_spread * y_spread))


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")

"""What the quality gate says of new vectors: figures of both versions, and what is worse than the settings allow. No Spark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaeol_udf.config import QualityConfig
from metaeol_udf.evaluation.geometry import Geometry, is_usable, measure_geometry, neighbour_agreement
from metaeol_udf.evaluation.labelled_pairs import MIN_PAIRS
from metaeol_udf.evaluation.retrieval import score_retrieval
from metaeol_udf.evaluation.scores import pair_cosines, spearman

Sides = tuple[NDArray[np.floating], NDArray[np.floating]]

MIN_TEXTS = 50  # fewer say nothing of a table
_TEXTS_PER_NEIGHBOUR = 10  # so that chance agreement is a tenth at most, well below what the gate asks for


class Outcome(str, Enum):
    """The gate's decision."""

    PASSED = "passed"
    BLOCKED = "blocked"
    NOT_JUDGED = "not_judged"  # and let through: there was nothing to lose


@dataclass(frozen=True)
class Comparison:
    """Old and new vectors of the same texts.

    Attributes:
        n_texts: Texts with a usable old vector.
        n_unusable: Of these, texts whose new vector is not finite or all zeros; the figures are of the others.
        neighbours: Nearest neighbours that were looked at for `agreement`.
        agreement: As `neighbour_agreement` gives it.
        old: Of the vectors in the table.
        new: Of the vectors that would replace them.
    """

    n_texts: int
    n_unusable: int
    neighbours: int
    agreement: float
    old: Geometry
    new: Geometry


@dataclass(frozen=True)
class PairScores:
    """A figure times 100 on the same labelled pairs.

    Attributes:
        n_pairs: Pairs whose texts both have an old and a new vector; of nDCG the texts that shall find others.
        old: Of the vectors in the table; NaN where cosines or scores do not vary.
        new: Of the vectors that would replace them.
        figure: What is measured, in words: Spearman's correlation of cosines with people's scores, or nDCG@10.
        of: What is counted.
    """

    n_pairs: int
    old: float
    new: float
    figure: str = "Spearman's correlation"
    of: str = "labelled pairs"


@dataclass(frozen=True)
class Decision:
    """What the gate decides, and why.

    Attributes:
        outcome: Whether the migration goes on.
        old_spec_fingerprint: Fingerprint of the spec that was compared with; None where no row holds another spec's vector.
        reasons: What is worse than allowed, or why nothing was judged; one sentence each.
        n_comparable: Distinct texts with an old and a new vector.
        n_lost: Distinct texts with an old vector which the job failed on.
        comparison: None where there was too little to compare.
        scores: None without labelled pairs.
    """

    outcome: Outcome
    old_spec_fingerprint: str | None
    reasons: list[str] = field(default_factory=list)
    n_comparable: int = 0
    n_lost: int = 0
    comparison: Comparison | None = None
    scores: PairScores | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for the run report; a figure that is not defined is None."""
        found: dict[str, Any] = {"verdict": self.outcome.value, "reasons": self.reasons, "from": self.old_spec_fingerprint}
        found |= {"texts_comparable": self.n_comparable, "texts_lost": self.n_lost}
        old, new = {}, {}
        if self.comparison is not None:
            comparison = self.comparison
            found |= {"texts_compared": comparison.n_texts, "neighbours": comparison.neighbours}
            found["agreement"] = _plain(comparison.agreement)
            sides = (comparison.old, comparison.new)
            old, new = ({name: _plain(value) for name, value in vars(geometry).items()} for geometry in sides)
            new["unusable"] = comparison.n_unusable
        if self.scores is not None:
            found["pairs_compared"] = self.scores.n_pairs
            old, new = old | {"score": _plain(self.scores.old)}, new | {"score": _plain(self.scores.new)}
        return found | {"old": old, "new": new}


def compare(old: NDArray[np.floating], new: NDArray[np.floating], neighbours: int) -> Comparison:
    """Measure both versions on the same texts.

    Args:
        old: Vectors in the table, shape ``(n_texts, dim)``. Texts whose old vector is not usable are left out.
        new: Vectors that would replace them, in the same order, shape ``(n_texts, new_dim)``.
        neighbours: To look at for each text; at most a tenth of the texts are.
    """
    known = is_usable(old)
    both = known & is_usable(new)
    n_texts, n_both = int(known.sum()), int(both.sum())
    k = max(1, min(neighbours, n_both // _TEXTS_PER_NEIGHBOUR))
    agreement = neighbour_agreement(old[both], new[both], k)
    return Comparison(n_texts, n_texts - n_both, k, agreement, measure_geometry(old[both]), measure_geometry(new[both]))


def score_pairs(old: Sides, new: Sides, gold: NDArray[np.float64]) -> PairScores:
    """Score both versions on the same labelled pairs.

    Args:
        old: Vectors in the table of the pairs' first and second texts, each of shape ``(n_pairs, dim)``.
        new: Vectors that would replace them. One that is not finite counts as zeros, whose cosine with any other is 0.
        gold: People's scores, shape ``(n_pairs,)``.
    """
    if not len(gold):
        return PairScores(0, math.nan, math.nan)
    found = [spearman(pair_cosines(*(np.where(np.isfinite(v), v, 0) for v in sides)), gold) for sides in (old, new)]
    return PairScores(len(gold), found[0], found[1])


def score_answers(
    old: Mapping[str, NDArray[np.floating]],
    new: Mapping[str, NDArray[np.floating]],
    pairs: Sequence[tuple[str, str]],
    gold: Sequence[float],
) -> PairScores:
    """Score how well first texts of pairs find the second ones whose score is over 0 among all texts: nDCG@10.

    Args:
        old: Vectors in the table, by the text's digest.
        new: Vectors that would replace them, of the same texts. One that is not finite counts as zeros.
        pairs: Digests of the texts of each pair, all of them in both.
        gold: Their scores.
    """
    texts = sorted(old)
    place = {text: row for row, text in enumerate(texts)}
    answers: dict[str, dict[int, float]] = {}
    for (first, second), score in zip(pairs, gold, strict=True):
        if score > 0 and first != second:
            answers.setdefault(first, {})[place[second]] = float(score)
    if not answers:
        return PairScores(0, math.nan, math.nan, "nDCG@10", "texts with an answer")
    asked, own = list(answers), [place[first] for first in answers]
    found = []
    for vectors in (old, new):
        finite = {text: np.where(np.isfinite(vector), vector, 0) for text, vector in vectors.items()}
        sides = stack(finite, asked), stack(finite, texts)
        found.append(score_retrieval(*sides, list(answers.values()), own).ndcg)
    return PairScores(len(asked), found[0], found[1], figure="nDCG@10", of="texts with an answer")


def find_faults(comparison: Comparison, limits: QualityConfig) -> list[str]:
    """What is worse in the new vectors than the settings allow; a figure that is not defined is."""
    faults = []
    if comparison.n_unusable:
        faults.append(f"{comparison.n_unusable:,} of {comparison.n_texts:,} new vectors are all zeros or not finite")
    if not comparison.agreement >= limits.min_agreement:
        faults.append(
            f"old and new vectors have {comparison.agreement:.3f} of {comparison.neighbours} nearest neighbours in common, "
            f"less than quality.min_agreement={limits.min_agreement}"
        )
    rise = comparison.new.anisotropy - comparison.old.anisotropy
    if not rise <= limits.max_anisotropy_rise:
        faults.append(
            f"the mean cosine of two texts rose by {rise:.3f} ({comparison.old.anisotropy:.3f} to {comparison.new.anisotropy:.3f}), "
            f"more than quality.max_anisotropy_rise={limits.max_anisotropy_rise}"
        )
    old, new = comparison.old.effective_rank, comparison.new.effective_rank
    if old and not new:
        faults.append("all new vectors point the same way")
    elif old and not new >= limits.min_rank_share * old:
        faults.append(
            f"the effective rank fell to {new / old:.3f} of what it was ({old:.1f} to {new:.1f}), "
            f"less than quality.min_rank_share={limits.min_rank_share}"
        )
    return faults


def find_score_faults(scores: PairScores, limits: QualityConfig) -> list[str]:
    """What is wrong with the scores on labelled pairs: too few pairs to tell, or worse than allowed."""
    if scores.n_pairs < MIN_PAIRS or math.isnan(scores.old):
        what = "pairs" if scores.of == "labelled pairs" else scores.of
        return [f"quality.pairs: {scores.n_pairs:,} {what} have old and new vectors to score, too few or too much alike to tell anything"]
    drop = scores.old - scores.new  # NaN, which is no pass, where the new cosines do not vary
    if drop <= limits.max_score_drop:
        return []
    return [
        f"{scores.figure} x100 on {scores.n_pairs:,} {scores.of} fell by {drop:.2f} ({scores.old:.2f} to {scores.new:.2f}), "
        f"more than quality.max_score_drop={limits.max_score_drop}"
    ]


def stack(vectors: Mapping[str, NDArray[np.floating]], texts: Sequence[str]) -> NDArray[np.floating]:
    """Vectors in the order of `texts`, shape ``(n_texts, dim)``."""
    return np.stack([vectors[text] for text in texts]) if texts else np.zeros((0, 1), np.float32)


def _plain(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None

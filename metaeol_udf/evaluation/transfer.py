"""How much of a class can be read off frozen vectors: logistic regression and its accuracy, after SentEval's protocols.

| rows | protocol |
| --- | --- |
| all in split `all` (MR, SUBJ) | 10 folds; for each, the regularisation is chosen by folds within the other nine (nested) |
| in `train` and `test` (TREC) | the regularisation is chosen by folds of `train`; one classifier is fitted on it and scored on `test` |

SentEval (Conneau and Kiela 2018, arXiv:1803.05449) chooses by 10 inner folds, which takes three times the fits of our 3.
Every dimension is standardised on the rows a classifier is fitted on: one that is far larger than the others, as some of a
language model's are, would otherwise decide alone how strongly all are regularised.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaeol_udf.errors import ConfigError
from metaeol_udf.evaluation.scores import Interval, percentile_interval

#: Inverse strengths of regularisation to choose from; scikit-learn's C.
STRENGTHS = tuple(10.0**power for power in range(-4, 2))
OUTER_FOLDS = 10
INNER_FOLDS = 3
_MAX_ITERATIONS = 2_000


@dataclass(frozen=True)
class TransferScore:
    """Holds the accuracy of a classifier on vectors that it changes nothing of.

    Attributes:
        n_texts: Texts whose class was predicted: all, or those of split `test`.
        n_classes: Classes to choose from.
        accuracy: Share of right predictions, times 100.
        interval: 95 % bootstrap interval of the accuracy over predicted texts; None without resamples.
        protocol: What was done, for people.
        strengths: The chosen C: one a fold, or one.
    """

    n_texts: int
    n_classes: int
    accuracy: float
    interval: Interval | None
    protocol: str
    strengths: list[float]


def score_transfer(
    vectors: NDArray[np.floating],
    labels: Sequence[str],
    splits: Sequence[str] | None = None,
    *,
    inner_folds: int = INNER_FOLDS,
    resamples: int = 0,
    seed: int = 0,
) -> TransferScore:
    """Predict classes from vectors by logistic regression.

    Args:
        vectors: One a text, shape ``(n_texts, dim)``.
        labels: Class of each text.
        splits: `all`, `train` or `test` for each text; None is `all`. Folds are shuffled: rows may be sorted by class.
        inner_folds: Folds that choose the regularisation; 10 is SentEval's protocol.
        resamples: Bootstrap resamples for the interval; 0 gives none.
        seed: Of folds and resampling.

    Raises:
        ConfigError: scikit-learn is missing, or a class has too few texts for folds.
    """
    require_sklearn()
    splits = ["all"] * len(labels) if splits is None else splits
    check_classes(labels, splits)
    features, classes = np.asarray(vectors, np.float64), np.array(labels)
    if set(splits) == {"all"}:
        outer = _folds(features, classes, OUTER_FOLDS, seed)
        protocol = f"{len(outer)} folds, C by {inner_folds} inner folds"
    else:
        is_train = np.array(splits) == "train"
        outer = [(np.flatnonzero(is_train), np.flatnonzero(~is_train))]
        protocol = f"train and test, C by {inner_folds} folds"
    parts, strengths = [], []
    for fitted, held_out in outer:  # no classifier has seen the texts whose classes it predicts
        strengths.append(_choose(features[fitted], classes[fitted], inner_folds, seed))
        (predicted,) = _predict(features[fitted], classes[fitted], features[held_out], strengths[-1:])
        parts.append(predicted == classes[held_out])
    right = np.concatenate(parts)
    accuracy = float(right.mean())
    # A resample of right and wrong predictions is one draw of how many are right.
    samples = np.random.default_rng(seed).binomial(len(right), accuracy, resamples) * 100.0 / len(right)
    return TransferScore(len(right), len(set(labels)), 100 * accuracy, percentile_interval(samples), protocol, strengths)


def require_sklearn() -> None:
    """See that scikit-learn is there.

    Raises:
        ConfigError: It is not; the message says how to install it.
    """
    try:
        import sklearn  # noqa: F401 - only whether it can be imported
    except ImportError:
        raise ConfigError("transfer tasks need a package that is not installed: pip install 'metaeol-udf[evaluation]'") from None


def check_classes(labels: Sequence[str], splits: Sequence[str], name: str = "the transfer task") -> None:
    """See that there are classes to tell apart, and texts enough of each to make folds of.

    Raises:
        ConfigError: There are not; the message names the rule.
    """
    nested = set(splits) == {"all"}
    fitted = Counter(label for label, split in zip(labels, splits, strict=True) if split != "test")
    if not nested and "test" not in splits:
        raise ConfigError(f"{name}: no row of split test is left: raise evaluation.limit")
    if len(fitted) < 2:
        raise ConfigError(f"{name}: there must be at least two classes, found {len(fitted)}")
    needed = 3 if nested else 2  # one for the outer fold, and one for each side of an inner one
    rarest = min(fitted.values())
    if rarest < needed:
        where = "" if nested else " in split train"
        raise ConfigError(
            f"{name}: every class needs at least {needed} texts{where} to make folds of, one has {rarest}: raise evaluation.limit"
        )


def _choose(x: NDArray[np.float64], y: NDArray[Any], n_folds: int, seed: int) -> float:
    """Choose the C of the best mean accuracy over folds; of equal ones the smallest, which regularises most."""
    right = np.zeros(len(STRENGTHS))
    for fitted, held_out in _folds(x, y, n_folds, seed):
        right += [(predicted == y[held_out]).mean() for predicted in _predict(x[fitted], y[fitted], x[held_out], STRENGTHS)]
    return STRENGTHS[int(right.argmax())]


def _predict(x: NDArray[np.float64], y: NDArray[Any], held_out: NDArray[np.float64], strengths: Sequence[float]) -> list[NDArray[Any]]:
    """Predict the classes of held-out vectors for each C, ascending, so that each fit starts from the one before."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(x)
    fitted, unseen = scaler.transform(x), scaler.transform(held_out)
    model = LogisticRegression(warm_start=True, max_iter=_MAX_ITERATIONS)
    return [model.set_params(C=strength).fit(fitted, y).predict(unseen) for strength in strengths]


def _folds(x: NDArray[np.float64], y: NDArray[Any], n_folds: int, seed: int) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    from sklearn.model_selection import StratifiedKFold

    # No more folds than the rarest class has texts: a fold without it would say nothing about it.
    n_splits = min(n_folds, int(np.unique(y, return_counts=True)[1].min()))
    return list(StratifiedKFold(n_splits, shuffle=True, random_state=seed).split(x, y))

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest

from metaeol_udf.errors import ConfigError
from metaeol_udf.evaluation import score_transfer
from metaeol_udf.evaluation.transfer import STRENGTHS, check_classes


def blobs(n_rows: int, distance: float, n_classes: int = 2, seed: int = 3) -> tuple[np.ndarray, list[str]]:
    """Classes around points so far apart, sorted by class as published sets are; one dimension is large and says nothing."""
    draw = np.random.default_rng(seed)
    classes = np.sort(np.arange(n_rows) % n_classes)
    vectors = draw.normal(size=(n_rows, 5))
    vectors[:, :n_classes] += distance * np.eye(n_classes)[classes]
    vectors[:, 4] = 1000 + 300 * draw.normal(size=n_rows)
    return vectors.astype(np.float32), [f"class {number}" for number in classes]


@pytest.fixture(autouse=True)
def sklearn() -> Any:
    return pytest.importorskip("sklearn", reason="transfer tasks need scikit-learn: pip install 'metaeol-udf[evaluation]'")


def test_classes_that_lie_apart_are_told_apart_though_rows_are_sorted_by_class() -> None:
    score = score_transfer(*blobs(120, 12.0, 3))
    assert (score.accuracy, score.n_texts, score.n_classes) == (100, 120, 3)
    assert score.protocol == "10 folds, C by 3 inner folds"
    assert len(score.strengths) == 10
    assert set(score.strengths) <= set(STRENGTHS)


def test_noise_is_told_apart_by_chance_alone() -> None:
    score = score_transfer(*blobs(400, 0.0), resamples=1000)
    assert score.accuracy == pytest.approx(50, abs=8)
    assert score.interval is not None
    # The interval of a share near one half over 400: 1.96 times the square root of p (1 - p) / n.
    assert score.interval[1] - score.interval[0] == pytest.approx(100 * 2 * 1.96 * 0.5 / 20, abs=1.5)


def test_nested_folds_are_scikit_learns_own() -> None:
    """The same protocol written with scikit-learn's parts for it."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    vectors, labels = blobs(200, 1.2)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    folds = {n: StratifiedKFold(n, shuffle=True, random_state=4) for n in (10, 3)}
    search = GridSearchCV(pipeline, {"logisticregression__C": STRENGTHS}, cv=folds[3])
    expected = 100 * cross_val_score(search, vectors.astype(np.float64), labels, cv=folds[10]).mean()
    score = score_transfer(vectors, labels, seed=4)
    assert 60 < score.accuracy < 95
    assert score.accuracy == pytest.approx(expected, abs=1e-9)


def test_a_train_and_test_split_is_scored_on_test_only() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    vectors, labels = blobs(300, 1.0)
    is_test = np.random.default_rng(9).uniform(size=300) < 0.4
    score = score_transfer(vectors, labels, ["test" if test else "train" for test in is_test], inner_folds=4)
    assert score.protocol == "train and test, C by 4 folds"
    assert score.n_texts == is_test.sum()
    (strength,) = score.strengths
    known = np.array(labels)
    scaler = StandardScaler().fit(vectors[~is_test].astype(np.float64))
    model = LogisticRegression(C=strength, max_iter=2000).fit(scaler.transform(vectors[~is_test].astype(np.float64)), known[~is_test])
    expected = model.score(scaler.transform(vectors[is_test].astype(np.float64)), known[is_test])
    assert score.accuracy == pytest.approx(100 * expected)


def test_test_rows_do_not_take_part_in_the_fit() -> None:
    vectors, labels = blobs(200, 2.0)
    splits = ["test" if row % 4 == 0 else "train" for row in range(200)]
    before = score_transfer(vectors, labels, splits)
    turned = [
        ("class 1" if label == "class 0" else "class 0") if split == "test" else label for label, split in zip(labels, splits, strict=True)
    ]
    after = score_transfer(vectors, turned, splits)
    assert after.strengths == before.strengths
    assert after.accuracy == pytest.approx(100 - before.accuracy)


def test_a_rare_class_makes_fewer_folds() -> None:
    vectors, labels = blobs(64, 8.0)
    assert score_transfer(vectors[27:], labels[27:]).protocol == "5 folds, C by 3 inner folds"


@pytest.mark.parametrize(
    ("labels", "splits", "message"),
    [
        ("aaaaabb", "all", "every class needs at least 3 texts to make folds of, one has 2: raise evaluation.limit"),
        ("aaaaaaa", "all", "there must be at least two classes, found 1"),
        ("aaabaab", ["train"] * 6 + ["test"], "every class needs at least 2 texts in split train to make folds of, one has 1"),
        ("aaabbab", ["train"] * 7, "no row of split test is left: raise evaluation.limit"),
    ],
)
def test_too_few_texts_are_refused_by_the_rule(labels: str, splits: str | list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=f"task 'x': {message}"):
        check_classes(list(labels), [splits] * 7 if isinstance(splits, str) else splits, "task 'x'")


def test_a_missing_scikit_learn_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name.partition(".")[0] == "sklearn":
            raise ImportError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'metaeol-udf\[evaluation\]'"):
        score_transfer(*blobs(40, 1.0))

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from metaeol_udf.errors import ConfigError
from metaeol_udf.evaluation import StsScore, StsTask, TransferScore, TransferTask, evaluate, score_sts, score_transfer

WORDS = [f"text {number}" for number in range(40)]


def vector_of(text: str) -> np.ndarray:
    return np.random.default_rng(list(text.encode())).normal(size=8).astype(np.float32)


class Recorder:
    """Gives each text a random vector of its own and remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        self.calls.append(list(texts))
        return np.stack([vector_of(text) for text in texts])


@pytest.fixture
def pairs() -> StsTask:
    gold = np.random.default_rng(1).uniform(0, 5, 30)
    return StsTask("pairs", ["a", "b"] * 15, WORDS[:30], WORDS[10:40], gold)


@pytest.fixture
def topic() -> TransferTask:
    return TransferTask("topic", ["all"] * 40, ["x", "y"] * 20, WORDS[::-1])


def test_each_distinct_text_is_embedded_once_over_all_tasks(pairs: StsTask) -> None:
    encode = Recorder()
    evaluate(encode, [pairs, pairs], resamples=0)
    assert encode.calls == [WORDS]


def test_scores_are_those_of_each_task_by_itself(pairs: StsTask, topic: TransferTask) -> None:
    pytest.importorskip("sklearn", reason="transfer tasks need scikit-learn: pip install 'metaeol-udf[evaluation]'")
    found = evaluate(Recorder(), [pairs, topic], resamples=50, seed=2)
    assert list(found) == ["pairs", "topic"]
    sts, transfer = found["pairs"], found["topic"]
    assert isinstance(sts, StsScore)
    assert isinstance(transfer, TransferScore)
    first, second = (np.stack([vector_of(text) for text in texts]) for texts in (pairs.sentences1, pairs.sentences2))
    assert sts == score_sts(first, second, pairs.gold, pairs.subsets, resamples=50, seed=2)
    assert transfer == score_transfer(np.stack([vector_of(text) for text in topic.texts]), topic.labels, resamples=50, seed=2)


def test_a_task_that_cannot_be_scored_is_refused_before_anything_is_embedded(pairs: StsTask) -> None:
    pytest.importorskip("sklearn", reason="transfer tasks need scikit-learn: pip install 'metaeol-udf[evaluation]'")
    encode = Recorder()
    small = TransferTask("small", ["all"] * 4, ["x", "x", "x", "y"], WORDS[:4])
    with pytest.raises(ConfigError, match="task 'small': every class needs at least 3 texts"):
        evaluate(encode, [pairs, small])
    assert encode.calls == []


def test_an_encoder_that_loses_texts_is_refused(pairs: StsTask) -> None:
    with pytest.raises(ValueError, match="40 texts were to be embedded, found 3 vectors"):
        evaluate(lambda texts: np.zeros((3, 2), np.float32), [pairs])

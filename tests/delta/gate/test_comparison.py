"""What the quality gate says of vectors that are worse in a known way, and of labelled pairs that cannot be read."""

from __future__ import annotations

import gzip
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from metaeol_udf.config import QualityConfig
from metaeol_udf.delta.gate.comparison import (
    Decision,
    Outcome,
    PairScores,
    compare,
    find_faults,
    find_score_faults,
    score_answers,
    score_pairs,
    stack,
)
from metaeol_udf.errors import ConfigError
from metaeol_udf.evaluation.labelled_pairs import load_pairs

LIMITS = QualityConfig(gate=True)


def draw(n_texts: int = 200, dim: int = 16, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n_texts, dim)).astype(np.float32)


def faults(old: np.ndarray, new: np.ndarray, **limits: float) -> list[str]:
    return find_faults(compare(old, new, 10), QualityConfig(gate=True, **limits))


def test_vectors_of_another_length_that_lie_alike_have_no_fault() -> None:
    old = draw()
    assert faults(old, np.hstack([2 * old, np.zeros((200, 8), np.float32)])) == []


def test_unrelated_vectors_are_told_by_their_neighbours_alone() -> None:
    (fault,) = faults(draw(), draw(seed=9))
    assert fault.startswith("old and new vectors have 0.0")
    assert fault.endswith("of 10 nearest neighbours in common, less than quality.min_agreement=0.2")
    assert faults(draw(), draw(seed=9), min_agreement=0.0) == []


def test_a_common_direction_is_told_by_the_mean_cosine() -> None:
    old = draw()
    (fault,) = faults(old, old + 0.5)
    assert "the mean cosine of two texts rose by" in fault
    assert fault.endswith("more than quality.max_anisotropy_rise=0.1")
    assert faults(old, old + 0.5, max_anisotropy_rise=1.0) == []
    assert faults(old + 0.5, old) == []  # the other way round it is better


def test_vectors_that_spread_over_fewer_directions_are_told_by_their_rank() -> None:
    old = draw()
    narrow = old * ([1.0] * 5 + [0.01] * 11)
    (fault,) = faults(old, narrow, min_agreement=0.0)
    assert fault.startswith("the effective rank fell to 0.3")  # about 5 directions of 16
    assert fault.endswith("less than quality.min_rank_share=0.5")
    assert faults(old, narrow, min_agreement=0.0, min_rank_share=0.3) == []


@pytest.mark.parametrize("value", [0.0, np.nan, 3.0], ids=["zeros", "not a number", "all the same"])
def test_a_collapse_is_a_fault_whatever_the_limits_are(value: float) -> None:
    found = faults(draw(), np.full((200, 16), value), min_agreement=0.0, max_anisotropy_rise=2.0, min_rank_share=0.0)
    expected = "all new vectors point the same way" if value == 3 else "200 of 200 new vectors are all zeros or not finite"
    assert expected in found


def test_one_broken_vector_is_a_fault_and_does_not_touch_the_other_figures() -> None:
    old = draw()
    new = old.copy()
    new[7] = np.nan
    seen = compare(old, new, 10)
    assert find_faults(seen, LIMITS) == ["1 of 200 new vectors are all zeros or not finite"]
    assert (seen.n_texts, seen.agreement, seen.old) == (200, 1, seen.new)


def test_texts_whose_old_vector_is_broken_are_left_out_and_small_samples_look_at_fewer_neighbours() -> None:
    old = draw(60)
    old[:5] = 0
    seen = compare(old, draw(60), 10)
    assert (seen.n_texts, seen.neighbours) == (55, 5)
    assert compare(stack({}, []), stack({}, []), 10).n_texts == 0


def test_labelled_pairs_are_scored_on_both_versions_and_a_drop_beyond_the_margin_is_a_fault() -> None:
    angles = np.radians(np.arange(30.0))
    first, second = np.tile([1.0, 0.0], (30, 1)), np.column_stack([np.cos(angles), np.sin(angles)])
    gold = -np.arange(30.0)
    swapped = second.copy()
    swapped[[0, 29]] = second[[29, 0]]  # 2 * 29^2 of squared rank differences among 30
    scores = score_pairs((first, second), (first, swapped), gold)
    assert scores == PairScores(30, pytest.approx(100), pytest.approx(100 * (1 - 6 * 2 * 29**2 / (30 * (30**2 - 1)))))
    (fault,) = find_score_faults(scores, LIMITS)
    assert fault.endswith("(100.00 to 62.58), more than quality.max_score_drop=1.0")
    assert find_score_faults(scores, QualityConfig(max_score_drop=38)) == []
    assert find_score_faults(PairScores(30, 60, 100), LIMITS) == []


def test_texts_that_no_longer_find_their_answers_are_a_fault() -> None:
    """Thirty texts find their answers among sixty; in the new vectors half of the answers stand elsewhere."""
    old = {f"{kind}{i:02}": np.eye(30)[i] for kind in "qa" for i in range(30)}
    new = old | {f"a{i:02}": np.eye(30)[(i + 1) % 30] for i in range(15)} | {"q29": np.full(30, np.nan)}
    pairs = [(f"q{i:02}", f"a{i:02}") for i in range(30)] + [("q00", "a05")]
    scores = score_answers(old, new, pairs, [1.0] * 30 + [0.0])
    assert (scores.n_pairs, scores.old) == (30, pytest.approx(100.0))
    assert scores.new < 65
    (fault,) = find_score_faults(scores, LIMITS)
    assert fault.startswith("nDCG@10 x100 on 30 texts with an answer fell by")
    assert score_answers(old, new, pairs[-1:], [0.0]).n_pairs == 0
    assert "0 texts with an answer have" in find_score_faults(score_answers(old, new, [], []), LIMITS)[0]


def test_pairs_that_tell_nothing_are_a_fault() -> None:
    assert "too few or too much alike" in find_score_faults(PairScores(19, 80, 80), LIMITS)[0]
    assert "too few or too much alike" in find_score_faults(PairScores(50, np.nan, 80), LIMITS)[0]
    assert "fell by nan" in find_score_faults(PairScores(50, 80, np.nan), LIMITS)[0]
    empty = (np.zeros((0, 1)), np.zeros((0, 1)))
    assert score_pairs(empty, empty, np.zeros(0)).n_pairs == 0


def test_a_verdict_is_plain_values_and_what_is_not_defined_is_null() -> None:
    seen = compare(draw(), np.full((200, 16), np.nan), 10)
    found = Decision(Outcome.BLOCKED, "abc", ["why"], 300, 4, seen, PairScores(20, 80.0, np.nan)).as_dict()
    assert (found["verdict"], found["reasons"], found["from"]) == ("blocked", ["why"], "abc")
    assert (found["texts_comparable"], found["texts_lost"], found["texts_compared"], found["pairs_compared"]) == (300, 4, 200, 20)
    assert found["new"] == {"dim": 16, "anisotropy": None, "effective_rank": 0.0, "unusable": 200, "score": None}
    assert found["agreement"] is None


def write_pairs(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_pairs_are_read_by_the_names_of_the_key_columns(tmp_path: Path) -> None:
    lines = ["score\tlang1\tn1\tlang2\tn2\tnote", *[f"{n / 2}\ten\t{n}\tde\t{n + 1}\tx" for n in range(20)]]
    pairs = load_pairs(write_pairs(tmp_path / "pairs.tsv", lines), ["lang", "n"])
    assert (pairs.firsts[3], pairs.seconds[3], pairs.scores[3]) == (("en", "3"), ("de", "4"), 1.5)
    (tmp_path / "pairs.tsv.gz").write_bytes(gzip.compress((tmp_path / "pairs.tsv").read_bytes()))
    assert load_pairs(tmp_path / "pairs.tsv.gz", ["lang", "n"]).firsts == pairs.firsts
    for score, is_right in ((1, True), (0, False)):
        same = write_pairs(tmp_path / "answers.tsv", ["id1\tid2\tscore", *[f"{n}\t{n + 1}\t{score}" for n in range(20)]])
        with nullcontext() if is_right else pytest.raises(ConfigError, match="one with a score over 0"):
            assert len(load_pairs(same, ["id"], of_answers=True).scores) == 20


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["id1\tid2", "a\tb", "a\tc"], "line 1: the header must name id1, id2, score once each"),
        (["id1\tid2\tscore", "a\tsecret\t1", "a\tsecret"], "line 3: a row must have 3 fields, found 2"),
        (["id1\tid2\tscore", "a\tsecret\t1", "a\tsecret\tsecret"], "line 3: score must be a number"),
        (["id1\tid2\tscore", *[f"a\tsecret\t{n}" for n in range(19)]], "at least 20 pairs .* found 19 pairs"),
        (["id1\tid2\tscore", *["a\tsecret\t2"] * 20], "scores are not all equal"),
    ],
)
def test_pairs_that_break_the_form_are_refused_without_a_value(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_pairs(write_pairs(tmp_path / "pairs.tsv", lines), ["id"])
    assert "secret" not in str(caught.value)


def test_pairs_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"quality\.pairs: cannot read .*none\.tsv"):
        load_pairs(tmp_path / "none.tsv", ["id"])
    (tmp_path / "latin.tsv").write_bytes("id1\tid2\tscore\n\xe9\t1\t1\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="must be UTF-8"):
        load_pairs(tmp_path / "latin.tsv", ["id"])

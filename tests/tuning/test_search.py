"""Tuning finds what was planted, never scores on what it chose on, and its candidates are the encoder's own vectors."""

from __future__ import annotations

import dataclasses
import io
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from metaeol_udf import EmbeddingSpec, MetaEOLEncoder, TemplateSet
from metaeol_udf.encoder.checkpoint.resolve import made_with, resolve_local
from metaeol_udf.errors import InputError
from metaeol_udf.evaluation.data import StsTask
from metaeol_udf.evaluation.retrieval_data import RetrievalTask
from metaeol_udf.tuning.curves import scores_by_layer, scores_by_prompts
from metaeol_udf.tuning.objectives import Objective, halves, labelled, mean_reciprocal_rank, split_in_two, texts_of
from metaeol_udf.tuning.plots import plot_curve
from metaeol_udf.tuning.search import Candidate, Recipe, pareto_front, tune, vectors_of
from metaeol_udf.tuning.spec_file import write_spec
from metaeol_udf.tuning.state_bank import StateBank, fill_bank, subset
from metaeol_udf.tuning.terminal_report import show_curves

TEXTS = [
    f"the {adjective} {noun} was {verb}" for adjective in ("old", "new", "red") for noun in ("car", "dog") for verb in ("sold", "seen")
]


def random_bank(n_pairs: int, *, good_layer: int, good_template: int, seed: int = 0) -> tuple[StateBank, Objective]:
    """States of noise, but for one layer and one template, where pairs are as near as their gold scores say."""
    random = np.random.default_rng(seed)
    firsts, seconds = [f"first {i}" for i in range(n_pairs)], [f"second {i}" for i in range(n_pairs)]
    gold = random.uniform(0, 5, n_pairs)
    states = random.normal(size=(2 * n_pairs, 3, 4, 16)).astype(np.float32)
    base = random.normal(size=(n_pairs, 16))
    other = base * (gold / 5)[:, None] + random.normal(size=(n_pairs, 16)) * (1 - gold / 5)[:, None]
    states[:n_pairs, good_template, good_layer], states[n_pairs:, good_template, good_layer] = 5 * base, 5 * other
    templates = TemplateSet.load("metaeol")
    bank = StateBank([*firsts, *seconds], subset(templates, (0, 2, 4)), (1, 2, 3, 4), 4, states, None, costs())  # type: ignore[arg-type]
    return bank, Objective("pairs", firsts, seconds, gold)


def costs() -> dict[tuple[int, ...], float]:
    return {key: 10.0 * len(key) for key in [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]}


def test_the_layer_and_the_template_that_hold_the_meaning_are_found() -> None:
    bank, objective = random_bank(400, good_layer=2, good_template=1)
    chosen, held_out = split_in_two([objective])
    tuned = tune(bank, chosen, held_out, layers=(4,))
    best = tuned.best(max_cost=1.0)
    assert (best.layers, best.templates) == ((3,), (1,))
    assert best.held_out is not None
    assert best.held_out > 80 > tuned.baseline.held_out + 30  # type: ignore[operator]
    assert best.cost == pytest.approx(10.0 * 3 / 4)
    assert all(first.cost < second.cost and first.chosen_on < second.chosen_on for first, second in zip(tuned.front, tuned.front[1:]))  # noqa: B905


def test_layers_that_hold_the_meaning_together_are_found_past_one_between_them_that_does_not() -> None:
    bank, objective = random_bank(400, good_layer=0, good_template=1)
    random = np.random.default_rng(7)
    bank.states[:, 1, 2] = bank.states[:, 1, 0]
    bank.states[:, 1, (0, 2)] += 5 * random.normal(size=(len(bank.texts), 2, 16)).astype(np.float32)
    bank.states[:, 1, 1] *= 10
    best = tune(bank, *split_in_two([objective]), layers=(4,)).best(max_cost=1.0)
    assert best.layers == (1, 3)


def test_noise_gains_nothing_on_the_pairs_that_were_held_out() -> None:
    bank, objective = random_bank(400, good_layer=2, good_template=1)
    noise = dataclasses.replace(objective, gold=np.random.default_rng(5).permutation(objective.gold))
    chosen, held_out = split_in_two([noise])
    best = tune(bank, chosen, held_out, layers=(4,)).best(1.0)
    assert best.chosen_on > 5  # chosen because it looked good there
    assert best.held_out is not None
    assert abs(best.held_out) < 20


def test_a_budget_below_every_candidate_leaves_the_baseline() -> None:
    bank, objective = random_bank(200, good_layer=2, good_template=1)
    tuned = tune(bank, *split_in_two([objective]), layers=(4,))
    assert tuned.best(max_cost=0.0) == tuned.baseline


def test_no_text_is_in_both_halves_even_through_other_pairs() -> None:
    chain = Objective("chain", [f"t{i}" for i in range(30)], [f"t{i + 1}" for i in range(30)], np.arange(30.0))
    apart = Objective("apart", [f"a{i}" for i in range(90)], [f"b{i}" for i in range(90)], np.arange(90.0))
    same = Objective("same", apart.firsts[::-1], apart.seconds[::-1], apart.gold)
    first, second = split_in_two([apart, same])
    assert not set(texts_of(first)) & set(texts_of(second))
    assert abs(len(first[0].firsts) - 45) <= 1
    with pytest.raises(InputError, match="chain has"):
        split_in_two([chain])


def test_the_split_repeats_and_depends_on_the_seed() -> None:
    apart = Objective("apart", [f"a{i}" for i in range(90)], [f"b{i}" for i in range(90)], np.arange(90.0))
    assert split_in_two([apart], 1)[0][0].firsts == split_in_two([apart], 1)[0][0].firsts
    assert split_in_two([apart], 1)[0][0].firsts != split_in_two([apart], 2)[0][0].firsts


def test_halves_of_texts_are_a_proxy_without_labels() -> None:
    texts = [" ".join(f"w{i}_{j}" for j in range(10)) for i in range(50)]
    objective = halves([*texts, "too short", texts[0]])
    assert len(objective.firsts) == 50
    assert f"{objective.firsts[0]} {objective.seconds[0]}" == texts[0]
    with pytest.raises(InputError, match="at least 40 texts of 8 words, found 1"):
        halves(texts[:1])


def test_mean_reciprocal_rank() -> None:
    eye = np.eye(4, dtype=np.float32)
    assert mean_reciprocal_rank(eye, eye) == 100.0
    shifted = np.roll(eye, 1, axis=0)
    vectors = np.random.default_rng(0).normal(size=(200, 64)).astype(np.float32)
    assert mean_reciprocal_rank(vectors, 3 * vectors) == 100.0  # rounding puts no vector before itself
    # Each first vector's own second one ties with two others behind the one that matches.
    assert mean_reciprocal_rank(eye, shifted) == pytest.approx(100 * 1 / 2)


def test_the_front_holds_no_candidate_that_another_beats() -> None:
    made = [Candidate((0,), (1,), Recipe(), cost, score) for cost, score in [(3, 5), (1, 4), (2, 3), (1, 2), (4, 5), (5, 6)]]
    assert [(c.cost, c.chosen_on) for c in pareto_front(made)] == [(1, 4), (3, 5), (5, 6)]


@pytest.fixture(scope="module")
def bank(tiny_model_dir: Path) -> StateBank:
    templates = TemplateSet.load("metaeol")
    encoder = MetaEOLEncoder.from_pretrained(str(tiny_model_dir), templates=templates, layer=(0, 1, 2), dtype="float32", device="cpu")
    return fill_bank(encoder, [*TEXTS, TEXTS[0]])


def test_candidates_are_the_encoders_own_vectors(bank: StateBank, tiny_model_dir: Path) -> None:
    assert bank.texts == TEXTS
    few = subset(TemplateSet.load("metaeol"), (1, 4))
    direct = MetaEOLEncoder.from_pretrained(str(tiny_model_dir), templates=few, layer=(1, 2), dtype="float32", device="cpu").encode(TEXTS)
    np.testing.assert_allclose(bank.mean((1, 4), (1, 2)), direct, atol=2e-5)
    assert bank.rows(["the new dog was seen", TEXTS[0]]).tolist() == [TEXTS.index("the new dog was seen"), 0]


def test_costs_are_the_tries_tokens_and_the_layers_that_run(bank: StateBank) -> None:
    assert bank.cost((0, 1), (2,)) < bank.cost((0, 2), (2,))  # two suffixes of one prefix against two prefixes
    assert bank.cost((0, 1), (1,)) == bank.cost((0, 1), (2,)) / 2


def test_a_written_spec_gives_the_vectors_that_were_scored(bank: StateBank, tiny_model_dir: Path, tmp_path: Path) -> None:
    repeated = dataclasses.replace(bank, texts=[f"{text} {i}" for i in range(10) for text in TEXTS])
    encoder = bank.encoder
    repeated = fill_bank(encoder, repeated.texts)
    candidate = Candidate((0, 3), (1, 2), Recipe("whiten", 8, 0.5), 1.0, 0.0)
    expected = vectors_of(repeated, candidate, repeated.texts)
    spec = EmbeddingSpec(model=str(tiny_model_dir), dtype="float32")
    templates = subset(TemplateSet.load("metaeol"), candidate.templates, "chosen")
    resolved = resolve_local(dataclasses.replace(spec, layer=candidate.layers, templates_json=templates.to_json())).spec
    post = candidate.recipe.fit(repeated.mean(candidate.templates, candidate.layers), made_with(resolved, 2))
    files = write_spec(tmp_path / "new" / "my.yaml", spec, layers=candidate.layers, templates=templates, post=post, remarks=["chosen"])
    assert sorted(file.name for file in files) == ["my.safetensors", "my.templates.yaml", "my.yaml"]
    assert (tmp_path / "new" / "my.yaml").read_text().startswith("# chosen\n")
    loaded = EmbeddingSpec.load(tmp_path / "new" / "my.yaml")
    np.testing.assert_allclose(MetaEOLEncoder.from_spec(loaded, device="cpu").encode(repeated.texts), expected, atol=1e-3)


def test_curves_are_the_scores_of_plain_vectors(bank: StateBank) -> None:
    gold: NDArray[Any] = np.arange(6.0)
    objective = labelled([StsTask("x", ["all"] * 6, TEXTS[:6], TEXTS[6:], gold)])
    points = scores_by_prompts(bank, objective, (2,))
    assert [point["n_prompts"] for point in points] == list(range(1, 9))
    assert [point["n_subsets"] for point in points] == [8, 28, 40, 40, 40, 28, 8, 1]
    means = bank.mean(range(8), (2,))
    whole = objective[0].score(means[:6], means[6:])
    assert points[-1]["score"] == points[-1]["low"] == points[-1]["high"] == pytest.approx(whole)
    assert points[0]["low"] <= points[0]["score"] <= points[0]["high"]
    with pytest.raises(InputError, match="at least 100"):  # the mean of a dozen texts says nothing
        scores_by_layer(bank, objective)


def test_a_layer_whose_vectors_are_all_the_same_has_no_score_and_is_not_the_best(tmp_path: Path) -> None:
    """At layer 0 the last token of every prompt is the same quotation mark."""
    points = [(0, nan, nan), (1, 20.0, 30.0), (2, 25.0, 28.0)]
    layers = [{"layer": layer, "score": score, "score_without_mean": centred} for layer, score, centred in points]
    report = {"model": "m", "templates": "metaeol", "tasks": ["x"], "by_layer": layers, "by_prompts": []}
    plot_curve(report, "by_layer", tmp_path / "layers.svg")
    assert "metaeol: layer 1 scores best: 30.0 with the mean removed, 20.0 as it is" in (tmp_path / "layers.svg").read_text()
    plot_curve(report | {"by_layer": layers[:1]}, "by_layer", tmp_path / "none.svg")  # no layer has a score, and the picture is drawn
    printed = io.StringIO()
    show_curves(Console(file=printed, width=120), report)
    assert "none" in printed.getvalue()
    assert "nan" not in printed.getvalue()


def test_queries_are_split_and_keep_their_documents() -> None:
    """Forty queries, each answered by one of fifty documents: halves share the documents and no query."""
    task = RetrievalTask(
        "made", [f"query {i}" for i in range(40)], [f"document {i}" for i in range(50)], [{i: 1.0} for i in range(40)], [-1] * 39 + [49]
    )
    (objective,) = labelled([task])
    (one,), (other,) = split_in_two([objective])
    assert sorted(one.firsts + other.firsts) == sorted(task.queries)
    assert one.seconds == other.seconds == task.documents
    vectors = np.eye(50, dtype=np.float32)
    rows = [int(query.split()[1]) for query in one.firsts]
    assert one.score(vectors[rows], vectors) == 100.0
    assert one.interval(vectors[rows], vectors) == (100.0, 100.0)
    assert one.score(-vectors[rows], vectors) < 20
    assert one.figure == "nDCG@10"


def test_documents_that_answer_stay_and_blank_ones_still_count() -> None:
    task = RetrievalTask("made", ["a", "b"], [f"document {i}" for i in range(9)], [{7: 1.0, 9: 2.0}, {2: 1.0}], [-1, 5])
    kept = task.keep_documents(4, 0)
    assert len(kept.documents) == 4
    assert [kept.documents[place] for place in (min(kept.relevance[0]), *kept.relevance[1])] == ["document 7", "document 2"]
    assert max(kept.relevance[0]) == 4  # behind the last: a document without a text
    assert kept.documents[kept.passed_over[1]] == "document 5"
    assert task.keep_documents(1, 0).documents == ["document 2", "document 5", "document 7"]


def test_a_bank_is_tuned_for_queries_that_find_their_documents() -> None:
    """The planted layer and template make each first text find its second one."""
    bank, pairs = random_bank(120, good_layer=2, good_template=1)
    states = bank.states.copy()
    states[120:, 1, 2] = states[:120, 1, 2]  # a document is where its query is
    objective = Objective("found", pairs.firsts, pairs.seconds, None, [{i: 1.0} for i in range(120)], [-1] * 120)
    chosen, held_out = split_in_two([objective])
    best = tune(dataclasses.replace(bank, states=states), chosen, held_out, layers=(4,)).best(max_cost=1.0)
    assert (best.layers, best.templates, best.held_out) == ((3,), (1,), pytest.approx(100.0))
    assert best.held_out_intervals == {"found": pytest.approx((100.0, 100.0))}

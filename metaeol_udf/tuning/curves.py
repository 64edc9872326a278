"""Scores against the number of prompts and against the output layer: figures 3 and 4 of the MetaEOL paper, for any model and texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np

from metaeol_udf.tuning.objectives import Objective, texts_of
from metaeol_udf.tuning.search import Recipe
from metaeol_udf.tuning.state_bank import StateBank

_MOST_SUBSETS = 40  # of one size; more are drawn at random


@dataclass(frozen=True)
class LayerPoint:
    """Mean scores over all objectives at one output layer.

    Attributes:
        layer: Index into the hidden states.
        score: Of the vectors as they are.
        score_without_mean: Of the vectors less their mean over all texts.
        scores: As `score`, an objective each.
    """

    layer: int
    score: float
    score_without_mean: float
    scores: dict[str, float]


@dataclass(frozen=True)
class PromptPoint:
    """Mean scores of template subsets of one size.

    Attributes:
        n_prompts: Templates in a subset.
        n_subsets: Subsets scored.
        score: Their mean score.
        low: The worst one's.
        high: The best one's.
        tokens: Tokens computed a text, the subsets' mean.
    """

    n_prompts: int
    n_subsets: int
    score: float
    low: float
    high: float
    tokens: float


def scores_by_layer(bank: StateBank, objectives: Sequence[Objective]) -> list[LayerPoint]:
    """A point for each layer of the bank, all templates averaged."""
    everything = range(len(bank.templates.templates))
    points = []
    for layer in bank.layers:
        plain, centred = (_scores(bank, objectives, everything, (layer,), recipe) for recipe in (Recipe(), Recipe("mean")))
        points.append(LayerPoint(layer, _mean(plain), _mean(centred), plain))
    return points


def scores_by_prompts(bank: StateBank, objectives: Sequence[Objective], layers: Sequence[int], seed: int = 0) -> list[PromptPoint]:
    """A point for each number of templates, over all subsets of that size, or 40 drawn at random."""
    n_templates = len(bank.templates.templates)
    points = []
    for size in range(1, n_templates + 1):
        subsets = list(_subsets(n_templates, size, seed))
        scores = [_mean(_scores(bank, objectives, subset, layers, Recipe())) for subset in subsets]
        tokens = [bank.cost(subset, (bank.n_layers,)) for subset in subsets]
        points.append(PromptPoint(size, len(subsets), float(np.mean(scores)), min(scores), max(scores), float(np.mean(tokens))))
    return points


def _subsets(n: int, size: int, seed: int) -> Sequence[tuple[int, ...]]:
    if comb(n, size) <= _MOST_SUBSETS:
        return list(combinations(range(n), size))
    draw = np.random.default_rng([seed, size])
    drawn: dict[tuple[int, ...], None] = {}
    while len(drawn) < _MOST_SUBSETS:
        drawn[tuple(sorted(draw.permutation(n)[:size].tolist()))] = None
    return list(drawn)


def _scores(
    bank: StateBank, objectives: Sequence[Objective], templates: Sequence[int], layers: Sequence[int], recipe: Recipe
) -> dict[str, float]:
    means = bank.mean(templates, layers)
    post = recipe.fit(means[bank.rows(texts_of(objectives))])
    vectors = means if post is None else post(means)
    return {o.name: o.score(vectors[bank.rows(o.firsts)], vectors[bank.rows(o.seconds)]) for o in objectives}


def _mean(scores: dict[str, float]) -> float:
    return float(np.mean(list(scores.values())))

"""Scores against the number of prompts and against the output layer: figures 3 and 4 of the MetaEOL paper, for any model and texts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import comb
from typing import Any

import numpy as np

from metaeol_udf.tuning.objectives import Objective, texts_of
from metaeol_udf.tuning.search import Recipe, mean, score_each
from metaeol_udf.tuning.state_bank import StateBank

_MOST_SUBSETS = 40  # of one size; more are drawn at random


def scores_by_layer(bank: StateBank, objectives: Sequence[Objective]) -> list[dict[str, Any]]:
    """Score every layer of the bank, all templates averaged.

    Returns:
        For each layer: `layer`, an index into the hidden states; `score`, the mean over objectives; `score_without_mean`, that of the
        vectors less their mean over all texts; `scores`, as `score`, an objective each.
    """
    everything = range(len(bank.templates.templates))
    points = []
    for layer in bank.layers:
        plain, centred = (_scores(bank, objectives, everything, (layer,), recipe) for recipe in (Recipe(), Recipe("mean")))
        points.append({"layer": layer, "score": mean(plain), "score_without_mean": mean(centred), "scores": plain})
    return points


def scores_by_prompts(bank: StateBank, objectives: Sequence[Objective], layers: Sequence[int], seed: int = 0) -> list[dict[str, Any]]:
    """Score every number of templates, over all subsets of that size, or 40 drawn at random.

    Returns:
        For each size: `n_prompts`; `n_subsets` that were scored; the `score` of their mean, the worst (`low`) and the best (`high`);
        `tokens` computed a text, the subsets' mean.
    """
    n_templates = len(bank.templates.templates)
    points = []
    for size in range(1, n_templates + 1):
        subsets = _subsets(n_templates, size, seed)
        scores = [mean(_scores(bank, objectives, subset, layers, Recipe())) for subset in subsets]
        tokens = [bank.cost(subset, (bank.n_layers,)) for subset in subsets]
        found = {"score": float(np.mean(scores)), "low": min(scores), "high": max(scores), "tokens": float(np.mean(tokens))}
        points.append({"n_prompts": size, "n_subsets": len(subsets)} | found)
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
    vectors = recipe.apply(bank.mean(templates, layers), bank.rows(texts_of(objectives)))
    return score_each(vectors, bank, objectives)

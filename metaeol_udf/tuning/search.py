"""Chooses output layers, templates and post-processing for vectors that agree with people, at a cost in tokens.

All candidates come from one pass of the model. They are chosen on one half of the pairs and scored on the other, and no
text stands in both halves. Post-processing is fitted on the texts of the first half, without their labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from metaeol_udf.encoder.vectors.output import PostProcessing
from metaeol_udf.encoder.vectors.postprocess_fit import Moments, fit_postprocess
from metaeol_udf.evaluation.scores import Interval
from metaeol_udf.tuning.objectives import Objective, texts_of
from metaeol_udf.tuning.state_bank import StateBank

_KEPT_LAYERS = 6  # choices of layers that are tried with every post-processing
_KEPT_STARTS = 3  # choices of layers and post-processing whose templates are then thinned out
_LARGEST_MEAN = 4  # layers that are averaged


@dataclass(frozen=True)
class Recipe:
    """Says which post-processing is fitted: the arguments of `fit_postprocess`; `method` None fits none."""

    method: str | None = None
    n_components: int | None = None
    shrinkage: float = 0.1

    def fit(self, vectors: NDArray[np.float32], fitted_for: dict[str, str] | None = None) -> PostProcessing | None:
        """Fit on vectors of shape ``(n_texts, hidden_size)``; None where there is nothing to fit."""
        if self.method is None:
            return None
        moments = Moments.of(vectors)
        return fit_postprocess(moments, self.method, n_components=self.n_components, shrinkage=self.shrinkage, fitted_for=fitted_for)

    def apply(self, vectors: NDArray[np.float32], fit_on: NDArray[np.int64]) -> NDArray[np.float32]:
        """Post-process all vectors by what is fitted on some of the rows."""
        post = self.fit(vectors[fit_on])
        return vectors if post is None else post(vectors)

    def __str__(self) -> str:
        if self.method == "remove_top":
            return f"remove_top {self.n_components or 1}"
        if self.method == "whiten":
            kept = "" if self.n_components is None else f", {self.n_components} dimensions"
            return f"whiten, shrinkage {self.shrinkage:g}{kept}"
        return self.method or "none"


RECIPES = (
    Recipe(),
    Recipe("mean"),
    Recipe("standardize"),
    *(Recipe("remove_top", n) for n in (1, 2, 4)),
    *(Recipe("whiten", None, shrinkage) for shrinkage in (0.9, 0.7, 0.5, 0.3)),
)


@dataclass(frozen=True)
class Candidate:
    """Describes one way to make vectors, and what it came to.

    Attributes:
        templates: Positions in the template set.
        layers: Hidden states that are averaged.
        recipe: Post-processing.
        cost: Tokens a text, times the share of layers that run.
        chosen_on: Mean score over the objectives of the half that candidates are chosen on.
        held_out: Mean score over the other half; None for what was not chosen.
        held_out_scores: The same, an objective each.
        held_out_intervals: Their 95 % intervals.
    """

    templates: tuple[int, ...]
    layers: tuple[int, ...]
    recipe: Recipe
    cost: float
    chosen_on: float
    held_out: float | None = None
    held_out_scores: dict[str, float] | None = None
    held_out_intervals: dict[str, Interval | None] | None = None


@dataclass(frozen=True)
class Tuned:
    """Holds what tuning found.

    Attributes:
        baseline: The configured templates and layer, without post-processing.
        front: Candidates that no other beats at their cost on the first half, cheapest first; all with held-out scores.
        n_tried: Candidates scored.
    """

    baseline: Candidate
    front: list[Candidate]
    n_tried: int

    def best(self, max_cost: float) -> Candidate:
        """Return the front's best one, by the half it was chosen on, at no more than `max_cost` times the baseline's cost."""
        affordable = [c for c in self.front if c.cost <= max_cost * self.baseline.cost * (1 + 1e-9)]
        return max(affordable, key=lambda c: c.chosen_on, default=self.baseline)


def tune(bank: StateBank, choose_on: Sequence[Objective], held_out: Sequence[Objective], layers: Sequence[int]) -> Tuned:
    """Search candidates.

    Args:
        bank: Hidden states of the texts of both halves.
        choose_on: The half that candidates are chosen on.
        held_out: The half that the chosen ones are scored on, once, at the end.
        layers: The configured output layers: the baseline's.
    """
    search = _Search(bank, choose_on)
    everything = tuple(range(len(bank.templates.templates)))
    baseline = search.best(everything, tuple(layers), (Recipe(),))
    choices = sorted(_layer_choices(bank.layers), key=lambda each: -search.best(everything, each, (Recipe(), Recipe("mean"))).chosen_on)
    starts = sorted((search.best(everything, each, RECIPES) for each in choices[:_KEPT_LAYERS]), key=lambda c: -c.chosen_on)
    for start in starts[:_KEPT_STARTS]:
        search.thin_out(start)
    front = [_scored(bank, choose_on, held_out, candidate) for candidate in pareto_front(search.tried)]
    return Tuned(_scored(bank, choose_on, held_out, baseline), front, len(search.tried))


def pareto_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates that no other one beats at the same or a lower cost, cheapest first."""
    front: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (c.cost, -c.chosen_on)):
        if not front or candidate.chosen_on > front[-1].chosen_on:
            front.append(candidate)
    return front


def vectors_of(bank: StateBank, candidate: Candidate, fit_on: Sequence[str]) -> NDArray[np.float32]:
    """Compute a candidate's vectors of all texts of the bank, its post-processing fitted on some of them."""
    return candidate.recipe.apply(bank.mean(candidate.templates, candidate.layers), bank.rows(fit_on))


def score_each(vectors: NDArray[np.float32], bank: StateBank, objectives: Sequence[Objective]) -> dict[str, float]:
    """Return the score of each objective by its name."""
    return {o.name: o.score(vectors[bank.rows(o.firsts)], vectors[bank.rows(o.seconds)]) for o in objectives}


def mean(scores: dict[str, float]) -> float:
    """Average the scores over objectives."""
    return float(np.mean(list(scores.values())))


class _Search:
    """Scores candidates on the half that they are chosen on, and remembers them."""

    def __init__(self, bank: StateBank, objectives: Sequence[Objective]) -> None:
        self._bank = bank
        self._objectives = objectives
        self._fit_rows = bank.rows(texts_of(objectives))
        self.tried: list[Candidate] = []

    def best(self, templates: tuple[int, ...], layers: tuple[int, ...], recipes: Sequence[Recipe]) -> Candidate:
        """Score templates and layers with each post-processing, and return the best of them."""
        means, cost = self._bank.mean(templates, layers), self._bank.cost(templates, layers)
        each = (score_each(recipe.apply(means, self._fit_rows), self._bank, self._objectives) for recipe in recipes)
        scored = [Candidate(templates, layers, recipe, cost, mean(scores)) for recipe, scores in zip(recipes, each, strict=True)]
        self.tried += scored
        return max(scored, key=lambda c: c.chosen_on)

    def thin_out(self, start: Candidate) -> None:
        """Leave out templates, each time the one that is missed least; and build up from the best single one."""
        everything, kept = start.templates, start.templates
        while len(kept) > 1:
            smaller = [tuple(t for t in kept if t != out) for out in kept]
            kept = max((self.best(each, start.layers, (start.recipe,)) for each in smaller), key=lambda c: c.chosen_on).templates
        built: tuple[int, ...] = ()
        while len(built) < len(everything) - 1:
            larger = [tuple(sorted((*built, t))) for t in everything if t not in built]
            built = max((self.best(each, start.layers, (start.recipe,)) for each in larger), key=lambda c: c.chosen_on).templates


def _scored(bank: StateBank, choose_on: Sequence[Objective], held_out: Sequence[Objective], candidate: Candidate) -> Candidate:
    vectors = vectors_of(bank, candidate, texts_of(choose_on))
    scores = score_each(vectors, bank, held_out)
    intervals = {o.name: o.interval(vectors[bank.rows(o.firsts)], vectors[bank.rows(o.seconds)]) for o in held_out}
    return replace(candidate, held_out=mean(scores), held_out_scores=scores, held_out_intervals=intervals)


def _layer_choices(layers: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield single layers, and means of adjacent ones and of every other one."""
    yield from ((layer,) for layer in layers)
    for step in (1, 2):
        for span in range(step, step * _LARGEST_MEAN, step):
            yield from (tuple(layers[start : start + span + 1 : step]) for start in range(len(layers) - span))

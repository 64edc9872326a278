"""Candidates at each layer, with and without their mean: scored, chosen on one half of the pairs, reported on the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.results import Row
from benchmarks.sts_pairs import PairSample, Similarities


@dataclass(frozen=True)
class Candidate:
    """One way to embed.

    Attributes:
        templates: Template set or wording.
        method: What was done in the forward pass.
        parameters: With which settings.
        tokens: Tokens a text with constant prefixes kept and common starts shared; parts of the model's depth count as parts.
        whole_tokens: Tokens a text with a pass for every prompt.
    """

    templates: str
    method: str
    parameters: str
    tokens: float
    whole_tokens: float


@dataclass(frozen=True)
class Cell:
    """A candidate at one layer, with or without its mean.

    Attributes:
        layer: Hidden state, from 0.
        subtracts_mean: Whether the mean was taken off.
        similarities: Cosines of the pairs of each set.
        choosing: Score on the pairs that parameters are chosen with.
    """

    candidate: Candidate
    layer: int
    subtracts_mean: bool
    similarities: Similarities
    choosing: float


def make_cells(sample: PairSample, candidate: Candidate, vectors: NDArray[np.float32], layers: Sequence[int]) -> list[Cell]:
    """Score a candidate at all layers.

    Args:
        sample: The pairs.
        candidate: What the vectors are.
        vectors: Shape ``(n_texts, n_layers, hidden_size)``.
        layers: The hidden states that they come from.
    """
    cells = []
    for place, layer in enumerate(layers):
        for subtracts_mean in (False, True):
            similarities = sample.similarities(vectors[:, place], subtracts_mean)
            cells.append(Cell(candidate, layer, subtracts_mean, similarities, sample.choosing_score(similarities)))
    return cells


def best(cells: Iterable[Cell]) -> Cell:
    """The cell with the best score on the choosing halves."""
    return max(cells, key=lambda cell: cell.choosing)


def make_row(sample: PairSample, cell: Cell, base: Cell | None) -> Row:
    """A cell's row of a table, with its gain over `base` and the 95 % interval of it."""
    candidate, reported = cell.candidate, sample.reported_scores(cell.similarities)
    row: Row = {
        "templates": candidate.templates, "method": candidate.method, "parameters": candidate.parameters, "layer": cell.layer,
        "mean removed": "yes" if cell.subtracts_mean else "no", "chosen by": round(cell.choosing, 2),
        **{name: round(score, 2) for name, score in reported.items()},
        "tokens": round(candidate.tokens, 1), "whole-prompt tokens": round(candidate.whole_tokens, 1),
    }  # fmt: skip
    if base is not None:
        low, high = sample.gain(cell.similarities, base.similarities)
        row["gain"] = round(reported["mean"] - sample.reported_scores(base.similarities)["mean"], 2)
        row["interval"] = f"{low:+.1f} to {high:+.1f}"
    return row

"""Pairs of rows that people scored for likeness: the file that `quality.pairs` names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metaeol_udf.errors import ConfigError
from metaeol_udf.evaluation.rows import read_rows, read_score

MIN_PAIRS = 20  # fewer say nothing


@dataclass(frozen=True)
class LabelledPairs:
    """Holds pairs of keys, and how alike people find the rows' texts; all attributes follow the order of the file.

    Attributes:
        firsts: Key values of the first rows as the file writes them, in the order of `source.key`.
        seconds: Those of the second rows.
        scores: float64, shape ``(n_pairs,)``; only their order counts.
    """

    firsts: list[tuple[str, ...]]
    seconds: list[tuple[str, ...]]
    scores: NDArray[np.float64]


def load_pairs(path: str | Path, key: Sequence[str], *, of_answers: bool = False) -> LabelledPairs:
    """Read a table of pairs, `.tsv` or `.tsv.gz`: for the key `id`, columns `id1`, `id2` and `score`.

    If `of_answers`, a score over 0 says that the second row answers the first one, and the scores may be all the same.

    Raises:
        ConfigError: It cannot be read or breaks the form. The message gives the line and the rule, and no value.
    """
    file, columns = Path(path), [f"{name}{side}" for side in (1, 2) for name in key]
    try:
        rows = list(read_rows(file, [*columns, "score"]))
        scores = np.array([read_score(file, line, fields[-1]) for line, fields in rows])
    except ConfigError as error:
        raise ConfigError(f"quality.pairs: {error}") from None
    if of_answers and (len(rows) < MIN_PAIRS or not (scores > 0).any()):
        raise ConfigError(f"quality.pairs: {path} must hold at least {MIN_PAIRS} pairs, one with a score over 0, found {len(rows)} pairs")
    if not of_answers and (len(rows) < MIN_PAIRS or scores.min() == scores.max()):
        raise ConfigError(
            f"quality.pairs: {path} must hold at least {MIN_PAIRS} pairs whose scores are not all equal, found {len(rows)} pairs"
        )
    n = len(key)
    return LabelledPairs([tuple(fields[:n]) for _, fields in rows], [tuple(fields[n : 2 * n]) for _, fields in rows], scores)

"""Labelled pairs of a user's own: does a template set put alike what people call alike?"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metaeol_udf.encoder import MetaEOLEncoder
from metaeol_udf.errors import ConfigError
from metaeol_udf.prompts.cleanup import is_blank

_COLUMNS = ("sentence1", "sentence2", "score")


@dataclass(frozen=True)
class Pairs:
    """Pairs of texts. All three run in the order of the file.

    Attributes:
        first: Texts.
        second: What each is compared with.
        scores: How alike people find them, on any scale.
    """

    first: list[str]
    second: list[str]
    scores: list[float]


def read_pairs(path: Path) -> Pairs:
    """Read a file of tab-separated values with the columns sentence1, sentence2 and score.

    Raises:
        ConfigError: The file cannot be read, lacks a column, holds a blank text or no number, or fewer than two pairs.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the pairs {path}: {' '.join(str(error).split())}") from None
    reader = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise ConfigError(f"the pairs {path} lack the column {missing[0]!r} (columns: {', '.join(reader.fieldnames or ())})")
    pairs = Pairs([], [], [])
    for number, row in enumerate(reader, start=2):
        if is_blank(row["sentence1"]) or is_blank(row["sentence2"]):
            raise ConfigError(f"the pairs {path}, line {number}: a text is blank")
        pairs.first.append(row["sentence1"])
        pairs.second.append(row["sentence2"])
        pairs.scores.append(_number(row["score"], path, number))
    if len(pairs.scores) < 2:
        raise ConfigError(f"the pairs {path} must be two at least to be ranked, found {len(pairs.scores)}")
    return pairs


def import_spearmanr() -> Any:
    """The rank correlation of scipy.

    Raises:
        ConfigError: scipy is not installed.
    """
    try:
        from scipy.stats import spearmanr
    except ImportError:
        raise ConfigError("scoring pairs needs scipy, which is not installed: pip install 'metaeol-udf[evaluation]'") from None
    return spearmanr


def score_pairs(encoder: MetaEOLEncoder, pairs: Pairs) -> float:
    """Spearman's rank correlation, times 100, between the cosines of the pairs' embeddings and their scores.

    Raises:
        ConfigError: scipy is not installed, or all scores are the same.
    """
    spearmanr = import_spearmanr()
    if len(set(pairs.scores)) == 1:
        raise ConfigError("all pairs have the same score, so they cannot be ranked")
    vectors = encoder.encode([*pairs.first, *pairs.second]).astype(np.float64)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    n_pairs = len(pairs.scores)
    cosines = (unit[:n_pairs] * unit[n_pairs:]).sum(1)
    return 100.0 * float(spearmanr(cosines, pairs.scores).statistic)


def _number(text: str | None, path: Path, line: int) -> float:
    try:
        number = float(text or "")
    except ValueError:
        number = float("nan")
    if not np.isfinite(number):
        raise ConfigError(f"the pairs {path}, line {line}: score must be a number, found {text!r}")
    return number

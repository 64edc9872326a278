"""Fitting of post-processing: first and second moments of vectors, which add up over partitions, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metaeol_udf.encoder.vectors.output import PostProcessing
from metaeol_udf.encoder.vectors.postprocess import METHODS
from metaeol_udf.errors import ConfigError, InputError

_LEAST_TEXTS = 100  # fewer say nothing about hundreds of dimensions
KEPT_OF_HEAD = 8 / 9  # of the directions of a head


@dataclass(frozen=True)
class Moments:
    """Holds sums over vectors, in float64.

    Attributes:
        n: Number of vectors.
        total: Their sum, shape ``(hidden_size,)``.
        products: Sum of their outer products, shape ``(hidden_size, hidden_size)``.
    """

    n: int
    total: NDArray[np.float64]
    products: NDArray[np.float64]

    @classmethod
    def of(cls, vectors: NDArray[np.float32]) -> Moments:
        """Compute the moments of ``(n_texts, hidden_size)`` vectors."""
        wide = vectors.astype(np.float64)
        return cls(len(wide), wide.sum(0), wide.T @ wide)

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.n + other.n, self.total + other.total, self.products + other.products)

    @property
    def mean(self) -> NDArray[np.float64]:
        """Return the mean, shape ``(hidden_size,)``."""
        return self.total / self.n

    @property
    def covariance(self) -> NDArray[np.float64]:
        """Return the covariance of the vectors as a whole population, shape ``(hidden_size, hidden_size)``."""
        return self.products / self.n - np.outer(self.mean, self.mean)


def fit_postprocess(
    moments: Moments, method: str = "mean", *, n_components: int | None = None, shrinkage: float = 0.1,
    fitted_for: dict[str, str] | None = None,
) -> PostProcessing:  # fmt: skip
    """Fit post-processing on unlabelled vectors.

    Args:
        moments: Of mean hidden states before any other step.
        method: `mean` takes the mean away. `standardize` divides by each dimension's standard deviation too. `remove_top` takes
            the mean and the `n_components` (default 1) directions of largest variance away. `whiten` makes all directions
            equally wide; with `n_components` it keeps those that were widest, in falling order, and without turns the vectors
            back, so that each dimension stays what it was.
        n_components: See `method`.
        shrinkage: Of `whiten`, from 0 to 1: how far each variance is drawn to their mean, so that narrow directions, which
            are mostly noise, are not blown up. 1 leaves all as they are.
        fitted_for: Written into the file.

    Raises:
        ConfigError: An unknown method, or a number out of range.
        InputError: Too few texts.
    """
    size = len(moments.total)
    if method not in METHODS:
        raise ConfigError(f"the method of post-processing must be one of {', '.join(METHODS)}, found {method!r}")
    if not 0.0 <= shrinkage <= 1.0:
        raise ConfigError(f"shrinkage must be a number from 0 to 1, found {shrinkage}")
    if n_components is not None and not 1 <= n_components <= size - (method == "remove_top"):
        raise ConfigError(f"components must be from 1 to the {size} dimensions of a vector, found {n_components}")
    if moments.n < _LEAST_TEXTS:
        raise InputError(f"post-processing is fitted on at least {_LEAST_TEXTS} different texts, found {moments.n}")
    mean, covariance = moments.mean, moments.covariance
    scale = removed = matrix = None
    if method == "standardize":
        deviations = np.sqrt(np.maximum(np.diag(covariance), 0.0))
        scale = (1.0 / np.maximum(deviations, 1e-3 * deviations.mean())).astype(np.float32)
    elif method == "remove_top":
        removed = _directions(covariance)[1][:, : n_components or 1].T.astype(np.float32)
    elif method == "whiten":
        variances, directions = _directions(covariance)
        shrunk = (1.0 - shrinkage) * np.maximum(variances, 0.0) + shrinkage * variances.mean()
        shrunk = np.maximum(shrunk, 1e-6 * shrunk.mean())  # fewer texts than dimensions leave some without any variance
        white = directions / np.sqrt(shrunk)
        # Cosines do not see the turn back; classifiers that scale each dimension do, for they would blow up the narrow directions.
        matrix = (white @ directions.T if n_components is None else white[:, :n_components]).astype(np.float32)
    return PostProcessing(mean.astype(np.float32), scale, removed, matrix, fitted_for)


def keep_middle(products: NDArray[np.float64], n_components: int | None = None, fitted_for: dict[str, str] | None = None) -> PostProcessing:
    """Fit post-processing that leaves out the directions along which a model's head writes most, and least (EmbedFilter, arXiv:2606.07502).

    The strongest directions stand for frequent words that say little of a text. No texts are needed.

    Args:
        products: Sum of the outer products of the head's rows, shape ``(hidden_size, hidden_size)``.
        n_components: Directions that are kept; as many are left out at either end. They become the dimensions, strongest first. None
            keeps `KEPT_OF_HEAD` of them and turns the vectors back, so that each dimension stays what it was.
        fitted_for: Written into the file.

    Raises:
        ConfigError: A number out of range.
    """
    size = len(products)
    if n_components is not None and not 1 <= n_components <= size:
        raise ConfigError(f"components must be from 1 to the {size} dimensions of a vector, found {n_components}")
    kept = n_components or max(1, round(KEPT_OF_HEAD * size))
    first = (size - kept) // 2
    directions = _directions(products)[1][:, first : first + kept]
    matrix = directions @ directions.T if n_components is None else directions
    return PostProcessing(np.zeros(size, np.float32), matrix=matrix.astype(np.float32), fitted_for=fitted_for)


def _directions(covariance: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return variances, falling, and directions in columns; each direction's largest part is positive, so that fits repeat."""
    variances, directions = np.linalg.eigh(covariance)
    variances, directions = variances[::-1], directions[:, ::-1]
    largest = np.take_along_axis(directions, np.abs(directions).argmax(0)[None], axis=0)
    return variances, directions * np.sign(largest)

"""What a stored vector must be to count: of the right length, every value a finite number. Plain Spark SQL."""

from __future__ import annotations

import math

from pyspark.sql import Column
from pyspark.sql import functions as F

_NEAR = 0.03  # relative distance, which is a cosine above 0.9995


def is_whole(vector: Column, length: int) -> Column:
    """Tell whether a vector has so many values, none of them NULL, NaN or infinite; false for NULL."""
    # Three loops without a lambda, which Spark compiles. NULL among the values makes `array_contains` NULL.
    nan, infinity = (F.lit(value).cast("float") for value in (math.nan, math.inf))
    finite = ~F.array_contains(vector, nan) & (F.array_max(vector) < infinity) & (F.array_min(vector) > -infinity)
    return F.coalesce((F.size(vector) == length) & finite, F.lit(False))


def digest_of(vector: Column) -> Column:
    """Make the digest of a vector: a 64-bit hash; NULL for NULL."""
    return F.when(vector.isNotNull(), F.xxhash64(vector))


def is_near(one: Column, other: Column) -> Column:
    """Tell whether two vectors are as near as two runs of one model over one text come in low precision."""
    zero = F.lit(0.0).cast("float")
    distance = F.aggregate(F.zip_with(one, other, lambda x, y: (x - y) * (x - y)), zero, lambda total, x: total + x)
    length = F.aggregate(one, zero, lambda total, x: total + x * x)
    return F.coalesce((F.size(one) == F.size(other)) & (distance <= _NEAR * _NEAR * length), F.lit(False))

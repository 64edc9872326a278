"""The row scope of a run: all rows of the source, the rows that failed, or the rows whose keys a micro-batch names."""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DateType, DecimalType, IntegralType, StringType

from metaeol_udf.delta.select.selection import DONE, ERROR, Selection
from metaeol_udf.errors import InputError
from metaeol_udf.spark.columns import quoted

#: Reasons that another try cannot cure.
TEXTLESS_ERRORS = ("null_text", "empty_text")
_BOUNDED = (IntegralType, StringType, DateType, DecimalType)  # values that reach Python and return unchanged


@dataclass(frozen=True)
class RowScope:
    """The rows of a run. The default is all of them.

    Attributes:
        keys: Only rows with these keys: columns with the key's names, no row twice. None: all.
        bounds: A condition over the key columns that holds for all of `keys`; lets Delta skip files by their statistics.
        failed: Whether only rows with an error that another try may cure are in scope.
        full: Whether to look at every row, whatever an earlier run has proved.
    """

    keys: DataFrame | None = None
    bounds: Column | None = None
    failed: bool = False
    full: bool = False

    @property
    def kind(self) -> str:
        """The kind of scope, for the digest of the job: `failed`, `all` or `keys`."""
        return "failed" if self.failed else "all" if self.keys is None else "keys"

    def of_source(self, source: DataFrame) -> DataFrame:
        """Find the source's rows in scope. Texts come from the source table, because the micro-batch's may be outdated."""
        bounded = source if self.bounds is None else source.where(self.bounds)
        return bounded if self.keys is None else bounded.join(self.keys, self.keys.columns, "left_semi")

    def of_selection(self, chosen: Selection) -> Selection:
        """Find the selection's rows in scope; rows to be tried again need work, whatever their text is now."""
        if not self.failed:
            return chosen
        curable = F.col(ERROR).isNotNull() & ~F.col(ERROR).isin(*TEXTLESS_ERRORS)
        return Selection(chosen.rows.where(curable).withColumn(DONE, F.lit(False)), chosen.key)

    def condition(self, where: str | None) -> Column | None:
        """Make the condition that a MERGE adds to its own: the user's condition and the bounds."""
        parts = [part for part in (None if where is None else F.expr(where), self.bounds) if part is not None]
        return functools.reduce(operator.and_, parts) if parts else None


def row_scope_of_keys(keys: DataFrame) -> tuple[RowScope, int]:
    """Make the row scope of a micro-batch's keys, none of which may be NULL, and count them: one aggregation."""
    names = keys.columns
    bounded = [field.name for field in keys.schema.fields if isinstance(field.dataType, _BOUNDED)]
    is_null = functools.reduce(operator.or_, [F.col(quoted(name)).isNull() for name in names])
    measures = [F.count(F.lit(1)).alias("n"), F.count(F.when(is_null, True)).alias("n_null")]
    for i, name in enumerate(bounded):
        measures += [F.min(F.col(quoted(name))).alias(f"low_{i}"), F.max(F.col(quoted(name))).alias(f"high_{i}")]
    found = keys.agg(*measures).collect()[0]
    if found["n_null"]:
        raise InputError(
            f"source.key: {found['n_null']} new or changed rows have NULL in the key ({', '.join(names)}): "
            "fill it, or leave them out with source.where"
        )
    if not found["n"]:
        return RowScope(keys), 0
    ranges = [F.col(quoted(name)).between(F.lit(found[f"low_{i}"]), F.lit(found[f"high_{i}"])) for i, name in enumerate(bounded)]
    return RowScope(keys, functools.reduce(operator.and_, ranges) if ranges else None), found["n"]

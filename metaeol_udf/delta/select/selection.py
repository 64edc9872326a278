"""Which rows need an embedding: plain Spark SQL over a pinned version of the source, no Python.

What is stored decides, and no label: a row is done only if its stored vector, error and fingerprint are what a run would write.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from metaeol_udf.config import SourceConfig
from metaeol_udf.delta.select.stored_vector import is_whole
from metaeol_udf.delta.sources.text import one_row_a_key, text_of
from metaeol_udf.delta.tables.columns import VectorColumns
from metaeol_udf.delta.tables.fingerprint import RowFingerprints, textless_error
from metaeol_udf.delta.tables.where_clause import filtered
from metaeol_udf.errors import InputError
from metaeol_udf.spark.columns import find_field, quoted, same_key

#: Columns of a selection beside the key; no user's table may have them.
FINGERPRINT, STORED, TEXT = "metaeol_row_fingerprint", "metaeol_stored_fingerprint", "metaeol_text"
ERROR, OUTCOME = "metaeol_stored_error", "metaeol_outcome"
TEXTLESS, DONE, HELD = "metaeol_textless", "metaeol_done", "metaeol_held_error"
_USABLE, _EMPTY = "metaeol_usable", "metaeol_empty"

_SPARE = 1.2  # hashes do not hit a sample's size exactly


@dataclass(frozen=True)
class Selection:
    """The rows a run looks at.

    Attributes:
        rows: Key columns; FINGERPRINT of the text; STORED fingerprint, NULL where there is none; stored ERROR; TEXTLESS, the error of a
            NULL or blank text; DONE, whether the row needs no work; HELD, the error that stands already under the present fingerprint;
            TEXT.
        key: Names of the key columns.
    """

    rows: DataFrame
    key: tuple[str, ...]

    @property
    def changed(self) -> DataFrame:
        """The rows that need work."""
        return self.rows.where(~F.col(DONE))


@dataclass(frozen=True)
class Wanted:
    """A vector column whose rows are selected.

    Attributes:
        config: The source's settings.
        fingerprints: How the job makes fingerprints.
        columns: Names of the vectors' columns.
        length: Values of a vector.
    """

    config: SourceConfig
    fingerprints: RowFingerprints
    columns: VectorColumns
    length: int


def select(source: DataFrame, wanted: Wanted, target: DataFrame | None, in_place: bool, *, proven: bool = False) -> Selection:
    """Describe the rows of a run over one vector column, as `select_together` does for several."""
    rows = select_together(source, [wanted], target, in_place, proven=proven)
    return Selection(of_column(rows, wanted.config.key, 0), wanted.config.key)


def select_together(
    source: DataFrame, wanted: Sequence[Wanted], target: DataFrame | None, in_place: bool, *, proven: bool = False
) -> DataFrame:
    """Describe the rows of vector columns in one pass over the source and the target; starts no Spark work.

    Args:
        source: The rows of the source in scope.
        wanted: The columns. They differ in their texts, specs and names alone; of several, none has a key that is made.
        target: The rows of a target of its own; None where vectors stand in the source, or where there is none yet.
        in_place: Whether vectors stand in the source.
        proven: Whether a vector that is stored without an error is known to be whole, so that no vector is read.

    Returns:
        The key's columns, and for the column at each position of `wanted` those of a `Selection`, named by `name_in`.

    Raises:
        InputError: The condition cannot be parsed, or names a column that is not there.
    """
    config = wanted[0].config
    key = [F.col(quoted(name)) for name in config.key]
    scanned, stored, judged = [], [], []
    for position, each in enumerate(wanted):
        of, text = name_in(position), text_of(each.config, source.schema)
        scanned += [each.fingerprints.of(text).alias(of(FINGERPRINT)), textless_error(text).alias(of(TEXTLESS)), text.alias(of(TEXT))]
        found = _stored(source if in_place else target, each.columns, each.length, proven)
        stored += [column.alias(of(name)) for name, column in zip((STORED, ERROR, _USABLE, _EMPTY), found, strict=True)]
        judged += _judgement(of)
    chosen = wanted[0].fingerprints.prepare(filtered(source, config.where))
    if target is None:
        rows = one_row_a_key(chosen.select(*key, *scanned, *stored), config)
    else:
        rows = one_row_a_key(chosen.select(*key, *scanned), config)
        known = [F.col(quoted(name)).alias(f"{STORED}_key_{i}") for i, name in enumerate(config.key)]
        matches = same_key(key, [F.col(f"{STORED}_key_{i}") for i in range(len(key))])
        rows = rows.join(target.select(*known, *stored), matches, "left")
    return rows.select(*key, *judged)


def name_in(position: int) -> Callable[[str], str]:
    """Make the function from a selection's column to its name among those of several vector columns."""
    return lambda name: f"{name}_{position}"


def of_column(rows: DataFrame, key: Sequence[str], position: int, but: Sequence[str] = ()) -> DataFrame:
    """Take, from the rows of several vector columns, the columns of a `Selection` of one of them; `but` are those to leave out."""
    of = name_in(position)
    names = [name for name in (FINGERPRINT, STORED, ERROR, TEXTLESS, DONE, HELD, TEXT) if name not in but]
    return rows.select(*[F.col(quoted(name)) for name in key], *[F.col(of(name)).alias(name) for name in names])


def _stored(table: DataFrame | None, columns: VectorColumns, length: int, proven: bool) -> list[Column]:
    """Describe what the table that vectors are written to holds; NULL while there is no such table or column."""

    def column(name: str) -> Column | None:
        return None if table is None or find_field(table.schema, name) is None else F.col(quoted(name))

    fingerprint, error, vector = (column(name) for name in (columns.fingerprint_column, columns.error, columns.vector))
    nothing = F.lit(None).cast("string")
    is_usable, is_empty = F.lit(False), F.lit(True)
    if vector is not None and proven:
        is_empty = F.lit(False) if error is None else error.isNotNull()
        is_usable = ~is_empty
    elif vector is not None:
        is_usable, is_empty = is_whole(vector, length), vector.isNull()
    return [
        (nothing if fingerprint is None else fingerprint).alias(STORED),
        (nothing if error is None else error).alias(ERROR),
        is_usable.alias(_USABLE),
        is_empty.alias(_EMPTY),
    ]


def _judgement(of: Callable[[str], str]) -> list[Column]:
    """Describe the columns of a selection beside the key; `of` gives their names in the rows."""
    textless, error, stored, fingerprint = (F.col(of(name)) for name in (TEXTLESS, ERROR, STORED, FINGERPRINT))
    is_usable, is_empty = F.col(of(_USABLE)), F.col(of(_EMPTY))
    is_present = stored.eqNullSafe(fingerprint)
    is_right = F.when(textless.isNull(), error.isNull() & is_usable).otherwise((error == textless) & is_empty)
    return [
        fingerprint,
        stored,
        error,
        textless,
        F.coalesce(is_present & is_right, F.lit(False)).alias(of(DONE)),
        F.when(is_present & is_empty, error).alias(of(HELD)),
        F.col(of(TEXT)),
    ]


def check_keys(source: DataFrame, config: SourceConfig, name: object, among: DataFrame | None = None) -> int:
    """Check that the keys name every selected row: no NULL, no key twice. One aggregation over the key columns.

    Args:
        source: The rows of the source.
        config: The source's settings.
        name: What messages call the source.
        among: Rows with the key's columns: only their keys are checked, and nothing is shuffled but these. None: all.

    Returns:
        The number of rows that were checked; of a key that is made, the number of keys.

    Raises:
        InputError: With counts, and hashes rather than values of the first offenders.
    """
    # Renamed, so that no name of the user's meets one of ours.
    key = [F.col(quoted(name)).alias(f"key_{i}") for i, name in enumerate(config.key)]
    rows = filtered(source, config.where).select(*key)
    if among is not None:
        known = [F.col(f"key_{i}").eqNullSafe(F.col(f"known_{i}")) for i in range(len(key))]
        keys = among.select(*[F.col(quoted(name)).alias(f"known_{i}") for i, name in enumerate(config.key)])
        rows = rows.join(F.broadcast(keys), functools.reduce(operator.and_, known), "left_semi")
    groups = rows.groupBy(*[f"key_{i}" for i in range(len(key))]).agg(F.count(F.lit(1)).alias("n"))
    groups = groups if among is None else groups.coalesce(1)
    is_null = F.lit(False)
    for i in range(len(key)):
        is_null = is_null | F.col(f"key_{i}").isNull()
    repeated = ~is_null & (F.col("n") > 1)
    digest = F.substring(F.sha2(F.to_json(F.struct(*[f"key_{i}" for i in range(len(key))])), 256), 1, 12)
    found = groups.agg(
        F.sum("n").alias("rows"),
        F.sum(F.when(is_null, F.col("n"))).alias("null_rows"),
        F.count(F.when(repeated, True)).alias("repeated_keys"),
        F.sum(F.when(repeated, F.col("n"))).alias("repeated_rows"),
        F.min(F.when(repeated, digest)).alias("example"),
    ).collect()[0]
    names = ", ".join(config.key)
    if found["null_rows"]:
        raise InputError(f"source.key: {found['null_rows']} rows of {name} have NULL in the key ({names}): a key names a row")
    if config.makes_key:
        return int(found["rows"] or 0) - int(found["repeated_rows"] or 0) + int(found["repeated_keys"])
    if found["repeated_keys"]:
        raise InputError(
            f"source.key: {found['repeated_keys']} keys ({names}) of {name} stand in {found['repeated_rows']} rows, "
            f"for example the key with SHA-256 {found['example']}…: a key names one row"
        )
    return found["rows"] or 0


def sampled(rows: DataFrame, key: Sequence[Column], n_rows: int, n_wanted: int) -> DataFrame:
    """Draw a sample of at most `n_wanted` rows by the hash of their key: the same rows in every run, and all rows equally likely."""
    one_in = max(1, int(n_rows / (n_wanted * _SPARE)))
    chosen = rows.where(F.pmod(F.xxhash64(*key), F.lit(one_in)) == 0) if one_in > 1 else rows
    return chosen.limit(n_wanted)

"""The texts on which two specs can be compared: those with an old vector in the table and a new one in the journal.

An old vector counts where its fingerprint holds the digest of the row's present text, so never where the text has changed. Texts
are known by their digests here, and only digests and vectors come to the driver.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from metaeol_udf.delta.select.selection import ERROR, FINGERPRINT, STORED, Selection
from metaeol_udf.delta.tables.fingerprint import spec_part, text_part
from metaeol_udf.delta.write.journal import Journal
from metaeol_udf.errors import InputError
from metaeol_udf.evaluation.labelled_pairs import LabelledPairs
from metaeol_udf.spark.columns import quoted, same_key

_SPEC, _TEXT, _SAME = "metaeol_old_spec", "metaeol_text_digest", "metaeol_same_text"
_PAIR, _SIDE, _KEY = "metaeol_pair", "metaeol_side", "metaeol_pair_key_"


@dataclass(frozen=True)
class OldSpec:
    """A spec that rows hold vectors of, and which is not the job's.

    Attributes:
        fingerprint: Its digest.
        n_texts: Distinct texts with a vector of it and a new one.
        n_lost: Distinct texts with a vector of it which the job failed on.
    """

    fingerprint: str
    n_texts: int
    n_lost: int


@dataclass(frozen=True)
class TextPair:
    """A labelled pair whose texts are both comparable.

    Attributes:
        place: In the labelled pairs.
        first: Digest of the first row's text.
        second: That of the second row's.
    """

    place: int
    first: str
    second: str


def count_old_specs(chosen: Selection, journal: Journal) -> list[OldSpec]:
    """Count the texts of each old spec that rows hold vectors of, most comparable texts first: one aggregation, without a vector."""
    known = journal.digests().select("fingerprint", "error")
    joined = _old_rows(chosen).join(known, F.col(FINGERPRINT) == F.col("fingerprint"), "left")
    is_known = F.col(_SAME) & F.col("fingerprint").isNotNull()
    found = joined.groupBy(_SPEC).agg(
        F.count_distinct(F.when(is_known & F.col("error").isNull(), F.col(_TEXT))).alias("texts"),
        F.count_distinct(F.when(is_known & F.col("error").isNotNull(), F.col(_TEXT))).alias("lost"),
    )
    specs = [OldSpec(row[_SPEC], row["texts"], row["lost"]) for row in found.collect()]
    return sorted(specs, key=lambda spec: (-spec.n_texts, spec.fingerprint))


def sample_texts(chosen: Selection, journal: Journal, old_spec_fingerprint: str, n_texts: int) -> list[str]:
    """Sample comparable texts by their digests: the same texts whatever the order of rows."""
    texts = _comparable(chosen, journal, old_spec_fingerprint).select(_TEXT).distinct().orderBy(_TEXT).limit(n_texts)
    return [row[_TEXT] for row in texts.collect()]


def find_pairs(chosen: Selection, journal: Journal, old_spec_fingerprint: str, pairs: LabelledPairs, key: StructType) -> list[TextPair]:
    """Find the labelled pairs of which both texts are comparable, in the order of `pairs`.

    `chosen` are all rows of the job. A value that is not of the type of its key column, in `key`, names no row.
    """
    named = [_KEY + str(i) for i in range(len(key.fields))]
    sides = [(n, side, *values) for side, keys in enumerate((pairs.firsts, pairs.seconds)) for n, values in enumerate(keys)]
    schema = ", ".join([f"{_PAIR} int", f"{_SIDE} int", *[f"{name} string" for name in named]])
    rows = _comparable(chosen, journal, old_spec_fingerprint)
    wanted = rows.sparkSession.createDataFrame(sides, schema)
    theirs = [F.col(name).try_cast(field.dataType) for name, field in zip(named, key.fields, strict=True)]
    matches = same_key([F.col(quoted(field.name)) for field in key.fields], theirs)
    found = rows.join(F.broadcast(wanted), matches).select(_PAIR, _SIDE, _TEXT).collect()
    first, second = ({row[_PAIR]: row[_TEXT] for row in found if row[_SIDE] == side} for side in (0, 1))
    return [TextPair(n, first[n], second[n]) for n in sorted(first.keys() & second.keys())]


def collect_vectors(rows: DataFrame, spec_fingerprint: str, texts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """Bring the vectors of some texts to the driver.

    Args:
        rows: Columns `fingerprint` and `vector`; a text may stand in several rows.
        spec_fingerprint: The digest of the spec that made the vectors.
        texts: Digests of the texts, each once.

    Returns:
        A vector a text, shape ``(dim,)``; a text without a vector is left out.

    Raises:
        InputError: The vectors are not all of one length.
    """
    wanted = rows.sparkSession.createDataFrame(
        [(text, f"{spec_fingerprint}-{text}") for text in texts], f"{_TEXT} string, fingerprint string"
    )
    held = rows.where(F.col("vector").isNotNull()).join(F.broadcast(wanted), "fingerprint")
    found = held.groupBy(_TEXT).agg(F.min("vector").alias("vector")).toArrow()
    vectors = found["vector"].combine_chunks()
    if not len(vectors):
        return {}
    lengths = set(vectors.value_lengths().to_pylist())
    if len(lengths) > 1:
        raise InputError(
            f"embedding.column: vectors of spec {spec_fingerprint} have several lengths ({', '.join(map(str, sorted(lengths)))})"
        )
    matrix = vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(vectors), -1)
    return dict(zip(found[_TEXT].to_pylist(), matrix, strict=True))


def _old_rows(chosen: Selection) -> DataFrame:
    """Find the rows that hold a vector of another spec, and whether it is the vector of their present text."""
    stored, wanted, error = F.col(STORED), F.col(FINGERPRINT), F.col(ERROR)
    is_old = stored.isNotNull() & error.isNull() & (spec_part(stored) != spec_part(wanted))
    text = text_part(wanted)
    same = (text_part(stored) == text).alias(_SAME)
    key = [F.col(quoted(name)) for name in chosen.key]
    return chosen.rows.where(is_old).select(*key, FINGERPRINT, spec_part(stored).alias(_SPEC), text.alias(_TEXT), same)


def _comparable(chosen: Selection, journal: Journal, old_spec_fingerprint: str) -> DataFrame:
    """Find the comparable rows: they hold that spec's vector of their present text, and the journal has a new vector of it."""
    rows = _old_rows(chosen).where(F.col(_SAME) & (F.col(_SPEC) == old_spec_fingerprint))
    return rows.join(journal.finished(), F.col(FINGERPRINT) == F.col("fingerprint"), "left_semi")

"""Where a table's vectors come from, written on the table itself: properties and a column comment."""

from __future__ import annotations

from collections.abc import Mapping

from pyspark.sql import SparkSession

import metaeol_udf
from metaeol_udf.delta.tables.alter_table import alter_table
from metaeol_udf.delta.tables.columns import VectorColumns
from metaeol_udf.delta.tables.refs import TableRef, open_table
from metaeol_udf.encoder.checkpoint.resolve import ResolvedSpec
from metaeol_udf.errors import InputError
from metaeol_udf.prompts import TemplateSet
from metaeol_udf.spark.columns import find_field
from metaeol_udf.spec import Passage


def vector_properties(
    column: str,
    resolved: ResolvedSpec,
    source: object | None = None,
    fingerprint_key: str | None = None,
    passage: Passage | None = None,
) -> dict[str, str]:
    """Make the table properties that say how a column's vectors were made: `metaeol.<column>.model`, as the user named it, and so on.

    Those of a target of its own name their `source`, too; those of hashes with a key name its id; those of a table of passages say how
    its texts are split.
    """
    spec = resolved.spec
    values = {
        "model": spec.model,
        "revision": spec.revision,
        "model_hash": spec.model_hash,
        "templates": spec.templates,
        "templates_hash": TemplateSet.from_spec(spec).digest(),
        "layer": str(spec.layer),
        "dim": str(resolved.vector_length),
        "dtype": spec.dtype,
        "package_version": metaeol_udf.__version__,
        "fingerprint": resolved.fingerprint,
        "source": None if source is None else str(source),
        "fingerprint_key": fingerprint_key,
        "passage": None if passage is None else str(passage),
    }
    return {f"metaeol.{column}.{name}": value for name, value in values.items() if value is not None}


def label_of(properties: Mapping[str, str], column: str) -> dict[str, str]:
    """Read a column's label off the properties of a table: the names of `vector_properties` without what stands before them."""
    start = f"metaeol.{column}."
    return {name.removeprefix(start): value for name, value in properties.items() if name.startswith(start)}


def fingerprints_label(label: Mapping[str, str]) -> str | None:
    """Read the label of the row fingerprints, as `RowFingerprints` has it, off a column's label; None where it names no spec."""
    if "fingerprint" not in label:
        return None
    return label["fingerprint"] + (f":{label['fingerprint_key']}" if "fingerprint_key" in label else "")


def differences(stored: Mapping[str, str], now: Mapping[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """Find the settings in which two labels differ, each with both values; a model or template set of another content has its digest.

    A place that a model or a template set was moved to is no difference.
    """
    names = [name for name in ("model_hash", "revision", "templates_hash", "layer", "dtype", "dim") if stored.get(name) != now.get(name)]
    if stored.get("passage") and now.get("passage") and stored["passage"] != now["passage"]:
        names.append("passage")
    found: dict[str, tuple[str | None, str | None]] = {}
    for name in names:
        plain = name.removesuffix("_hash")
        both = stored.get(plain), now.get(plain)
        found[plain] = both if both[0] != both[1] else (stored.get(name), now.get(name))
    return found


def labelled_columns(properties: Mapping[str, str]) -> dict[str, str]:
    """Find the columns of vectors that a table's properties name, each with the fingerprint of its spec."""
    start, end = "metaeol.", ".fingerprint"
    return {
        name.removeprefix(start).removesuffix(end): value
        for name, value in properties.items()
        if name.startswith(start) and name.endswith(end)
    }


def check_source(properties: Mapping[str, str], ref: TableRef, column: str, source: object) -> None:
    """Check that a target's column holds vectors of this source: two sources with equal keys would overwrite each other's every time.

    Raises:
        InputError: It holds those of another source.
    """
    name = f"metaeol.{column}.source"
    known = properties.get(name, str(source))
    is_name = "/" not in str(source)  # of a table or a view, which may be written in any case
    is_same = known.casefold() == str(source).casefold() if is_name else known == str(source)
    if not is_same:
        raise InputError(
            f"target.table: column {column!r} of {ref} holds the vectors of {known}, not of {source}: name another target.table or "
            f"embedding.column; where {source} took its place, allow it by ALTER TABLE {ref.sql} UNSET TBLPROPERTIES ('{name}')"
        )


def check_only_column(properties: Mapping[str, str], ref: TableRef, column: str) -> None:
    """Check that a table of passages holds vectors in this column alone: another text, or other passages of it, have other rows.

    Raises:
        InputError: It holds those of another column.
    """
    others = sorted(labelled_columns(properties).keys() - {column})
    if others:
        raise InputError(
            f"target.table: {ref} holds vectors in column {others[0]!r}, and a table of passages has one column of vectors, whose passages "
            "its rows are: name another target.table"
        )


def column_comment(properties: Mapping[str, str], column: str) -> str:
    """Make the column's comment: a sentence for people who read the schema."""
    of = {name: properties[f"metaeol.{column}.{name}"] for name in ("model", "templates", "layer", "dim", "dtype", "fingerprint")}
    return (
        f"MetaEOL embedding (arXiv:2402.18458): model {of['model']}, templates {of['templates']}, layer {of['layer']}, "
        f"dimension {of['dim']}, dtype {of['dtype']}, spec {of['fingerprint']}"
    )


def prepare_table(spark: SparkSession, ref: TableRef, columns: VectorColumns, properties: Mapping[str, str]) -> None:
    """Prepare a table for vectors: their columns, and where `properties` are given these and a comment, too; what is there costs no commit.

    Done before anything is embedded: a change of metadata makes writers that run at the same time fail, a MERGE of ours among them.
    """
    table = open_table(spark, ref, "target.table")
    schema = table.toDF().schema
    detail = table.detail().first()
    present = dict(detail["properties"]) if detail is not None else {}
    field = find_field(schema, columns.vector)
    comments = {columns.vector: column_comment(properties, columns.vector)} if properties else {}
    if field is not None and field.metadata.get("comment") == comments.get(columns.vector):
        comments = {}
    changed = {key: value for key, value in properties.items() if present.get(key) != value}
    if changed.keys() <= {f"metaeol.{columns.vector}.package_version"}:
        changed = {}  # a newer package alone is no reason for a commit
    alter_table(spark, ref, new_columns=columns.missing_from(schema), comments=comments, properties=changed)

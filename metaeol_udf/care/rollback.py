"""`metaeol rollback`: the vectors of an earlier version of the table back, under their earlier label, without the model.

A row's fingerprint names its spec and its text, so whatever row held a vector then, it is right for each row with that text now. Rows whose
text has no vector in that version are emptied: vectors of two specs do not stand in one column. The next run with the earlier settings
embeds them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from metaeol_udf.care.vector_table import VectorTable
from metaeol_udf.config import GivenConfig
from metaeol_udf.delta.base.kept_rows import keep
from metaeol_udf.delta.checkpoint import StartingPoint, find_checkpoint
from metaeol_udf.delta.job import known_errors
from metaeol_udf.delta.select.stored_vector import digest_of, is_whole
from metaeol_udf.delta.sources.text import text_of
from metaeol_udf.delta.tables.alter_table import alter_table
from metaeol_udf.delta.tables.columns import require_field
from metaeol_udf.delta.tables.commits import TableLog
from metaeol_udf.delta.tables.fingerprint import FINGERPRINT_KEY, HashKey, RowFingerprints, of_spec, text_part
from metaeol_udf.delta.tables.metadata import label_of
from metaeol_udf.delta.tables.refs import open_table, read
from metaeol_udf.delta.tables.spark_errors import files_are_gone, with_retries
from metaeol_udf.delta.tables.where_clause import filtered
from metaeol_udf.delta.write.quarantine import among, failing_in, reconcile_quarantine
from metaeol_udf.errors import InputError, MetaEOLError
from metaeol_udf.spark.columns import find_field, quoted, same_key

_SEEN, _WANTED = "metaeol_seen", "metaeol_wanted"  # the stored fingerprint, and that of the earlier spec and the present text
_VECTOR, _ERROR = "metaeol_old_vector", "metaeol_old_error"
_KEY = "metaeol_key_"


@dataclass(frozen=True)
class Earlier:
    """What a version of the table held.

    Attributes:
        version: Its number.
        label: How its vectors were made.
        comment: The comment of the vectors' column; None where there was none.
        held: `fingerprint`, `vector` and `error`, each fingerprint once.
        fingerprints: How the fingerprints of its rows are made.
        same_key: Whether the fingerprints of the table are made with the same secret key now, or without one as then.
    """

    version: int
    label: dict[str, str]
    comment: str | None
    held: DataFrame
    fingerprints: RowFingerprints
    same_key: bool

    @property
    def spec(self) -> str:
        """The fingerprint of its spec."""
        return self.label["fingerprint"]


def run_rollback(config: GivenConfig, version: int, spark: SparkSession | None = None) -> dict[str, Any]:
    """Bring the vectors of an earlier version of the table back, and their label. Needs no model.

    Args:
        config: All settings: a `JobConfig`, nested mappings, or the path of a YAML file. Its embedding is not looked at.
        version: Version of the table whose vectors come back.
        spark: The session; None takes the active one or starts one.

    Returns:
        Plain values for JSON: `rows_restored`; `rows_emptied`, whose text has no vector in that version; `rows_stale`, which another writer
        changed meanwhile; `from_spec`, `to_spec` and the `label` that is in force again.

    Raises:
        InputError: That version is not there, its files are gone, it holds no vectors of another spec, or none for a text of today.
        ConflictError: A run is at work, or another writer was quicker too often.
    """
    with known_errors():
        table = VectorTable.of(config, spark)
        if not table.exists():
            raise InputError(f"--to {version}: there is no table {table.target}")
        _look_back(table, version)  # before anything is made
        with table.alone("rollback") as (run_id, _):
            return _roll_back(table, _look_back(table, version), run_id)


def _look_back(table: VectorTable, version: int) -> Earlier:
    """Look at an earlier version of the table: its label, and its vectors under that label. Reads no vector yet."""
    spark, columns, said = table.spark, table.columns, f"--to {version}"
    try:
        rows = read(spark, table.target, version)
        fields = [require_field(rows.schema, field.name, said, f"version {version} of {table.target}") for field in columns.fields]
    except AnalysisException as refusal:
        known = refusal.getMessageParameters() or {}
        there = f" (there are {known['earliest']} to {known['latest']})" if {"earliest", "latest"} <= known.keys() else ""
        raise InputError(f"{said}: {table.target} has no such version, or its log is cleaned up{there}") from None
    log = TableLog.of(spark, table.target)
    properties = None if log is None else log.properties_at(version)
    if properties is None:
        raise InputError(f"{said}: this Delta does not show the properties of earlier versions")
    label, now = label_of(properties, columns.vector), label_of(table.properties(), columns.vector)
    if not {"fingerprint", "dim"} <= label.keys():
        raise InputError(f"{said}: version {version} of {table.target} names no spec of column {columns.vector!r}")
    if label["fingerprint"] == now.get("fingerprint"):
        raise InputError(
            f"{said}: its vectors are of the spec {label['fingerprint']}, which the table's are now: there is nothing to bring back"
        )
    if label.get("source") != now.get("source", label.get("source")):
        raise InputError(f"{said}: its vectors are of {label.get('source')}, those of the table are of {now['source']}")
    key = _key_of(table, label, said)
    vector, error, fingerprint = (F.col(quoted(field.name)) for field in fields)
    is_right = F.when(error.isNull(), is_whole(vector, int(label["dim"]))).otherwise(vector.isNull())
    held = rows.where(of_spec(label["fingerprint"], fingerprint) & is_right)
    best = F.max_by(F.struct(vector.alias("vector"), error.alias("error")), error.isNull())
    each = held.groupBy(fingerprint.alias("fingerprint")).agg(best.alias("best")).select("fingerprint", "best.*")
    comment, same_key = fields[0].metadata.get("comment"), label.get("fingerprint_key") == now.get("fingerprint_key")
    return Earlier(version, label, comment, each, RowFingerprints(label["fingerprint"], key), same_key)


def _key_of(table: VectorTable, label: dict[str, str], said: str) -> HashKey | None:
    """Read the secret key that an earlier version's fingerprints were made with; None where they were made with none."""
    setting, known = table.config.target.fingerprint_key, label.get("fingerprint_key")
    if known is None:
        return None
    key = None if setting is None else HashKey.read(setting)
    if key is None or key.id != known:
        raise InputError(f"{said}: its fingerprints were made with key {known}: name that key in {FINGERPRINT_KEY}")
    return key


def _roll_back(table: VectorTable, earlier: Earlier, run_id: str) -> dict[str, Any]:
    before = label_of(table.properties(), table.columns.vector)
    rows = _changes(table, earlier)
    n_restored = rows.where(F.col("fingerprint").isNotNull()).count()
    n_emptied = rows.count() - n_restored
    if not n_restored:
        raise InputError(
            f"--to {earlier.version}: no row of {table.target} has a text whose vector of spec {earlier.spec} that version holds: nothing "
            "was changed"
        )
    _set_label(table, earlier)
    with_retries(lambda: _merge(table, earlier, rows))
    n_stale = _verify(table, rows)
    key = read(table.spark, table.target).select(*map(quoted, table.config.source.key)).schema
    failing = failing_in(read(table.spark, table.target), table.config.source.key, table.columns)
    if not table.in_place:
        failing = among(table.source.read_checked(table.spark), table.source.config.key, failing)
    reconcile = (table.spark, table.quarantine, failing, key, run_id, table.columns.vector)
    with_retries(lambda: reconcile_quarantine(*reconcile))
    _begin_streams_anew(table, earlier)
    return {
        "table": str(table.target),
        "column": table.columns.vector,
        "version": earlier.version,
        "run_id": run_id,
        "from_spec": before.get("fingerprint"),
        "to_spec": earlier.spec,
        "rows_restored": n_restored,
        "rows_emptied": n_emptied,
        "rows_stale": n_stale,
        "label": earlier.label,
    }


def _changes(table: VectorTable, earlier: Earlier) -> DataFrame:
    """Find the rows that change: key, the fingerprint that was SEEN, the WANTED one, and the new `fingerprint`, `vector` and `error`."""
    rows = _rows_now(table, earlier)
    rows = rows.where(~F.col(_SEEN).eqNullSafe(F.col(_WANTED)))
    joined = rows.join(earlier.held, F.col(_WANTED) == F.col("fingerprint"), "left")
    try:
        return keep(joined.where(F.col("fingerprint").isNotNull() | F.col(_SEEN).isNotNull()))
    except Exception as error:
        if files_are_gone(error):
            raise InputError(
                f"--to {earlier.version}: files of version {earlier.version} of {table.target} were removed by VACUUM: its vectors "
                "are gone, and a run with the earlier settings computes them"
            ) from None
        raise


def _rows_now(table: VectorTable, earlier: Earlier) -> DataFrame:
    """Read the rows of the table: key, the stored fingerprint, and that which the present text had in the earlier version.

    A row of a target whose key left the source keeps the text that its vector belongs to, and so does a passage: the next run looks which
    passages the text has now.
    """
    source, names = table.config.source, table.config.source.key
    stored = F.col(quoted(table.columns.fingerprint_column))
    held = _in_scope(table)
    key = [F.col(quoted(name)).alias(f"{_KEY}{i}") for i, name in enumerate(names)]
    if table.in_place:
        wanted = earlier.fingerprints.of(text_of(source, held.schema)).alias(_WANTED)
        return earlier.fingerprints.prepare(held).select(*key, stored.alias(_SEEN), wanted)
    nothing = F.lit(None).cast("string")
    of_orphan = F.concat(F.lit(f"{earlier.spec}-"), text_part(F.col(_SEEN))) if earlier.same_key else nothing
    if table.makes_passages:
        return held.select(*key, stored.alias(_SEEN)).withColumn(_WANTED, of_orphan)
    texts = table.source.read_checked(table.spark)
    of_source = [F.col(quoted(name)).alias(f"{_KEY}of_source_{i}") for i, name in enumerate(names)]
    wanted = earlier.fingerprints.of(text_of(source, texts.schema)).alias("metaeol_now")
    now = earlier.fingerprints.prepare(texts).select(*of_source, wanted)
    now = now.distinct() if source.makes_key else now
    known = held.select(*key, stored.alias(_SEEN))
    kept = [f"{_KEY}{i}" for i in range(len(names))]
    matches = same_key([F.col(name) for name in kept], [F.col(f"{_KEY}of_source_{i}") for i in range(len(names))])
    return known.join(now, matches, "left").select(*kept, _SEEN, F.coalesce("metaeol_now", of_orphan).alias(_WANTED))


def _in_scope(table: VectorTable) -> DataFrame:
    """Read the rows of the table whose keys name them: of a source those that the condition selects."""
    held = read(table.spark, table.target)
    return filtered(held, table.config.source.where) if table.in_place else held


def _set_label(table: VectorTable, earlier: Earlier) -> None:
    """Set the label of the earlier vectors, before they come in, as a run does."""
    start, column = f"metaeol.{table.columns.vector}.", table.columns.vector
    present = table.properties()
    wanted = {f"{start}{name}": value for name, value in earlier.label.items()}
    field = find_field(read(table.spark, table.target).schema, column)
    is_said = earlier.comment is None or (field is not None and field.metadata.get("comment") == earlier.comment)
    comments = {} if is_said or earlier.comment is None else {column: earlier.comment}
    unset = [name for name in present if name.startswith(start) and name not in wanted]
    changed = {name: value for name, value in wanted.items() if present.get(name) != value}
    with_retries(lambda: alter_table(table.spark, table.target, [], comments, changed, unset=unset))


def _merge(table: VectorTable, earlier: Earlier, rows: DataFrame) -> None:
    """Write all rows by one MERGE; a row that another writer changed since it was seen gets nothing."""
    source, columns = table.config.source, table.columns
    target = open_table(table.spark, table.target, "target.table")
    new = rows.select(
        *[F.col(f"{_KEY}{i}") for i in range(len(source.key))],
        _SEEN,
        F.col(_WANTED),
        F.col("fingerprint").alias("metaeol_new"),
        F.col("vector").alias(_VECTOR),
        F.col("error").alias(_ERROR),
    )
    matches = same_key([F.col(quoted(name)) for name in source.key], [F.col(f"{_KEY}{i}") for i in range(len(source.key))])
    matches = matches & F.col(quoted(columns.fingerprint_column)).eqNullSafe(F.col(_SEEN))
    if table.in_place:
        text = text_of(source, target.toDF().schema)
        new, matches = earlier.fingerprints.prepare(new), matches & earlier.fingerprints.of(text).eqNullSafe(F.col(_WANTED))
        if source.where is not None:
            matches = matches & F.expr(source.where)
    values: dict[str, Column | str] = {
        quoted(columns.vector): F.col(_VECTOR),
        quoted(columns.error): F.col(_ERROR),
        quoted(columns.fingerprint_column): F.col("metaeol_new"),
    }
    target.merge(new, matches).whenMatchedUpdate(set=values).execute()


def _verify(table: VectorTable, rows: DataFrame) -> int:
    """Verify that the table holds what was brought back; gives the number of rows that another writer changed meanwhile.

    Raises:
        MetaEOLError: A row holds another vector than was brought back for it.
    """
    columns, names = table.columns, table.config.source.key
    stored = _in_scope(table).select(
        *[F.col(quoted(name)).alias(f"{_KEY}held_{i}") for i, name in enumerate(names)],
        F.col(quoted(columns.fingerprint_column)).alias("held_fingerprint"),
        digest_of(F.col(quoted(columns.vector))).alias("held_digest"),
    )
    matches = same_key([F.col(f"{_KEY}{i}") for i in range(len(names))], [F.col(f"{_KEY}held_{i}") for i in range(len(names))])
    both = rows.withColumn("digest", digest_of(F.col("vector"))).join(stored, matches, "left")
    is_same = F.col("held_fingerprint").eqNullSafe(F.col("fingerprint"))
    differs = is_same & ~F.col("held_digest").eqNullSafe(F.col("digest"))
    found = both.agg(F.count(F.when(~is_same, True)).alias("stale"), F.count(F.when(differs, True)).alias("differ")).collect()[0]
    if found["differ"]:
        raise MetaEOLError(f"{found['differ']} rows of {table.target} hold another vector than was brought back for them: roll back again")
    return int(found["stale"])


def _begin_streams_anew(table: VectorTable, earlier: Earlier) -> None:
    """Make a stream of the earlier spec begin anew: it has read past rows that are empty now."""
    folder = find_checkpoint(table.spark, table.config, table.source, table.target, table.columns.vector, earlier.fingerprints.label)[0]
    StartingPoint(table.spark, folder).forget()

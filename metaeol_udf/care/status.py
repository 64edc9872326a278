"""`metaeol status`: what is done, what is left, what stands beside the table. From the job's own selection; writes nothing."""

from __future__ import annotations

from typing import Any

from py4j.protocol import Py4JError
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from metaeol_udf.config import GivenConfig
from metaeol_udf.delta.base.context import Job
from metaeol_udf.delta.job import known_errors, prepare_job
from metaeol_udf.delta.select.proof import ProofStore, RunNote
from metaeol_udf.delta.select.row_scope import RowScope
from metaeol_udf.delta.select.selection import DONE, ERROR, FINGERPRINT, HELD, STORED, check_keys
from metaeol_udf.delta.select.snapshot import Tables, check_single, open_checked, select
from metaeol_udf.delta.sources.passages import PassageSource
from metaeol_udf.delta.tables.commits import TableLog
from metaeol_udf.delta.tables.fingerprint import spec_part
from metaeol_udf.delta.tables.metadata import differences, label_of
from metaeol_udf.delta.tables.refs import TableRef, exists, open_table, read, storage_of
from metaeol_udf.delta.write.deletions import find_lost_passages, find_orphans, removes
from metaeol_udf.delta.write.journal import Journal
from metaeol_udf.delta.write.prepare import properties_of

_COMMITS_LOOKED_AT = 500
_RUNS_SHOWN = 5
#: States of rows that the next run works on, and what the report calls them.
_TO_DO = {"new": "rows_new", "changed": "rows_changed", "other": "rows_of_other_specs", "broken": "rows_broken", "retried": "rows_retried"}


def run_status(config: GivenConfig, spark: SparkSession | None = None) -> dict[str, Any]:
    """Say how far a job's table is.

    Args:
        config: All settings: a `JobConfig`, nested mappings, or the path of a YAML file.
        spark: The session; None takes the active one or starts one.

    Returns:
        Plain values for JSON. Of the rows that `source.where` selects: `rows_selected = rows_done + rows_failed + rows_to_do -
        rows_retried`, where `rows_retried` failed and are tried again by each run. `rows_to_do` are what the next run embeds or
        fails on: new rows, rows with another text than their vector (`rows_changed`), with a vector of another spec, with a vector that is
        not whole (`rows_broken`), and those tried again. `failures` counts the rows that failed by reason. `journal`, `quarantine` and
        `last_runs` are of the tables beside the target, and of its history; `label` and `stored_label` say how vectors would be made
        now, and how those in the table were made; `differs` holds the settings in which they differ, with the table's value first.

    Raises:
        MetaEOLError: What the job itself would raise before it writes anything.
    """
    with known_errors():
        job = prepare_job(config, spark, writes=False)
        tables = open_checked(job, RowScope())
        log = TableLog.of(job.spark, job.target)
        label = label_of(properties_of(job), job.columns.vector)
        stored = {} if log is None else label_of(log.properties(), job.columns.vector)
        proof = ProofStore(job).load()
        return {
            "table": str(job.target),
            "column": job.columns.vector,
            "source": str(job.source),
            **({} if tables.source_version is None else {"source_version": tables.source_version}),
            **_count_rows(job, tables),
            **_count_orphans(job, tables),
            "journal": _measure_journal(job),
            "quarantine": _count_quarantine(job),
            "fingerprint": job.resolved.fingerprint,
            "stored_fingerprint": stored.get("fingerprint"),
            "differs": {name: list(both) for name, both in (differences(stored, label) if stored else {}).items()},
            "label": label,
            "stored_label": stored,
            "last_runs": _last_runs(job),
            "last_proof": None if proof is None else {"run_id": proof.run_id, "source_version": proof.source_version},
        }


def _count_rows(job: Job, tables: Tables) -> dict[str, Any]:
    """Count the rows in scope by what is stored for them: one scan of the source, and of a target of its own."""
    job.source.check_readable(tables.source)
    n_rows = check_keys(tables.source, job.config.source, job.source)
    found = _states(select(job, RowScope(), tables, pinned=True).rows)
    check_single(job, sum(row["n"] for row in found), n_rows)

    def total(*states: str) -> int:
        return sum(row["n"] for row in found if row["state"] in states)

    failures: dict[str, int] = {}
    for row in found:
        if row["state"] in ("failed", "retried"):
            failures[row["word"]] = failures.get(row["word"], 0) + row["n"]
    return {
        "rows_selected": total("done", "failed", *_TO_DO),
        "rows_done": total("done"),
        "rows_to_do": total(*_TO_DO),
        **{name: total(state) for state, name in _TO_DO.items()},
        "other_specs": {row["word"]: row["n"] for row in found if row["state"] == "other"},
        "rows_failed": total("failed", "retried"),
        "failures": dict(sorted(failures.items())),
    }


def _states(rows: DataFrame) -> list[Row]:
    """Count rows by `state`, and by `word`: the reason of a failure, or another spec."""
    stored, is_done, error = F.col(STORED), F.col(DONE), F.col(ERROR)
    is_other = spec_part(stored) != spec_part(F.col(FINGERPRINT))
    state = (
        F.when(is_done, F.when(error.isNull(), "done").otherwise("failed"))
        .when(F.col(HELD).isNotNull(), "retried")
        .when(stored.isNull(), "new")
        .when(is_other, "other")
        .when(stored == F.col(FINGERPRINT), "broken")
        .otherwise("changed")
    )
    word = F.when(state.isin("failed", "retried"), error).when(state == "other", spec_part(stored))
    return rows.select(state.alias("state"), word.alias("word")).groupBy("state", "word").agg(F.count(F.lit(1)).alias("n")).collect()


def _count_orphans(job: Job, tables: Tables) -> dict[str, Any]:
    """Count the target's rows whose key left the source, and say whether the next run removes them; and passages that a text lost."""
    if job.in_place or tables.target_version is None:
        return {"rows_orphaned": 0}
    n_orphans = find_orphans(job).count()
    is_split = isinstance(job.source, PassageSource)
    lost = {"passages_lost": find_lost_passages(job, tables.source).count()} if is_split else {}
    return {
        "rows_orphaned": n_orphans,
        **lost,
        **({"orphans_are": "removed by the next run" if removes(job) else "kept"} if n_orphans else {}),
    }


def _measure_journal(job: Job) -> dict[str, int]:
    """Measure the journal: its rows, those of the job's spec, and the bytes of its folder, dropped rows included."""
    ref = job.target.beside("journal")
    if not exists(job.spark, ref):
        return {"rows": 0, "rows_of_spec": 0, "bytes": 0}
    journal = Journal(job.spark, ref, job.resolved.fingerprint, "", job.resolved.vector_length)
    return {"rows": read(job.spark, ref).count(), "rows_of_spec": journal.rows().count(), "bytes": _bytes_of(job.spark, ref)}


def _bytes_of(spark: SparkSession, ref: TableRef) -> int:
    """Measure a table's folder; where the storage does not show it, the files of the present version."""
    detail = open_table(spark, ref, "journal").detail().collect()[0]
    try:
        folder, storage = storage_of(spark, detail["location"])
        return int(storage.getContentSummary(folder).getLength())
    except Py4JError:
        return int(detail["sizeInBytes"])


def _count_quarantine(job: Job) -> dict[str, Any]:
    """Count the quarantine's rows of the job's column, by reason."""
    ref = job.target.beside("quarantine")
    if not exists(job.spark, ref):
        return {"rows": 0, "reasons": {}}
    is_mine = F.coalesce(F.col("vector_column"), F.lit(job.columns.vector)) == job.columns.vector
    found = read(job.spark, ref).where(is_mine).groupBy("reason").agg(F.count(F.lit(1)).alias("n")).orderBy("reason").collect()
    return {"rows": sum(row["n"] for row in found), "reasons": {row["reason"]: row["n"] for row in found}}


def _last_runs(job: Job) -> list[dict[str, Any]]:
    """Find the last runs that wrote the column, by the notes in the table's history; a run with nothing to do left none."""
    if not exists(job.spark, job.target):
        return []
    history = open_table(job.spark, job.target, "target.table").history(_COMMITS_LOOKED_AT)
    commits = history.select("version", "timestamp", "operation", "userMetadata").orderBy(F.col("version").desc()).collect()
    runs: dict[str, dict[str, Any]] = {}
    for commit in commits:
        note = RunNote.parse(commit["userMetadata"])
        if note is None or note.column != job.columns.vector:
            continue
        ended = {"run_id": note.run_id, "spec": note.spec, "ended": f"{commit['timestamp']:%Y-%m-%d %H:%M:%S}", "versions": []}
        runs.setdefault(note.run_id, ended)["versions"].insert(0, commit["version"])
    return list(runs.values())[:_RUNS_SHOWN]

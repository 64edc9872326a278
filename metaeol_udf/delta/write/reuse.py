"""Vectors that a table holds already, under another key or before it was overwritten: they cost no pass of the model.

A vector is known by the fingerprint of its spec and text, so whatever row held it, it is the right one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from metaeol_udf.delta.base.context import Job
from metaeol_udf.delta.base.kept_rows import keep_counted
from metaeol_udf.delta.select.pending import Pending
from metaeol_udf.delta.select.proof import ProofStore, is_answered_for
from metaeol_udf.delta.select.selection import FINGERPRINT, TEXT
from metaeol_udf.delta.select.snapshot import MOST_BROADCAST
from metaeol_udf.delta.select.stored_vector import is_whole
from metaeol_udf.delta.tables.refs import read
from metaeol_udf.delta.write.journal import Journal
from metaeol_udf.spark.columns import find_field, quoted

logger = logging.getLogger(__name__)

_HELD_AS = "metaeol_held_as"  # the fingerprint under which a table may hold a vector


def reuse_vectors(job: Job, pending: Pending, journal: Journal) -> Pending:
    """Journal the vectors of pending texts that a table holds; gives what is left for the model.

    A run that sees new rows and new texts alone, while no key left, looks for none: that would cost it a scan of the table.
    """
    if not pending.n_texts or not pending.snapshot.look.may_miss_keys:
        return pending
    for version in _versions(job, pending):
        found = _find(job, pending, version)
        if found is None:
            continue
        vectors, n_found = keep_counted(found)
        if n_found:
            logger.info("%d texts have their vector in version %d of %s: it is taken from there", n_found, version, job.target)
            journal.append_reused(vectors)
            return pending.without(vectors.select(FINGERPRINT), n_found)
    return pending


def _versions(job: Job, pending: Pending) -> Iterator[int]:
    """Find the versions that may hold vectors: the present one, and for vectors in the source that before it was overwritten."""
    tables = pending.snapshot.tables
    if not job.in_place:
        if tables.target_version is not None:
            yield tables.target_version
        return
    proof, log = ProofStore(job).load(), job.source.log(job.spark)
    commits = None if proof is None or log is None else log.commits_since(proof.target_version)
    overwritten = [commit.version for commit in commits or [] if commit.removes_rows and not is_answered_for(job, commit)]
    if overwritten:
        yield overwritten[0] - 1
    if tables.source_version is not None:
        yield tables.source_version


def _find(job: Job, pending: Pending, version: int) -> DataFrame | None:
    """Find FINGERPRINT and `vector`, each fingerprint once, in a version of the table that is written to; None where there is none."""
    columns = job.columns
    try:
        held = read(job.spark, job.target, version)
        names = (columns.fingerprint_column, columns.vector, columns.error)
        if any(find_field(held.schema, name) is None for name in names):
            return None
    except AnalysisException:  # its commits are gone
        return None
    fingerprint, vector, error = (F.col(quoted(name)) for name in names)
    due = _held_as(job, pending)
    due = F.broadcast(due) if pending.n_texts <= MOST_BROADCAST else due
    known = held.where(error.isNull())
    if known.select(fingerprint.alias(_HELD_AS)).join(due, _HELD_AS, "left_semi").isEmpty():  # without a look at a vector
        return None
    whole = known.where(is_whole(vector, job.resolved.vector_length)).select(fingerprint.alias(_HELD_AS), vector.alias("vector"))
    return whole.join(due, _HELD_AS).groupBy(FINGERPRINT).agg(F.first("vector").alias("vector"))


def _held_as(job: Job, pending: Pending) -> DataFrame:
    """List FINGERPRINT of each pending text with those under which a table may hold its vector: also as it was before there was a key."""
    due = pending.due.select(FINGERPRINT, F.col(FINGERPRINT).alias(_HELD_AS))
    if job.fingerprints.key is None:
        return due
    before = job.fingerprints.without_key().of(F.col(TEXT))
    return due.union(pending.distinct_texts.select(FINGERPRINT, before.alias(_HELD_AS)))

"""The quality gate: vectors of another spec replace a table's own only where they are not worse than the settings allow.

It stands between the embedding phase, whose outcome is in the journal by then, and the MERGE. It writes nothing, so a run that
is killed here or stopped by it is judged again by the next one, on the same texts and without computing anything.

The gate always judges the table as a whole, also for the few rows of `metaeol retry` or of a micro-batch: retry and micro-batches
must not bring a new spec into the table without passing the gate.
"""

from __future__ import annotations

import logging

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from metaeol_udf.delta.base.context import Job
from metaeol_udf.delta.base.run_report import Report
from metaeol_udf.delta.gate.comparable_texts import OldSpec, collect_vectors, count_old_specs, find_pairs, sample_texts
from metaeol_udf.delta.gate.comparison import (
    MIN_TEXTS,
    Comparison,
    Decision,
    Outcome,
    PairScores,
    compare,
    find_faults,
    find_score_faults,
    score_answers,
    score_pairs,
    stack,
)
from metaeol_udf.delta.select.looking import take_snapshot
from metaeol_udf.delta.select.row_scope import RowScope
from metaeol_udf.delta.select.snapshot import Snapshot, Tables
from metaeol_udf.delta.tables.refs import read
from metaeol_udf.delta.write.journal import Journal
from metaeol_udf.errors import QualityError
from metaeol_udf.spark.columns import find_field, quoted

logger = logging.getLogger(__name__)


def pass_gate(job: Job, scope: RowScope, snapshot: Snapshot, journal: Journal, report: Report) -> None:
    """Pass the gate: compare the table's vectors with those in the journal, and put the figures into the report.

    Raises:
        QualityError: The new ones are worse than allowed, or there was too little to tell. Nothing was published.
    """
    whole = snapshot if scope.kind == "all" else take_snapshot(job, RowScope(), check_keys=False)
    if not whole.counts.rows_of_other_specs:
        return
    decision = _judge(job, whole, journal)
    report.quality = decision.as_dict()
    if decision.outcome is Outcome.BLOCKED:
        limit = "" if decision.comparison is None else "change the limit, "  # too few texts are not a matter of a limit
        raise QualityError(
            f"stopped by the quality gate: {'; '.join(decision.reasons)}. Nothing was published: {job.target} keeps the vectors of spec "
            f"{decision.old_spec_fingerprint}, and those of spec {report.fingerprint} are journalled. Go back to the old settings, "
            f"{limit}or take the new vectors with quality.gate=false: the next run then publishes them and computes nothing again"
        )
    level = logging.INFO if decision.outcome is Outcome.PASSED else logging.WARNING
    logger.log(level, "quality gate: %s", report.quality)


def _judge(job: Job, whole: Snapshot, journal: Journal) -> Decision:
    """Judge the new vectors by the settings."""
    has_vectors = find_field(_written_to(job, whole.tables).schema, job.columns.vector) is not None
    specs = count_old_specs(whole.chosen, journal) if has_vectors else []
    if not specs:
        return Decision(Outcome.NOT_JUDGED, None, ["no row holds a vector of another spec"])
    old, limits = specs[0], job.config.quality
    comparison, scores = _measure(job, whole, journal, old.fingerprint) if old.n_texts >= MIN_TEXTS else (None, None)
    faults = _find_losses(job, old)
    if comparison is None or comparison.n_texts < MIN_TEXTS:
        n_texts = old.n_texts if comparison is None else comparison.n_texts
        faults = [
            f"{n_texts:,} texts have both a vector of spec {old.fingerprint} and a new one, fewer than the {MIN_TEXTS} that can be judged",
            *faults,
        ]
        outcome = Outcome.NOT_JUDGED if _is_remainder(whole) else Outcome.BLOCKED
        return Decision(outcome, old.fingerprint, faults, old.n_texts, old.n_lost)
    faults += find_faults(comparison, limits) + ([] if scores is None else find_score_faults(scores, limits))
    return Decision(Outcome.BLOCKED if faults else Outcome.PASSED, old.fingerprint, faults, old.n_texts, old.n_lost, comparison, scores)


def _is_remainder(whole: Snapshot) -> bool:
    """Tell whether only a remainder is left: the job's spec is the table's already, and few rows were left over, say by a changed text."""
    counts = whole.counts
    return counts.rows_skipped + counts.rows_changed > counts.rows_of_other_specs


def _find_losses(job: Job, old: OldSpec) -> list[str]:
    """Find texts that would lose the vector that they have, because the new spec fails on them."""
    n_texts, budget = old.n_texts + old.n_lost, job.budget
    if not budget.is_exceeded(old.n_lost, n_texts):
        return []
    return [
        f"{old.n_lost:,} of {n_texts:,} texts that have a vector have no new one, more than "
        f"runtime.max_failed_fraction={budget.max_fraction} allows"
    ]


def _measure(job: Job, whole: Snapshot, journal: Journal, old_spec_fingerprint: str) -> tuple[Comparison, PairScores | None]:
    """Measure the old and the new vectors, on a sample of texts and on the labelled pairs."""
    chosen, quality, labelled = whole.chosen, job.config.quality, job.pairs
    sample = sample_texts(chosen, journal, old_spec_fingerprint, quality.sample)
    pairs = [] if labelled is None else find_pairs(chosen, journal, old_spec_fingerprint, labelled, whole.tables.key)
    wanted = sorted({*sample, *(text for pair in pairs for text in (pair.first, pair.second))})
    old = collect_vectors(_stored(job, whole.tables), old_spec_fingerprint, wanted)
    new = collect_vectors(journal.rows().select("fingerprint", "vector"), job.spec.fingerprint(), wanted)
    both = old.keys() & new.keys()
    texts = [text for text in sample if text in both]
    comparison = compare(stack(old, texts), stack(new, texts), quality.neighbours)
    if labelled is None:
        return comparison, None
    known = [pair for pair in pairs if {pair.first, pair.second} <= both]
    gold = labelled.scores[[pair.place for pair in known]]
    if quality.pairs_figure == "ndcg":
        before_all, after_all = ({text: vectors[text] for text in both} for vectors in (old, new))
        return comparison, score_answers(before_all, after_all, [(pair.first, pair.second) for pair in known], gold.tolist())
    firsts, seconds = [pair.first for pair in known], [pair.second for pair in known]
    before, after = ((stack(vectors, firsts), stack(vectors, seconds)) for vectors in (old, new))
    return comparison, score_pairs(before, after, gold)


def _stored(job: Job, tables: Tables) -> DataFrame:
    """Read the stored `fingerprint` and `vector` of all rows of the table that the job writes to."""
    fingerprint, vector = (F.col(quoted(name)) for name in (job.columns.fingerprint_column, job.columns.vector))
    return _written_to(job, tables).select(fingerprint.alias("fingerprint"), vector.alias("vector"))


def _written_to(job: Job, tables: Tables) -> DataFrame:
    """Read the table that is written to, at the version of the snapshot."""
    return tables.source if job.in_place else read(job.spark, job.target, tables.target_version)

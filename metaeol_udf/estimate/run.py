"""`metaeol estimate`, from configuration to report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import SparkSession

from metaeol_udf.config import GivenConfig, as_config
from metaeol_udf.delta.base.context import Job
from metaeol_udf.delta.job import known_errors, prepare_job
from metaeol_udf.delta.select.row_scope import RowScope
from metaeol_udf.errors import ConfigError, EnvironmentFault
from metaeol_udf.estimate.probe import Probe, run_probe
from metaeol_udf.estimate.projection import Rates, better_wave_rows, project, wave_count, writing_seconds, written_bytes
from metaeol_udf.estimate.tokens import TokenCount, count_tokens
from metaeol_udf.estimate.workload import Workload, find_workload
from metaeol_udf.spark.cluster.preflight import check_executors
from metaeol_udf.spark.cluster.session import executor_count, slot_count


@dataclass(frozen=True, kw_only=True)
class EstimateOptions:
    """Says what to estimate, and from how much.

    Attributes:
        executors: Numbers of executors to project to; empty takes the session's.
        price_per_hour: Of one executor; None takes `estimate.price_per_hour`.
        sample_texts: Number of texts to tokenise.
        probe_seconds: Seconds of speed measurement per worker.
        tokens_per_second: Of one executor, where it is known; no model is loaded then.
    """

    executors: Sequence[int] = ()
    price_per_hour: float | None = None
    sample_texts: int = 2000
    probe_seconds: float = 10.0
    tokens_per_second: float | None = None

    def __post_init__(self) -> None:
        if any(n < 1 for n in self.executors):
            raise ConfigError(f"--executors must be positive integers, found {', '.join(map(str, self.executors))}")
        if self.tokens_per_second is not None and self.tokens_per_second <= 0:
            raise ConfigError(f"--tokens-per-second must be positive, found {self.tokens_per_second}")


@known_errors()
def run_estimate(config: GivenConfig, options: EstimateOptions | None = None, spark: SparkSession | None = None) -> dict[str, Any]:
    """Say what a run of the job would take, from the job's own selection, real tokens of a sample, and a timed probe.

    Args:
        config: The job.
        options: What to estimate; None takes the defaults.
        spark: The session; None takes the active one or starts one.

    Returns:
        The report: plain values for JSON.

    Raises:
        MetaEOLError: What the job itself would raise before it writes anything.
    """
    options = options or EstimateOptions()
    started = time.monotonic()
    config = as_config(config)
    job = prepare_job(config, spark, writes=False)
    session_s = time.monotonic() - started
    work = find_workload(job, RowScope(), options.sample_texts)
    session, runtime = job.spark, config.runtime
    request = job.request()
    counted, probe, workers_s = TokenCount(), None, 0.0
    if work.unique_texts:
        started = time.monotonic()
        check_executors(session, request, runtime.task_gpus)
        workers_s = time.monotonic() - started
        sample = work.sample.cache()  # read once, and the same texts for both
        try:
            counted = count_tokens(sample, request)
            if options.tokens_per_second is None:
                probe = run_probe(session, sample, request, options.probe_seconds, runtime.task_gpus)
        finally:
            sample.unpersist()
    n_executors = executor_count(session)
    n_loads = probe.workers if probe is not None else n_executors
    report = work_report(job, work, counted, n_loads)
    dim = job.resolved.vector_length
    rows_pending = work.snapshot.rows_to_do
    slots = slot_count(session, runtime.task_gpus) / n_executors
    commit_s, publish_s = writing_seconds(rows_pending, dim, slots, report["waves"])
    load_s = probe.load_s if probe is not None else 0.0
    seconds = {"session": session_s, "select": work.select_s, "workers": workers_s, "load": load_s, "commit": commit_s}
    rates = Rates(_tokens_per_second(options, probe, n_executors), sum(seconds.values()), publish_s)
    seconds["publish"] = publish_s / n_executors
    asked = options.executors or [n_executors]
    embedding_s = report["tokens_to_compute"] / rates.tokens_per_second / max(asked) if rates.tokens_per_second else 0.0
    price = options.price_per_hour if options.price_per_hour is not None else config.estimate.price_per_hour
    return {
        **report,
        "bytes_written": written_bytes(rows_pending, work.unique_texts, dim, work.rewritten_bytes),
        "seconds": {phase: round(took, 2) for phase, took in seconds.items()},
        "probe": vars(probe) if probe is not None else None,
        "tokens_per_second": round(rates.tokens_per_second, 1),
        "projections": project(report["tokens_to_compute"], rates, asked, price),
        "better_wave_rows": better_wave_rows(work.unique_texts, runtime.wave_rows, embedding_s),
    }


def work_report(job: Job, work: Workload, counted: TokenCount, n_loads: int) -> dict[str, Any]:
    """Report a run's work: rows and texts, and the tokens for them in `n_loads` loads of the model, by those of the sample."""
    counts, pending = work.snapshot.counts, work.snapshot.rows_to_do
    distinct = work.unique_texts + work.n_textless
    scale = work.unique_texts / counted.texts if counted.texts else 0.0
    return {
        "rows_selected": counts.rows_selected,
        "rows_skipped": counts.rows_skipped,
        "rows_pending": pending,
        "unique_texts": work.unique_texts,
        "dedupe_rate": round(1 - distinct / pending, 4) if pending else 0.0,
        "sample_texts": counted.texts,
        "tokens_per_text": round(counted.tokens_computed / counted.texts, 1) if counted.texts else 0.0,
        "trimmed_texts": counted.trimmed,
        "trimmed_share": round(counted.trimmed / counted.texts, 4) if counted.texts else 0.0,
        "tokens_to_compute": round(counted.tokens_computed * scale) + counted.prefix_tokens * n_loads,
        "tokens_saved": round((counted.tokens_whole - counted.tokens_computed) * scale),
        "waves": wave_count(work.unique_texts, job.config.runtime.wave_rows),
        "fingerprint": job.resolved.fingerprint,
    }


def _tokens_per_second(options: EstimateOptions, probe: Probe | None, n_executors: int) -> float:
    """Return the tokens per second of one executor; 0 where there is nothing to do."""
    if options.tokens_per_second is not None:
        return options.tokens_per_second
    if probe is None:
        return 0.0
    if not probe.tokens:
        raise EnvironmentFault("the probe computed no token: raise --sample, or give --tokens-per-second")
    return probe.tokens_per_second / n_executors

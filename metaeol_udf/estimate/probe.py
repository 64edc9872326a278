"""A probe: the model, loaded and timed where the job would run it, in every slot at the same time."""

from __future__ import annotations

import dataclasses
import itertools
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
from pyspark.sql import DataFrame, SparkSession

from metaeol_udf.errors import without_message
from metaeol_udf.spark.cluster.session import slot_count
from metaeol_udf.spark.gpu_stage import gpu_profile
from metaeol_udf.spark.worker.devices import task_gpus
from metaeol_udf.spark.worker.encoder_cache import EncoderRequest, get_encoder

_SCHEMA = "worker string, load_s double, tokens long, seconds double"
_WARM_UP_TEXTS = 4
#: A CPU is at its full rate with an eighth of a chunk, which then fits into a probe of seconds; a GPU needs it whole.
_CPU_SHARE = 8


@dataclass(frozen=True)
class Probe:
    """Describes what the model does here.

    Attributes:
        workers: Python workers that took part: the slots of the session.
        load_s: Seconds of the slowest load with its first texts, which every run pays once.
        tokens: Tokens computed in the timed part.
        tokens_per_second: Marginal rate of all workers together.
    """

    workers: int
    load_s: float
    tokens: int
    tokens_per_second: float


def run_probe(spark: SparkSession, sample: DataFrame, request: EncoderRequest, seconds: float, task_gpus: int | None = None) -> Probe:
    """Probe the model with a sample, one column of texts, none of them NULL or blank; the workers keep the model for a run.

    A worker begins no further batch of texts after so many seconds.
    """

    def time_task(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        yield from _time_task(request, seconds, batches)

    spread = sample.repartition(slot_count(spark, task_gpus))
    profile = None if task_gpus is None else gpu_profile(task_gpus)
    return summarise([row.asDict() for row in spread.mapInPandas(time_task, _SCHEMA, profile=profile).collect()])


def summarise(timed: list[dict[str, float]]) -> Probe:
    """Summarise tasks, each with the columns of the probe: rates of different workers add, tasks of one worker follow each other."""
    tasks = pd.DataFrame(timed, columns=["worker", "load_s", "tokens", "seconds"])
    by_worker = tasks.groupby("worker")[["tokens", "seconds"]].sum().query("seconds > 0")
    return Probe(
        workers=tasks["worker"].nunique(),
        load_s=float(max(tasks["load_s"], default=0.0)),
        tokens=int(tasks["tokens"].sum()),
        tokens_per_second=float((by_worker["tokens"] / by_worker["seconds"]).sum()),
    )


def _time_task(request: EncoderRequest, seconds: float, batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """Time one slot's part, in which this runs."""
    from metaeol_udf.spark.worker.embed_column import chunk_limits, column_chunks

    texts = [text for batch in batches for text in batch.iloc[:, 0]]
    if not texts:
        return
    started = time.perf_counter()
    encoder = get_encoder(request).encoder
    share = 1 if task_gpus(request.device) else _CPU_SHARE
    limits = chunk_limits(request.device)
    limits = dataclasses.replace(limits, tokens=limits.tokens // share)
    chunks = column_chunks(request.resolved, iter([pd.Series(texts, dtype=object)]), limits)
    warm_up = texts[:_WARM_UP_TEXTS]  # computes the prefixes and lays out memory
    tokens, spent = 0, 0.0
    try:
        results = encoder.encode_batches(itertools.chain([warm_up], chunks))
        next(results)
        load_s = time.perf_counter() - started
        started = time.perf_counter()
        for encoded in results:
            tokens += int(encoded.tokens_computed.sum())
            spent = time.perf_counter() - started
            if spent >= seconds:
                break
    except Exception as error:  # noqa: BLE001 - raised again, without what it may quote
        raise without_message(error) from None
    worker = f"{socket.gethostname()}:{os.getpid()}"
    yield pd.DataFrame([{"worker": worker, "load_s": load_s, "tokens": tokens, "seconds": spent}])

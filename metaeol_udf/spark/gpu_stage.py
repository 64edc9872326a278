"""The embedding stages with a resource profile of their own: a task there owns GPUs, and tasks of all other stages need none.

Without it, `spark.task.resource.gpu.amount=1` lets an executor of one GPU and sixteen cores run one task at a time in every
stage, selection and MERGE included.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import pandas as pd
from pyspark.resource import ResourceProfile, ResourceProfileBuilder, TaskResourceRequests
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StructField, StructType

from metaeol_udf.spark.udf import RESULT_TYPE
from metaeol_udf.spark.worker.embed_column import embed_column
from metaeol_udf.spark.worker.encoder_cache import EncoderRequest


def embed_in_stage(texts: DataFrame, request: EncoderRequest, task_gpus: int) -> DataFrame:
    """Embed in a stage whose tasks own GPUs.

    Args:
        texts: Two columns: what names a text, and the text.
        request: What workers load.
        task_gpus: GPUs of a task.

    Returns:
        The first column as it was, and `result`, a struct of `RESULT_TYPE`.
    """
    key, text = texts.columns

    def embed(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        keys: deque[object] = deque()

        def cells() -> Iterator[pd.Series]:
            for batch in batches:
                keys.extend(batch[key])
                yield batch[text]

        for frame in embed_column(request, cells()):  # one row a text, in order, cut otherwise than the batches
            yield frame.assign(**{key: [keys.popleft() for _ in range(len(frame))]})

    schema = StructType([*RESULT_TYPE.fields, StructField(key, texts.schema[key].dataType)])
    valid = texts.select(key, F.make_valid_utf8(text).alias(text))
    embedded = valid.mapInPandas(embed, schema, profile=gpu_profile(task_gpus))
    return embedded.select(key, F.struct(*RESULT_TYPE.names).alias("result"))


def gpu_profile(task_gpus: int) -> ResourceProfile:
    """A profile that differs from the session's in what a task gets, which needs no executors of its own."""
    return ResourceProfileBuilder().require(TaskResourceRequests().resource("gpu", task_gpus)).build

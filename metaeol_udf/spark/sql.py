"""The embedding as a SQL function."""

from __future__ import annotations

from pyspark.sql import SparkSession

from metaeol_udf.spark.udf import make_request, vector_udf
from metaeol_udf.spec import EmbeddingSpec


def register_sql(
    spark: SparkSession,
    spec: EmbeddingSpec,
    name: str = "metaeol_embed",
    device: str = "auto",
    max_batch_tokens: int | str = "auto",
) -> None:
    """Make `SELECT metaeol_embed(text) FROM …` work in this session.

    A SQL caller passes the text as it stands in the table: where it may hold invalid UTF-8, write
    `metaeol_embed(make_valid_utf8(text))`, or Arrow refuses the batch. `embed_udf` and the job do so by themselves.

    Args:
        spark: The session that gets the function.
        spec: What an embedding is; checked and pinned here, on the driver.
        name: Of the function.
        device: As in `embed_udf`.
        max_batch_tokens: As in `embed_udf`.

    Raises:
        ConfigError: The spec names a model, layer or template set that does not exist.
    """
    spark.udf.register(name, vector_udf(make_request(spec, device, max_batch_tokens)))

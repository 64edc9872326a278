"""The embedding as a SQL function."""

from __future__ import annotations

import re

from pyspark.sql import SparkSession

from metaeol_udf.errors import ConfigError
from metaeol_udf.spark.cluster.resolve import GivenSpec
from metaeol_udf.spark.udf import make_request, vector_udf

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", flags=re.ASCII)


def register_sql(
    spark: SparkSession,
    spec: GivenSpec,
    name: str = "metaeol_embed",
    device: str = "auto",
    max_batch_tokens: int | str = "auto",
) -> None:
    """Make `SELECT metaeol_embed(text) FROM …` work in this session.

    The function is the session's own: permanent views and other sessions do not know it. A SQL caller passes the text as it
    stands in the table: where it may hold invalid UTF-8, write `metaeol_embed(make_valid_utf8(text))`, or Arrow refuses the
    batch. `embed_udf` and the job do so by themselves.

    Args:
        spark: The session that gets the function; one of Spark Connect does, too.
        spec: What an embedding is; resolved here, on the driver.
        name: Of the function: letters, digits and underscores, and none of Spark's own functions.
        device: As in `embed_udf`.
        max_batch_tokens: As in `embed_udf`.

    Raises:
        ConfigError: The name is none, or the spec names a model, layer or template set that does not exist.
        ModelFilesError: The model's files are not whole.
    """
    if _IDENTIFIER.fullmatch(name) is None:
        raise ConfigError(f"a SQL function's name is made of letters, digits and underscores and begins with no digit, found {name!r}")
    if spark.sql(f"SHOW SYSTEM FUNCTIONS LIKE '{name}'").take(1):
        raise ConfigError(f"{name!r} is one of Spark's own functions, which this one would hide: choose another name")
    spark.udf.register(name, vector_udf(make_request(spec, device, max_batch_tokens)))

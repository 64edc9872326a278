"""An application for spark-submit: embeds texts on executors, and says which Python and package each side had."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from pyspark.sql import SparkSession

import metaeol_udf
from metaeol_udf import EmbeddingSpec
from metaeol_udf.spark import with_embeddings

TEXTS = ["A man is playing a guitar.", "The bank raised its interest rates.", None]


def on_executor(_rows: Any) -> Iterator[dict[str, str]]:
    """Where this worker's interpreter and package stand."""
    import metaeol_udf as package

    yield {"prefix": sys.prefix, "package": str(package.__file__)}


if __name__ == "__main__":
    session = SparkSession.builder.getOrCreate()
    rows = session.createDataFrame(list(enumerate(TEXTS)), "id long, text string").coalesce(1)
    embedded = with_embeddings(rows, EmbeddingSpec(model=sys.argv[1], dtype="float32"), device="cpu").collect()
    found = {
        "driver": str(metaeol_udf.__file__),
        "executors": session.sparkContext.parallelize([0], 1).mapPartitions(on_executor).collect(),
        "vectors": [row["embedding"] for row in embedded],
        "errors": [row["embedding_error"] for row in embedded],
    }
    sys.stdout.write("\n" + json.dumps(found) + "\n")
    session.stop()

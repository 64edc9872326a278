"""Embeds an Iceberg table into another one: `iceberg_session.py FOLDER PACKAGE SPEC`. Prints READY once Iceberg itself works, then JSON."""

from __future__ import annotations

import json
import sys

from pyspark.sql import SparkSession

from metaeol_udf.spark import with_embeddings


def main(folder: str, package: str, spec: str) -> None:
    """Write a table by Iceberg alone, then its vectors, and print what is read back."""
    builder = SparkSession.builder.master("local[1]").config("spark.jars.packages", package).config("spark.ui.enabled", "false")
    builder = builder.config("spark.sql.shuffle.partitions", "1").config("spark.sql.catalog.lake", "org.apache.iceberg.spark.SparkCatalog")
    builder = builder.config("spark.sql.catalog.lake.type", "hadoop").config("spark.sql.catalog.lake.warehouse", folder)
    spark = builder.getOrCreate()
    rows = spark.createDataFrame([(1, "a lamp"), (2, None), (3, "a parcel")], "id long, text string")
    rows.writeTo("lake.shop.texts").using("iceberg").create()
    assert spark.table("lake.shop.texts").count() == 3
    sys.stdout.write("READY\n")
    sys.stdout.flush()
    with_embeddings(spark.table("lake.shop.texts"), spec, device="cpu").writeTo("lake.shop.vectors").using("iceberg").create()
    found = spark.table("lake.shop.vectors").orderBy("id").collect()
    sys.stdout.write(json.dumps([[row["id"], row["embedding"], row["embedding_error"]] for row in found]) + "\n")
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])

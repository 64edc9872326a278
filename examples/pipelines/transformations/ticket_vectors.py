"""Vectors of tickets in a Spark Declarative Pipeline: a streaming table, which embeds each row once, when its file comes in."""

from pyspark import pipelines as dp
from pyspark.sql import DataFrame, SparkSession

from metaeol_udf.spark import embed_udf

spark = SparkSession.active()
embed = embed_udf("spec.yaml")  # beside spark-pipeline.yml


@dp.table
def ticket_vectors() -> DataFrame:
    """Read the JSON lines that come into a folder, and add a vector to each row."""
    tickets = spark.readStream.schema("ticket STRING, state STRING, body STRING").json("incoming")
    return tickets.withColumn("embedding", embed("body"))

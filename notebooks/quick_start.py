# Databricks notebook source
# MAGIC %md
# MAGIC # Embeddings of a text column in ten minutes
# MAGIC
# MAGIC This notebook turns short texts into vectors with a language model that runs on your own cluster, keeps them in a Delta table, and
# MAGIC compares texts in SQL. No text leaves the cluster.
# MAGIC
# MAGIC **How a text becomes a vector.** Each text is put into a few prompts that ask for one word about it: its topic, its mood, what it
# MAGIC says, who acts. What the model holds in mind where that word would stand, averaged over the prompts, is the vector
# MAGIC ([MetaEOL](https://arxiv.org/abs/2402.18458)). Nothing is trained.
# MAGIC
# MAGIC **What you need**
# MAGIC - A cluster in *dedicated* (single user) access mode, Databricks Runtime 17 or newer. A small CPU cluster will do here; serverless
# MAGIC   compute will not, because it is Spark Connect.
# MAGIC - The package's wheel and a model folder on a Unity Catalog volume. On any machine with the package,
# MAGIC   `metaeol model prepare SRC DEST` makes the folder, which you then copy to the volume.

# COMMAND ----------

# MAGIC %md
# MAGIC Put the path of your wheel here. A cluster that has it as a library already needs neither this cell nor the next one.

# COMMAND ----------

# MAGIC %pip install --quiet /Volumes/main/default/wheels/metaeol_udf-0.2.0-py3-none-any.whl

# COMMAND ----------

dbutils.library.restartPython()

# COMMAND ----------

# MAGIC %md
# MAGIC ## Where things are
# MAGIC The fields above the notebook. Schema and volume must exist; the table is made below.

# COMMAND ----------

dbutils.widgets.text("catalog", "main", "Catalog")
dbutils.widgets.text("schema", "default", "Schema")
dbutils.widgets.text("table", "metaeol_quick_start", "Table to write")
dbutils.widgets.text("model", "/Volumes/main/default/models/smollm2-135m-instruct", "Model folder")
dbutils.widgets.text("spec", "", "Spec or job file (YAML); empty: the settings below")

table = ".".join(dbutils.widgets.get(name) for name in ("catalog", "schema", "table"))
table

# COMMAND ----------

# MAGIC %md
# MAGIC ## What an embedding is
# MAGIC A *spec* says everything that changes a vector: model, prompts, layer. The same few lines in a YAML file are what the nightly job
# MAGIC reads, so notebook and job cannot drift apart: equal specs have equal fingerprints.

# COMMAND ----------

import yaml

from metaeol_udf import EmbeddingSpec

settings = f"""
model: {dbutils.widgets.get("model")}
templates: metaeol   # 4 meta-tasks with 2 prompts each; metaeol-fast is cheaper
layer: -1            # the last one; `metaeol tune` finds a better one on your own data
max_tokens: 512      # of a text; longer ones are cut
"""
file = dbutils.widgets.get("spec")
spec = EmbeddingSpec.load(file) if file else EmbeddingSpec.from_mapping(yaml.safe_load(settings))

# COMMAND ----------

# MAGIC %md
# MAGIC ## Embed a DataFrame
# MAGIC `with_embeddings` adds two columns. A text that has no embedding, such as a NULL, gets a reason instead, and never stops the others.

# COMMAND ----------

from metaeol_udf.spark import with_embeddings

texts = [
    (1, "A man is playing a guitar."),
    (2, "Someone plays an instrument."),
    (3, "The bank raised its interest rates."),
    (4, "Borrowing money has become more expensive."),
    (5, None),
    (6, "   "),
]
df = spark.createDataFrame(texts, "id long, text string")
embedded = with_embeddings(df, spec, text="text", output="embedding")
embedded.write.format("delta").mode("overwrite").saveAsTable(table)

# COMMAND ----------

from pyspark.sql import functions as F

written = spark.table(table)
display(
    written.select("id", "text", F.size("embedding").alias("dim"), F.slice("embedding", 1, 3).alias("begins"), "embedding_error").orderBy(
        "id"
    )
)

# COMMAND ----------

# MAGIC %md
# MAGIC ## Compare texts in SQL
# MAGIC The cosine of two vectors is near 1 where texts mean much the same. Vectors of one model all lie in a similar direction, so compare
# MAGIC cosines with each other, not with 0.

# COMMAND ----------

pairs = spark.sql(f"""
    SELECT a.text AS text, b.text AS other,
           aggregate(zip_with(a.embedding, b.embedding, (x, y) -> CAST(x AS DOUBLE) * y), 0D, (s, x) -> s + x)
           / sqrt(aggregate(a.embedding, 0D, (s, x) -> s + x * x) * aggregate(b.embedding, 0D, (s, x) -> s + x * x)) AS cosine
    FROM {table} a JOIN {table} b ON a.id < b.id
    WHERE a.embedding IS NOT NULL AND b.embedding IS NOT NULL
    ORDER BY cosine DESC
""")
display(pairs)

# COMMAND ----------

# MAGIC %md
# MAGIC ## The embedding as a SQL function
# MAGIC After this cell, SQL in the same notebook can embed any string.

# COMMAND ----------

from metaeol_udf.spark import register_sql

register_sql(spark, spec, "metaeol_embed")

# COMMAND ----------

# MAGIC %sql
# MAGIC SELECT size(metaeol_embed(question)) AS dim, question
# MAGIC FROM VALUES ('Who plays music?'), ('What do loans cost?') AS questions(question)

# COMMAND ----------

# MAGIC %md
# MAGIC ## Go on
# MAGIC - `nightly_job.py` keeps a table embedded: only new and changed rows, on GPUs.
# MAGIC - `quality.py` says how good the vectors are on your own labelled pairs, and finds a better spec.
# MAGIC - `search.py` searches, de-duplicates and clusters an embedded table, and draws a map of it.

# COMMAND ----------

import json

best = pairs.first()
dbutils.notebook.exit(json.dumps({"table": table, "rows": written.count(), "nearest": [best["text"], best["other"]]}))

# Databricks notebook source
# MAGIC %md
# MAGIC # Keep a table embedded, every night
# MAGIC
# MAGIC Embeds the rows of a Delta table that are new or whose text changed, and writes the vectors back with one MERGE. What was computed
# MAGIC is kept in a journal, so a cluster that is taken away in the middle costs nothing but time: run it again and it goes on.
# MAGIC
# MAGIC Run it by hand cell by cell to see what a job does. For production take the asset bundle (`databricks.yml`), which runs the same
# MAGIC code as a wheel task on a schedule; this notebook can be scheduled as it is, too.

# COMMAND ----------

# MAGIC %md
# MAGIC ## The cluster
# MAGIC A job cluster in dedicated (single user) access mode with a GPU machine learning runtime. Start with one worker of one GPU; `metaeol
# MAGIC estimate` below says what more would bring.
# MAGIC
# MAGIC | field | value | why |
# MAGIC | --- | --- | --- |
# MAGIC | runtime | `17.3.x-gpu-ml-scala2.13` | Spark 4, Delta, CUDA and torch |
# MAGIC | access mode | dedicated | the job uses the classic Spark API and Pandas UDFs with GPUs |
# MAGIC | worker | one GPU each, such as `g5.4xlarge` or `Standard_NC24ads_A100_v4` | one task owns one GPU |
# MAGIC | driver | small, without a GPU if your workspace allows the mix | it plans and commits; no model is loaded there |
# MAGIC
# MAGIC Spark settings of the cluster:
# MAGIC
# MAGIC ```
# MAGIC spark.task.resource.gpu.amount 1
# MAGIC spark.speculation false
# MAGIC spark.python.worker.reuse true
# MAGIC ```

# COMMAND ----------

# MAGIC %pip install --quiet /Volumes/main/default/wheels/metaeol_udf-0.2.0-py3-none-any.whl

# COMMAND ----------

dbutils.library.restartPython()

# COMMAND ----------

dbutils.widgets.text("table", "main.default.reviews", "Table with the texts")
dbutils.widgets.text("key", "id", "Key columns, with commas")
dbutils.widgets.text("text", "text", "Text column")
dbutils.widgets.text("model", "/Volumes/main/default/models/smollm2-135m-instruct", "Model folder")
dbutils.widgets.dropdown("device", "auto", ["auto", "cpu", "cuda"], "Device")
dbutils.widgets.text("max_failed_fraction", "0.01", "Rows that may fail")
dbutils.widgets.text("report", "/Volumes/main/default/metaeol/report.json", "Run report")

# COMMAND ----------

# MAGIC %md
# MAGIC ## Settings
# MAGIC The same settings as in a job's YAML file; an unknown one is refused with the nearest known name. Everything not said here has a
# MAGIC default.

# COMMAND ----------

from metaeol_udf.config import parse_config

config = parse_config(
    {
        "source": {
            "table": dbutils.widgets.get("table"),
            "key": [name.strip() for name in dbutils.widgets.get("key").split(",")],
            "text": dbutils.widgets.get("text"),
        },
        "embedding": {"model": dbutils.widgets.get("model"), "templates": "metaeol"},
        "runtime": {
            "device": dbutils.widgets.get("device"),
            "max_failed_fraction": float(dbutils.widgets.get("max_failed_fraction")),
            "report": dbutils.widgets.get("report"),
        },
    }
)

# COMMAND ----------

# MAGIC %md
# MAGIC ## Is everything there?
# MAGIC The doctor looks at versions, workers, GPU amounts, memory, model files and tables, and writes nothing. Each finding that is not
# MAGIC `ok` says which setting to change.

# COMMAND ----------

from metaeol_udf.doctor import Level, examine

findings = list(examine(config, spark))
display(
    spark.createDataFrame(
        [(f.level.value, f.check, f.found, f.setting) for f in findings], "level string, check string, found string, change string"
    )
)

# COMMAND ----------

problems = [f for f in findings if f.level is Level.PROBLEM]
if problems:
    raise RuntimeError("; ".join(f"{f.check}: {f.found}. Change: {f.setting}" for f in problems))

# COMMAND ----------

# MAGIC %md
# MAGIC ## What would it take?
# MAGIC Counts the real tokens of a sample, times the model for a few seconds on the workers, and projects to other numbers of workers.
# MAGIC Nothing is written. A table that is embedded already answers: nothing to do.

# COMMAND ----------

from metaeol_udf.estimate import EstimateOptions, run_estimate

estimate = run_estimate(config, EstimateOptions(executors=[1, 4, 16], sample_texts=500, probe_seconds=2.0), spark)
for name, value in estimate.items():
    print(f"{name}: {value}")

# COMMAND ----------

# MAGIC %md
# MAGIC ## Embed what is new
# MAGIC Where more rows fail than allowed, or the table is written by another run of this job at the same time, this cell ends with an
# MAGIC error that says so, and the job with it.

# COMMAND ----------

from metaeol_udf.delta import run_embed

report = run_embed(config, spark)
for name in (
    "status",
    "rows_selected",
    "rows_embedded",
    "rows_failed",
    "rows_skipped",
    "rows_trimmed",
    "unique_texts",
    "texts_per_second",
    "fingerprint",
):
    print(f"{name}: {report[name]}")

# COMMAND ----------

from pyspark.sql import functions as F

columns = [*config.source.key, config.source.text, F.size("embedding").alias("dim"), "embedding_error", "embedding_fingerprint"]
display(spark.table(config.target_table).select(*columns).limit(20))

# COMMAND ----------

# MAGIC %md
# MAGIC ## Rows that failed
# MAGIC They stand in a table of their own with key, reason and attempts; never the text. `metaeol retry` tries them again. NULL and blank
# MAGIC texts are there too: no second try can cure those, a better text does.

# COMMAND ----------

quarantine = f"{config.target_table}__metaeol_quarantine"
failed = spark.table(quarantine) if spark.catalog.tableExists(quarantine) else None
if failed is not None:
    display(failed.select(*config.source.key, "reason", "attempts"))

# COMMAND ----------

# MAGIC %md
# MAGIC ## Every night
# MAGIC - **With the asset bundle**, which is the way for production: `databricks bundle deploy --target prod`. Job, cluster, schedule,
# MAGIC   retries and e-mail are in `resources/metaeol_job.yml`.
# MAGIC - **This notebook**: *Schedule* in its menu; choose a job cluster as above, one run at a time, two retries.
# MAGIC - **Airflow**: `examples/airflow` in the repository.
# MAGIC
# MAGIC A change of model or prompts embeds the whole table again. Until the new vectors are complete the old ones stay; `quality.gate:
# MAGIC true` compares both before it lets the new ones in.

# COMMAND ----------

import json

dbutils.jobs.taskValues.set(key="rows_embedded", value=report["rows_embedded"])
dbutils.jobs.taskValues.set(key="fingerprint", value=report["fingerprint"])
dbutils.notebook.exit(
    json.dumps({"status": report["status"], "rows_embedded": report["rows_embedded"], "rows_failed": report["rows_failed"]})
)

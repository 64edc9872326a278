# Databricks notebook source
# MAGIC %md
# MAGIC # How good are the vectors on your own texts?
# MAGIC
# MAGIC Scores a model on pairs of texts that people in your house have rated, shows which layer and how many prompts are worth their cost,
# MAGIC and writes a better spec for the nightly job. Three hundred rated pairs are a good start; below a hundred, differences of a few
# MAGIC points are chance.
# MAGIC
# MAGIC The model runs in the driver here, so take a single-node GPU cluster; for a small model a CPU will do.

# COMMAND ----------

# MAGIC %pip install --quiet "/Volumes/main/default/wheels/metaeol_udf-0.2.0-py3-none-any.whl[plots]"

# COMMAND ----------

dbutils.library.restartPython()

# COMMAND ----------

dbutils.widgets.text("pairs", "main.default.rated_pairs", "Table: text1, text2, score")
dbutils.widgets.text("model", "/Volumes/main/default/models/smollm2-135m-instruct", "Model folder")
dbutils.widgets.text("templates", "metaeol", "Template set")
dbutils.widgets.dropdown("device", "auto", ["auto", "cpu", "cuda"], "Device")
dbutils.widgets.text("limit", "300", "Pairs to use")
dbutils.widgets.text("max_cost", "1.0", "Most that a better spec may cost")
dbutils.widgets.text("folder", "/Volumes/main/default/metaeol/quality", "Where results go")

# COMMAND ----------

# MAGIC %md
# MAGIC ## Your pairs
# MAGIC A table with `text1`, `text2` and `score`. Any scale will do, higher is more alike: only the order of the scores counts. They are
# MAGIC written as the tab-separated file that the evaluation reads, so tabs and line ends inside a text become spaces.

# COMMAND ----------

from pathlib import Path

from pyspark.sql import functions as F

folder = Path(dbutils.widgets.get("folder"))
(folder / "data" / "sts").mkdir(parents=True, exist_ok=True)
texts = [F.regexp_replace(F.trim(name), r"\s+", " ").alias(f"sentence{i}") for i, name in enumerate(("text1", "text2"), 1)]
pairs = (
    spark.table(dbutils.widgets.get("pairs"))
    .select(F.lit("mine").alias("subset"), *texts, F.col("score").cast("double"))
    .where("length(sentence1) > 0 AND length(sentence2) > 0 AND score IS NOT NULL")
    .toPandas()
)
lines = ["subset\tsentence1\tsentence2\tscore", *("\t".join(map(str, row)) for row in pairs.itertuples(index=False))]
(folder / "data" / "sts" / "mine.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
print(f"{len(pairs)} pairs")

# COMMAND ----------

from metaeol_udf.config import parse_encoder_config

settings = {
    "embedding": {"model": dbutils.widgets.get("model"), "templates": dbutils.widgets.get("templates")},
    "runtime": {"device": dbutils.widgets.get("device")},
    "evaluation": {"data": str(folder / "data"), "limit": int(dbutils.widgets.get("limit"))},
}
config = parse_encoder_config(settings)

# COMMAND ----------

# MAGIC %md
# MAGIC ## The score now
# MAGIC Spearman's correlation, times 100, between the cosines of the vectors and your scores, with the interval that 95 of 100 draws of
# MAGIC pairs would fall into.

# COMMAND ----------

from metaeol_udf.quality import run_evaluate

before = run_evaluate(config)
score = before["sts"]["mine"]
low, high = score["spearman_all_interval"]
print(f"{score['spearman_all']:.1f} (95 % interval {low:.1f} to {high:.1f}) on {score['pairs']} pairs")

# COMMAND ----------

# MAGIC %md
# MAGIC ## Which layer, how many prompts?
# MAGIC One pass over the pairs gives the score at every layer and for every number of prompts. The best layer is often not the last one,
# MAGIC and it costs less, because the layers above it are not run.

# COMMAND ----------

from metaeol_udf.tuning import run_curves

curves = run_curves(config, layers=folder / "layers.png", prompts=folder / "prompts.png")
display(spark.createDataFrame([(point["layer"], float(point["score"])) for point in curves["by_layer"]], "layer int, score double"))

# COMMAND ----------

import matplotlib.pyplot as plt

figure, axes = plt.subplots(1, 2, figsize=(14, 5))
for ax, name in zip(axes, ("layers", "prompts"), strict=True):
    ax.imshow(plt.imread(folder / f"{name}.png"))
    ax.axis("off")
figure.tight_layout()
display(figure)
plt.close(figure)

# COMMAND ----------

# MAGIC %md
# MAGIC ## A better spec
# MAGIC Tries layers, subsets of the prompts and post-processing on one half of the pairs, scores the best ones on the other half, and
# MAGIC writes the best one that costs no more than allowed. Trust the column `held_out`.

# COMMAND ----------

from metaeol_udf.tuning import run_tune

spec_file = folder / "spec.yaml"
tuned = run_tune(config, spec_file, max_cost=float(dbutils.widgets.get("max_cost")), plot=folder / "front.png")
rows = [
    (name, str(c["layers"]), c["n_templates"], c["postprocess"], float(c["cost"]), float(c["held_out"]))
    for name, c in (("as configured", tuned["baseline"]), ("chosen", tuned["chosen"]))
]
display(spark.createDataFrame(rows, "spec string, layers string, prompts int, postprocess string, cost double, held_out double"))

# COMMAND ----------

figure, ax = plt.subplots(figsize=(8, 5))
ax.imshow(plt.imread(folder / "front.png"))
ax.axis("off")
display(figure)
plt.close(figure)

# COMMAND ----------

# MAGIC %md
# MAGIC ## Use it
# MAGIC The spec is a small YAML file with its post-processing beside it. In the nightly job: `embedding: {spec: <this file>}`. That is
# MAGIC another fingerprint, so the next run embeds the table anew, and the old vectors stay until the new ones are complete.

# COMMAND ----------

print(spec_file.read_text(encoding="utf-8"))

# COMMAND ----------

after = run_evaluate(parse_encoder_config({**settings, "embedding": {"spec": str(spec_file)}}))
scores = [report["sts"]["mine"]["spearman_all"] for report in (before, after)]
print(f"all pairs: {scores[0]:.1f} before, {scores[1]:.1f} after (chosen on half of these pairs)")

# COMMAND ----------

import json

dbutils.notebook.exit(json.dumps({"before": scores[0], "after": scores[1], "spec": str(spec_file)}))

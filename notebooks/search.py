# Databricks notebook source
# MAGIC %md
# MAGIC # Search, near-duplicates, clusters and a map
# MAGIC
# MAGIC Four things to do with a table that `nightly_job.py` (or `metaeol embed`) has embedded. All of it runs in Spark; the driver gets
# MAGIC only results.

# COMMAND ----------

# MAGIC %pip install --quiet "/Volumes/main/default/wheels/metaeol_udf-0.2.0-py3-none-any.whl[plots]"

# COMMAND ----------

dbutils.library.restartPython()

# COMMAND ----------

dbutils.widgets.text("conf", "", "The job's file (YAML); empty: the four fields below")
dbutils.widgets.text("table", "main.default.reviews", "Embedded table")
dbutils.widgets.text("key", "id", "Key column")
dbutils.widgets.text("text", "text", "Text column")
dbutils.widgets.text("model", "/Volumes/main/default/models/smollm2-135m-instruct", "Model folder, as in the job")
dbutils.widgets.dropdown("device", "auto", ["auto", "cpu", "cuda"], "Device")
dbutils.widgets.text("query", "delivery was late", "What to look for")
dbutils.widgets.text("k", "5", "Rows to show")
dbutils.widgets.text("duplicate_cosine", "0.98", "Near-duplicates from this cosine on")
dbutils.widgets.text("clusters", "8", "Clusters")
dbutils.widgets.text("picture", "/Volumes/main/default/metaeol/map.png", "Where the map goes")

# COMMAND ----------

# MAGIC %md
# MAGIC ## Search by meaning
# MAGIC The query is embedded as the table was, and compared with every vector: exact, no index to keep up to date. Settings must be the
# MAGIC job's own: vectors of another model or other prompts are refused, because a cosine with them would mean nothing.

# COMMAND ----------

from metaeol_udf.config import load_config, parse_config
from metaeol_udf.search import search_table

runtime = {"device": dbutils.widgets.get("device")}
conf = dbutils.widgets.get("conf")
if conf:
    config = load_config(conf, [f"runtime.device={runtime['device']}"])
else:
    table, key, text = (dbutils.widgets.get(name) for name in ("table", "key", "text"))
    embedding = {"model": dbutils.widgets.get("model"), "templates": "metaeol"}
    config = parse_config({"source": {"table": table, "key": [key], "text": text}, "embedding": embedding, "runtime": runtime})
key, text = config.source.key[0], config.source.text
(hits,) = search_table(config, [dbutils.widgets.get("query")], k=int(dbutils.widgets.get("k")), distinct=True, spark=spark)
display(spark.createDataFrame([(hit.score, str(hit.key[key]), hit.text) for hit in hits], "cosine double, key string, text string"))

# COMMAND ----------

# MAGIC %md
# MAGIC ## Vectors for Spark ML
# MAGIC Scaled to length 1, after their mean is subtracted: vectors of one model share a large common part, without which texts lie further
# MAGIC apart.

# COMMAND ----------

from pyspark.ml import Pipeline
from pyspark.ml.feature import Normalizer, StandardScaler
from pyspark.ml.functions import array_to_vector
from pyspark.sql import functions as F

place = config.target_table
embedded = spark.read.format("delta").load(place) if "/" in place else spark.table(place)
rows = embedded.where("embedding IS NOT NULL").select(key, text, array_to_vector("embedding").alias("raw"))
scaling = Pipeline(
    stages=[
        StandardScaler(inputCol="raw", outputCol="centred", withMean=True, withStd=False),
        Normalizer(inputCol="centred", outputCol="features"),
    ]
).fit(rows)
vectors = scaling.transform(rows).select(key, text, "features").cache()
print(f"{vectors.count()} vectors")

# COMMAND ----------

# MAGIC %md
# MAGIC ## Near-duplicates
# MAGIC Locality-sensitive hashing puts similar vectors into the same buckets and compares only those, so that not every row meets every
# MAGIC other. More hash tables miss fewer pairs and cost more. On unit vectors, cosine = 1 - distance² / 2.

# COMMAND ----------

from pyspark.ml.feature import BucketedRandomProjectionLSH

least = float(dbutils.widgets.get("duplicate_cosine"))
distance = (2 * (1 - least)) ** 0.5
hashing = BucketedRandomProjectionLSH(inputCol="features", outputCol="hashes", bucketLength=max(2 * distance, 0.1), numHashTables=4, seed=7)
hashed = hashing.fit(vectors)
joined = hashed.approxSimilarityJoin(vectors, vectors, distance, distCol="distance")
duplicates = (
    joined.where(F.col(f"datasetA.{key}") < F.col(f"datasetB.{key}"))
    .select(
        (1 - F.col("distance") ** 2 / 2).alias("cosine"),
        F.col(f"datasetA.{key}").alias("key"),
        F.col(f"datasetB.{key}").alias("other"),
        F.col(f"datasetA.{text}").alias("text"),
        F.col(f"datasetB.{text}").alias("other_text"),
    )
    .orderBy(F.desc("cosine"), "key", "other")
)
display(duplicates.limit(50))

# COMMAND ----------

# MAGIC %md
# MAGIC ## Clusters
# MAGIC k-means by cosine; some texts of a cluster say what it is about.

# COMMAND ----------

from pyspark.ml.clustering import KMeans

model = KMeans(
    k=int(dbutils.widgets.get("clusters")), distanceMeasure="cosine", featuresCol="features", predictionCol="cluster", seed=7
).fit(vectors)
clustered = model.transform(vectors)
display(
    clustered.groupBy("cluster")
    .agg(F.count("*").alias("rows"), F.slice(F.collect_list(text), 1, 3).alias("some texts"))
    .orderBy(F.desc("rows"))
)

# COMMAND ----------

# MAGIC %md
# MAGIC ## A map
# MAGIC The two directions in which the vectors differ most, as a picture; colours are clusters. At most 5,000 rows are drawn.

# COMMAND ----------

from pyspark.ml.feature import PCA
from pyspark.ml.functions import vector_to_array

pca = PCA(k=2, inputCol="features", outputCol="place").fit(clustered)
share = pca.explainedVariance.toArray()
points = (
    pca.transform(clustered).select(vector_to_array("place").alias("place"), "cluster", text).orderBy(F.rand(seed=7)).limit(5000).toPandas()
)

# COMMAND ----------

import matplotlib.pyplot as plt

figure, ax = plt.subplots(figsize=(10, 8))
ax.scatter([p[0] for p in points["place"]], [p[1] for p in points["place"]], c=points["cluster"], cmap="tab20", s=18)
for _, point in points.groupby("cluster").head(2).iterrows():
    label = point[text] if len(point[text]) <= 50 else point[text][:49] + "…"
    ax.annotate(label, point["place"], fontsize=7, xytext=(3, 3), textcoords="offset points", parse_math=False)
ax.set_xlabel(f"first direction, {share[0]:.0%} of the variance")
ax.set_ylabel(f"second direction, {share[1]:.0%}")
ax.set_title(f"{len(points)} rows of {config.target_table}", parse_math=False)
figure.tight_layout()
figure.savefig(dbutils.widgets.get("picture"), dpi=150)
display(figure)
plt.close(figure)

# COMMAND ----------

# MAGIC %md
# MAGIC The picture and the tables above show texts: whoever can open this notebook can read them. To keep them out of a saved notebook,
# MAGIC clear its results.

# COMMAND ----------

import json

result = {"hits": [hit.key for hit in hits], "duplicates": duplicates.count(), "clusters": clustered.select("cluster").distinct().count()}
vectors.unpersist()
dbutils.notebook.exit(json.dumps(result))

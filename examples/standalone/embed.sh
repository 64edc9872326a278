#!/usr/bin/env bash
# The job on a standalone cluster, with a packed environment: docs/platforms/spark-submit.md says how that is made.
#   MASTER=spark://HOST:7077 examples/standalone/embed.sh conf/platforms/cluster.yaml
set -euo pipefail
export PYSPARK_DRIVER_PYTHON=$PWD/environment/bin/python
export PYSPARK_PYTHON=./environment/bin/python
exec spark-submit --master "$MASTER" \
    --archives environment.tar.gz#environment \
    --packages io.delta:delta-spark_4.2_2.13:4.4.0 \
    --conf spark.executor.resource.gpu.amount=1 \
    --conf spark.task.resource.gpu.amount=1 \
    jobs/embed_table.py "$@"

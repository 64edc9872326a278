#!/usr/bin/env bash
# The job on YARN, with the driver on the cluster: docs/platforms/spark-submit.md.
#   HADOOP_CONF_DIR=/etc/hadoop/conf examples/yarn/embed.sh conf/platforms/cluster.yaml
# spark-submit ends with 0 or 1. Where a scheduler must know the job's own exit status, take --deploy-mode client.
set -euo pipefail
conf=$1
shift
exec spark-submit --master yarn --deploy-mode cluster \
    --archives hdfs:///apps/metaeol/environment.tar.gz#environment \
    --packages io.delta:delta-spark_4.2_2.13:4.4.0 \
    --files "$conf,getGpusResources.sh" \
    --conf spark.yarn.appMasterEnv.PYSPARK_PYTHON=./environment/bin/python \
    --conf spark.executorEnv.PYSPARK_PYTHON=./environment/bin/python \
    --conf spark.executor.resource.gpu.amount=1 \
    --conf spark.task.resource.gpu.amount=1 \
    --conf spark.executor.resource.gpu.discoveryScript=./getGpusResources.sh \
    --conf spark.executor.memoryOverhead=16g \
    --conf spark.yarn.maxAppAttempts=2 \
    jobs/embed_table.py "$(basename "$conf")" "$@"

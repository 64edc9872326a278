"""Nightly embeddings with spark-submit: what `metaeol embed` does, on a cluster of your own.

Connection `spark_default` names the master. Exit statuses arrive in deploy mode `client` alone: in `cluster` mode spark-submit
only says whether the application failed. Docs: docs/platforms/airflow.md.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import DAG
from metaeol_exit_status import ByExitStatus

HOME = "/opt/metaeol"  # where this repository's jobs/ and conf/ stand, and the packed environment
DELTA = "io.delta:delta-spark_4.2_2.13:4.4.0"

submit = {
    "application": f"{HOME}/jobs/embed_table.py",
    "conn_id": "spark_default",
    "deploy_mode": "client",
    "packages": DELTA,
    "archives": f"{HOME}/environment.tar.gz#environment",
    "env_vars": {"PYSPARK_DRIVER_PYTHON": f"{HOME}/environment/bin/python", "PYSPARK_PYTHON": "./environment/bin/python"},
    "conf": {
        "spark.executor.resource.gpu.amount": "1",
        "spark.task.resource.gpu.amount": "1",
        "spark.executor.resource.gpu.discoveryScript": f"{HOME}/getGpusResources.sh",
        "spark.speculation": "false",
    },
}

with DAG(
    dag_id="metaeol_spark_submit",
    description="Embed what is new or changed in a Delta table",
    schedule="0 2 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,  # a run embeds whatever is new: missed nights need none of their own
    max_active_runs=1,  # a second run of the same job would end with a conflict
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5), "retry_policy": ByExitStatus()},
    tags=["embeddings"],
) as dag:
    embed = SparkSubmitOperator(
        task_id="embed",
        application_args=[f"{HOME}/conf/platforms/cluster.yaml", f"runtime.report={HOME}/reports/{{{{ ds }}}}.json"],
        execution_timeout=timedelta(hours=12),
        **submit,
    )

"""Nightly embeddings on Databricks from Airflow, in two ways: the asset bundle's job, or a run that this DAG describes by itself.

Take one of the two tasks. Connection `databricks_default` names workspace and credentials. Docs: docs/platforms/airflow.md.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.providers.databricks.operators.databricks import DatabricksRunNowOperator, DatabricksSubmitRunOperator
from airflow.sdk import DAG
from metaeol_exit_status import ByExitStatus

TABLE = "main.default.reviews"
MODEL = "/Volumes/main/default/models/smollm2-135m-instruct"
WHEEL = "/Volumes/main/default/wheels/metaeol_udf-0.2.0-py3-none-any.whl"
CONF = "/Volumes/main/default/metaeol/databricks.yaml"  # a copy of conf/platforms/databricks.yaml

with DAG(
    dag_id="metaeol_databricks",
    description="Embed what is new or changed in a Unity Catalog table",
    schedule="0 2 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5), "retry_policy": ByExitStatus()},
    tags=["embeddings"],
) as dag:
    # The job that `databricks bundle deploy --target prod` made; set its own schedule to PAUSED and its max_retries to 0.
    run_job = DatabricksRunNowOperator(
        task_id="run_bundle_job",
        databricks_conn_id="databricks_default",
        job_name=f"metaeol embed {TABLE}",
        execution_timeout=timedelta(hours=12),
    )

    # The same without a deployed job.
    submit_run = DatabricksSubmitRunOperator(
        task_id="submit_run",
        databricks_conn_id="databricks_default",
        run_name=f"metaeol embed {TABLE}",
        execution_timeout=timedelta(hours=12),
        json={
            "tasks": [
                {
                    "task_key": "embed",
                    "new_cluster": {
                        "spark_version": "17.3.x-gpu-ml-scala2.13",
                        "node_type_id": "g5.4xlarge",
                        "num_workers": 4,
                        "data_security_mode": "SINGLE_USER",
                        "spark_conf": {
                            "spark.task.resource.gpu.amount": "1",
                            "spark.speculation": "false",
                            "spark.python.worker.reuse": "true",
                        },
                    },
                    "libraries": [{"whl": WHEEL}],
                    "python_wheel_task": {
                        "package_name": "metaeol_udf",
                        "entry_point": "metaeol",
                        "parameters": ["--verbose", "embed", CONF, f"source.table={TABLE}", f"embedding.model={MODEL}"],
                    },
                }
            ]
        },
    )

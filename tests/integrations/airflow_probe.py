"""Runs in Airflow's interpreter: parses the example DAGs, runs real spark-submits through the real operator, and prints JSON.

Arguments: the folder of DAGs, and an application that ends with the status it is given.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from airflow.dag_processing.dagbag import DagBag
from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.providers.common.compat.sdk import AirflowException
from airflow.serialization.serialized_objects import DagSerialization

STATUSES = (0, 3, 4, 143)


def main(folder: str, application: str) -> dict[str, Any]:
    """What the tests look at."""
    sys.path.insert(0, folder)  # as Airflow does with its folder of DAGs
    from metaeol_exit_status import ByExitStatus

    bag = DagBag(folder)
    policy = ByExitStatus()

    def decide(message: str) -> list[Any]:
        decision = policy.evaluate(AirflowException(message), 1, 3)
        return [decision.action.value, decision.retry_delay.total_seconds() if decision.retry_delay is not None else None]

    return {
        "import_errors": bag.import_errors,
        "dags": {name: DagSerialization.to_dict(dag) for name, dag in bag.dags.items()},
        "tasks": {
            name: {
                task.task_id: {
                    "operator": type(task).__name__,
                    "retries": task.retries,
                    "policy": type(task.retry_policy).__name__,
                    "conf": getattr(task, "conf", None),
                    "arguments": getattr(task, "application_args", None),
                    "json": getattr(task, "json", None),
                    "job_name": getattr(task, "job_name", None),
                }
                for task in dag.tasks
            }
            for name, dag in bag.dags.items()
        },
        "runs": {status: submit(application, status) for status in STATUSES},
        "decided": {status: decide(submitted(status)) for status in (1, 2, 3, 4, 5, 6, 143)},
        "decided_databricks": decide("embed failed with terminal state: FAILED and with the errors [{'error': 'SystemExit: 3'}]"),
        "decided_unknown": decide("the connection was reset"),
    }


def submitted(status: int) -> str:
    """The operator's message for a status, as `submit` sees it for real."""
    return f"Cannot execute: spark-submit job.py. Error code is: {status}."


def submit(application: str, status: int) -> str | None:
    """Run an application with spark-submit and give the error's beginning, None where there was none."""
    operator = SparkSubmitOperator(task_id=f"status_{status}", application=application, application_args=[str(status)])
    try:
        operator.execute({})
    except AirflowException as error:
        return str(error)
    return None


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(main(*sys.argv[1:]), default=str) + "\n")

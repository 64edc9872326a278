"""The rules for a cluster's settings: the job raises the first problem and logs the warnings, the doctor prints them all.

Each rule takes the settings and gives one finding. A rule whose setting cannot be read raises ConfigError.
"""

from __future__ import annotations

from metaeol_udf.spark.cluster.cluster_settings import EXECUTOR_GPU, GIB, MIB, TASK_GPU, ClusterSettings
from metaeol_udf.spark.cluster.finding import Finding, Level, ok, warning, wrong_setting

#: What a Python worker needs beside the weights: torch, the tokenizer, activations.
WORKING_BYTES = GIB


def check_gpu_amounts(cluster: ClusterSettings) -> Finding:
    """See that the GPU amounts give a task its own GPU; without amounts Spark starts as many workers on a GPU as there are cores."""
    check, task = "gpu amounts", cluster.number(TASK_GPU, 0)
    if cluster.task_gpus is not None:
        return _check_task_gpus(cluster, cluster.task_gpus)
    if not cluster.wants_gpu:
        return ok(check, "no GPU is asked for")
    if cluster.is_local:
        return ok(check, "a local master has no GPU scheduling: all workers use the first GPU")
    if 0 < task < 1:
        found = f"{cluster.shown(TASK_GPU)}: {round(1 / task)} tasks share a GPU and its model, and take turns"
        return warning(check, found, f"{TASK_GPU}=1")
    if task > 1:
        found = f"{cluster.shown(TASK_GPU)}: more than one GPU a task is of use only where a model is larger than one"
        return warning(check, found, f"{TASK_GPU}=1")
    if task:  # Databricks sets no amount of executors
        return ok(check, "a task owns a GPU")
    if cluster.device.startswith("cuda:"):
        found = f"runtime.device is {cluster.device} and {cluster.shown(TASK_GPU)}: all tasks of a machine share that GPU"
        return warning(check, found, f"runtime.device=cuda, {EXECUTOR_GPU}=1 and {TASK_GPU}=1")
    if not cluster.number(EXECUTOR_GPU, 0):
        found = f"runtime.device is {cluster.device}, but {cluster.shown(EXECUTOR_GPU)}"
        return wrong_setting(check, found, f"{EXECUTOR_GPU}=1 and {TASK_GPU}=1")
    found = f"{cluster.shown(TASK_GPU)}, so tasks are told no GPU of their own"
    # `auto` asks for no GPU that must be there, so a job that shares the first GPU of an executor may run.
    return (wrong_setting if cluster.device == "cuda" else warning)(check, found, f"{TASK_GPU}=1")


def _check_task_gpus(cluster: ClusterSettings, task_gpus: int) -> Finding:
    """See that executors have the GPUs of `runtime.task_gpus`: Spark refuses a profile whose GPUs executors were not started with."""
    check, found, executor = "gpu amounts", f"runtime.task_gpus is {task_gpus}", cluster.number(EXECUTOR_GPU, 0)
    if cluster.is_local:
        return wrong_setting(check, f"{found}, but master {cluster.master} schedules no GPUs", "runtime.task_gpus=null")
    is_told = EXECUTOR_GPU in cluster.settings or not cluster.number(TASK_GPU, 0)  # Databricks tells the amount of a task only
    if is_told and executor < task_gpus:
        more = f"{EXECUTOR_GPU}={task_gpus}"
        way_out = more if executor else f"runtime.task_gpus=null, or {more} where machines have GPUs"
        return wrong_setting(check, f"{found}, but {cluster.shown(EXECUTOR_GPU)}", way_out)
    if task_gpus > 1:
        return warning(check, f"{found}: more than one GPU a task is of use only where a model is larger than one", "runtime.task_gpus=1")
    return ok(check, "a task of the embedding stages owns a GPU")


def check_python_memory(cluster: ClusterSettings) -> Finding:
    """See that the Python memory holds the model: it limits address space, of which CUDA and mapped weights take far more than memory."""
    check, key = "python memory", "spark.executor.pyspark.memory"
    limit = cluster.bytes_of(key, "0", MIB)
    if not limit:
        return ok(check, f"{key} is not set")
    if cluster.wants_gpu:
        return wrong_setting(check, f"{cluster.shown(key)}: CUDA maps more address space than that", f"unset {key}")
    n_shares = max(1, int(cluster.number("spark.executor.cores", 1)))  # Spark divides by this setting, whatever the slots are
    needed = (cluster.weight_bytes or 0) + WORKING_BYTES
    if limit // n_shares < needed:
        found = f"{key} leaves a Python worker {limit / n_shares / GIB:.2f} GiB; weights and torch need {needed / GIB:.2f} GiB"
        return wrong_setting(check, found, f"{key}={-(-needed * n_shares // GIB)}g")
    return ok(check, f"{key} leaves room for the model")


def check_speculation(cluster: ClusterSettings) -> Finding:
    """See that speculation is off: a speculative copy of a task embeds its texts twice."""
    if cluster.is_on("spark.speculation", False):
        found = "spark.speculation is on: slow tasks, that is long texts, are computed twice"
        return warning("speculation", found, "spark.speculation=false")
    return ok("speculation", "spark.speculation is off")


def check_worker_reuse(cluster: ClusterSettings) -> Finding:
    """See that Spark reuses a Python worker, in which the model lives."""
    key = "spark.python.worker.reuse"
    if not cluster.is_on(key, True):
        return warning("worker reuse", f"{key} is off: every task loads the model anew", f"{key}=true")
    return ok("worker reuse", f"{key} is on")


RULES = (check_gpu_amounts, check_python_memory, check_speculation, check_worker_reuse)


def broken_rules(cluster: ClusterSettings) -> list[Finding]:
    """Find the rules that settings break, in the order of `RULES`."""
    return [finding for finding in (rule(cluster) for rule in RULES) if finding.level is not Level.OK]

"""Slots, GPUs, threads and memory: what decides how often the model is loaded and how fast it runs."""

from __future__ import annotations

import os

from metaeol_udf.doctor.plan import Plan
from metaeol_udf.formatting import counted
from metaeol_udf.spark.cluster.cluster_settings import EXECUTOR_GPU, GIB, MIB
from metaeol_udf.spark.cluster.finding import Finding, ok, warning, wrong_environment, wrong_setting
from metaeol_udf.spark.cluster.rules import WORKING_BYTES, check_gpu_amounts, check_python_memory

_THREADS = "spark.executorEnv.OMP_NUM_THREADS"


def check_device(plan: Plan) -> Finding:
    """A GPU that is asked for must be there, on this machine where it is the executor too."""
    device = plan.device
    if not device.startswith("cuda") or plan.has_gpu:
        return ok("device", f"runtime.device is {device}; " + ("torch sees a GPU here" if plan.has_gpu else "no GPU is needed here"))
    if plan.is_local:
        return wrong_environment("device", f"runtime.device is {device}, but torch sees no GPU on this machine", "runtime.device=auto")
    return ok("device", f"runtime.device is {device}; the driver has no GPU and needs none")


def check_idle_gpus(plan: Plan) -> Finding:
    """Every GPU of an executor needs a slot, and slots come from cores."""
    gpus, cores, cpus = plan.number(EXECUTOR_GPU, 0), plan.n_cores, max(1, int(plan.number("spark.task.cpus", 1)))
    if plan.is_local or not plan.wants_gpu or not plan.knows_cores or cores // cpus >= gpus:
        return ok("idle gpus", "there are cores for every GPU")
    found = f"an executor has {gpus:g} GPUs, but {cores} cores at {cpus} a task give {counted(int(cores // cpus), 'slot')}"
    return warning("idle gpus", found, f"spark.task.cpus={max(1, int(cores // gpus))}")


def check_threads(plan: Plan) -> Finding:
    """Spark gives a worker OMP_NUM_THREADS = `spark.task.cpus`: a model on a CPU then leaves the other cores idle."""
    if plan.wants_gpu:
        return ok("threads", "the model runs on a GPU")
    if not plan.knows_cores:
        return ok("threads", "spark.executor.cores is not set, so that an executor has all cores of its node")
    cores = os.cpu_count() or 1 if plan.is_local else plan.n_cores
    threads = int(plan.number(_THREADS, plan.number("spark.task.cpus", 1)))
    used, found = threads * plan.n_slots, f"{counted(plan.n_slots, 'slot')}, each with {counted(threads, 'thread')}"
    if cores <= used <= 2 * cores:
        return ok("threads", found)
    result = f"{cores - used} of {cores} cores stay idle" if used < cores else f"they share {counted(cores, 'core')}"
    return warning("threads", f"{found}: {result}", f"{_THREADS}={max(1, cores // plan.n_slots)}")


def check_model_copies(plan: Plan) -> Finding:
    """Every slot of an executor loads the model once."""
    if plan.weight_bytes is None or plan.wants_gpu or not plan.is_local:
        shared = "on a GPU they share one copy of the model, on CPUs each loads its own"
        return ok("model copies", f"{counted(plan.n_slots, 'slot')} an executor; {shared}")
    needed = plan.n_slots * (plan.weight_bytes + WORKING_BYTES)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        found = f"one for each of {counted(plan.n_slots, 'slot')} takes {needed / GIB:.1f} GiB; the machine has {memory / GIB:.1f} GiB"
        n_fit = max(1, int(memory // (plan.weight_bytes + WORKING_BYTES)))
        return wrong_environment("model copies", found, f"spark.master=local[{n_fit}]")
    return ok("model copies", f"one for each of {counted(plan.n_slots, 'slot')} takes {needed / GIB:.1f} of {memory / GIB:.1f} GiB")


def check_memory_overhead(plan: Plan) -> Finding:
    """On YARN and Kubernetes Python workers live in the executor's overhead memory, and an executor that exceeds it is killed."""
    if not plan.has_overhead_limit or plan.weight_bytes is None:
        return ok("memory overhead", f"master {plan.master} limits no overhead memory")
    key = "spark.executor.memoryOverhead"
    memory = plan.bytes_of("spark.executor.memory", "1g", MIB)
    factor = plan.number("spark.executor.memoryOverheadFactor", 0.4 if plan.master.startswith("k8s") else 0.1)
    given = plan.bytes_of(key, f"{max(384 * MIB, int(factor * memory))}b", MIB)
    # On a GPU the weights pass through the worker's memory on their way.
    needed = plan.n_slots * (plan.weight_bytes + WORKING_BYTES)
    if given < needed:
        found = f"{key} is {given / GIB:.1f} GiB; {counted(plan.n_slots, 'slot')} with the model take {needed / GIB:.1f} GiB"
        return wrong_setting("memory overhead", found, f"{key}={-(-needed // GIB)}g")
    return ok("memory overhead", f"{given / GIB:.1f} GiB are enough for {counted(plan.n_slots, 'slot')}")


CHECKS = (
    check_device,
    check_gpu_amounts,
    check_idle_gpus,
    check_threads,
    check_model_copies,
    check_python_memory,
    check_memory_overhead,
)

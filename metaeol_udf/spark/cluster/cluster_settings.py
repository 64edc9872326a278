"""The settings of a cluster that decide where a model runs and how often it is loaded, and what follows from them by arithmetic."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from metaeol_udf.errors import ConfigError

GIB = 1 << 30
MIB = 1 << 20
EXECUTOR_GPU, TASK_GPU = "spark.executor.resource.gpu.amount", "spark.task.resource.gpu.amount"
_UNITS = {"": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """Settings of a cluster, whether its session runs or not.

    Attributes:
        settings: Spark's settings by key, those that are set.
        device: `runtime.device`.
        task_gpus: `runtime.task_gpus`.
        weight_bytes: Bytes of the model's weight files; None where they are not known.
        has_gpu: Whether this machine has a GPU that torch can use; None where that is not known.
    """

    settings: Mapping[str, str]
    device: str = "auto"
    task_gpus: int | None = None
    weight_bytes: int | None = None
    has_gpu: bool | None = None

    def shown(self, key: str) -> str:
        """Show a Spark setting to a reader: its name, and its value or that it is not set."""
        return f"{key} is {self.settings[key]}" if key in self.settings else f"{key} is not set"

    def is_on(self, key: str, default: bool) -> bool:
        """Tell whether a Spark setting that is true or false is on."""
        return self.settings.get(key, str(default)).strip().lower() == "true"

    def number(self, key: str, default: float) -> float:
        """Read a Spark setting that is a number; raises ConfigError where it is none."""
        value = self.settings.get(key, str(default))
        try:
            return float(value)
        except ValueError:
            raise ConfigError(f"spark.conf: {key} must be a number, found {value!r}") from None

    def bytes_of(self, key: str, default: str, unit: int) -> int:
        """Read the bytes of a Spark setting that is a size; a bare number counts `unit` bytes. Raises ConfigError where it is no size."""
        value = self.settings.get(key, default).strip().lower()
        match = re.fullmatch(r"(-?\d+)\s*(?:([kmgtp]?)i?b?|b)", value)
        if match is None:
            raise ConfigError(f"spark.conf: {key} must be a size such as 512m or 4g, found {value!r}")
        digits, letter = match.groups()
        return int(digits) * (unit if value.lstrip("-").isdecimal() else 1 << _UNITS[letter or ""])

    @property
    def master(self) -> str:
        """The master, which says where the executors are."""
        return self.settings.get("spark.master", "local[*]")

    @property
    def is_local(self) -> bool:
        """Whether the master is local: this process is the executor as well, and Spark schedules no GPUs."""
        return self.master == "local" or self.master.startswith("local[")

    @property
    def has_overhead_limit(self) -> bool:
        """Whether the cluster manager kills an executor whose Python workers need more than its overhead memory."""
        return self.master.startswith(("yarn", "k8s"))

    @property
    def knows_cores(self) -> bool:
        """Whether an executor's cores are known: a standalone cluster gives it all of the node's where nothing is set."""
        return not self.master.startswith("spark:") or "spark.executor.cores" in self.settings

    @property
    def n_cores(self) -> int:
        """Cores of one executor."""
        cpus = os.cpu_count() or 1
        if self.is_local:
            inside = self.master.partition("[")[2].partition("]")[0].partition(",")[0]
            return cpus if inside == "*" else int(inside) if inside.isdecimal() else 1
        if self.master.startswith("local-cluster["):
            return int(self.master.split(",")[1])
        return int(self.number("spark.executor.cores", 1))

    @property
    def n_slots(self) -> int:
        """Slots of one executor: tasks that it runs at a time, each a Python worker; on a CPU with a model of its own."""
        return self.slots_of(self.n_cores, 1)

    def slots_of(self, n_cores: int, n_executors: int) -> int:
        """Count the slots of executors with so many cores together: as many as these allow, and their GPUs where tasks ask for some."""
        by_cores = max(1, n_cores // max(1, int(self.number("spark.task.cpus", 1))))
        per_executor, per_task = self.number(EXECUTOR_GPU, 0), self.gpus_per_task
        if self.is_local or not per_executor or not per_task:
            return by_cores
        return min(by_cores, n_executors * max(1, int(per_executor / per_task)))

    @property
    def gpus_per_task(self) -> float:
        """GPUs of a task that embeds; 0 where nothing says how many."""
        return self.task_gpus or self.number(TASK_GPU, 0)

    @property
    def wants_gpu(self) -> bool:
        """Whether the model is to run on GPUs."""
        if self.device != "auto":
            return self.device.startswith("cuda")
        return bool(self.has_gpu) if self.is_local else self.number(EXECUTOR_GPU, 0) > 0 or self.gpus_per_task > 0

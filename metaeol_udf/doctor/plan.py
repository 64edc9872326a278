"""What a run would start with: the job's settings over those of the session, and what follows from them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from metaeol_udf.config import JobConfig
from metaeol_udf.errors import ConfigError

GIB = 1 << 30
MIB = 1 << 20
_UNITS = {"": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}


@dataclass(frozen=True)
class Plan:
    """A run that has not begun.

    Attributes:
        config: The job.
        settings: Spark's settings: those of the session, and over them `spark.conf`.
        weight_bytes: Of the model's files; None where the model cannot be found.
        has_gpu: Whether torch sees a GPU on this machine; None where torch is not installed.
    """

    config: JobConfig
    settings: Mapping[str, str]
    weight_bytes: int | None
    has_gpu: bool | None

    def setting(self, key: str, default: str) -> str:
        """A Spark setting as written."""
        return self.settings.get(key, default)

    def is_on(self, key: str, default: bool) -> bool:
        """A Spark setting that is true or false."""
        return self.setting(key, str(default)).strip().lower() == "true"

    def number(self, key: str, default: float) -> float:
        """A Spark setting that is a number.

        Raises:
            ConfigError: It is none.
        """
        value = self.setting(key, str(default))
        try:
            return float(value)
        except ValueError:
            raise ConfigError(f"spark.conf: {key} must be a number, found {value!r}") from None

    def bytes_of(self, key: str, default: str, unit: int) -> int:
        """A Spark setting that is a size; a bare number counts `unit` bytes.

        Raises:
            ConfigError: It is none.
        """
        value = self.setting(key, default).strip().lower()
        match = re.fullmatch(r"(-?\d+)\s*(?:([kmgtp]?)i?b?|b)", value)
        if match is None:
            raise ConfigError(f"spark.conf: {key} must be a size such as 512m or 4g, found {value!r}")
        digits, letter = match.groups()
        return int(digits) * (unit if value.lstrip("-").isdecimal() else 1 << _UNITS[letter or ""])

    @property
    def master(self) -> str:
        """Where the executors are."""
        return self.setting("spark.master", "local[*]")

    @property
    def is_local(self) -> bool:
        """Whether this process is the executor as well."""
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
        """Tasks that one executor runs at a time: each is a Python worker; on a CPU with a model of its own."""
        by_cores = max(1, self.n_cores // max(1, int(self.number("spark.task.cpus", 1))))
        executor_gpus, task_gpus = self.number("spark.executor.resource.gpu.amount", 0), self.task_gpus
        return min(by_cores, max(1, int(executor_gpus / task_gpus))) if executor_gpus and task_gpus and not self.is_local else by_cores

    @property
    def task_gpus(self) -> float:
        """GPUs of a task that embeds; 0 where nothing says how many."""
        return self.config.runtime.task_gpus or self.number("spark.task.resource.gpu.amount", 0)

    @property
    def wants_gpu(self) -> bool:
        """Whether the model is to run on GPUs."""
        device = self.config.runtime.device
        asked = self.number("spark.executor.resource.gpu.amount", 0) > 0
        return device.startswith("cuda") or (device == "auto" and (bool(self.has_gpu) if self.is_local else asked))

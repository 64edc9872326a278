"""Which device a task computes on: the GPUs that Spark assigned to it, as torch names it in this process. Runs in Python workers."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from pyspark import TaskContext

from metaeol_udf.errors import EnvironmentFault

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gpu:
    """One GPU that this process sees.

    Attributes:
        device: What torch calls it here, such as `cuda:1`; other processes may number otherwise.
        uuid: What it is called on the whole machine.
    """

    device: str
    uuid: str


def visible_gpus() -> list[Gpu]:
    """The GPUs that torch sees, in its order."""
    import torch

    if not torch.cuda.is_available():
        return []
    entries = _visible_entries()
    gpus = []
    for index in range(torch.cuda.device_count()):
        entry = entries[index] if index < len(entries) else str(index)
        # A slice of a GPU (MIG) reports its parent's UUID; its own stands in CUDA_VISIBLE_DEVICES.
        uuid = entry if entry.startswith("MIG") else getattr(torch.cuda.get_device_properties(index), "uuid", entry)
        gpus.append(Gpu(f"cuda:{index}", str(uuid)))
    return gpus


def task_gpus(device: str) -> tuple[Gpu, ...]:
    """The GPUs of the current task; none for the CPU.

    `auto` and `cuda` mean those that Spark assigned to the task, else the first one; `auto` is the CPU where there is none.

    Args:
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `cuda:N,M`.

    Raises:
        EnvironmentFault: A GPU is required and torch sees none, or not the one that is meant.
    """
    if device == "cpu":
        return ()
    gpus = visible_gpus()
    if not gpus:
        if device == "auto":
            if assigned := assigned_addresses():
                shown = ", ".join(assigned)
                logger.warning("Spark assigned GPU %s, but torch sees none on %s: computing on the CPU", shown, socket.gethostname())
            return ()
        raise EnvironmentFault(
            f"runtime.device is {device!r}, but torch sees no GPU on {socket.gethostname()}"
            f"{_visibility()}: use machines with a GPU and a CUDA build of torch, or set runtime.device to auto or cpu"
        )
    if device.startswith("cuda:"):
        return tuple(gpu_at(address, gpus, ()) for address in device.removeprefix("cuda:").split(","))
    return tuple(gpu_at(address, gpus, _visible_entries()) for address in assigned_addresses()) or (gpus[0],)


def assigned_addresses() -> list[str]:
    """The GPU addresses that Spark assigned to the current task; none without GPU scheduling."""
    context = TaskContext.get()
    gpu = context.resources().get("gpu") if context is not None else None
    return [str(address) for address in gpu.addresses] if gpu is not None else []


def device_name(gpus: Sequence[Gpu]) -> str:
    """What `MetaEOLEncoder` calls a task's GPUs, such as `cuda:1` or `cuda:0,1`; `cpu` for none."""
    names = [gpu.device for gpu in gpus]
    return ",".join([*names[:1], *(name.removeprefix("cuda:") for name in names[1:])]) or "cpu"


def gpu_at(address: str, gpus: Sequence[Gpu], visible: Sequence[str]) -> Gpu:
    """The GPU that an address means.

    Discovery scripts print the machine's own numbers or UUIDs, which CUDA_VISIBLE_DEVICES lists in torch's order. Where it
    does not list the address, as in a container that sees only its own GPUs, the address is torch's index.

    Args:
        address: As Spark gives it: an index or a UUID.
        gpus: What torch sees.
        visible: Entries of CUDA_VISIBLE_DEVICES.

    Raises:
        EnvironmentFault: None of them is meant.
    """
    if address in visible[: len(gpus)]:
        return gpus[visible.index(address)]
    for gpu in gpus:
        if gpu.uuid.removeprefix("GPU-") == address.removeprefix("GPU-"):
            return gpu
    if address.isdecimal() and int(address) < len(gpus):
        return gpus[int(address)]
    raise EnvironmentFault(
        f"GPU {address!r} is not one of the {len(gpus)} GPUs that torch sees on {socket.gethostname()}{_visibility()}: "
        "make the discovery script of spark.executor.resource.gpu.discoveryScript print what the executors see"
    )


def _visible_entries() -> list[str]:
    value = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return [entry.strip() for entry in value.split(",") if entry.strip()]


def _visibility() -> str:
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if value is None else f" (CUDA_VISIBLE_DEVICES={value})"

"""What runs inside a Python worker: one encoder a process, kept as long as the process lives.

Spark pickles functions anew for every task, but an installed module is imported once a process: that is why the cache
stands here and not beside the UDF. No torch is imported before the first text is there, so a driver may import this module.
"""

from __future__ import annotations

import itertools
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyspark import TaskContext

import metaeol_udf
from metaeol_udf.errors import EnvironmentFault
from metaeol_udf.spec import EmbeddingSpec

if TYPE_CHECKING:
    from metaeol_udf.encoder import MetaEOLEncoder


@dataclass(frozen=True)
class EncoderRequest:
    """What a UDF carries to its workers.

    Attributes:
        spec: Resolved on the driver, so that a worker reads no template file.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        max_batch_tokens: Tokens of one forward pass, or `auto`.
        origin: The run that asks; ends the name of a load, so that a run can count the loads it caused.
        version: Of the driver's package; another on a worker would compute other vectors in silence.
    """

    spec: EmbeddingSpec
    device: str = "auto"
    max_batch_tokens: int | str = "auto"
    origin: str = ""
    version: str = metaeol_udf.__version__


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder and the name of the load that brought it: `host:pid:count:origin`, unique to one load in one worker."""

    encoder: MetaEOLEncoder
    load_id: str


_loaded: dict[tuple[EmbeddingSpec, str, int | str], LoadedEncoder] = {}
_load_count = itertools.count()


def get_encoder(request: EncoderRequest) -> LoadedEncoder:
    """The worker's encoder: loaded at the first call, the same object from then on until the process ends.

    Once per Python worker; where each task owns a GPU that is once per GPU.

    Raises:
        EnvironmentFault: No GPU where one is required, or this worker has another version of the package.
        ModelFilesError: The model's files are missing or damaged on this machine.
    """
    if request.version != metaeol_udf.__version__:
        raise EnvironmentFault(f"metaeol-udf is {request.version} on the driver and {metaeol_udf.__version__} on {socket.gethostname()}")
    device = pick_device(request.device)
    key = (request.spec, device, request.max_batch_tokens)
    if key not in _loaded:
        for other in [other for other in _loaded if other[1] == device]:
            del _loaded[other]  # two models on one device are one too many
        load_id = f"{socket.gethostname()}:{os.getpid()}:{next(_load_count)}:{request.origin}"
        _loaded[key] = LoadedEncoder(_load(request, device), load_id)
    return _loaded[key]


def pick_device(device: str) -> str:
    """The device of the current task: the GPUs that Spark leased to it (`cuda:0,1`), else the first one, else the CPU.

    Raises:
        EnvironmentFault: `cuda` is required and this machine has none.
    """
    if device == "cpu":
        return "cpu"
    import torch

    if not torch.cuda.is_available():
        if device == "auto":
            return "cpu"
        raise EnvironmentFault(f"runtime.device is {device!r}, but torch sees no GPU on {socket.gethostname()}: use device auto or cpu")
    if device.startswith("cuda:"):
        return device
    return f"cuda:{','.join(_leased_gpus() or ['0'])}"


def _leased_gpus() -> list[str]:
    context = TaskContext.get()
    gpu = context.resources().get("gpu") if context is not None else None
    return [str(address) for address in gpu.addresses] if gpu is not None else []


def _load(request: EncoderRequest, device: str) -> MetaEOLEncoder:
    import torch

    from metaeol_udf.encoder import MetaEOLEncoder

    torch.set_num_threads(_threads())
    return MetaEOLEncoder.from_spec(request.spec, device=device, max_batch_tokens=request.max_batch_tokens)


def _threads() -> int:
    """CPU threads of one forward pass: Spark gives every worker OMP_NUM_THREADS, the task's cores unless executorEnv says otherwise."""
    set_by_spark = os.environ.get("OMP_NUM_THREADS", "")
    if set_by_spark.isdecimal() and int(set_by_spark) > 0:
        return int(set_by_spark)
    context = TaskContext.get()
    return max(1, context.cpus()) if context is not None else 1

"""What runs inside a Python worker: one encoder a process, kept as long as the process lives, and one a GPU.

Spark pickles functions anew for every task, but an installed module is imported once a process: that is why the cache
stands here and not beside the UDF. No torch is imported before the first text is there, so a driver may import this module.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
import secrets
import socket
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pyspark import TaskContext

from metaeol_udf.encoder.checkpoint.resolve import ResolvedSpec
from metaeol_udf.errors import EnvironmentFault
from metaeol_udf.spark.worker.devices import Gpu, device_name, task_gpus
from metaeol_udf.spark.worker.file_lock import Lease, private_folder
from metaeol_udf.spark.worker.model_staging import cache_folder, worker_model_folder
from metaeol_udf.spark.worker.shared_encoder import OwnedEncoder, give_memory_back, key_on, obtain
from metaeol_udf.spark.worker.version_check import check_versions, own_versions

if TYPE_CHECKING:
    from metaeol_udf.encoder import Encoded, MetaEOLEncoder

logger = logging.getLogger(__name__)

_SECRET = secrets.token_bytes(32)


@dataclass(frozen=True)
class EncoderRequest:
    """What a UDF carries to its workers.

    Attributes:
        resolved: What an embedding is, with the content of all that it names: a worker reads no template file, and compares every
            model file with the driver's before it loads.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `cuda:N,M`.
        max_batch_tokens: Tokens of one forward pass, or `auto`.
        origin: The run that asks; ends the name of a load, so that a run can count the loads it caused.
        model_cache: Folder for a copy of the model on every machine; None copies from slow mounts only.
        versions: Of the driver; others on a worker would compute other vectors in silence.
        secret: Of the application: workers share a model only with workers that know it. A random number of the driver's process.
    """

    resolved: ResolvedSpec
    device: str = "auto"
    max_batch_tokens: int | str = "auto"
    origin: str = ""
    model_cache: str | None = None
    versions: Mapping[str, str] = field(default_factory=own_versions)
    secret: bytes = field(default_factory=lambda: _SECRET, repr=False)

    @property
    def key(self) -> str:
        """What makes two requests ask for one encoder."""
        return repr((self.resolved, self.max_batch_tokens, sorted(self.versions.items())))


class Encoder(Protocol):
    """What embeds the cells of a column, in this process or in another one of this machine."""

    def encode_batches(self, chunks: Iterable[Sequence[str | None]]) -> Iterator[Encoded]:
        """See `MetaEOLEncoder.encode_batches`."""
        ...


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder and the name of the load that brought it: `host:pid:count:runner:origin`, unique to one load in one worker."""

    encoder: Encoder
    load_id: str


_on_cpu: dict[str, tuple[MetaEOLEncoder, str]] = {}  # one at most, with the name of its load
_gpuless = {"cpu"}  # values of `device` that mean the CPU in this process; GPUs do not appear later
_on_gpus: dict[frozenset[str], OwnedEncoder] = {}  # by the GPUs' UUIDs
_load_count = itertools.count()


def get_encoder(request: EncoderRequest) -> LoadedEncoder:
    """The task's encoder: loaded at the first call, the same object from then on until the process ends.

    Another spec of the model that is loaded uses its weights, see `MetaEOLEncoder.share`: that is no load.

    Once a Python worker on CPUs. Once a GPU on GPUs: where Spark starts several workers for one, the others share the model
    of the first, and a worker that is given another GPU leaves the model where it is and shares or loads that GPU's.

    Raises:
        EnvironmentFault: No GPU where one is required, other versions than the driver's, or the GPU is busy with another model.
        ModelFilesError: The model's files are missing, damaged or not the driver's on this machine.
    """
    if request.device in _gpuless and request.key in _on_cpu:
        return LoadedEncoder(*_on_cpu[request.key])
    check_versions(request.versions)
    gpus = task_gpus(request.device)
    if gpus:
        return _get_on_gpus(request, gpus)
    _gpuless.add(request.device)
    if request.key in _on_cpu:
        return LoadedEncoder(*_on_cpu[request.key])
    before = _Before(*_on_cpu.popitem()[1]) if _on_cpu else _Before()
    encoder = before.share_or_load(request, "cpu")
    _on_cpu[request.key] = (encoder, before.load_id)
    return LoadedEncoder(encoder, before.load_id)


@dataclass
class _Before:
    """Holds the encoder that another one takes the place of, and the name of its load."""

    encoder: MetaEOLEncoder | None = None
    load_id: str = ""

    def share_or_load(self, request: EncoderRequest, device: str) -> MetaEOLEncoder:
        """Make an encoder of the weights that are here where they are those of the request's model, else load it; sets `load_id`."""
        shared = None if self.encoder is None else self.encoder.share(request.resolved, max_batch_tokens=request.max_batch_tokens)
        self.encoder = None  # two models in one process are one too many
        give_memory_back(device)
        if shared is not None:
            return shared
        encoder = load_encoder(request, device)
        self.load_id = _name_load(request, encoder)
        return encoder


def _name_load(request: EncoderRequest, encoder: MetaEOLEncoder) -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{next(_load_count)}:{encoder.engine.runner.name}:{request.origin}"


def _get_on_gpus(request: EncoderRequest, gpus: tuple[Gpu, ...]) -> LoadedEncoder:
    uuids = frozenset(gpu.uuid for gpu in gpus)
    own = _on_gpus.get(uuids)
    if own is not None and own.key == key_on(request.key, gpus) and not own.is_closed:
        return LoadedEncoder(own, own.load_id)
    before, leases = _Before(), list[Lease]()
    if own is not None:
        before.load_id = _on_gpus.pop(uuids).load_id
        before.encoder, leases = own.hand_over()
    for other in [other for other in _on_gpus if other & uuids]:
        _on_gpus.pop(other).close()
    encoder = obtain(
        gpus, request.key, lambda _: before.load_id, lambda: before.share_or_load(request, device_name(gpus)), secret=request.secret,
        held=leases,
    )  # fmt: skip
    if isinstance(encoder, OwnedEncoder):
        _on_gpus[uuids] = encoder
    return LoadedEncoder(encoder, encoder.load_id)


def go_offline() -> None:
    """Keep transformers from asking a hub for anything; called in a worker before it is imported.

    A worker that other functions of the session share with us may need the hub: `spark.executorEnv.HF_HUB_OFFLINE=0` allows it.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


def load_encoder(request: EncoderRequest, device: str) -> MetaEOLEncoder:
    """Load an encoder in this process, from files that are the driver's."""
    folder = worker_model_folder(request.resolved, request.model_cache)
    if device.startswith("cuda"):
        keep_compiled_code()
    import torch

    from metaeol_udf.encoder import MetaEOLEncoder

    torch.set_num_threads(_threads())
    return MetaEOLEncoder.from_spec(
        dataclasses.replace(request.resolved, place=str(folder)), device=device, max_batch_tokens=request.max_batch_tokens
    )


def keep_compiled_code() -> None:
    """Keep what torch compiles for a GPU in a folder of this user's own, where later workers find it.

    torch's own choice is a folder in `/tmp` whose name is known, so that anybody may make it first. `TORCHINDUCTOR_CACHE_DIR` of the
    environment stays as it is.
    """
    if os.environ.get("TORCHINDUCTOR_CACHE_DIR"):
        return
    try:
        folder = private_folder(cache_folder("compiled"))
    except EnvironmentFault as error:
        folder = Path(tempfile.mkdtemp(prefix="metaeol-compiled-"))
        logger.warning("what is compiled for the GPU is compiled again by the next worker: %s", error)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)


def _threads() -> int:
    """CPU threads of one forward pass: Spark gives every worker OMP_NUM_THREADS, the task's cores unless executorEnv says otherwise."""
    set_by_spark = os.environ.get("OMP_NUM_THREADS", "")
    if set_by_spark.isdecimal() and int(set_by_spark) > 0:
        return int(set_by_spark)
    context = TaskContext.get()
    return max(1, context.cpus()) if context is not None else 1

"""One model a GPU, or over several, however many Python workers Spark starts: the first loads it, the others send it their texts.

The worker that holds the leases of a task's GPUs owns the model and answers workers of its application on a Unix socket beside them
(`channel.py`). When it dies, the kernel frees all, and the next worker that needs the model loads it. An owner that nobody uses gives
way to another model and to another application. Runs in Python workers.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metaeol_udf.encoder.gpu.device_work import DeviceWork
from metaeol_udf.errors import EnvironmentFault, MetaEOLError
from metaeol_udf.spark.worker.channel import Channel, StrangerError
from metaeol_udf.spark.worker.devices import Gpu, device_name
from metaeol_udf.spark.worker.file_lock import Lease, runtime_folder

if TYPE_CHECKING:
    from metaeol_udf.encoder import Encoded, MetaEOLEncoder

logger = logging.getLogger(__name__)

WAIT_S = 1800.0  # longer than the largest model takes to load, and a chunk behind those of all other workers
IDLE_S = 600.0  # after which a worker that sends nothing gives its turn up; it asks again when it has texts
_MOST_PEERS = 64  # workers at a time; others are sent away and ask again
_POLL_S = 0.2


class OwnerLostError(Exception):
    """The owner of the model has gone; `texts` are those that it took and did not answer."""

    def __init__(self, texts: Sequence[str | None] = ()) -> None:
        super().__init__("the Python worker that owned the model has ended or given way")
        self.texts = texts


class OwnerFailedError(MetaEOLError):
    """The owner of the model failed on the texts that it was sent, and may go on with others."""


class OwnedEncoder:
    """A model that this process loaded under a lease, for its own tasks and for other workers.

    Attributes:
        key: Which model with which settings, on which GPUs.
        load_id: Name of the load.
        is_closed: Whether the model is gone and the lease free.
    """

    def __init__(
        self, encoder: MetaEOLEncoder, key: str, load_id: str, gpus: Sequence[Gpu], leases: Sequence[Lease], secret: bytes
    ) -> None:
        self.key, self.load_id, self.is_closed = key, load_id, False
        self._secret = secret
        self._encoder, self._gpus, self._leases = encoder, gpus, leases
        self._counting = threading.Condition()
        self._n_users = self._n_computing = self._n_peers = 0
        path, *others = map(_socket_path, leases)
        for left in (path, *others):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(left)  # a dead owner left it; the lease says that there is no living one
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)  # only this user's processes reach it, through a folder of mode 0700
        self._listener.listen(_MOST_PEERS)
        for other in others:
            os.symlink(path, other)  # whoever wants another of the GPUs asks here too
        self._accepting = threading.Thread(target=self._accept, daemon=True, name="metaeol-share")
        self._accepting.start()

    def encode_batches(self, chunks: Iterable[Sequence[str | None]]) -> Iterator[Encoded]:
        """As the encoder's own; other workers get their turn between chunks."""
        with self._use():
            stream = self._encoder.encode_batches(chunks)
            while True:
                with self._compute(has_begun=True):  # it has taken chunks that nobody else would compute
                    encoded = next(stream, None)
                if encoded is None:
                    return
                yield encoded

    def close(self, *, only_if_idle: bool = False) -> None:
        """Unload the model and give the GPU back, once what is being computed is done; workers that share it ask again.

        Args:
            only_if_idle: Do nothing while a task uses the model.
        """
        with self._counting:
            if self.is_closed or (only_if_idle and self._n_users):
                return
            self._end_use()
            del self._encoder
        self._stop_listening()
        give_memory_back(device_name(self._gpus))
        for lease in self._leases:
            lease.release()
        logger.info("gave %s back", device_name(self._gpus))

    def hand_over(self) -> tuple[MetaEOLEncoder | None, list[Lease]]:
        """End the use of the model, as `close` does, and return the model and its leases, which are held; nothing where it is closed."""
        with self._counting:
            if self.is_closed:
                return None, []
            self._end_use()
            encoder = self._encoder
            del self._encoder
        self._stop_listening()
        return encoder, list(self._leases)

    def _end_use(self) -> None:
        self.is_closed = True
        self._counting.wait_for(lambda: not self._n_computing)

    def _stop_listening(self) -> None:
        with contextlib.suppress(FileNotFoundError):  # removed from outside
            os.unlink(_socket_path(self._leases[0]))  # before the next owner makes another of that name
        self._listener.shutdown(socket.SHUT_RDWR)  # ends the wait for a connection
        self._accepting.join()
        self._listener.close()

    @contextlib.contextmanager
    def _use(self) -> Iterator[None]:
        with self._counting:
            if self.is_closed:
                raise OwnerLostError
            self._n_users += 1
        try:
            yield
        finally:
            with self._counting:
                self._n_users -= 1

    @contextlib.contextmanager
    def _compute(self, *, has_begun: bool = False) -> Iterator[None]:
        """Keep the model while a chunk is computed inside a `with`; one that was closed before is lost, but for a stream that has begun."""
        with self._counting:
            if self.is_closed and not has_begun:
                raise OwnerLostError
            self._n_computing += 1
        try:
            yield
        finally:
            with self._counting:
                self._n_computing -= 1
                self._counting.notify_all()

    def _accept(self) -> None:
        while not self.is_closed:
            with contextlib.suppress(OSError):  # closed, or out of descriptors for a moment
                connection, _ = self._listener.accept()
                with self._counting:
                    is_welcome = self._n_peers < _MOST_PEERS
                    self._n_peers += is_welcome
                if is_welcome:
                    threading.Thread(target=self._answer, args=(Channel(connection),), daemon=True, name="metaeol-share-answer").start()
                else:
                    connection.close()

    def _answer(self, peer: Channel) -> None:
        try:
            with peer, contextlib.suppress(EOFError, OSError, OwnerLostError):
                self._serve(peer)
        finally:
            with self._counting:
                self._n_peers -= 1

    def _serve(self, peer: Channel) -> None:
        """Answer one worker until it goes, or sends nothing for long."""
        if not peer.admit(self._secret, self.key.encode(), {"load_id": self.load_id}):
            self.close(only_if_idle=True)
            return
        if self._gpus[0].device.startswith("cuda"):
            import torch

            torch.cuda.set_device(self._gpus[0].device)  # every thread starts with the first GPU
        with self._use():
            while True:
                asked, _ = peer.receive(IDLE_S)
                texts = asked.get("texts")
                if not isinstance(texts, list) or not all(text is None or isinstance(text, str) for text in texts):
                    raise StrangerError("a message without texts")
                answer = self._encode_or_explain(texts)
                if isinstance(answer, OwnerFailedError):
                    peer.send({"failed": str(answer)})
                else:
                    _send_encoded(peer, answer)

    def _encode_or_explain(self, texts: Sequence[str | None]) -> Encoded | OwnerFailedError:
        """Encode a borrower's texts. What fails is an answer, too: a borrower that got none would ask again for ever."""
        try:
            return self._encode_rows(texts)
        except OwnerLostError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the borrower's task is to fail with it
            logger.error("a chunk of %d texts of another worker failed with %s", len(texts), type(error).__name__)
            return OwnerFailedError(
                f"the Python worker (process {os.getpid()}) that owns the model failed with {type(error).__name__} on a chunk of "
                f"{len(texts):,} texts; its log says where"
            )

    def _encode_rows(self, texts: Sequence[str | None]) -> Encoded:
        with self._compute():
            return self._encoder.encode_rows(texts)


class BorrowedEncoder:
    """A model that another Python worker of this machine has loaded.

    Attributes:
        load_id: Name of the owner's load.
    """

    def __init__(self, owner: Channel, load_id: str) -> None:
        self._owner, self.load_id = owner, load_id

    def encode_batches(self, chunks: Iterable[Sequence[str | None]]) -> Iterator[Encoded]:
        """As the encoder's own.

        Raises:
            OwnerLostError: The owner ended; the chunks after that of the error were not taken.
            OwnerFailedError: The owner failed on a chunk, or did not answer for `WAIT_S`.
        """
        with self._owner:
            for texts in chunks:
                try:
                    self._owner.send({"texts": list(texts)})
                    answer, arrays = self._owner.receive(WAIT_S)
                except TimeoutError:
                    raise OwnerFailedError(
                        f"the Python worker that owns the model ({self.load_id}) did not answer for {WAIT_S:.0f} s: its GPU hangs, or "
                        "other tasks of the GPU take longer; let one task own one GPU (spark.task.resource.gpu.amount=1)"
                    ) from None
                except (EOFError, OSError):
                    raise OwnerLostError(texts) from None
                if "failed" in answer:
                    raise OwnerFailedError(answer["failed"])
                yield _receive_encoded(answer, arrays)


def _send_encoded(peer: Channel, encoded: Encoded) -> None:
    arrays = (encoded.vectors, encoded.trimmed, encoded.tokens_computed, encoded.tokens_saved)
    head = {"shape": encoded.vectors.shape, "errors": encoded.errors, "work": [vars(work) for work in encoded.work]}
    peer.send(head, *(array.tobytes() for array in arrays))


def _receive_encoded(head: dict[str, Any], arrays: Sequence[bytearray]) -> Encoded:
    from metaeol_udf.encoder import Encoded

    vectors, trimmed, computed, saved = arrays
    return Encoded(
        np.frombuffer(vectors, np.float32).reshape(head["shape"]), head["errors"], np.frombuffer(trimmed, np.bool_),
        np.frombuffer(computed, np.int64), np.frombuffer(saved, np.int64), [DeviceWork(**work) for work in head["work"]],
    )  # fmt: skip


def give_memory_back(device: str) -> None:
    """Give the memory of a model back that is no longer used."""
    gc.collect()  # an encoder holds cycles
    if device.startswith("cuda") and "torch" in sys.modules:
        import torch

        torch.cuda.empty_cache()


def obtain(
    gpus: Sequence[Gpu],
    key: str,
    name_load: Callable[[MetaEOLEncoder], str],
    load: Callable[[], MetaEOLEncoder],
    *,
    secret: bytes,
    wait_s: float = WAIT_S,
    held: Sequence[Lease] = (),
) -> OwnedEncoder | BorrowedEncoder:
    """Load a model on a task's GPUs, or share the one that another Python worker of this machine has loaded there.

    Args:
        gpus: Where; a model that shares only some of them gives way as another model does.
        key: Which model with which settings; the owner of another model gives way as soon as nobody uses it.
        name_load: Names the load, if there is one.
        load: Loads it; called with the GPUs' leases held.
        secret: Known to the workers of this application alone: only they share a model.
        wait_s: How long to wait for an owner that still loads, or is busy with another model.
        held: The leases of all GPUs, where this process holds them already.

    Raises:
        EnvironmentFault: The GPUs were not free in time, or `load` raised.
    """
    by_uuid = sorted(gpus, key=lambda gpu: gpu.uuid)  # all take leases in one order, so that none waits in a circle
    leases = list(held) or [Lease(lease_path(gpu)) for gpu in by_uuid]
    key = key_on(key, gpus)
    deadline = time.monotonic() + wait_s
    n_held = len(held)
    try:
        while n_held < len(leases):
            lease = leases[n_held]
            if lease.try_acquire():
                n_held += 1
                continue
            # Or its owner gives way, if nobody uses another model there.
            borrowed = _borrow(lease, key, secret, max(0.1, deadline - time.monotonic()))
            if borrowed is not None:
                return borrowed
            if time.monotonic() >= deadline:
                raise EnvironmentFault(
                    f"waited {wait_s:.0f} s for {by_uuid[n_held].device} ({by_uuid[n_held].uuid}), which process {lease.holder()} uses "
                    "for another model, for another application, or is still loading: let one task own one GPU "
                    "(spark.executor.resource.gpu.amount=1, spark.task.resource.gpu.amount=1) and run one job a GPU at a time"
                )
            time.sleep(_POLL_S)
        encoder = load()
        return OwnedEncoder(encoder, key, name_load(encoder), gpus, leases, secret)
    except BaseException:
        for lease in leases:
            lease.release()
        raise


def key_on(key: str, gpus: Sequence[Gpu]) -> str:
    """What makes two requests share one load: the model with its settings, and the GPUs."""
    return f"{key} on {', '.join(sorted(gpu.uuid for gpu in gpus))}"


def lease_path(gpu: Gpu) -> Path:
    """The file whose lock is the lease of a GPU; the owner's socket stands beside it."""
    # A socket's path has room for about a hundred bytes.
    return runtime_folder() / f"gpu-{hashlib.sha256(gpu.uuid.encode()).hexdigest()[:16]}.lock"


def _borrow(lease: Lease, key: str, secret: bytes, wait_s: float) -> BorrowedEncoder | None:
    """Ask the owner of a lease for its model; None where it still loads, ends, has another one or is of another application."""
    try:
        owner = Channel.connect(_socket_path(lease))
    except OSError:
        return None
    try:
        answer = owner.ask(secret, key.encode(), wait_s)
    except StrangerError as error:
        logger.warning("%s: %s", lease.path.with_suffix(".sock"), error)
        answer = None
    except (EOFError, OSError):
        answer = None
    if answer is None:
        owner.close()
        return None
    return BorrowedEncoder(owner, answer["load_id"])


def _socket_path(lease: Lease) -> str:
    return str(lease.path.with_suffix(".sock"))

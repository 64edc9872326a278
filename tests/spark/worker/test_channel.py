"""Workers of one application prove themselves to each other; nobody else gets a text, runs code, or makes a worker wait for ever."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import pickle
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metaeol_udf.encoder import Encoded
from metaeol_udf.encoder.gpu.device_work import DeviceWork
from metaeol_udf.errors import EnvironmentFault
from metaeol_udf.spark.worker import channel, file_lock, shared_encoder
from metaeol_udf.spark.worker.channel import Channel, StrangerError
from metaeol_udf.spark.worker.devices import Gpu
from metaeol_udf.spark.worker.encoder_cache import EncoderRequest
from metaeol_udf.spark.worker.shared_encoder import BorrowedEncoder, OwnedEncoder, obtain
from metaeol_udf.spec import EmbeddingSpec
from tests.specs import without_files

OURS, THEIRS = b"of this application", b"of another one"


@pytest.fixture
def pair() -> Iterator[tuple[Channel, Channel]]:
    ours, theirs = socket.socketpair()
    with Channel(ours) as one, Channel(theirs) as other:
        yield one, other


def test_a_message_arrives_as_it_was_sent(pair: tuple[Channel, Channel]) -> None:
    head = {"texts": ["a", None, "\ud800 lone", "\x00\U0001f600"], "n": 1.5}
    pair[0].send(head, b"", memoryview(np.arange(5)).cast("B"))
    found, arrays = pair[1].receive(1)
    assert found == head
    assert [bytes(array) for array in arrays] == [b"", np.arange(5).tobytes()]


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"", EOFError),
        (struct.pack("!QI", 5, 0) + b"{", EOFError),
        (struct.pack("!QI", 1 << 60, 0), StrangerError),
        (struct.pack("!QI", 2, 1 << 30), StrangerError),
        (struct.pack("!QIQ", 2, 1, 1 << 40) + b"{}", StrangerError),
        (struct.pack("!QI", 2, 0) + b"[]", StrangerError),
        (struct.pack("!QI", 4, 0) + b"nope", StrangerError),
        (struct.pack("!QI", 100_000, 0) + b"[" * 100_000, StrangerError),
        (struct.pack("!QI", 2, 0) + b"\xff\xfe", StrangerError),
        (pickle.dumps(print), (StrangerError, EOFError)),
    ],
)
def test_what_is_no_message_is_refused(sent: bytes, error: type[Exception], pair: tuple[Channel, Channel]) -> None:
    threading.Thread(target=lambda: (pair[0]._socket.sendall(sent), pair[0].close())).start()
    with pytest.raises(error):
        pair[1].receive(5)


def test_a_peer_that_is_silent_or_slow_is_not_waited_for(pair: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "TRANSFER_S", 0.3)
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        pair[1].receive(0.2)
    pair[0]._socket.sendall(struct.pack("!QI", 50, 0))

    def drip() -> None:
        with contextlib.suppress(OSError):  # the test is over
            for _ in range(20):
                time.sleep(0.1)
                pair[0]._socket.sendall(b" ")

    threading.Thread(target=drip, daemon=True).start()
    with pytest.raises(TimeoutError):
        pair[1].receive(5)  # a byte now and then is no sign of life
    assert time.monotonic() - started < 3


def _handshake(pair: tuple[Channel, Channel], owners: bytes, borrowers: bytes, question: bytes = b"model") -> tuple[Any, Any]:
    found: list[Any] = []
    owner = threading.Thread(target=lambda: found.append(pair[0].admit(owners, b"model", {"load_id": "load"})))
    owner.start()
    try:
        answer: Any = pair[1].ask(borrowers, question)
    except StrangerError as error:
        answer = error
    owner.join()
    return found[0], answer


def test_the_secret_and_the_question_decide(pair: tuple[Channel, Channel]) -> None:
    assert _handshake(pair, OURS, OURS) == (True, {"load_id": "load"})
    assert _handshake(pair, OURS, OURS, b"another model") == (False, None)
    assert _handshake(pair, OURS, THEIRS) == (False, None)


def test_an_owner_that_does_not_know_the_secret_is_a_stranger(pair: tuple[Channel, Channel]) -> None:
    def pretend() -> None:
        pair[0].send({"nonce": "n"})
        pair[0].receive(5)
        pair[0].send({"answer": {"load_id": "forged"}, "proof": "0" * 64})

    threading.Thread(target=pretend).start()
    with pytest.raises(StrangerError, match="not of this application"):
        pair[1].ask(OURS, b"model")


def test_a_process_between_both_is_noticed(pair: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch) -> None:
    """It hands everything on as it is; the kernel names it in place of the peer."""
    real = Channel.peer
    monkeypatch.setattr(Channel, "peer", lambda self: (real(self)[0] + (self is pair[1]), real(self)[1]))
    admitted, answer = _handshake(pair, OURS, OURS)
    assert admitted
    assert isinstance(answer, StrangerError)
    monkeypatch.setattr(Channel, "peer", lambda self: (real(self)[0] + (self is pair[0]), real(self)[1]))
    assert _handshake(pair, OURS, OURS) == (False, None)


def test_another_users_process_is_refused_whatever_it_knows(pair: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch) -> None:
    real = Channel.peer
    monkeypatch.setattr(Channel, "peer", lambda self: (real(self)[0], real(self)[1] + 1))
    assert _handshake(pair, OURS, OURS)[0] is False


class _Lengths:
    """Embeds a text as its length."""

    def encode_rows(self, texts: list[str | None]) -> Encoded:
        n = len(texts)
        vectors = np.array([[len(text or ""), 0.5] for text in texts], np.float32).reshape(n, 2)
        errors = [None if text else "null_text" for text in texts]
        work = [DeviceWork(0.5, 1.0, 2.0, reasons=["why"])]
        return Encoded(vectors, errors, np.array([text == "long" for text in texts]), np.arange(n), np.arange(n) * 2, work)


@pytest.fixture
def owner(gpu: Gpu) -> Iterator[OwnedEncoder]:
    owned = obtain([gpu], "model", lambda encoder: "load 1", _Lengths, secret=OURS)  # type: ignore[arg-type]
    assert isinstance(owned, OwnedEncoder)
    yield owned
    owned.close()


def test_a_borrower_gets_all_that_the_encoder_says(gpu: Gpu, owner: OwnedEncoder) -> None:
    borrowed = obtain([gpu], "model", lambda encoder: "-", lambda: pytest.fail("loaded twice"), secret=OURS)
    assert isinstance(borrowed, BorrowedEncoder)
    texts = ["ab", None, "long"]
    found, nothing = borrowed.encode_batches(iter([texts, []]))
    expected = _Lengths().encode_rows(texts)  # type: ignore[arg-type]
    for name in ("vectors", "trimmed", "tokens_computed", "tokens_saved"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), strict=True)
    assert (found.errors, found.work) == (expected.errors, expected.work)
    assert nothing.vectors.shape == (0, 2)


def test_two_applications_of_one_user_share_a_gpu_by_turns_and_no_text(gpu: Gpu, owner: OwnedEncoder) -> None:
    stream = obtain([gpu], "model", lambda encoder: "-", lambda: pytest.fail("loaded twice"), secret=OURS).encode_batches(
        iter([["a"], ["b"]])
    )
    next(stream)
    with pytest.raises(EnvironmentFault, match=r"for another model, for another application"):
        obtain([gpu], "model", lambda encoder: "-", lambda: pytest.fail("loaded twice"), secret=THEIRS, wait_s=1)
    assert len(list(stream)) == 1
    other = obtain([gpu], "model", lambda encoder: "load 2", _Lengths, secret=THEIRS, wait_s=20)  # type: ignore[arg-type]
    assert isinstance(other, OwnedEncoder)  # it loads a model of its own
    assert owner.is_closed
    other.close()


def _run_in_another_process(gpu: Gpu, script: str) -> subprocess.CompletedProcess[str]:
    path = str(shared_encoder.lease_path(gpu).with_suffix(".sock"))
    return subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, timeout=60, check=False)


def test_a_pickle_runs_nothing_in_the_owner(gpu: Gpu, owner: OwnedEncoder, tmp_path: Path) -> None:
    script = f"""
import sys, time
from multiprocessing.connection import Client
class Peer:
    def __reduce__(self):
        return (open, ({str(tmp_path / "ran")!r}, "w"))
Client(sys.argv[1], family="AF_UNIX").send(Peer())
time.sleep(1)
"""
    assert _run_in_another_process(gpu, script).returncode == 0
    assert not (tmp_path / "ran").exists()
    assert not owner.is_closed


def test_a_socket_that_somebody_planted_gets_no_text(gpu: Gpu) -> None:
    lease = shared_encoder.Lease(shared_encoder.lease_path(gpu))
    assert lease.try_acquire()
    heard: list[Any] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(lease.path.with_suffix(".sock")))
    listener.listen()

    def listen() -> None:
        while True:
            try:
                planted = Channel(listener.accept()[0])
            except OSError:
                return
            with planted:
                planted.send({"nonce": "n"})
                heard.append(planted.receive(5)[0])
                planted.send({"answer": {"load_id": "forged"}, "proof": "f" * 64})

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    with pytest.raises(EnvironmentFault, match="waited 1 s"):
        obtain([gpu], "a secret model", lambda encoder: "-", lambda: pytest.fail("the lease is held"), secret=OURS, wait_s=1)
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    lease.release()
    assert heard
    assert all(set(message) == {"nonce", "proof"} for message in heard)


def test_an_owner_that_is_stopped_is_not_waited_for_longer_than_asked(gpu: Gpu) -> None:
    script = f"""
import os, signal, sys
from metaeol_udf.spark.worker import shared_encoder
from metaeol_udf.spark.worker.devices import Gpu
shared_encoder.obtain([Gpu("cpu", {gpu.uuid!r})], "model", lambda encoder: "load", lambda: object(), secret={OURS!r})
print("owns", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "owns\n"
        time.sleep(0.3)
        started = time.monotonic()
        with pytest.raises(EnvironmentFault, match=rf"process {process.pid} uses"):
            obtain([gpu], "model", lambda encoder: "-", lambda: pytest.fail("the lease is held"), secret=OURS, wait_s=1)
        assert time.monotonic() - started < 10
        process.kill()


def test_silent_peers_cost_few_threads_and_keep_nobody_away(gpu: Gpu, owner: OwnedEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "HANDSHAKE_S", 1.0)
    path = str(shared_encoder.lease_path(gpu).with_suffix(".sock"))
    before, silent = threading.active_count(), [socket.socket(socket.AF_UNIX) for _ in range(200)]
    for peer in silent:
        peer.connect(path)
    time.sleep(0.3)
    assert threading.active_count() - before <= 64
    other = obtain([gpu], "another model", lambda encoder: "load 2", _Lengths, secret=OURS, wait_s=30)  # type: ignore[arg-type]
    assert owner.is_closed
    for peer in silent:
        peer.close()
    other.close()  # type: ignore[union-attr]


def test_an_owner_that_is_out_of_descriptors_for_a_moment_answers_later_workers(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    real, failed = socket.socket.accept, threading.Event()

    def accept(listener: socket.socket) -> Any:
        if not failed.is_set():
            failed.set()
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(listener)

    monkeypatch.setattr(socket.socket, "accept", accept)
    owner = obtain([gpu], "model", lambda encoder: "load 1", _Lengths, secret=OURS)  # type: ignore[arg-type]
    assert failed.wait(5)
    borrowed = obtain([gpu], "model", lambda encoder: "-", lambda: pytest.fail("loaded twice"), secret=OURS, wait_s=20)
    assert isinstance(borrowed, BorrowedEncoder)
    owner.close()  # type: ignore[union-attr]


def test_a_worker_that_sends_nothing_gives_its_turn_up_and_gets_another(
    gpu: Gpu, owner: OwnedEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_encoder, "IDLE_S", 0.3)
    borrowed = obtain([gpu], "model", lambda encoder: "-", lambda: pytest.fail("loaded twice"), secret=OURS)
    assert isinstance(borrowed, BorrowedEncoder)

    def slow() -> Iterator[list[str]]:
        yield ["a"]
        time.sleep(1)
        yield ["b"]

    stream = borrowed.encode_batches(slow())
    next(stream)
    with pytest.raises(shared_encoder.OwnerLostError) as lost:
        next(stream)
    assert list(lost.value.texts) == ["b"]
    assert owner._n_users == 0


def test_an_owner_that_does_not_answer_is_named(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(_Lengths):
        def encode_rows(self, texts: list[str | None]) -> Encoded:
            time.sleep(3)
            return super().encode_rows(texts)

    owner = obtain([gpu], "model", lambda encoder: "load 1", Slow, secret=OURS)  # type: ignore[arg-type]
    borrowed = obtain([gpu], "model", lambda encoder: "-", lambda: pytest.fail("loaded twice"), secret=OURS)
    monkeypatch.setattr(shared_encoder, "WAIT_S", 0.3)
    with pytest.raises(shared_encoder.OwnerFailedError, match=r"\(load 1\) did not answer for 0 s: its GPU hangs"):
        next(borrowed.encode_batches(iter([["a"]])))
    owner.close()  # type: ignore[union-attr]


def test_the_secret_goes_with_the_request_and_is_never_shown() -> None:
    request = EncoderRequest(without_files(EmbeddingSpec(model="m")))
    assert len(request.secret) == 32
    assert pickle.loads(pickle.dumps(request)).secret == request.secret
    assert EncoderRequest(without_files(EmbeddingSpec(model="n"))).secret == request.secret
    assert "secret" not in repr(request)
    assert request.secret.hex() not in request.key
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        assert pool.apply(_secret_of_a_process) != request.secret


def _secret_of_a_process() -> bytes:
    return EncoderRequest(without_files(EmbeddingSpec(model="m"))).secret


def test_a_folder_that_another_user_made_first_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refuse(first: int) -> Callable[[Path], Path]:
        def private_folder(path: Path) -> Path:
            asked.append(str(path))
            if len(asked) <= first:
                raise EnvironmentFault(f"the folder {path} must belong to user {os.getuid()}")
            return path

        return private_folder

    monkeypatch.setattr(file_lock, "home_folder", lambda: tmp_path)
    monkeypatch.setattr(file_lock, "private_folder", refuse(1))
    assert str(file_lock.runtime_folder()) == asked[1] != asked[0]
    asked.clear()
    monkeypatch.setattr(file_lock, "private_folder", refuse(10))
    with pytest.raises(EnvironmentFault, match=rf"no folder for leases and sockets of user {os.getuid()}: the folder .* must belong"):
        file_lock.runtime_folder()

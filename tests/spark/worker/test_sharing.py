"""Leases and what stands on them: the GPU of a task, and the model that its workers share."""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from metaeol_udf import MetaEOLEncoder, TemplateSet
from metaeol_udf.encoder import Encoded
from metaeol_udf.encoder.checkpoint.resolve import resolve_local
from metaeol_udf.errors import EnvironmentFault
from metaeol_udf.spark.worker import devices, encoder_cache, shared_encoder
from metaeol_udf.spark.worker.devices import Gpu, device_name, gpu_at, task_gpus
from metaeol_udf.spark.worker.encoder_cache import EncoderRequest
from metaeol_udf.spark.worker.file_lock import Lease, private_folder
from metaeol_udf.spark.worker.model_staging import cached_copy
from metaeol_udf.spark.worker.shared_encoder import BorrowedEncoder, OwnedEncoder, OwnerFailedError, OwnerLostError
from metaeol_udf.spec import EmbeddingSpec
from tests.specs import without_files

HOLD = """
import sys, time
from pathlib import Path
from metaeol_udf.spark.worker.file_lock import Lease
assert Lease(Path(sys.argv[1])).try_acquire()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[tuple[Lease, subprocess.Popen[str]]]:
    """A lease that another process holds."""
    path = tmp_path / "a.lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield Lease(path), process
        process.kill()


def test_kill_9_of_the_holder_frees_a_lease(holder: tuple[Lease, subprocess.Popen[str]]) -> None:
    lease, process = holder
    assert not lease.try_acquire()
    assert lease.holder() == str(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert lease.try_acquire()
    assert lease.holder() == str(os.getpid())
    lease.release()


def test_waiting_for_a_lease_ends_with_the_holders_name(holder: tuple[Lease, subprocess.Popen[str]]) -> None:
    lease, process = holder
    with pytest.raises(EnvironmentFault, match=rf"waited 0 s for a copy, which process {process.pid} holds"), lease.waiting(0.3, "a copy"):
        pytest.fail("the lease was not free")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # of newer Pythons, where other threads run
def test_a_forked_child_does_not_keep_its_parents_lease(tmp_path: Path) -> None:
    lease = Lease(tmp_path / "a.lock")
    assert lease.try_acquire()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(writer)
        os.read(reader, 1)  # until the parent has looked
        os._exit(0)
    os.close(reader)
    try:
        assert not Lease(lease.path).try_acquire()
        lease.release()
        other = Lease(lease.path)
        deadline = time.monotonic() + 5
        while not (is_free := other.try_acquire()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert is_free
        other.release()
    finally:
        os.close(writer)
        os.waitpid(child, 0)


def test_a_lease_whose_file_was_removed_is_taken_on_the_new_file(tmp_path: Path) -> None:
    lease = Lease(tmp_path / "a.lock")
    assert lease.try_acquire()
    lease.release()
    lease.path.unlink()
    assert lease.try_acquire()
    assert not Lease(lease.path).try_acquire()
    lease.release()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_a_disk_that_takes_no_locks_is_named_and_no_descriptor_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(fd: int, flags: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    lease, before = Lease(tmp_path / "a.lock"), os.listdir("/proc/self/fd")
    with pytest.raises(EnvironmentFault, match=rf"cannot lock {lease.path}: {os.strerror(number)}; a local disk takes locks"):
        lease.try_acquire()
    assert os.listdir("/proc/self/fd") == before
    (tmp_path / "cache").mkdir(mode=0o700)
    with pytest.raises(EnvironmentFault, match=r"cache/abc\.lock: .*set runtime\.model_cache to a folder on a local disk"):
        cached_copy(tmp_path, "abc", (), tmp_path / "cache")
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("name", ["a", "link"])
def test_a_lock_file_that_cannot_be_opened_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "b")
    with pytest.raises(EnvironmentFault, match=rf"cannot lock {tmp_path / name}: "):
        Lease(tmp_path / name).try_acquire()


def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    assert private_folder(tmp_path / "own").stat().st_mode & 0o777 == 0o700
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to(tmp_path / "own")
    for name in ("open", "link"):
        with pytest.raises(EnvironmentFault, match="must belong to user"):
            private_folder(tmp_path / name)


SECRET = b"of one application"
obtain = functools.partial(shared_encoder.obtain, secret=SECRET)

TWO = [Gpu("cuda:0", "GPU-aaaa"), Gpu("cuda:1", "GPU-bbbb")]


@pytest.mark.parametrize(
    ("address", "visible", "device"),
    [
        ("0", [], "cuda:0"),
        ("1", [], "cuda:1"),
        ("3", ["2", "3"], "cuda:1"),  # the machine's own numbers
        ("1", ["2", "3"], "cuda:1"),  # a container's own
        ("0", ["1", "0"], "cuda:1"),
        ("GPU-bbbb", [], "cuda:1"),
        ("GPU-bbbb", ["GPU-bbbb", "GPU-aaaa"], "cuda:0"),  # as CUDA_VISIBLE_DEVICES orders them
    ],
)
def test_an_address_means_the_gpu_that_the_task_sees(address: str, visible: list[str], device: str) -> None:
    assert gpu_at(address, TWO, visible).device == device


def test_an_address_that_is_not_there_names_the_discovery_script() -> None:
    with pytest.raises(EnvironmentFault, match=r"GPU '5' is not one of the 2 GPUs .*discoveryScript"):
        gpu_at("5", TWO, ["2", "3"])


class _Context:
    """A task with addresses."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = list(addresses)

    def resources(self) -> dict[str, Any]:
        return {"gpu": SimpleNamespace(addresses=self._addresses)} if self._addresses else {}


@pytest.fixture
def assign(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretend two GPUs, and a task to which addresses are assigned."""
    monkeypatch.setattr(devices, "visible_gpus", lambda: TWO)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return lambda *addresses: monkeypatch.setattr(devices, "TaskContext", SimpleNamespace(get=lambda: _Context(*addresses)))


def test_a_task_uses_the_gpu_assigned_to_it_and_no_other(assign: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assign("1")
    assert [task_gpus(device) for device in ("auto", "cuda", "cuda:0", "cpu")] == [(TWO[1],), (TWO[1],), (TWO[0],), ()]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert task_gpus("cuda") == (TWO[0],)
    assign()
    assert task_gpus("cuda") == (TWO[0],)


def test_a_task_takes_all_gpus_that_are_assigned_to_it(assign: Any) -> None:
    assign("1", "0")
    assert device_name(task_gpus("auto")) == "cuda:1,0"
    assert [device_name(task_gpus(device)) for device in ("cuda:0", "cuda:0,1", "cpu")] == ["cuda:0", "cuda:0,1", "cpu"]


class _Sums:
    """Embeds a text as its length, one list at a time as an encoder's lane does; says which load it came from."""

    engine = types.SimpleNamespace(runner=types.SimpleNamespace(name="decoder"))

    def __init__(self) -> None:
        self._busy = threading.Lock()

    def share(self, *_: object, **__: object) -> None:
        """Share nothing: it has no weights."""

    def encode_rows(self, texts: Sequence[str | None]) -> Encoded:
        with self._busy:
            time.sleep(0.01)
        n = len(texts)
        vectors = np.array([[len(text or "")] for text in texts], np.float32).reshape(n, 1)
        return Encoded(vectors, [None] * n, np.zeros(n, bool), np.zeros(n, np.int64), np.zeros(n, np.int64))

    def encode_batches(self, windows: Iterable[Sequence[str | None]]) -> Iterator[Encoded]:
        return map(self.encode_rows, windows)


def _lengths(encoder: OwnedEncoder | BorrowedEncoder, n_windows: int) -> list[float]:
    windows = [["x" * (10 * w + i) for i in range(3)] for w in range(n_windows)]
    return [float(value) for encoded in encoder.encode_batches(iter(windows)) for value in encoded.vectors[:, 0]]


def test_an_error_in_the_owner_is_the_borrowers_error_and_the_owner_goes_on(gpu: Gpu) -> None:
    class Failing(_Sums):
        def encode_rows(self, texts: Sequence[str | None]) -> Encoded:
            if "bad" in texts:
                raise ValueError("a text of the table")
            return super().encode_rows(texts)

    owner = obtain([gpu], "model", lambda encoder: "load 1", Failing)  # type: ignore[arg-type]
    borrowed = obtain([gpu], "model", lambda encoder: "load 2", Failing)  # type: ignore[arg-type]
    assert isinstance(borrowed, BorrowedEncoder)
    answers = borrowed.encode_batches(iter([["good"], ["bad"], ["good"]]))
    assert next(answers).vectors.tolist() == [[4.0]]
    with pytest.raises(OwnerFailedError, match=r"that owns the model failed with ValueError on a chunk of 1 texts") as failed:
        next(answers)
    assert "a text of the table" not in str(failed.value)
    assert _lengths(obtain([gpu], "model", lambda encoder: "load 3", Failing), 1) == [0.0, 1.0, 2.0]  # type: ignore[arg-type]
    owner.close()


def test_two_tasks_of_one_gpu_share_a_real_encoder_and_both_prepare_while_the_model_runs(gpu: Gpu, tiny_model_dir: Path) -> None:
    """The encoder's lane takes texts in turn; what is computed does not depend on who else asks."""
    encoder = MetaEOLEncoder.from_pretrained(str(tiny_model_dir), templates=TemplateSet.load("metaeol"), dtype="float32", device="cpu")
    chunks = [[f"text {n} of chunk {chunk}" for n in range(5)] for chunk in range(4)]
    expected = [encoder.encode(chunk) for chunk in chunks]
    owner = obtain([gpu], "model", lambda encoder: "load", lambda: encoder)
    assert isinstance(owner, OwnedEncoder)
    found: dict[int, list[Any]] = {}

    def borrow(number: int) -> None:
        borrowed = obtain([gpu], "model", lambda encoder: "-", lambda: pytest.fail("loaded twice"))
        found[number] = [encoded.vectors for encoded in borrowed.encode_batches(iter(chunks))]

    others = [threading.Thread(target=borrow, args=(number,)) for number in range(3)]
    for other in others:
        other.start()
    found[3] = [encoded.vectors for encoded in owner.encode_batches(iter(chunks))]
    for other in others:
        other.join()
    assert set(found) == {0, 1, 2, 3}
    for vectors in found.values():
        np.testing.assert_allclose(np.concatenate(vectors), np.concatenate(expected), atol=1e-5)
    owner.close()


def test_a_stream_that_has_begun_loses_no_chunk_when_its_model_is_closed(gpu: Gpu, tiny_model_dir: Path) -> None:
    encoder = MetaEOLEncoder.from_pretrained(str(tiny_model_dir), templates=TemplateSet.load("metaeol"), dtype="float32", device="cpu")
    owner = obtain([gpu], "model", lambda encoder: "load", lambda: encoder)
    assert isinstance(owner, OwnedEncoder)
    stream = owner.encode_batches(iter([["a"], ["b"], ["c"], ["d"]]))
    next(stream)
    owner.close()
    assert sum(len(encoded.vectors) for encoded in stream) == 3
    with pytest.raises(OwnerLostError):
        next(owner.encode_batches(iter([["e"]])))


def test_workers_of_one_gpu_share_the_first_ones_model(gpu: Gpu) -> None:
    loads: list[int] = []

    def load() -> Any:
        loads.append(1)
        return _Sums()

    owner = obtain([gpu], "model", lambda encoder: "load 1", load)
    assert isinstance(owner, OwnedEncoder)
    found: list[list[float]] = []

    def borrow() -> None:
        borrowed = obtain([gpu], "model", lambda encoder: "load 2", load)
        assert isinstance(borrowed, BorrowedEncoder)
        assert borrowed.load_id == "load 1"
        found.append(_lengths(borrowed, 5))

    others = [threading.Thread(target=borrow) for _ in range(4)]
    for other in others:
        other.start()
    expected = [float(10 * w + i) for w in range(5) for i in range(3)]
    assert _lengths(owner, 5) == expected
    for other in others:
        other.join()
    assert found == [expected] * 4
    assert loads == [1]
    owner.close()


def test_an_owner_that_nobody_uses_gives_way_to_another_model(gpu: Gpu) -> None:
    first = obtain([gpu], "model a", lambda encoder: "a", lambda: _Sums())  # type: ignore[arg-type, return-value]
    assert isinstance(first, OwnedEncoder)
    second = obtain([gpu], "model b", lambda encoder: "b", lambda: _Sums(), wait_s=10)  # type: ignore[arg-type, return-value]
    assert isinstance(second, OwnedEncoder)
    assert first.is_closed
    assert _lengths(second, 1) == [0.0, 1.0, 2.0]
    second.close()


def test_a_gpu_that_is_busy_with_another_model_is_waited_for_and_then_named_with_the_settings(gpu: Gpu) -> None:
    owner = obtain([gpu], "model a", lambda encoder: "a", lambda: _Sums())  # type: ignore[arg-type, return-value]
    assert isinstance(owner, OwnedEncoder)
    stream = owner.encode_batches(iter([["x"], ["y"]]))
    next(stream)
    with pytest.raises(EnvironmentFault, match=rf"process {os.getpid()} uses .* spark\.task\.resource\.gpu\.amount=1"):
        obtain([gpu], "model b", lambda encoder: "b", lambda: _Sums(), wait_s=0.5)  # type: ignore[arg-type, return-value]
    assert len(list(stream)) == 1
    owner.close()


def test_texts_of_a_lost_owner_come_back_and_the_gpu_is_free(gpu: Gpu) -> None:
    owner = obtain([gpu], "model", lambda encoder: "load 1", lambda: _Sums())  # type: ignore[arg-type, return-value]
    borrowed = obtain([gpu], "model", lambda encoder: "-", lambda: pytest.fail("loaded twice"))
    assert isinstance(owner, OwnedEncoder)
    windows = iter([["a"], ["b"], ["c"]])
    stream = borrowed.encode_batches(windows)
    next(stream)
    owner.close()
    with pytest.raises(OwnerLostError) as lost:
        next(stream)
    assert list(lost.value.texts) == ["b"]
    assert list(windows) == [["c"]]
    again = obtain([gpu], "model", lambda encoder: "load 2", lambda: _Sums())  # type: ignore[arg-type, return-value]
    assert again.load_id == "load 2"
    again.close()  # type: ignore[union-attr]


def test_an_owner_whose_socket_was_removed_gives_the_gpu_back_all_the_same(gpu: Gpu) -> None:
    owner = obtain([gpu], "model", lambda encoder: "load 1", lambda: _Sums())  # type: ignore[arg-type, return-value]
    shared_encoder.lease_path(gpu).with_suffix(".sock").unlink()
    assert isinstance(owner, OwnedEncoder)
    owner.close()
    assert owner._listener.fileno() == -1  # nothing of it is left to be tidied up when the process ends
    assert not owner._accepting.is_alive()
    again = obtain([gpu], "model", lambda encoder: "load 2", lambda: _Sums(), wait_s=1)  # type: ignore[arg-type, return-value]
    borrowed = obtain([gpu], "model", lambda encoder: "-", lambda: pytest.fail("loaded twice"))
    assert borrowed.load_id == again.load_id == "load 2"
    again.close()  # type: ignore[union-attr]


def test_an_end_of_an_owner_does_not_remove_the_next_ones_socket(gpu: Gpu) -> None:
    owner = obtain([gpu], "model", lambda encoder: "load 1", lambda: _Sums())  # type: ignore[arg-type, return-value]
    path = shared_encoder.lease_path(gpu).with_suffix(".sock")
    assert isinstance(owner, OwnedEncoder)
    owner.close()
    assert not owner._accepting.is_alive()
    assert not path.exists()
    again = obtain([gpu], "model", lambda encoder: "load 2", lambda: _Sums())  # type: ignore[arg-type, return-value]
    owner.close()
    assert path.exists()
    again.close()  # type: ignore[union-attr]


def test_a_model_over_two_gpus_is_shared_and_gives_way_to_one_on_either(tmp_path: Path) -> None:
    gpus = [Gpu("cpu", f"pretended {tmp_path} {index}") for index in range(3)]
    try:
        both = obtain(gpus[:2], "model", lambda encoder: "both", lambda: _Sums())  # type: ignore[arg-type, return-value]
        assert isinstance(both, OwnedEncoder)
        shared = obtain(gpus[1::-1], "model", lambda encoder: "-", lambda: pytest.fail("loaded twice"))
        assert _lengths(shared, 2) == [0.0, 1.0, 2.0, 10.0, 11.0, 12.0]
        later = obtain(gpus[1:], "model", lambda encoder: "later", lambda: _Sums(), wait_s=10)  # type: ignore[arg-type, return-value]
        assert isinstance(later, OwnedEncoder)
        assert both.is_closed
        first = obtain(gpus[:1], "model", lambda encoder: "first", lambda: _Sums(), wait_s=10)  # type: ignore[arg-type, return-value]
        assert not later.is_closed
        for owner in (later, first):
            assert isinstance(owner, OwnedEncoder)
            owner.close()
    finally:
        for gpu in gpus:
            path = shared_encoder.lease_path(gpu)
            path.unlink(missing_ok=True)
            path.with_suffix(".sock").unlink(missing_ok=True)


def test_a_load_that_fails_leaves_the_gpu_to_others(gpu: Gpu) -> None:
    def fail() -> Any:
        raise EnvironmentFault("no memory")

    with pytest.raises(EnvironmentFault, match="no memory"):
        obtain([gpu], "model", lambda encoder: "-", fail)
    owner = obtain([gpu], "model", lambda encoder: "load", lambda: _Sums(), wait_s=1)  # type: ignore[arg-type, return-value]
    assert isinstance(owner, OwnedEncoder)
    owner.close()


def test_a_worker_that_is_given_another_gpu_loads_there_and_both_loads_count(
    assign: Any, monkeypatch: pytest.MonkeyPatch, gpu: Gpu
) -> None:
    gpus = [Gpu("cpu", f"{gpu.uuid}{index}") for index in range(2)]
    monkeypatch.setattr(devices, "visible_gpus", lambda: gpus)
    loaded: list[str] = []
    monkeypatch.setattr(encoder_cache, "load_encoder", lambda request, device: loaded.append(device) or _Sums())
    request = EncoderRequest(without_files(EmbeddingSpec(model="m")), "cuda", origin="run")
    try:
        load_ids = []
        for address in ("0", "0", "1", "0", "1"):
            assign(address)
            load_ids.append(encoder_cache.get_encoder(request).load_id)
        assert len(loaded) == len(set(load_ids)) == 2
        assert load_ids[0] == load_ids[1] == load_ids[3] != load_ids[2] == load_ids[4]
        assign("1")
        other = EncoderRequest(without_files(EmbeddingSpec(model="another")), "cuda", origin="run")
        assert encoder_cache.get_encoder(other).load_id not in load_ids
        assert len(loaded) == 3
    finally:
        for owner in encoder_cache._on_gpus.values():
            owner.close()
        encoder_cache._on_gpus.clear()
        for each in gpus:
            shared_encoder.lease_path(each).unlink()


@pytest.mark.slow
def test_another_spec_of_a_model_takes_over_its_weights_and_its_lease(
    assign: Any, monkeypatch: pytest.MonkeyPatch, gpu: Gpu, tmp_path: Path, spec: EmbeddingSpec
) -> None:
    monkeypatch.setattr(devices, "visible_gpus", lambda: [gpu])
    loads: list[str] = []
    load = encoder_cache.load_encoder
    monkeypatch.setattr(encoder_cache, "load_encoder", lambda request, device: loads.append(device) or load(request, "cpu"))
    specs = [spec, replace(spec, templates="metaeol-fast"), replace(spec, layer=1), replace(spec, dtype="bfloat16"), spec]
    requests = [EncoderRequest(resolve_local(each), "cuda", origin=f"run{place}") for place, each in enumerate(specs)]
    assign("0")
    try:
        for request, each, n_loads in zip(requests, specs, (1, 1, 1, 2, 3), strict=True):
            found = encoder_cache.get_encoder(request)
            assert len(loads) == n_loads
            assert Lease(shared_encoder.lease_path(gpu)).try_acquire() is False
            (encoded,) = found.encoder.encode_batches([["a text", "x"]])
            expected = MetaEOLEncoder.from_spec(each, device="cpu").encode(["a text", "x"])
            np.testing.assert_allclose(encoded.vectors, expected, atol=5e-2 if each.dtype == "bfloat16" else 2e-5)
        assert encoder_cache.get_encoder(requests[-1]).load_id.endswith(":run4")
    finally:
        for owner in encoder_cache._on_gpus.values():
            owner.close()
        encoder_cache._on_gpus.clear()
        shared_encoder.lease_path(gpu).unlink()


def test_compiled_code_is_kept_in_a_folder_of_this_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/chosen/by/the/user")
    encoder_cache.keep_compiled_code()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/chosen/by/the/user"
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    for _ in range(2):  # a later worker finds it
        encoder_cache.keep_compiled_code()
        folder = tmp_path / "metaeol" / "compiled"
        assert os.environ.pop("TORCHINDUCTOR_CACHE_DIR") == str(folder)
        assert folder.stat().st_mode & 0o777 == 0o700


def test_compiled_code_never_goes_to_a_folder_that_others_may_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    (tmp_path / "metaeol" / "compiled").mkdir(parents=True)
    (tmp_path / "metaeol" / "compiled").chmod(0o777)
    encoder_cache.keep_compiled_code()
    chosen = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert chosen.parent == tmp_path
    assert chosen.stat().st_mode & 0o777 == 0o700
    assert "compiled again by the next worker: the folder" in caplog.text

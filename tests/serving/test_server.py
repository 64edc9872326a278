"""The server's protocol, limits and end, with an encoder whose vectors are known; and one real start in a process of its own."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from metaeol_udf import cli
from metaeol_udf.encoder import Encoded
from metaeol_udf.errors import ConfigError, EnvironmentFault
from metaeol_udf.serving.connection import Limits
from metaeol_udf.serving.server import EmbeddingServer, ServeOptions

FINGERPRINT = "0123456789abcdef"
TOKEN = "a-token-of-twenty-two"


def vector_of(text: str) -> list[float]:
    return [float(len(text)), 0.1, float(sum(text.encode()))]


class KnownEncoder:
    """Gives each text a vector that is known, and waits until it may. A text with `fails` has none."""

    def __init__(self) -> None:
        self.may_run, self.batches = Event(), []
        self.may_run.set()

    def encode_rows(self, texts: Sequence[str]) -> Encoded:
        self.batches.append(list(texts))
        assert self.may_run.wait(30)
        if "raise" in texts:
            raise RuntimeError("a secret text")
        n = len(texts)
        errors = ["non_finite" if "fails" in text else None for text in texts]
        return Encoded(np.array([vector_of(text) for text in texts], np.float32), errors, np.zeros(n, bool), np.full(n, 7), np.zeros(n))


@contextmanager
def serving(encoder: KnownEncoder, **options: Any) -> Iterator[EmbeddingServer]:
    limits = Limits(**{"timeout_s": 5.0, "ending_s": 5.0, **options.pop("limits", {})})
    server = EmbeddingServer(ServeOptions(port=0, name="mine", limits=limits, **options))
    server.open(SimpleNamespace(fingerprint=FINGERPRINT, dim=3, encoder=encoder))  # type: ignore[arg-type]
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        encoder.may_run.set()
        if not server.is_ending:
            server.stop()


@pytest.fixture
def encoder() -> KnownEncoder:
    return KnownEncoder()


def ask(server: EmbeddingServer, body: Any, *, path: str = "/v1/embeddings", method: str = "POST", **headers: str) -> tuple[int, Any]:
    """Status and body of one request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    sent = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, sent, {"Content-Type": "application/json", **headers})
    answer = connection.getresponse()
    read = answer.read()
    connection.close()
    return answer.status, json.loads(read) if answer.headers["Content-Type"] == "application/json" else read.decode()


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_vectors_come_in_the_order_of_the_texts_in_both_encodings(encoder: KnownEncoder) -> None:
    texts = ["one", "three and more", "two"]
    with serving(encoder) as server:
        status, found = ask(server, {"model": FINGERPRINT, "input": texts})
        assert (status, found["object"], found["model"]) == (200, "list", FINGERPRINT)
        assert [each["index"] for each in found["data"]] == [0, 1, 2]
        assert [each["embedding"] for each in found["data"]] == [[float(np.float32(x)) for x in vector_of(text)] for text in texts]
        assert found["usage"] == {"prompt_tokens": 21, "total_tokens": 21}
        body = {"model": "mine", "input": "one", "encoding_format": "base64", "dimensions": 3, "user": "me"}
        status, found = ask(server, body)
        assert status == 200
        decoded = np.frombuffer(base64.b64decode(found["data"][0]["embedding"]), "<f4")
        assert decoded.tolist() == np.array(vector_of("one"), np.float32).tolist()


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"model": "text-embedding-3-small"}, 404, "'text-embedding-3-small' is not served here"),
        ({"model": None}, 400, f"model must name the served spec: {FINGERPRINT} or mine"),
        ({"dimensions": 2}, 400, "dimensions must be 3"),
        ({"dimensions": True}, 400, "dimensions must be 3"),
        ({"encoding_format": "int8"}, 400, "encoding_format must be float or base64"),
        ({"input": []}, 400, "not empty"),
        ({"input": [[1, 2]]}, 400, "lists of tokens are not taken"),
        ({"input": ["fine", " \n"]}, 400, "input[1] is blank"),
        ({"input": ["secret"] * 5}, 400, "input holds 5 texts, and a request may hold 4"),
        ({"input": ["fine", "secret fails"]}, 500, "input[1] could not be embedded: non_finite"),
        ({"input": "raise"}, 500, "the texts could not be embedded: RuntimeError"),
        ({"input_type": "query"}, 400, "unknown field 'input_type'"),
        ({"user": 3}, 400, "user must be a string"),
    ],
)
def test_a_request_for_anything_else_is_refused(encoder: KnownEncoder, change: dict[str, Any], status: int, words: str) -> None:
    with serving(encoder, limits={"max_texts": 4}) as server:
        found, answer = ask(server, {"model": "mine", "input": "one", **change})
    assert (found, words in answer["error"]["message"]) == (status, True), answer
    assert "secret" not in json.dumps(answer)


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"\xff\xfe", {}, 400),
        (b"[" * 100_000, {}, 400),
        (b"[1]", {}, 400),
        (b"{}", {"Content-Type": "text/plain"}, 415),
        (b"x" * 200_001, {}, 413),
        (b"{}", {"Content-Length": "-1"}, 411),
        (b"{}", {"Content-Length": "9" * 5000}, 413),
        (b"{}", {"Transfer-Encoding": "chunked"}, 411),
    ],
)
def test_what_is_no_request_is_refused_and_the_server_goes_on(
    encoder: KnownEncoder, body: bytes, headers: dict[str, str], status: int
) -> None:
    with serving(encoder, limits={"max_request_bytes": 200_000}) as server:
        assert ask(server, body, **headers)[0] == status
        assert ask(server, {"model": "mine", "input": "one"})[0] == 200
        assert ask(server, {}, path="/v1/chat")[0] == 404
        assert ask(server, None, path="/elsewhere", method="GET")[0] == 404


def test_requests_that_come_while_the_model_runs_are_one_batch(encoder: KnownEncoder) -> None:
    encoder.may_run.clear()
    with serving(encoder) as server, ThreadPoolExecutor(9) as pool:
        first = pool.submit(ask, server, {"model": "mine", "input": "first"})
        eventually(lambda: len(encoder.batches) == 1)
        others = [pool.submit(ask, server, {"model": "mine", "input": [f"text {n}", "x" * n]}) for n in range(1, 9)]
        eventually(lambda: server.queue.n_waiting == 16)
        encoder.may_run.set()
        assert first.result()[0] == 200
        for n, other in enumerate(others, 1):
            status, found = other.result()
            assert status == 200
            assert [each["embedding"][0] for each in found["data"]] == [6, n]
    assert [len(batch) for batch in encoder.batches] == [1, 16]


def test_a_full_queue_answers_429_and_takes_texts_again_later(encoder: KnownEncoder) -> None:
    encoder.may_run.clear()
    with serving(encoder, limits={"max_texts": 3, "max_waiting_texts": 3}) as server, ThreadPoolExecutor(2) as pool:
        running = pool.submit(ask, server, {"model": "mine", "input": "runs"})
        eventually(lambda: len(encoder.batches) == 1)
        waiting = pool.submit(ask, server, {"model": "mine", "input": ["a", "b"]})
        eventually(lambda: server.queue.n_waiting == 2)
        status, found = ask(server, {"model": "mine", "input": ["c", "d"]})
        assert (status, found["error"]["code"]) == (429, "rate_limit_exceeded")
        encoder.may_run.set()
        assert (running.result()[0], waiting.result()[0]) == (200, 200)
        assert ask(server, {"model": "mine", "input": ["c", "d"]})[0] == 200


def test_a_token_is_asked_for_where_there_is_one(encoder: KnownEncoder, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    with serving(encoder, token_file=tmp_path / "token") as server:
        body = {"model": "mine", "input": "one"}
        assert ask(server, body, Authorization=f"Bearer {TOKEN}")[0] == 200
        for wrong in ({}, {"Authorization": TOKEN}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": "Bearer \xe9"}):
            assert ask(server, body, **wrong)[0] == 401
        assert ask(server, None, path="/metrics", method="GET")[0] == 401
        assert ask(server, None, path="/v1/models", method="GET")[0] == 401
        assert ask(server, None, path="/health", method="GET") == (200, {"status": "ok"})


def test_other_machines_need_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHORT", "short")
    for host in ("0.0.0.0", "::", "example.org", "192.168.0.1"):
        with pytest.raises(ConfigError, match=f"--host {host} can be reached from other machines"):
            EmbeddingServer(ServeOptions(host=host, port=0))
    for options, message in (
        ({"token_env": "NOT_SET"}, "--token-env NOT_SET must hold at least 16"),
        ({"token_env": "SHORT"}, "must hold at least 16"),
        ({"token_file": tmp_path / "none"}, "cannot be read: FileNotFoundError"),
        ({"token_file": tmp_path / "none", "token_env": "SHORT"}, "give one of them"),
    ):
        with pytest.raises(ConfigError, match=message):
            EmbeddingServer(ServeOptions(host="0.0.0.0", port=0, **options))  # type: ignore[arg-type]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(EnvironmentFault, match=r"cannot listen on 127\.0\.0\.1"):
            EmbeddingServer(ServeOptions(port=taken.getsockname()[1]))


def test_metrics_are_read_by_prometheus(encoder: KnownEncoder) -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    with serving(encoder) as server:
        ask(server, {"model": "mine", "input": ["one", "two"]})
        ask(server, {"model": "other", "input": "one"})
        status, text = ask(server, None, path="/metrics", method="GET")
    assert status == 200
    samples = {(s.name, *s.labels.values()): s.value for family in parser.text_string_to_metric_families(text) for s in family.samples}
    assert samples["metaeol_serve_requests_total", "200"] == samples["metaeol_serve_requests_total", "404"] == 1
    assert (samples["metaeol_serve_texts_total",], samples["metaeol_serve_tokens_total",]) == (2, 14)
    assert samples["metaeol_serve_request_seconds_bucket", "+Inf"] == samples["metaeol_serve_request_seconds_count",] == 2
    assert samples["metaeol_serve_spec", FINGERPRINT] == 1


def test_silent_and_slow_clients_are_left_and_others_are_answered(encoder: KnownEncoder) -> None:
    with serving(encoder, limits={"timeout_s": 0.6, "max_connections": 2}) as server:
        silent, slow = (socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(2))
        slow.sendall(b"POST /v1/embeddings HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n")
        eventually(lambda: "metaeol_serve_connections 2" in server.metrics_text())
        third = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        assert third.recv(1000).startswith(b"HTTP/1.1 503 ")
        begun = time.monotonic()
        with suppress(OSError):  # whichever way the closed connection shows
            while time.monotonic() - begun < 20:
                slow.sendall(b" ")  # a byte now and then does not keep it
                time.sleep(0.1)
        assert time.monotonic() - begun < 10
        assert silent.recv(10) == b""
        for each in (silent, slow, third):
            each.close()
        eventually(lambda: "metaeol_serve_connections 0" in server.metrics_text())
        assert ask(server, {"model": "mine", "input": "one"})[0] == 200


def test_no_text_is_logged_or_said(encoder: KnownEncoder, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    caplog.set_level("DEBUG")
    with serving(encoder) as server:
        answers = [ask(server, {"model": "mine", "input": ["a secret text", text]}) for text in ("fine", "fails", "raise", " ")]
        answers.append(ask(server, b'{"model": "mine", "input": "a secret text'))
    assert [status for status, _ in answers] == [200, 500, 500, 400, 400]
    assert "POST /v1/embeddings" in caplog.text
    assert "secret" not in caplog.text + json.dumps(answers) + "".join(capfd.readouterr())


def test_a_connection_serves_many_requests(encoder: KnownEncoder) -> None:
    with serving(encoder) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        for model, status in (("mine", 200), ("other", 404), ("mine", 200)):
            connection.request("POST", "/v1/embeddings", json.dumps({"model": model, "input": "a"}), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == status
            assert answer.headers["Connection"] is None
        connection.close()


def test_the_end_answers_what_was_taken_and_takes_nothing_more(encoder: KnownEncoder) -> None:
    encoder.may_run.clear()
    with serving(encoder) as server, ThreadPoolExecutor(3) as pool:
        running = pool.submit(ask, server, {"model": "mine", "input": "runs"})
        eventually(lambda: len(encoder.batches) == 1)
        waiting = pool.submit(ask, server, {"model": "mine", "input": "waits"})
        eventually(lambda: server.queue.n_waiting == 1)
        ending = pool.submit(server.stop)
        eventually(lambda: server.is_ending and not server.queue.is_running)
        assert ask(server, {"model": "mine", "input": "late"})[0] == 503
        assert ask(server, None, path="/health", method="GET") == (503, {"status": "ending"})
        encoder.may_run.set()
        assert (running.result()[0], waiting.result()[0], ending.result()) == (200, 200, True)
        with pytest.raises(ConnectionError):
            socket.create_connection(("127.0.0.1", server.port), timeout=5)


@pytest.mark.long
def test_the_command_serves_the_encoders_vectors_until_sigterm(tiny_model_dir: Path, tmp_path: Path) -> None:
    from metaeol_udf import MetaEOLEncoder
    from metaeol_udf.encoder.checkpoint.resolve import resolve_local

    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump({"model": str(tiny_model_dir), "dtype": "float32"}))
    command = [sys.executable, "-m", "metaeol_udf.cli", "serve", str(spec), "runtime.device=cpu", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()}) as process:
        try:
            assert process.stdout is not None
            encoder = MetaEOLEncoder.from_spec(spec, device="cpu")
            line = process.stdout.readline()
            fingerprint = resolve_local(encoder.spec).fingerprint
            assert line.endswith(f"/v1/embeddings serves model {fingerprint}\n")
            server = SimpleNamespace(port=int(line.split(":")[2].partition("/")[0]))
            texts = ["a first text", "and a second, somewhat longer one"]
            status, found = ask(server, {"model": fingerprint, "input": texts})  # type: ignore[arg-type]
            assert status == 200
            np.testing.assert_allclose([each["embedding"] for each in found["data"]], encoder.encode(texts), atol=1e-4)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()


def test_another_spec_than_the_one_that_is_wanted_is_not_served(
    tiny_model_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump({"model": str(tiny_model_dir), "dtype": "float32"}))
    assert cli.run(["serve", str(spec), "--fingerprint", FINGERPRINT]) == 2
    assert f"{FINGERPRINT} is asked for" in capfd.readouterr().err

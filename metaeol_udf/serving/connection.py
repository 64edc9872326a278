"""One HTTP connection of a server: reads requests within limits of time and size, and writes answers."""

from __future__ import annotations

import hmac
import io
import logging
import time
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from socket import socket
from typing import Any, Protocol

from metaeol_udf.errors import ConfigError
from metaeol_udf.serving.metrics import Metrics
from metaeol_udf.serving.protocol import RequestError, parse_request, write_answer, write_models
from metaeol_udf.serving.text_queue import Answer, QueueFullError, TextQueue

logger = logging.getLogger(__name__)
_JSON = "application/json"
_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Says how much a server takes. Nothing in here changes a vector."""

    max_texts: int = 2_048  # of one request
    max_waiting_texts: int = 8_192  # of all requests; more are answered with 429
    max_batch_texts: int = 2_048  # planned together
    max_request_bytes: int = 16 * 2**20
    max_connections: int = 256  # at once; more are answered with 503
    timeout_s: float = 30.0  # of a silent connection, of the reading of a request, of a write
    answer_timeout_s: float = 600.0  # until texts in the queue are given up
    ending_s: float = 30.0  # for what was taken when the server is told to end

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise ConfigError(f"{name} of a server must be over 0, found {value}")
        if self.max_texts > self.max_waiting_texts:
            raise ConfigError(f"a request may hold {self.max_texts} texts, and only {self.max_waiting_texts} may wait: raise --max-waiting")


class Service(Protocol):
    """Says what a connection needs of its server."""

    limits: Limits
    token: str | None
    names: tuple[str, ...]
    dim: int
    fingerprint: str
    queue: TextQueue
    metrics: Metrics
    is_ending: bool

    def metrics_text(self) -> str:
        """Write the metrics."""

    def request(self) -> AbstractContextManager[None]:
        """Count a request that is being answered."""


class Connection(BaseHTTPRequestHandler):
    """Answers the requests of one connection, in a thread of its own.

    A client that is silent between requests, or slow within one, is left after `timeout_s`.
    """

    server: Service  # type: ignore[assignment]  # the base class knows a server by its sockets alone
    protocol_version = "HTTP/1.1"
    server_version = "metaeol"
    sys_version = ""  # the version of Python is nobody's business
    disable_nagle_algorithm = True

    def setup(self) -> None:
        """Read by a reader that keeps to a deadline, in place of a limit for each read."""
        super().setup()
        self.reader = _DeadlineReader(self.connection, self.server.limits.timeout_s)
        self.rfile = io.BufferedReader(self.reader)

    def handle_one_request(self) -> None:
        """Give the client time for one request; a client that went away ends the connection."""
        self.reader.restart()
        self._started = time.monotonic()
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        if self.server.is_ending:
            self.close_connection = True

    def parse_request(self) -> bool:
        """Give the rest of a request time of its own, from its first line on."""
        self.reader.restart()
        self._started = time.monotonic()
        return super().parse_request()

    def do_GET(self) -> None:
        """Answer health, metrics and the list of models."""
        try:
            if self.path == "/health":
                is_well = self.server.queue.is_running and not self.server.is_ending
                self._send(200 if is_well else 503, b'{"status": "ok"}' if is_well else b'{"status": "ending"}')
            elif self.path == "/metrics":
                self._require_token()
                self._send(200, self.server.metrics_text().encode(), _PROMETHEUS)
            elif self.path == "/v1/models":
                self._require_token()
                self._send(200, write_models(self.server.names))
            else:
                raise RequestError(404, "not_found", "there are /v1/embeddings, /v1/models, /health and /metrics")
        except RequestError as error:
            self._refuse(error)

    def do_POST(self) -> None:
        """Answer `/v1/embeddings`."""
        if self.path != "/v1/embeddings":
            self.close_connection = True  # its body is not read
            self._refuse(RequestError(404, "not_found", "POST goes to /v1/embeddings"))
            return
        with self.server.request():
            try:
                status, body = 200, self._embed()
            except RequestError as error:
                status = error.status
                self._refuse(error)
            else:
                self._send(200, body)
        self.server.metrics.count_request(status, time.monotonic() - self._started)

    def _embed(self) -> bytes:
        server, closes = self.server, self.close_connection
        length = self._length()
        self._require_token()
        body = self.rfile.read(length)
        if len(body) < length:
            raise ConnectionResetError("the client left before the body was whole")
        self.close_connection = closes
        request = parse_request(body, server.names, server.dim, server.limits.max_texts)
        answer = self._wait(request.texts)
        failed = [(place, error) for place, error in enumerate(answer.errors) if error is not None]
        if failed:
            place, error = failed[0]
            raise RequestError(500, "embedding_failed", f"input[{place}] could not be embedded: {error}", "input")
        server.metrics.count_texts(len(request.texts), answer.n_trimmed, answer.n_tokens)
        return write_answer(request, answer.vectors, server.fingerprint, answer.n_tokens)

    def _wait(self, texts: list[str]) -> Answer:
        try:
            future = self.server.queue.submit(texts)
        except QueueFullError as error:
            is_ending = self.server.is_ending
            raise RequestError(503 if is_ending else 429, "ending" if is_ending else "rate_limit_exceeded", str(error)) from None
        try:
            return future.result(self.server.limits.answer_timeout_s)
        except FutureTimeoutError:
            future.cancel()
            raise RequestError(503, "too_slow", "the texts waited too long for the model") from None
        except Exception as error:  # a library's message may quote a text
            raise RequestError(500, "embedding_failed", f"the texts could not be embedded: {type(error).__name__}") from error

    def _length(self) -> int:
        """Return the length of the body; until it is read, the connection cannot be used again."""
        self.close_connection = True
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind != _JSON:  # a page in a browser can send another kind to this machine without being asked
            raise RequestError(415, "unsupported_media_type", f"Content-Type must be {_JSON}")
        if self.headers.get("Transfer-Encoding") is not None:
            raise RequestError(411, "length_required", "a body must come whole, with Content-Length")
        lengths = self.headers.get_all("Content-Length") or []
        if len(lengths) != 1 or not (lengths[0].isascii() and lengths[0].isdecimal()):
            raise RequestError(411, "length_required", "Content-Length must be there once, as a number of bytes")
        most = self.server.limits.max_request_bytes
        if len(lengths[0]) > 18 or int(lengths[0]) > most:
            raise RequestError(413, "request_too_large", f"a request may have {most} bytes: send several")
        return int(lengths[0])

    def _require_token(self) -> None:
        token = self.server.token
        given = self.headers.get("Authorization", "")
        if token is not None and not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), f"Bearer {token}".encode()):
            raise RequestError(401, "invalid_api_key", "Authorization must be Bearer with the server's token")

    def _refuse(self, error: RequestError) -> None:
        headers = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}, 503: {"Retry-After": "5"}}.get(error.status, {})
        self._send(error.status, error.to_json(), headers=headers)

    def _send(self, status: int, body: bytes, kind: str = _JSON, headers: dict[str, str] | None = None) -> None:
        self.connection.settimeout(self.server.limits.timeout_s)  # of each write: a client that does not read is left too
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        if self.close_connection or self.server.is_ending:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log to the package's logger, at a level that nobody sees without --verbose."""
        logger.info("%s", format % args)


class _DeadlineReader(io.RawIOBase):
    """Reads from a socket until a point in time, whatever the number of reads: a byte now and then gains nothing."""

    def __init__(self, connection: socket, timeout_s: float) -> None:
        self._connection, self._timeout_s = connection, timeout_s
        self.restart()

    def restart(self) -> None:
        """Give the whole time anew."""
        self._deadline = time.monotonic() + self._timeout_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the client was too slow")
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)

"""`metaeol serve`: one spec behind an HTTP server of the standard library, with one queue for all connections."""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Condition, Event, Thread
from typing import Any

from metaeol_udf.config import GivenEncoderConfig, as_encoder_config
from metaeol_udf.encoder.checkpoint.resolve import resolve_local
from metaeol_udf.errors import ConfigError, EnvironmentFault, one_line
from metaeol_udf.serving.connection import Connection, Limits
from metaeol_udf.serving.embedder import SpecEmbedder, require_fingerprint
from metaeol_udf.serving.metrics import Metrics
from metaeol_udf.serving.text_queue import TextQueue
from metaeol_udf.terminal import waiting

logger = logging.getLogger(__name__)
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_LEAST_TOKEN = 16  # characters


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Says where a server listens, and to whom."""

    host: str = "127.0.0.1"
    port: int = 8000  # 0: any free one
    name: str | None = None  # a second name of the spec beside its fingerprint
    fingerprint: str | None = None  # what the spec's must be
    token_file: Path | None = None
    token_env: str | None = None
    limits: Limits = field(default_factory=Limits)


class EmbeddingServer(ThreadingHTTPServer):
    """Listens from its making on, and answers from `serve_forever` on. One thread a connection.

    Attributes:
        limits: How much is taken.
        token: What requests must show; None: nothing.
        names: What a request may call the spec.
        fingerprint: Of the spec.
        dim: Length of a vector.
        queue: Where texts wait for the model.
        metrics: What was done.
        is_ending: Whether the server takes nothing more.
    """

    daemon_threads = True  # `stop` waits for what was taken, and for nobody who is only connected
    allow_reuse_address = True
    request_queue_size = 128
    fingerprint: str
    dim: int
    queue: TextQueue

    def __init__(self, options: ServeOptions) -> None:
        """Bind the address.

        Raises:
            ConfigError: There is no token where one must be.
            EnvironmentFault: The address cannot be had.
        """
        self.limits, self.token = options.limits, read_token(options)
        self.names: tuple[str, ...] = ()
        self.metrics, self.is_ending = Metrics(), False
        self._name = options.name
        self._n_connections = self._n_requests = 0
        self._changed = Condition()
        self.address_family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        try:
            super().__init__((options.host, options.port), Connection)
        except (OSError, OverflowError) as error:
            raise EnvironmentFault(f"cannot listen on {options.host}, port {options.port}: {one_line(error)}") from None

    @property
    def port(self) -> int:
        """Return the port that the server listens on."""
        return int(self.server_address[1])

    def open(self, embedder: SpecEmbedder) -> None:
        """Set what is served, and start its queue."""
        self.fingerprint, self.dim = embedder.fingerprint, embedder.dim
        self.names = tuple(dict.fromkeys(filter(None, (embedder.fingerprint, self._name))))
        self.queue = TextQueue(embedder.encoder.encode_rows, self.limits.max_waiting_texts, self.limits.max_batch_texts)

    def stop(self) -> bool:
        """Take nothing more, answer what was taken, and end. Returns whether all was answered in time."""
        self.is_ending = True
        deadline = time.monotonic() + self.limits.ending_s
        is_done = self.queue.close(self.limits.ending_s)
        with self._changed:
            is_done &= self._changed.wait_for(lambda: self._n_requests == 0, max(0.0, deadline - time.monotonic()))
        self.shutdown()
        self.server_close()
        return is_done

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count a request that is being answered, for `stop` to wait for."""
        with self._changed:
            self._n_requests += 1
        try:
            yield
        finally:
            with self._changed:
                self._n_requests -= 1
                self._changed.notify_all()

    def metrics_text(self) -> str:
        """Write the metrics."""
        queue = self.queue
        gauges = {
            "waiting_texts": ("Texts that wait for the model.", float(queue.n_waiting)),
            "batches": ("Batches of texts that were planned together, since the start.", float(queue.n_batches)),
            "connections": ("Open connections.", float(self._n_connections)),
        }
        return self.metrics.to_text(gauges, {"fingerprint": self.fingerprint})

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection a thread, as long as there are not too many."""
        with self._changed:
            has_place = self._n_connections < self.limits.max_connections
            self._n_connections += has_place
        if has_place:
            super().process_request(request, client_address)
            return
        with suppress(OSError):
            request.settimeout(1.0)
            request.sendall(_BUSY)
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer a connection, and give its place back."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._changed:
                self._n_connections -= 1

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log that a connection failed, by the error's class: its message may quote a text."""
        kind = sys.exc_info()[0]
        logger.error("a connection failed: %s", "unknown" if kind is None else kind.__name__)


def run_serve(config: GivenEncoderConfig, options: ServeOptions, say: Callable[[EmbeddingServer], None]) -> None:
    """Serve the spec of a configuration until SIGTERM or SIGINT; returns once what was taken is answered. Only the main thread may call it.

    Args:
        config: A configuration, its path, nested mappings, or a spec. `embedding` is read, and of `runtime` `device` and
            `max_batch_tokens`.
        options: Where to listen.
        say: Called once the model is loaded, before the first answer.

    Raises:
        ConfigError: A setting is wrong, or a token is missing. No model has been loaded then.
        EnvironmentFault: The address cannot be had, or what was taken could not be answered in time.
        ModelFilesError: The model's files are not whole.
    """
    config = as_encoder_config(config)
    resolved = resolve_local(config.embedding)
    require_fingerprint(resolved.fingerprint, options.fingerprint)
    server, ended = EmbeddingServer(options), Event()
    handlers = {number: signal.signal(number, lambda *_: ended.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        runtime = config.runtime
        with waiting("loading the model"):
            embedder = SpecEmbedder(resolved, device=runtime.device, max_batch_tokens=runtime.max_batch_tokens)
            embedder.embed(["The first text computes what all later ones share."])
        server.open(embedder)
        serving = Thread(target=server.serve_forever, name="metaeol-serve", daemon=True)
        serving.start()
        say(server)
        ended.wait()
        if not server.stop():
            raise EnvironmentFault(f"texts were still waiting {options.limits.ending_s:g} seconds after the server was told to end")
    finally:
        server.server_close()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def read_token(options: ServeOptions) -> str | None:
    """Read the token that requests must show.

    Raises:
        ConfigError: There is none and the address is no loopback one, both ways are given, or the token cannot be read or is too short.
    """
    if options.token_file is not None and options.token_env is not None:
        raise ConfigError("--token-file and --token-env: give one of them")
    if options.token_file is None and options.token_env is None:
        if not _is_loopback(options.host):
            raise ConfigError(f"--host {options.host} can be reached from other machines: give --token-file or --token-env")
        return None
    if options.token_file is not None:
        where = f"--token-file {options.token_file}"
        try:
            found = options.token_file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ConfigError(f"{where} cannot be read: {type(error).__name__}") from None
    else:
        where, found = f"--token-env {options.token_env}", os.environ.get(str(options.token_env), "")
    token = found.strip()
    if len(token) < _LEAST_TOKEN or not (token.isascii() and token.isprintable()) or " " in token:
        raise ConfigError(f"{where} must hold at least {_LEAST_TOKEN} printable ASCII characters without a space")
    return token


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

"""S3 on this machine: moto's server, and a proxy before it that meddles with requests."""

from __future__ import annotations

import http.client
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.clusters.packages import Unavailable
from tests.clusters.services import HOST, Service, free_port, running

#: A bucket with Hadoop's defaults, and one with the setting of which one could think that it keeps drivers apart.
BUCKET, QUICK_BUCKET = "tables", "quick"
#: moto checks no signature, but that there is one.
_SOMEBODY = {"Authorization": "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"}
_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "proxy-authenticate", "proxy-authorization"}


@dataclass(frozen=True)
class Request:
    """A request on its way to the store; the path is that of bucket and key."""

    method: str
    path: str
    headers: Mapping[str, str]


#: What a meddler wants: None lets a request pass, "slow down" answers 503, "cut" closes the connection before the request reaches the
#: store, "lose" after it.
Meddler = Callable[[Request], str | None]


@dataclass
class S3:
    """A store at a port, seen through a proxy.

    Attributes:
        direct: The port of the store itself.
        port: The port of the proxy.
        seen: All requests that went through the proxy.
        meddle: What the proxy does with a request; may be set while it runs.
    """

    direct: int
    port: int = 0
    seen: list[Request] = field(default_factory=list)
    meddle: Meddler = lambda request: None

    def settings(self) -> dict[str, str]:
        """Hadoop's settings that lead to the proxy."""
        return {
            "fs.s3a.endpoint": f"http://{HOST}:{self.port}",
            "fs.s3a.endpoint.region": "us-east-1",
            "fs.s3a.path.style.access": "true",
            "fs.s3a.connection.ssl.enabled": "false",
            "fs.s3a.access.key": "key",
            "fs.s3a.secret.key": "secret",
            f"fs.s3a.bucket.{QUICK_BUCKET}.create.performance": "true",
        }

    def put(self, path: str, body: bytes = b"") -> None:
        """Store an object, or make a bucket, past the proxy: as another writer."""
        self._ask("PUT", f"/{path}", body)

    def get(self, path: str) -> bytes:
        """Read an object, past the proxy."""
        return self._ask("GET", f"/{path}")

    def upload(self, folder: Path, prefix: str) -> None:
        """Store the files of a folder under a prefix of the first bucket."""
        for path in folder.rglob("*"):
            if path.is_file() and not path.name.endswith(".crc"):
                self.put(f"{BUCKET}/{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())

    def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        connection = http.client.HTTPConnection(HOST, self.direct, timeout=60)
        try:
            connection.request(method, path, body, _SOMEBODY)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        assert answer.status < 300, f"{method} {path}: {answer.status} {content[:300]!r}"
        return content


@contextmanager
def running_s3(folder: Path) -> Iterator[S3]:
    """A store with an empty bucket behind a proxy; both end with the block.

    Raises:
        Unavailable: METAEOL_MOTO names no program.
    """
    program = os.environ.get("METAEOL_MOTO", "")
    if not os.access(program, os.X_OK):
        raise Unavailable("METAEOL_MOTO names no moto_server: `make test-clusters` makes one from requirements/clusters.txt")
    store = S3(free_port())
    service = Service([program, "-H", HOST, "-p", str(store.direct)], folder, "moto")
    with running(service):
        service.wait_for_port(store.direct)
        for bucket in (BUCKET, QUICK_BUCKET):
            store.put(bucket)
        proxy = ThreadingHTTPServer((HOST, 0), _handler(store))
        store.port = proxy.server_address[1]
        thread = threading.Thread(target=proxy.serve_forever, daemon=True, name="s3-proxy")
        thread.start()
        try:
            yield store
        finally:
            proxy.shutdown()
            proxy.server_close()
            thread.join()


def _handler(store: S3) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Passes a request on, with the headers that were signed."""

        protocol_version = "HTTP/1.1"

        def handle_expect_100(self) -> bool:
            self.send_response_only(100)
            self.end_headers()
            return True

        def log_message(self, *_: Any) -> None:
            """Write no line a request."""

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0].lstrip("/")
            request = Request(self.command, path, {name.lower(): value for name, value in self.headers.items()})
            store.seen.append(request)
            verdict = store.meddle(request)
            if verdict == "slow down":
                self.answer(503, {"Content-Type": "application/xml"}, b"<Error><Code>SlowDown</Code><Message>slow down</Message></Error>")
                return
            if verdict == "cut":
                self.close_connection = True
                return
            connection = http.client.HTTPConnection(HOST, store.direct, timeout=300)
            try:
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in _HOP | {"expect"}:
                        connection.putheader(name, value)
                connection.endheaders(body or None)
                found = connection.getresponse()
                content = found.read()
            finally:
                connection.close()
            if verdict == "lose":
                self.close_connection = True
                return
            self.answer(found.status, dict(found.getheaders()), content)

        def answer(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in _HOP and not (name.lower() == "content-length" and self.command != "HEAD"):
                    self.send_header(name, value)
            if self.command != "HEAD":
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = pass_on

    return Handler

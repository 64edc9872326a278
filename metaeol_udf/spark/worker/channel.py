"""Messages between Python workers of one machine: framed data over a Unix socket, between peers that prove to be of one application.

A message is JSON and some arrays of bytes. Nothing that a peer sends is ever run, every wait ends, and every size has a bound.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any

HANDSHAKE_S = 10.0  # that a peer has for a message before it has proved who it is
TRANSFER_S = 300.0  # that a message may take once its first byte is there
MOST_BYTES = 1 << 32  # of a message of a peer that is known
_MOST_STRANGE_BYTES = 4096
_MOST_ARRAYS = 8
_START = struct.Struct("!QI")  # bytes of the JSON, number of arrays
_SIZE = struct.Struct("!Q")
_PEER = struct.Struct("3i")  # process, user, group


class StrangerError(OSError):
    """The peer is not of this application, or does not speak as one of its workers does."""


class Channel:
    """Exchanges messages with one peer. What goes wrong with the peer is an `OSError` or an `EOFError`."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    @classmethod
    def connect(cls, path: str) -> Channel:
        """Connect to the peer that listens on a path."""
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(HANDSHAKE_S)
            connection.connect(path)
        except OSError:
            connection.close()
            raise
        return cls(connection)

    def send(self, head: Mapping[str, Any], *arrays: bytes | memoryview) -> None:
        """Send a message, within `TRANSFER_S`."""
        text = json.dumps(head).encode()
        sizes = b"".join(_SIZE.pack(len(array)) for array in arrays)
        self._socket.settimeout(TRANSFER_S)
        self._socket.sendall(_START.pack(len(text), len(arrays)) + sizes + text)
        for array in arrays:
            self._socket.sendall(array)

    def receive(self, wait_s: float, most_bytes: int = MOST_BYTES) -> tuple[dict[str, Any], list[bytearray]]:
        """Receive a message.

        Args:
            wait_s: Seconds until its first byte must be there.
            most_bytes: Of the message.

        Raises:
            EOFError: The peer has gone.
            TimeoutError: The peer is too slow.
            StrangerError: The message is too large, or is none.
        """
        first = self._read(1, wait_s)
        until = time.monotonic() + (TRANSFER_S if most_bytes == MOST_BYTES else HANDSHAKE_S)

        def read(n_bytes: int) -> bytearray:
            return self._read(n_bytes, until - time.monotonic())

        n_text, n_arrays = _START.unpack(first + read(_START.size - 1))
        if n_arrays > _MOST_ARRAYS:
            raise StrangerError("a message of too many parts")
        sizes = [_SIZE.unpack(read(_SIZE.size))[0] for _ in range(n_arrays)]
        if n_text + sum(sizes) > most_bytes:
            raise StrangerError("a message that is too large")
        try:
            head = json.loads(read(n_text))
        except (ValueError, RecursionError):
            raise StrangerError("a message that cannot be read") from None
        if not isinstance(head, dict):
            raise StrangerError("a message that cannot be read")
        return head, [read(size) for size in sizes]

    def _read(self, n_bytes: int, wait_s: float) -> bytearray:
        until, found = time.monotonic() + wait_s, bytearray(n_bytes)
        view = memoryview(found)
        while view:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError("the peer is too slow")
            self._socket.settimeout(left)
            n_read = self._socket.recv_into(view)
            if not n_read:
                raise EOFError
            view = view[n_read:]
        return found

    def admit(self, secret: bytes, question: bytes, answer: Mapping[str, Any]) -> bool:
        """See who asks, as the owner of what is asked for; where that is a worker of this application with the same question, `answer`.

        Args:
            secret: The application's.
            question: What a peer must ask for.
            answer: What it is then told.

        Returns:
            Whether the peer was answered.
        """
        process, user = self.peer()
        mine = secrets.token_hex(16)
        self.send({"nonce": mine})
        asked, _ = self.receive(HANDSHAKE_S, _MOST_STRANGE_BYTES)
        theirs = str(asked.get("nonce"))
        proof = _prove(secret, "asks", process, mine, theirs, hashlib.sha256(question).hexdigest())
        if user != os.getuid() or not _is_same(proof, asked.get("proof")):
            self.send({})
            return False
        self.send({"answer": answer, "proof": _prove(secret, "answers", os.getpid(), theirs, mine, json.dumps(answer))})
        return True

    def ask(self, secret: bytes, question: bytes, wait_s: float = HANDSHAKE_S) -> dict[str, Any] | None:
        """Ask the peer for something, and see that it is of this application.

        Returns:
            What `admit` was given; None where the peer has something else.

        Raises:
            StrangerError: The peer could not prove that it knows the secret, or speaks for another process.
        """
        process, user = self.peer()
        greeting, _ = self.receive(min(wait_s, HANDSHAKE_S), _MOST_STRANGE_BYTES)
        theirs, mine = str(greeting.get("nonce")), secrets.token_hex(16)
        digest = hashlib.sha256(question).hexdigest()
        self.send({"nonce": mine, "proof": _prove(secret, "asks", os.getpid(), theirs, mine, digest)})
        found, _ = self.receive(min(wait_s, HANDSHAKE_S), _MOST_STRANGE_BYTES)
        answer = found.get("answer")
        if answer is None:
            return None
        proof = _prove(secret, "answers", process, mine, theirs, json.dumps(answer))
        if user != os.getuid() or not isinstance(answer, dict) or not _is_same(proof, found.get("proof")):
            raise StrangerError("the owner of the model is not of this application")
        return answer

    def peer(self) -> tuple[int, int]:
        """Return the peer's process and user, as the kernel knows them: a process between both would show."""
        process, user, _ = _PEER.unpack(self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        return process, user

    def close(self) -> None:
        """End the exchange."""
        self._socket.close()

    def __enter__(self) -> Channel:
        """Return the channel, which is closed at the end of the `with`."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the channel."""
        self.close()


def _prove(secret: bytes, role: str, process: int, *parts: str) -> str:
    """Compute what only a process that knows the secret can: the parts under HMAC-SHA-256, with what it does and which process it is."""
    return hmac.new(secret, json.dumps([role, process, *parts]).encode(), hashlib.sha256).hexdigest()


def _is_same(proof: str, other: object) -> bool:
    return hmac.compare_digest(proof.encode(), str(other).encode("utf-8", "replace"))

"""One queue of texts for many callers: what waits while the model runs is its next batch."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Condition, Thread

import numpy as np
from numpy.typing import NDArray

from metaeol_udf.encoder import Encoded
from metaeol_udf.errors import MetaEOLError

logger = logging.getLogger(__name__)


class QueueFullError(MetaEOLError):
    """More texts wait than the queue may hold, or it has been closed."""


@dataclass(frozen=True)
class Answer:
    """Holds what became of a caller's texts, in their order.

    Attributes:
        vectors: float32, shape ``(n_texts, dim)``; zeros where there is an error.
        errors: None where all is well, else a code as in `Encoded`.
        n_trimmed: Texts that were longer than `max_tokens`.
        n_tokens: Tokens that went through the model for these texts.
    """

    vectors: NDArray[np.float32]
    errors: list[str | None]
    n_trimmed: int
    n_tokens: int


class TextQueue:
    """Embeds the texts of many callers together, in one thread of its own that lives until `close`.

    The thread takes all that waits, up to `max_batch` texts, and has them planned as one chunk. No caller waits for others to come.
    """

    def __init__(self, encode: Callable[[Sequence[str]], Encoded], max_waiting: int, max_batch: int) -> None:
        """Start the thread.

        Args:
            encode: `MetaEOLEncoder.encode_rows`, or what gives the same.
            max_waiting: Texts that may wait; those that the model runs on do not count.
            max_batch: Texts that are planned together; a caller's texts are never parted.
        """
        self._encode, self._max_waiting, self._max_batch = encode, max_waiting, max_batch
        self._waiting: deque[tuple[list[str], Future[Answer]]] = deque()
        self._n_waiting = 0
        self._changed = Condition()
        self._is_closed = False
        self.n_batches = self.n_texts = 0
        self._thread = Thread(target=self._run, name="metaeol-queue", daemon=True)
        self._thread.start()

    @property
    def n_waiting(self) -> int:
        """Return how many texts wait."""
        return self._n_waiting

    @property
    def is_running(self) -> bool:
        """Return whether texts are taken and embedded."""
        return self._thread.is_alive() and not self._is_closed

    def submit(self, texts: Sequence[str]) -> Future[Answer]:
        """Add texts to what waits.

        Raises:
            QueueFullError: There is no place for them.
        """
        given = list(texts)
        with self._changed:
            if self._is_closed:
                raise QueueFullError("the server is ending")
            if self._n_waiting + len(given) > self._max_waiting:
                raise QueueFullError(f"{self._n_waiting} texts wait, and {self._max_waiting} may: try again later")
            future: Future[Answer] = Future()
            self._waiting.append((given, future))
            self._n_waiting += len(given)
            self._changed.notify()
        return future

    def close(self, timeout_s: float) -> bool:
        """Take no further texts and embed those that wait. Returns whether all were done in time."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if self._is_closed:
                        return
                    self._changed.wait()
                batch = [self._waiting.popleft()]
                n_texts = len(batch[0][0])
                while self._waiting and n_texts + len(self._waiting[0][0]) <= self._max_batch:
                    batch.append(self._waiting.popleft())
                    n_texts += len(batch[-1][0])
                self._n_waiting -= n_texts
            wanted = [(texts, future) for texts, future in batch if future.set_running_or_notify_cancel()]
            if wanted:
                self._answer(wanted)

    def _answer(self, wanted: Sequence[tuple[list[str], Future[Answer]]]) -> None:
        texts = [text for given, _ in wanted for text in given]
        try:
            encoded = self._encode(texts)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the callers' answer, and the next batch is tried
            logger.error("a batch of %d texts failed: %s", len(texts), type(error).__name__)
            for _, future in wanted:
                future.set_exception(error)
            return
        self.n_batches += 1
        self.n_texts += len(texts)
        start = 0
        for given, future in wanted:
            part = slice(start, start + len(given))
            n_trimmed, n_tokens = int(encoded.trimmed[part].sum()), int(encoded.tokens_computed[part].sum())
            future.set_result(Answer(encoded.vectors[part], encoded.errors[part], n_trimmed, n_tokens))
            start += len(given)

"""CUDA graphs: a forward pass recorded once per shape and replayed with one launch, for models that would wait for the host."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metaeol_udf.encoder.gpu.proof import explain, worst_cosine

logger = logging.getLogger(__name__)

_MIN_COSINE = 0.9999  # a replay runs the kernels of the pass that it was recorded from


@dataclass(frozen=True)
class Recording:
    """Holds a recorded pass.

    Attributes:
        graph: What is replayed.
        given: What the graph reads; replaced before a replay.
        result: What it writes; overwritten by the next replay of any recording.
    """

    graph: torch.cuda.CUDAGraph
    given: Tensor
    result: Tensor


class GraphCache:
    """Keeps the recorded passes of one device by their shape. All share one memory pool, since only one runs at a time.

    The first batch of a shape runs as it is, which compiles what is to be compiled. The second one is recorded. The next batch that
    differs from it is computed both ways, and only where both agree are replays used from then on. A shape that cannot be recorded
    runs as it is; other shapes are not touched.

    Attributes:
        refused: Why batches of a shape are launched kernel by kernel.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._met: set[Hashable] = set()
        self._recordings: dict[Hashable, Recording] = {}
        self._proved: set[Hashable] = set()
        self.refused: dict[Hashable, str] = {}
        self._pool: Any = None  # made with the first recording
        self._stream: torch.cuda.Stream | None = None  # of this device: torch's own is made once, on whatever device is current then

    def replays(self, shape: Hashable) -> bool:
        """Tell whether batches of a shape are replayed."""
        return shape in self._proved

    def run(self, shape: Hashable, given: Tensor, forward: Callable[[Tensor], Tensor]) -> Tensor:
        """Return ``forward(given)``, which holds until the next call.

        Args:
            shape: Names everything but `given` that `forward` depends on.
            given: All of the input, on the device.
            forward: Must neither wait for the device nor read values of `given` on the host.
        """
        if shape in self.refused:
            return forward(given)
        if shape not in self._met:
            self._met.add(shape)
            return forward(given)
        recording = self._recordings.get(shape)
        if recording is None:
            self._try_to_record(shape, given, forward)
            return forward(given)
        if shape not in self._proved and torch.equal(recording.given, given):
            return forward(given)  # a replay that ignores its input would look right
        recording.given.copy_(given)
        recording.graph.replay()
        return recording.result if shape in self._proved else self._prove(shape, recording, forward(given))

    def clear(self) -> None:
        """Give up all recordings and their memory."""
        self._met.clear()
        self._recordings.clear()
        self._proved.clear()
        self._pool = None  # a pool whose recordings are all gone cannot be used again

    def record(self, given: Tensor, forward: Callable[[Tensor], Tensor]) -> Recording:
        """Record a forward pass on one input."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            result = forward(given)
        return Recording(graph, given, result)

    def _try_to_record(self, shape: Hashable, given: Tensor, forward: Callable[[Tensor], Tensor]) -> None:
        try:
            self._recordings[shape] = self.record(given.clone(), forward)
        except torch.OutOfMemoryError:
            self.clear()
            self._refuse(shape, "memory ran out while it was recorded")
        except Exception as error:  # noqa: BLE001 - a pass that cannot be recorded still runs
            self._refuse(shape, f"recording failed with {explain(error)}")

    def _prove(self, shape: Hashable, recording: Recording, expected: Tensor) -> Tensor:
        cosine = worst_cosine(recording.result, expected)
        if cosine >= _MIN_COSINE:
            self._proved.add(shape)
        else:
            del self._recordings[shape]
            self._refuse(shape, f"the cosine of its replay to the pass itself is {cosine:.6f}")
        return expected

    def _refuse(self, shape: Hashable, why: str) -> None:
        self.refused[shape] = why
        logger.warning("a CUDA graph is not used, batches of this shape are launched kernel by kernel: %s", why)

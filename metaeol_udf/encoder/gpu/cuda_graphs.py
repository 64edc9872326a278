"""CUDA graphs: a forward pass recorded once per shape and replayed with one launch, for models that would wait for the host."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Recording:
    graph: torch.cuda.CUDAGraph
    given: Tensor  # what the graph reads; replaced before a replay
    result: Tensor  # what it writes; overwritten by the next replay of any recording


class GraphCache:
    """Recorded passes by their shape. All share one memory pool, since only one runs at a time.

    A shape is run as it is when it is first met, which compiles what is to be compiled, and recorded when it is met again.
    """

    def __init__(self) -> None:
        self._met: set[Hashable] = set()
        self._recordings: dict[Hashable, _Recording] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._is_usable = True

    def run(self, shape: Hashable, given: Tensor, forward: Callable[[Tensor], Tensor]) -> Tensor:
        """``forward(given)``, whose result holds until the next call.

        Args:
            shape: Names everything but `given` that `forward` depends on.
            given: All of the input, on the device.
            forward: Must neither wait for the device nor read values of `given` on the host.
        """
        if shape not in self._met or not self._is_usable:
            self._met.add(shape)
            return forward(given)
        if shape not in self._recordings:
            try:
                self._recordings[shape] = self.record(given.clone(), forward)
            except Exception as error:  # noqa: BLE001 - a pass that cannot be recorded still runs
                logger.warning("CUDA graphs are not used: recording failed with %s", type(error).__name__)
                self.clear()
                self._is_usable = False
                return forward(given)
        recording = self._recordings[shape]
        recording.given.copy_(given)
        recording.graph.replay()
        return recording.result

    def clear(self) -> None:
        """Give up all recordings and their memory."""
        self._met.clear()
        self._recordings.clear()

    def record(self, given: Tensor, forward: Callable[[Tensor], Tensor]) -> _Recording:
        """Record a graph of a forward pass on one input."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = forward(given)
        return _Recording(graph, given, result)

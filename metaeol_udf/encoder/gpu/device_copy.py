"""Copies between host and device that nobody waits for: pinned memory, and a stream of their own for results."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Results = Callable[[], list[NDArray[np.float32]]]


def to_device(host: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device; on CUDA the host goes on at once."""
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)


class ResultCopier:
    """Brings results to the host while a CUDA device works on the next batch.

    Copies run on a stream of their own, after what was launched before them and beside what is launched later.

    """

    def __init__(self) -> None:
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def start(self, tensors: Sequence[Tensor]) -> Results:
        """Begin to copy float32 tensors.

        Returns:
            Waits for the copies and gives them as arrays of the same shapes; whatever went wrong on the device is raised there.
        """
        # One copy for all, out of memory that the next batch does not write to.
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        host = torch.empty(flat.shape, dtype=flat.dtype, pin_memory=True)
        if flat.device not in self._streams:
            self._streams[flat.device] = torch.cuda.Stream(flat.device)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        stream = self._streams[flat.device]
        stream.wait_stream(torch.cuda.current_stream(flat.device))
        with torch.cuda.stream(stream):
            host.copy_(flat, non_blocking=True)
            flat.record_stream(stream)
            done = stream.record_event()
        shapes = [tensor.shape for tensor in tensors]

        def wait() -> list[NDArray[np.float32]]:
            done.synchronize()
            parts = torch.split(host, [shape.numel() for shape in shapes])
            return [part.view(shape).numpy() for part, shape in zip(parts, shapes, strict=True)]

        return wait

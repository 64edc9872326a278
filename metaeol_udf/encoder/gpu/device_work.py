"""What a device did: how long it was at work, which way batches took, and why not a faster one."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass
class DeviceWork:
    """Counts the work of one device. Imports no torch, so that a driver can add up what workers count.

    Attributes:
        busy_s: Seconds in which batches ran; on a CPU those of all its threads, divided by their number.
        began: When the first batch was started, in seconds since 1970; None before it.
        ended: When the results of the last batch were there; None before that.
        batches: Batches by the way that they took: `graph`, `compiled` or `cells` of the decoder, or another runner's name.
        reasons: Why a faster way was refused, each once.
    """

    busy_s: float = 0.0
    began: float | None = None
    ended: float | None = None
    batches: Counter[str] = field(default_factory=Counter)
    reasons: list[str] = field(default_factory=list)

    @property
    def span_s(self) -> float:
        """Return the seconds from the start of the first batch to the end of the last one."""
        return 0.0 if self.began is None or self.ended is None else max(0.0, self.ended - self.began)

    def add(self, other: DeviceWork) -> None:
        """Add work of the same device."""
        self.busy_s += other.busy_s
        self.began = min((moment for moment in (self.began, other.began) if moment is not None), default=None)
        self.ended = max((moment for moment in (self.ended, other.ended) if moment is not None), default=None)
        self.batches.update(other.batches)
        self.reasons += [reason for reason in other.reasons if reason not in self.reasons]

    def to_json(self) -> str:
        """Write all counts."""
        return json.dumps(vars(self))

    @classmethod
    def from_json(cls, text: str) -> DeviceWork:
        """Read what `to_json` wrote."""
        found = json.loads(text)
        return cls(**{**found, "batches": Counter(found["batches"])})


class Stopwatch:
    """Measures how long a batch keeps its device at work: on CUDA between two marks in its stream, which no one waits for.

    Of a model that is split over several GPUs the first one is measured.
    """

    def __init__(self, device: torch.device) -> None:
        """Start it; the device must be the calling thread's own."""
        self._is_cuda = device.type == "cuda"
        self._start = self._mark()
        self._stop: Any = None

    def stop(self) -> None:
        """Stop it, once the batch is launched."""
        self._stop = self._mark()

    def seconds(self) -> float:
        """Return the seconds between start and stop; on CUDA only once the batch is over."""
        if self._stop is None:
            return 0.0
        return float(self._start.elapsed_time(self._stop) / 1000 if self._is_cuda else self._stop - self._start)

    def _mark(self) -> Any:
        if not self._is_cuda:
            return time.perf_counter()
        import torch

        mark = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        mark.record()
        return mark

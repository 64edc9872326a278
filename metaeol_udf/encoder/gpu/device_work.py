"""What a device did: how long it was at work, which way batches took, and why not a faster one."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field


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

    def add_json(self, text: str) -> None:
        """Add work of the same device, written as a list of these attributes."""
        for found in json.loads(text):
            self.add(DeviceWork(**found))

"""How long an agent's refreshes take: enough to know when to start one ahead of time."""

from __future__ import annotations

from collections import deque

_WINDOW = 256
_EVERY = 16  # samples between two looks at the window


class Latency:
    """The 95th percentile of the last 256 refreshes, and the quickest of them, in seconds.

    >>> latency = Latency()
    >>> for _ in range(20):
    ...     latency.add(0.1)
    >>> latency.p95, latency.least
    (0.1, 0.1)
    """

    def __init__(self) -> None:
        self._samples: deque[float] = deque(maxlen=_WINDOW)
        self._added = 0
        self.p95 = self.least = 0.0

    @property
    def is_known(self) -> bool:
        """True if there are enough samples for the percentile to mean something."""
        return self._added >= 20

    def add(self, seconds: float) -> None:
        """Count one refresh."""
        self._samples.append(seconds)
        self._added += 1
        if self._added <= _EVERY or self._added % _EVERY == 0:
            ordered = sorted(self._samples)
            self.p95, self.least = ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))], ordered[0]

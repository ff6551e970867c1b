"""When which job is due: an entry in a heap is all that a waiting job costs."""

from __future__ import annotations

import heapq
from math import inf

from airside.engine.job import Job


class Agenda:
    """Jobs by when they are due. Entries are never taken back: whoever takes one sees whether it still holds.

    >>> agenda = Agenda()
    >>> agenda.put(Job(id="b", due=2.0)), agenda.put(Job(id="a", due=1.0)), agenda.put(Job(id="c", due=3.0))
    (True, True, False)
    >>> agenda.first
    1.0
    >>> agenda.take()
    (1.0, 'a')
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, str]] = []

    def put(self, job: Job) -> bool:
        """Enter a job, unless it waits for no time; True if it is the first one now."""
        if job.due == inf:
            return False
        heapq.heappush(self._heap, (job.due, job.id))
        return self._heap[0][1] == job.id

    @property
    def first(self) -> float | None:
        """When the first job is due; None if there is none."""
        return self._heap[0][0] if self._heap else None

    def take(self) -> tuple[float, str]:
        """The first entry: when it is due, and the job's id."""
        return heapq.heappop(self._heap)

"""Where jobs come from: those that are handed in here, those of the store, and those that their own commands let go."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Iterable
from pathlib import Path
from typing import Protocol

from airside.engine.attendance import forget, is_attended
from airside.engine.database import Record
from airside.engine.job import Stage
from airside.engine.store import Store
from airside.engine.submission import Submission
from airside.model import UsageError

MANY = 10_000
"""How many jobs may have been handed in here before the store is asked what is new: that forgets them."""
MOST_RECENT, MOST_OF_ONE = 2000, 16 * 1024
"""How many submissions are kept at hand, and the bytes of the largest among them: 32 MiB at most."""


class Take(Protocol):
    """Drives a job that is in the store."""

    def __call__(self, record: Record, *, resumed: bool = False) -> Awaitable[None]: ...


class Intake:
    """Takes up every job of a store once. With `only_own` it takes none but those that are handed in here."""

    def __init__(self, store: Store, take: Take, *, only_own: bool = False) -> None:
        self._store = store
        self._take = take
        self._only_own = only_own
        self._newest = 0
        self._own: dict[str, asyncio.Future[None]] = {}
        self._coming: set[str] = set()
        self._attended: set[str] = set()  # jobs that their own commands drive
        self._adopting = asyncio.Lock()
        self._at_hand: dict[str, tuple[bytes, bytes]] = {}

    async def submit(self, record: Record, template: bytes, inputs: bytes) -> None:
        """Put a new job into the store and drive it; returns when it is on the disk."""
        job_id = record.job.id
        self._own[job_id] = kept = self._store.add(record, template, inputs)
        self._coming.add(job_id)
        if len(self._at_hand) < MOST_RECENT and len(template) + len(inputs) <= MOST_OF_ONE:
            self._at_hand[job_id] = template, inputs  # a job that is over soon asks for it twice
        try:
            await kept
            await self._take(record)
        finally:
            self._coming.discard(job_id)
        if self._only_own:
            del self._own[job_id]
        elif len(self._own) > MANY:
            await self.adopt()

    async def submission(self, job_id: str) -> Submission:
        """What was handed in."""
        handed_in = self._at_hand.get(job_id)
        if handed_in is None:
            handed_in = await self._store.read(lambda database: database.submission(job_id))
        return Submission.read(*handed_in)

    def forget(self, job_id: str) -> None:
        """The job is over: nobody asks for its submission any more."""
        self._at_hand.pop(job_id, None)

    async def adopt(self, *, resumed: bool = False) -> None:
        """Take up the jobs that are in the store and not here yet: of an earlier engine, or of another process."""
        async with self._adopting:
            await self._adopt(resumed=resumed)

    async def revisit(self) -> None:
        """Take up the jobs whose own commands have let go of them."""
        if self._attended:
            async with self._adopting:
                await self._revisit()

    def leaves(self, job_id: str) -> bool:
        """True for a job that another process drives, and for one whose agent is still being opened."""
        return job_id in self._attended or job_id in self._coming

    async def _adopt(self, *, resumed: bool) -> None:
        seen, kept = self._newest, [job_id for job_id, kept in self._own.items() if kept.done()]
        newest, found = await self._store.read(lambda database: (database.newest(), database.unfinished(seen)))
        self._newest = max(self._newest, newest)
        for record in found:
            if record.seq <= seen or record.job.id in self._own:
                continue
            if record.attended:
                self._attended.add(record.job.id)
            else:
                await self._take(record, resumed=resumed)
        for job_id in kept:  # these were in the store when it was read, so they are not found again
            self._own.pop(job_id, None)
        await self._revisit()

    async def _revisit(self) -> None:
        state = Path(self._store.path).parent
        for job_id in await asyncio.to_thread(_let_go, state, tuple(self._attended)) if self._attended else ():
            self._attended.discard(job_id)
            with contextlib.suppress(UsageError):  # it may have been over, and pruned
                record = await self._store.read(lambda database, wanted=job_id: database.find(wanted))  # type: ignore[misc]
                if record.job.stage is not Stage.OVER:
                    await self._take(record, resumed=True)


def _let_go(state: Path, attended: Iterable[str]) -> list[str]:
    free = [job_id for job_id in attended if not is_attended(state, job_id)]
    for job_id in free:
        forget(state, job_id)
    return free

"""The store as the loop sees it: one writer thread, and one transaction for all that a turn of the loop wrote.

While a commit waits for the disk, what comes next gathers for the following one, so many transitions share one fsync.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from airside.engine.database import MEMORY, Database, Event, Record, StoreError
from airside.engine.job import Job
from airside.model import UsageError

T = TypeVar("T")
Write = Callable[[Database], object]


class _Batch:
    """What one turn of the loop wrote, and the future of all who wait for it."""

    __slots__ = ("done", "writes")

    def __init__(self, done: asyncio.Future[None]) -> None:
        self.done = done
        self.writes: list[Write] = []


class Store:
    """Jobs that survive restarts. `open` it on the loop that uses it; `close` writes what is left.

    Every write returns a future that is done when the write is on the disk; it raises `StoreError` if it is not.
    After such an error nothing more is written.
    """

    def __init__(self, path: str | Path = MEMORY) -> None:
        self.path = str(path)
        self.error: StoreError | None = None
        self._queue: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._gathered: _Batch | None = None
        self._thread: threading.Thread | None = None

    async def open(self) -> None:
        """Open the file, made and migrated as needed. Raises `StoreError`."""
        self._loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._main, args=(opened,), name="airside-store", daemon=True)
        self._thread.start()
        await opened

    async def close(self) -> None:
        """Write what is left and close the file."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._hand_over()
        self._queue.put(None)
        await asyncio.to_thread(thread.join)

    def add(self, record: Record, template: bytes, inputs: bytes) -> asyncio.Future[None]:
        """Add a new job."""
        return self._write(lambda database: database.add(record, template, inputs))

    def save(self, job: Job, event: Event | None = None, outputs: bytes | None = None) -> asyncio.Future[None]:
        """Keep a job as it is now, an event of it, and its outputs."""

        def write(database: Database) -> None:
            database.save(job)
            if event is not None:
                database.tell(event)
            if outputs is not None:
                database.keep_outputs(job.id, outputs)

        return self._write(write)

    def answered(self, seq: int) -> asyncio.Future[None]:
        """Forget a request."""
        return self._write(lambda database: database.answered(seq))

    async def read(self, question: Callable[[Database], T]) -> T:
        """What a question to the database answers; it sees all that was written before."""
        answers: list[T | Exception] = []

        def ask(database: Database) -> None:
            try:
                answers.append(question(database))
            except UsageError as exc:  # the writes beside it must not fail because of a question
                answers.append(exc)

        await self._write(ask)
        if isinstance(answers[0], Exception):
            raise answers[0]
        return answers[0]

    def _write(self, write: Write) -> asyncio.Future[None]:
        if self._thread is None:
            raise StoreError(f"The store {self.path} is not open.")
        if self._gathered is None:
            self._gathered = _Batch(self._loop.create_future())
            self._loop.call_soon(self._hand_over)
        self._gathered.writes.append(write)
        return self._gathered.done

    def _hand_over(self) -> None:
        batch, self._gathered = self._gathered, None
        if batch is not None:
            self._queue.put(batch)

    # -- the writer thread -------------------------------------------------------------------------------------------

    def _main(self, opened: asyncio.Future[None]) -> None:
        try:
            database = Database(self.path)
        except StoreError as exc:
            self._settle([opened], exc)
            return
        self._settle([opened], None)
        with database:
            last = False
            while not last:
                batches, last = self._next()
                self._settle([batch.done for batch in batches], self._commit(database, batches))

    def _next(self) -> tuple[list[_Batch], bool]:
        """All batches that wait, at least one; True with those after which no more come."""
        found = self._queue.get()
        batches: list[_Batch] = []
        while found is not None:
            batches.append(found)
            try:
                found = self._queue.get_nowait()
            except queue.Empty:
                return batches, False
        return batches, True

    def _commit(self, database: Database, batches: Sequence[_Batch]) -> StoreError | None:
        if self.error is not None:
            return self.error
        try:
            with database.transaction():
                for batch in batches:
                    for write in batch.writes:
                        write(database)
        except StoreError as exc:
            self.error = exc
        return self.error

    def _settle(self, futures: Sequence[asyncio.Future[None]], error: StoreError | None) -> None:
        def settle() -> None:
            for future in futures:
                if future.done():
                    continue
                if error is None:
                    future.set_result(None)
                else:
                    future.set_exception(error)
                    future.exception()  # whoever does not wait for it need not be warned

        try:
            self._loop.call_soon_threadsafe(settle)
        except RuntimeError:  # the loop is closed: nobody waits
            return

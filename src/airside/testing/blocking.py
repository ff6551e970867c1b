"""The harness for tests that are plain `def`: the same methods, without `await`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar

from airside.model import LogLine, Metric, Resource
from airside.testing.loopback import Harness, Job, harness

T = TypeVar("T")


def blocking_harness(agent: object, **arguments: Any) -> BlockingHarness:
    """`harness` for tests without an event loop; arguments as there. Use it with `with`.

    >>> from airside import kwtypes
    >>> from airside.agents.echo import EchoAgent
    >>> with blocking_harness(EchoAgent()) as h:
    ...     job = h.create(inputs={"x": 3}, outputs=kwtypes(x=int))
    ...     h.finish(job).phase.name
    'SUCCEEDED'
    """
    return BlockingHarness(harness(agent, **arguments))


class BlockingHarness:
    """A `Harness` on an event loop of its own, in a thread. Its methods block until they are answered."""

    def __init__(self, inner: Harness) -> None:
        self.inner = inner
        self._thread = threading.Thread(target=self._run, name="airside-harness", daemon=True)
        self._ready: Future[asyncio.AbstractEventLoop] = Future()
        self._stop = asyncio.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._wait(self.inner.__aenter__())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._wait(self.inner.__aexit__(kind, error, trace))
        finally:
            self._end()

    @property
    def address(self) -> str:
        """Host and port of the service."""
        return self.inner.address

    @property
    def log(self) -> str:
        """Everything that the service has logged so far."""
        return self.inner.log

    def create(self, **arguments: Any) -> Job:
        """Start a job; arguments as in `Harness.create`."""
        return self._wait(self.inner.create(**arguments))

    def get(self, job: Job) -> Resource:
        """What is known of the job now."""
        return self._wait(self.inner.get(job))

    def delete(self, job: Job) -> None:
        """Cancel the job."""
        self._wait(self.inner.delete(job))

    def do(self, **arguments: Any) -> Resource:
        """Run a sync agent's task and return its result; arguments as in `Harness.create`."""
        return self._wait(self.inner.do(**arguments))

    def logs(self, job: Job, *, after: str = "", limit: int = 1000) -> list[LogLine]:
        """The job's log lines after the cursor `after`, all at once."""

        async def collect() -> list[LogLine]:
            return [line async for line in self.inner.logs(job, after=after, limit=limit)]

        return self._wait(collect())

    def metrics(self, job: Job, **arguments: Any) -> list[Metric]:
        """The job's metrics; arguments as in `Harness.metrics`."""
        return list(self._wait(self.inner.metrics(job, **arguments)))

    def finish(self, job: Job, timeout: float = 30.0) -> Resource:
        """The job's resource once it is over; `TimeoutError` after `timeout` seconds."""
        return self._wait(self.inner.finish(job, timeout))

    def restart(self, *, kill: bool = False) -> None:
        """Stop the service, or kill it, and start another."""
        self._wait(self.inner.restart(kill=kill))

    def kill(self) -> None:
        """End the service as a power failure would."""
        self._wait(self.inner.kill())

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._ready.result()).result()

    def _run(self) -> None:
        asyncio.run(self._until_stopped())

    async def _until_stopped(self) -> None:
        self._ready.set_result(asyncio.get_running_loop())
        await self._stop.wait()

    def _end(self) -> None:
        self._ready.result().call_soon_threadsafe(self._stop.set)
        self._thread.join()

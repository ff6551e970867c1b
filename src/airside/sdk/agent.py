"""The agent: the raw protocol that the service and the engine drive, and the two faces that authors write."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from airside.model import Call, LogLine, LogLink, Metric, Resource, Task, TaskType

M = TypeVar("M")


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """How an agent wants to be driven. Times are in seconds.

    `max_age` None: up to 5 s, and less while a job is young, so that a short one is not found out late.
    """

    poll_interval: float = 10.0
    max_age: float | None = None
    call_timeout: float = 30.0
    create_timeout: float = 300.0
    fault_tolerance: float = 7200.0
    create_is_idempotent: bool = False
    adoptable: bool = False
    delete_finished: bool = False
    host_access: bool = False


class Agent:
    """The raw protocol: what the service and the engine drive. Metadata is bytes, every method is async.

    Authors write `AsyncAgent` or `SyncAgent` instead; a proxy to an agent elsewhere implements this one.
    A method raises `Retry`, `Fail` or `NotFound` to say how it went wrong; any other exception is
    an unexpected failure, treated as recoverable. `supports` names the optional methods that do something.

    >>> from airside import Phase
    >>> class Instant(Agent):
    ...     name = "instant"
    ...     task_types = (TaskType("instant"),)
    ...     async def create(self, task: Task, call: Call) -> bytes:
    ...         return task.key.encode()
    ...     async def get(self, meta: bytes, call: Call) -> Resource:
    ...         return Resource(Phase.SUCCEEDED)
    ...     async def delete(self, meta: bytes, call: Call) -> None: ...
    """

    name: str = ""
    task_types: tuple[TaskType, ...] = ()
    is_sync: bool = False
    settings: AgentSettings = AgentSettings()
    supports: frozenset[str] = frozenset()
    options_type: type[Any] | None = None
    joins_creates: bool = False
    """True if creating the same attempt again finds the job of the first create, as an agent service does."""
    takes_connection: bool = False
    """True if the engine is to look up the secrets that a task's config names and pass them on, as Flyte 2 does."""

    async def open(self, options: Any) -> None:
        """Get ready: called once per process, before any other method."""

    async def close(self) -> None:
        """Let go of clients and threads. Remote jobs go on."""

    async def create(self, task: Task, call: Call) -> bytes:
        """Start the job and return what finds it again."""
        raise NotImplementedError

    async def get(self, meta: bytes, call: Call) -> Resource:
        """What is known of the job now."""
        raise NotImplementedError

    async def delete(self, meta: bytes, call: Call) -> None:
        """Ask the backend to cancel the job; returning means that it accepted."""
        raise NotImplementedError

    async def do(self, task: Task, call: Call) -> Resource:
        """Run the whole task and return its terminal resource (sync agents only)."""
        raise NotImplementedError

    async def get_many(self, metas: Sequence[bytes], call: Call) -> Sequence[Resource | Exception]:
        """What is known of many jobs of one connection, in the same order."""
        raise NotImplementedError

    async def find(self, task: Task, key: str, call: Call) -> bytes | None:
        """The job that an earlier create of this key made, or None."""
        raise NotImplementedError

    async def links(self, meta: bytes) -> Sequence[LogLink]:
        """Links for the console, made without a backend call."""
        del meta
        return ()

    def logs(self, meta: bytes, *, after: str, limit: int, call: Call) -> AsyncIterator[LogLine]:
        """The job's log lines after the cursor `after`, at most `limit` of them."""
        raise NotImplementedError

    async def metrics(
        self, meta: bytes, *, queries: Sequence[str], start: datetime, end: datetime, step: float, call: Call
    ) -> Sequence[Metric]:
        """The job's metrics in a time range."""
        raise NotImplementedError

    async def read_handle(self, data: bytes) -> bytes | None:
        """Metadata of ours for the foreign metadata of a job in flight, or None if it is not understood."""
        del data
        return None


class AgentDeclaration:
    """What every agent class declares: its name, its task types, how it wants to be driven, its options."""

    name: str = ""
    task_type: str = ""
    task_types: Sequence[str | tuple[str, int]] = ()
    poll_interval: float = 10.0
    max_age: float | None = None
    call_timeout: float = 30.0
    create_timeout: float = 300.0
    fault_tolerance: float = 7200.0
    create_is_idempotent: bool = False
    adoptable: bool = False
    delete_finished: bool = False
    host_access: bool = False
    Options: ClassVar[type[Any] | None] = None

    if TYPE_CHECKING:
        open: Callable[[Any], Awaitable[None] | None]
        close: Callable[[], Awaitable[None] | None]


class AsyncAgent(AgentDeclaration, Generic[M]):
    """An agent that starts a job, watches it, and can cancel it. Write `create`, `get` and `delete`.

    `M` is your job metadata: a small dataclass (or pydantic or msgspec model) of JSON values that finds
    the job again; it is stored by Flyte, so it must hold no secret. Each method is `def` or `async def`
    as you like; a `def` runs on this agent's own threads. Only `links` and `read_handle`, which ask no backend, are
    always `def`. The argument `call` may be left out.

    Raise `Retry` if a call may work later, `Fail` if it never will, `NotFound` if the job is unknown.

    >>> from dataclasses import dataclass
    >>> from airside import AsyncAgent, Phase, Resource, Task
    >>> @dataclass(frozen=True)
    ... class Query:
    ...     job_id: str
    >>> class MyWarehouse(AsyncAgent[Query]):
    ...     task_type = "my_query"
    ...     def create(self, task: Task) -> Query:
    ...         return Query(job_id=f"q-{task.key}")
    ...     def get(self, job: Query) -> Resource:
    ...         return Resource(Phase.SUCCEEDED, outputs={"rows": 3})
    ...     def delete(self, job: Query) -> None: ...
    """

    if TYPE_CHECKING:
        create: Callable[[Task], M | Awaitable[M]] | Callable[[Task, Call], M | Awaitable[M]]
        get: Callable[[M], Resource | Awaitable[Resource]] | Callable[[M, Call], Resource | Awaitable[Resource]]
        delete: Callable[[M], Awaitable[None] | None] | Callable[[M, Call], Awaitable[None] | None]
        get_many: Callable[..., Sequence[Resource | Exception] | Awaitable[Sequence[Resource | Exception]]]
        find: Callable[..., M | Awaitable[M | None] | None]
        links: Callable[[M], Sequence[LogLink]]
        logs: Callable[..., AsyncIterator[LogLine] | Iterator[LogLine]]
        metrics: Callable[..., Sequence[Metric] | Awaitable[Sequence[Metric]]]
        read_handle: Callable[[bytes], M | None]


class SyncAgent(AgentDeclaration):
    """An agent whose whole task is one call: write `do` and return a terminal `Resource`.

    >>> from airside import Phase, Resource, SyncAgent, Task
    >>> class Adder(SyncAgent):
    ...     task_type = "add"
    ...     def do(self, task: Task) -> Resource:
    ...         return Resource(Phase.SUCCEEDED, outputs={"o0": task.inputs["a"] + task.inputs["b"]})
    """

    if TYPE_CHECKING:
        do: Callable[[Task], Resource | Awaitable[Resource]] | Callable[[Task, Call], Resource | Awaitable[Resource]]

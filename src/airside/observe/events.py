"""One event, a list of hooks: whatever the service does or decides is told to each hook."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import NamedTuple

log = logging.getLogger("airside.observe")


class What(StrEnum):
    """What an event tells."""

    CALL = "call"
    """An RPC was answered, or refused with a status."""
    BACKEND = "backend"
    """An agent's method came back: `operation` says which, `code` how it failed, `size` how many jobs it was for."""
    JOINED = "create_joined"
    """A repeated create was answered with the first one's job: a duplicate prevented."""
    OTHER_INPUTS = "create_with_other_inputs"
    """A create repeated an attempt with other inputs; it was not joined."""
    PENDING = "create_pending"
    """A create was answered before its agent was done; it goes on behind the answer."""
    UNDONE = "create_undone"
    """A job that nobody was told of was cancelled."""
    EARLIER_CANCELLED = "earlier_attempt_cancelled"
    """The job of the attempt before was cancelled before the next one was created."""
    ADOPTED = "earlier_attempt_adopted"
    """The job of the attempt before, whose create nobody had answered yet, was taken over by the next one."""
    UNCERTAIN = "job_uncertain"
    """A job may be running although nobody needs it: it is listed, and not deleted."""
    TOLERATED = "fault_tolerated"
    """A fault of the backend was answered with the last known phase."""
    GIVEN_UP = "job_given_up"
    """A job could not be checked for too long, or is gone."""
    FOREIGN = "foreign_handle"
    """Bytes that never were a handle of ours were refused."""
    FORGED = "forged_handle"
    """A handle that is not signed, or whose signature is wrong under a key that is known here, was refused."""
    UNSERVED = "unserved_handle"
    """A handle of ours cannot be served here now; its job is kept RUNNING for a while."""
    HANDSHAKE = "tls_handshake"
    """A caller began a TLS handshake; how it ended only gRPC knows."""
    HANDSHAKE_REFUSED = "tls_refused"
    """A caller began a TLS handshake and made no call within 10 s: plaintext, or trust is missing on one side."""
    RELOADED = "file_reloaded"
    """A file has changed and is in use: `operation` says whose, `tls` or `tokens`."""
    NOT_RELOADED = "file_not_reloaded"
    """A file has changed into something that cannot be used; its last content stays in use."""
    AGENT_RESTARTED = "agent_restarted"
    """The process of an isolated agent ended, and another took its place."""
    LOOP_BLOCKED = "loop_blocked"
    """The event loop does not turn: an agent blocks it. Told while it lasts, from another thread than the loop's."""
    LOOP_LAG = "loop_lag"
    """How long the loop made others wait, at worst, in the last second."""


class Event(NamedTuple):
    """Something that happened. `operation` is the verb, `code` a gRPC status or an error code, `seconds` how long
    it took, `size` how many bytes came in, `age` how many seconds old the answer about a job was that may still change,
    `agent` the agent's name where the task type does not say enough."""

    what: What
    task_type: str = ""
    agent: str = ""
    operation: str = ""
    code: str = ""
    seconds: float = 0.0
    size: int = 0
    key: str = ""
    message: str = ""
    age: float | None = None


Hook = Callable[[Event], None]


class Hooks:
    """Tells each event to every hook. A hook that raises is logged, and the others are told.

    Most events are told on the loop, some on another thread: a hook must bear both.

    >>> seen = []
    >>> Hooks([seen.append]).tell(Event(what=What.JOINED, key="k"))
    >>> seen[0].what.value
    'create_joined'
    """

    def __init__(self, hooks: Iterable[Hook] = ()) -> None:
        self._hooks = tuple(hooks)

    def __bool__(self) -> bool:
        return bool(self._hooks)

    def tell(self, event: Event) -> None:
        """Tell one event."""
        for hook in self._hooks:
            try:
                hook(event)
            except Exception:  # observing must never change what is observed
                log.exception("hook failed for event %s", event.what)

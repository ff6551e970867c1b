"""A create as it was asked for: which attempt of which task, and what can be known of the attempt before it."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import TypeAlias

from flyteidl2.connector import connector_pb2

from airside.model import Call, Task, TaskType
from airside.model.task import attempt_key
from airside.sdk.agent import Agent
from airside.server.declared import pack_declared
from airside.server.handle import Handle
from airside.wire.template import Declared, read_interface, template_id

DIGITS = 4
"""A longer number at the end of an output prefix is not an attempt's."""

Request: TypeAlias = connector_pb2.CreateTaskRequest


@dataclass(slots=True, eq=False)
class Order:
    """One create. `first_attempt` is how the caller counts attempts in the output prefix: from 0 in Flyte 1, from 1
    in Flyte 2. `only_finds` means that a job may be found, and none is made, by an agent that can find.
    `connection` is the name of the service's own connection that the task gets, if any. `is_large` means that whatever
    looks at the whole request must do so off the loop. `declared` is what the template declares, once it was read."""

    request: Request
    task_type: TaskType
    key: str
    agent: Agent
    first_attempt: int = 0
    only_finds: bool = False
    connection: str = ""
    is_large: bool = False
    declared: Declared | None = None

    def handle(self, meta: bytes = b"") -> Handle:
        """The handle of what was asked for, with the agent's own bytes."""
        declared = read_interface(self.request.template) if self.declared is None else self.declared
        return Handle(
            task_type=self.task_type,
            key=self.key,
            output_prefix=self.request.output_prefix,
            created_at=time.time(),
            connection=self.connection,
            declared=pack_declared(declared.serialised) if declared.serialised else b"",
            meta=meta,
        )

    @property
    def is_resumable(self) -> bool:
        """True if a create that got lost can be taken up again without making a second job."""
        return is_resumable(self.agent)


def task_type_of(request: Request) -> TaskType:
    """The task type and version that a request asks for."""
    template = request.template
    return TaskType(template.type, template.task_type_version)


def is_resumable(agent: Agent) -> bool:
    """True if the agent can tell whether a job was made: by its native token or id, or by looking it up.

    A sync agent makes no job: what it does is done again if its process dies.
    """
    return agent.is_sync or agent.settings.create_is_idempotent or "find" in agent.supports


def call_of(task: Task) -> Call:
    """The call that starts a task: it outlives its caller, so it has no deadline."""
    return Call(connection=task.connection, output_prefix=task.output_prefix, key=task.key, task_type=task.type)


def patience(deadline: float | None) -> float | None:
    """Seconds to wait for the agent: until 20 % of the time, and at least 10 ms, before the deadline.

    >>> patience(None) is None
    True
    """
    if deadline is None:
        return None
    remaining = max(0.0, deadline - time.monotonic())
    return max(0.0, remaining - max(0.01, 0.2 * remaining))


def earlier_attempts(request: Request, first: int, most: int) -> list[tuple[str, str]]:
    """Key and output prefix of at most so many attempts before this one, the latest first.

    There are none unless the prefix ends with the number of a later attempt than the first.
    """
    base, _, last = request.output_prefix.rstrip("/").rpartition("/")
    if not base or not last.isascii() or not last.isdecimal() or len(last) > DIGITS or str(int(last)) != last:
        return []
    template, number = request.template, int(last)
    identity = template_id(template)
    prefixes = [f"{base}/{one}" for one in range(number - 1, max(first, number - most) - 1, -1)]
    return [(attempt_key(template.type, template.task_type_version, identity, one), one) for one in prefixes]


def fingerprint(request: Request) -> bytes:
    """Tells inputs apart; their order does not matter, since Flyte 2 shuffles it."""
    literals = request.inputs.literals
    if not literals:
        return b""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted((one.name, one.value.SerializeToString(deterministic=True)) for one in literals):
        digest.update(b"%d %b%d %b" % (len(name), name.encode(), len(value), value))
    return digest.digest()

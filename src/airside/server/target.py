"""Which job a request is about, in either family and in the spelling of any year."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from airside.model import Connection, TaskType
from airside.wire.template import read_connection


class Target(NamedTuple):
    """The handle's bytes, the task type as the caller names it, and Flyte 2's connection."""

    data: bytes
    named: TaskType
    connection: Connection | None


def target_of(request: Any) -> Target:
    """The target of a Get, Delete, GetTaskLogs or GetTaskMetrics request.

    The category wins if it has a name; engines before Flyte 1.11 send only `task_type`, which means version 0.
    """
    category = request.task_category
    named = TaskType(category.name, category.version) if category.name else TaskType(getattr(request, "task_type", ""))
    connection = read_connection(request) if _takes_connection(request.__class__) else None
    return Target(request.resource_meta, named, connection)


@cache
def _takes_connection(kind: Any) -> bool:
    """True for Flyte 2's create, get and delete requests only."""
    return bool("connection" in kind.DESCRIPTOR.fields_by_name)

"""The registry: which agent runs which task type and version."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from airside.model import PluginError, TaskType
from airside.sdk.declare import check, name_of, task_types_of

A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class BrokenPlugin:
    """A plugin that could not be loaded: where it came from, and why."""

    source: str
    error: str


@dataclass(frozen=True, slots=True)
class Registration:
    """One agent in a registry, and where it came from."""

    agent: Any
    name: str
    task_types: tuple[TaskType, ...]
    source: str


class Registry:
    """Task type and version → agent. Iterate it for the registrations, in the order they came.

    >>> from airside.agents.echo import EchoAgent
    >>> registry = Registry()
    >>> agent = registry.register(EchoAgent())
    >>> registry.get("echo") is agent
    True
    >>> len(registry), "echo" in registry
    (1, True)
    """

    def __init__(self) -> None:
        self._by_type: dict[TaskType, Registration] = {}
        self._registrations: list[Registration] = []
        self._broken: list[BrokenPlugin] = []
        self._lock = threading.Lock()

    def register(self, agent: A, *, override: bool = False, source: str = "") -> A:
        """Add an agent for all its task types and return it.

        Raises `PluginError` if it cannot be served, or if another agent has one of its task types and
        `override` is not set; both are named.
        """
        check(agent)
        cls = type(agent)
        entry = Registration(
            agent, name_of(agent), task_types_of(agent), source or f"{cls.__module__}:{cls.__qualname__}"
        )
        with self._lock:
            taken = {self._by_type[t].name: self._by_type[t] for t in entry.task_types if t in self._by_type}
            if taken and not override:
                owner = next(iter(taken.values()))
                shared = next(t for t in entry.task_types if t in owner.task_types)
                raise PluginError(
                    f"Task type {shared} is already served by {owner.name} ({owner.source}); "
                    f"{entry.name} ({entry.source}) cannot take it without override=True."
                )
            self._remove(entry.task_types)
            self._registrations.append(entry)
            self._by_type.update(dict.fromkeys(entry.task_types, entry))
        return agent

    def get(self, name: str, version: int = 0) -> Any:
        """The agent of a task type, or None."""
        entry = self._by_type.get(TaskType(name, version))
        return None if entry is None else entry.agent

    def remove(self, entry: Registration) -> None:
        """Serve this agent no more."""
        with self._lock:
            for task_type in entry.task_types:
                self._by_type.pop(task_type, None)
            self._registrations = [one for one in self._registrations if one is not entry]

    def add_broken(self, source: str, error: str) -> None:
        """Remember a plugin that could not be loaded."""
        self._broken.append(BrokenPlugin(source, error))

    @property
    def broken(self) -> Sequence[BrokenPlugin]:
        """The plugins that could not be loaded, with their errors."""
        return tuple(self._broken)

    @property
    def task_types(self) -> Sequence[TaskType]:
        """Every task type that has an agent."""
        return tuple(self._by_type)

    def clear(self) -> None:
        """Forget every agent."""
        with self._lock:
            self._by_type.clear()
            self._registrations.clear()
            self._broken.clear()

    def __iter__(self) -> Iterator[Registration]:
        return iter(tuple(self._registrations))

    def __len__(self) -> int:
        return len(self._registrations)

    def __contains__(self, name: object) -> bool:
        return any(task_type.name == name for task_type in self._by_type)

    def _remove(self, task_types: Sequence[TaskType]) -> None:
        """Take these task types from their owners; an owner left without any goes."""
        for index, entry in enumerate(self._registrations):
            kept = tuple(t for t in entry.task_types if t not in task_types)
            if kept != entry.task_types:
                smaller = Registration(entry.agent, entry.name, kept, entry.source)
                self._registrations[index] = smaller
                self._by_type.update(dict.fromkeys(kept, smaller))
        self._registrations = [entry for entry in self._registrations if entry.task_types]


AgentRegistry = Registry()
"""The one process-wide registry, under the name of Flyte's documentation: `AgentRegistry.register(MyAgent())`."""

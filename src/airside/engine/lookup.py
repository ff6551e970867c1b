"""Find the agent for a task on this machine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import EntryPoint
from typing import Any

from airside.model import TaskType, UsageError
from airside.sdk.discovery import installed_plugins, load_plugins
from airside.sdk.registry import AgentRegistry, Registry


def find_agent(task_type: TaskType, agents: Registry | Iterable[Any] | None = None) -> Any:
    """The author's agent for a task type: one of `agents`, else a registered one, else an installed plugin's.

    Plugins are tried by name first (a plugin is commonly named after its task type), so that a run need not
    import every plugin there is. Raises `UsageError` that lists the task types there are.
    """
    registry = _registry_of(agents)
    agent = registry.get(*task_type)
    if agent is not None:
        return agent
    if agents is not None:
        raise UsageError(f"None of the given agents runs task type {task_type} (they run: {_listed(registry)}).")
    plugins = installed_plugins()
    return _from_plugins(task_type, plugins)


def _registry_of(agents: Registry | Iterable[Any] | None) -> Registry:
    if agents is None:
        return AgentRegistry
    if isinstance(agents, Registry):
        return agents
    registry = Registry()
    for agent in agents:
        registry.register(agent)
    return registry


def _from_plugins(task_type: TaskType, plugins: Sequence[EntryPoint]) -> Any:
    like_named = [plugin for plugin in plugins if plugin.name == task_type.name]
    others = [plugin for plugin in plugins if plugin.name != task_type.name]
    registry = Registry()
    for batch in (like_named, others):
        load_plugins(registry, batch)
        agent = registry.get(*task_type)
        if agent is not None:
            return agent
    for entry in AgentRegistry:
        registry.register(entry.agent, override=True, source=entry.source)
    reason = next(
        (f" Its plugin cannot be loaded: {b.error}" for b in registry.broken if _is_of(b.source, task_type)), ""
    )
    if reason:
        raise UsageError(f"No agent here runs task type {task_type}.{reason}")
    raise UsageError(f"No agent here runs task type {task_type} (task types here: {_listed(registry)}).")


def _is_of(source: str, task_type: TaskType) -> bool:
    return source.startswith(f"entry point {task_type.name} =")


def _listed(registry: Registry) -> str:
    return ", ".join(sorted(str(task_type) for task_type in registry.task_types)) or "none"

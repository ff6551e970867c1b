"""Choose the agent that runs a task: on a service, in the task's own file, registered, or installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airside.cli.registry import load_named, options_table
from airside.cli.settings import load_settings
from airside.engine.lookup import find_agent
from airside.hosting import ADAPTERS
from airside.model import PluginError, TaskType
from airside.sdk.adapt import adapt
from airside.sdk.agent import Agent
from airside.sdk.declare import task_types_of
from airside.sdk.discovery import explain
from airside.sdk.options import read_options
from airside.sdk.registry import AgentRegistry

if TYPE_CHECKING:
    from airside.cli.run import RunOptions
    from airside.cli.taskfile import TaskFile


def choose(task_type: TaskType, file: TaskFile, options: RunOptions) -> tuple[Agent, Any]:
    """The agent for a task type, in the raw protocol, and its options of airside.toml.

    An agent class that the file itself defines is used even if it is not registered: one file is enough to try
    an agent. Agents with access to this machine are allowed, since it is the user's own.
    """
    settings = load_settings(options.settings)
    if options.endpoint:
        from airside.engine.remote import RemoteAgent

        return RemoteAgent(options.endpoint, task_type=task_type, **options.access()), None
    load_named(AgentRegistry, options.modules)
    author = AgentRegistry.get(*task_type) or _own(file, task_type) or find_agent(task_type)
    agent = adapt(author, ADAPTERS)
    table, where = options_table(settings, agent)
    return agent, read_options(agent.options_type, table, where, local=True)


def _own(file: TaskFile, task_type: TaskType) -> Any:
    """An instance of the file's own agent class for this task type, or None."""
    for cls in file.agent_classes:
        if task_type not in _types_of(cls):
            continue
        try:
            return cls()
        except Exception as exc:
            raise PluginError(
                f"{cls.__name__} in {file.name} cannot be made without arguments ({explain(exc)}); "
                "register an instance with AgentRegistry.register(...)."
            ) from exc
    return None


def _types_of(cls: type[Any]) -> tuple[TaskType, ...]:
    try:
        return task_types_of(cls)
    except PluginError:  # an abstract class, or one that is told its task type when it is made
        return ()

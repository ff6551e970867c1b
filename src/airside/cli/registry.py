"""The registry of a command: installed plugins, modules given by name, and what airside.toml says of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from functools import partial
from importlib.metadata import EntryPoint
from typing import Any

from airside.agents.catalogue import is_ours, outlines
from airside.cli.settings import Settings
from airside.model import UsageError
from airside.sdk.agent import Agent
from airside.sdk.deferred import DeferredAgent
from airside.sdk.discovery import installed_plugins, load_modules, load_plugins
from airside.sdk.registry import Registration, Registry


def load_registry(modules: Sequence[str] = ()) -> Registry:
    """The agents of every installed plugin, and those that `modules` register, which win.

    Broken plugins are kept in `registry.broken`. Raises as `load_named` does.
    """
    registry = Registry()
    load_plugins(registry, installed_plugins())
    load_named(registry, modules)
    return registry


def load_for_service(registry: Registry, plugins: Iterable[EntryPoint], asked: Set[str], *, threads: int) -> None:
    """Register the agents of `plugins`; a built-in one that nobody `asked` for is loaded with its first job.

    An agent is asked for by its name or one of its task types.
    """
    known = outlines()
    for plugin in plugins:
        outline = known.get(plugin.name) if is_ours(plugin) else None
        if outline is None or not asked.isdisjoint((outline.name, *(name for name, _ in outline.task_types))):
            load_plugins(registry, [plugin])
        else:
            agent = DeferredAgent(outline, partial(_made, plugin), threads=threads)
            registry.register(agent, source=f"entry point {plugin.name} = {plugin.value}")


def _made(plugin: EntryPoint) -> object:
    return plugin.load()()


def load_named(registry: Registry, modules: Sequence[str]) -> None:
    """Register the agents of modules, and those that files describe (`transcode.toml`).

    Raises `UsageError` for a module that cannot be imported, and for a description that is wrong.
    """
    if not modules:
        return
    from airside.agents.rest_job import rest_job
    from airside.agents.rest_job_description import ENDINGS

    load_modules(registry, [one for one in modules if not one.endswith(ENDINGS)])
    for path in modules:
        if path.endswith(ENDINGS):
            registry.register(rest_job(path), override=True, source=f"file {path}")


def is_called(entry: Registration | Agent, name: str) -> bool:
    """True if `name` is the agent's name or one of its task types: settings and flags may use either."""
    return name == entry.name or any(name == task_type.name for task_type in entry.task_types)


def options_table(settings: Settings, agent: Registration | Agent) -> tuple[Mapping[str, Any], str]:
    """The agent's table `[agents.NAME]`, and how errors should name it. NAME is its name or one of its task types.

    Raises `UsageError` if two tables are for the same agent.
    """
    names = [name for name in settings.agents if is_called(agent, name)]
    if len(names) > 1:
        tables = " and ".join(f"[agents.{name}]" for name in names)
        raise UsageError(f"{settings.source}: {tables} are for the same agent, {agent.name}; keep one.")
    name = names[0] if names else agent.name
    return settings.agents.get(name, {}), f"{settings.source or 'airside.toml'}: agents.{name}"


def has_host_access(entry: Registration) -> bool:
    """True if the agent can do anything on this machine: run processes or containers, or read its files."""
    settings = getattr(entry.agent, "settings", None)
    return bool(getattr(settings, "host_access", False) or getattr(entry.agent, "host_access", False))

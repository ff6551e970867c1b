"""The tables `[isolate.NAME]` of airside.toml: agents that run in processes of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING

from airside.cli.registry import is_called, options_table
from airside.cli.settings import Settings
from airside.model import PluginError, UsageError
from airside.observe.events import Hook, Hooks
from airside.sdk.options import read_options
from airside.sdk.registry import Registry

if TYPE_CHECKING:
    from airside.server.isolation import IsolatedAgent


@dataclass(frozen=True, slots=True, kw_only=True)
class IsolateOptions:
    """The table `[isolate.NAME]`; NAME is the agent's name or one of its task types."""

    python: str = ""
    modules: list[str] = field(default_factory=list)
    env: list[str] | None = None


def elsewhere(plugins: Iterable[EntryPoint], settings: Settings) -> Sequence[EntryPoint]:
    """The plugins without those that are isolated by the name of their entry point: this process imports them not."""
    return [plugin for plugin in plugins if plugin.name not in settings.isolate]


async def start_isolated(
    settings: Settings, registry: Registry, *, threads: int, hooks: Sequence[Hook]
) -> list[IsolatedAgent]:
    """Start the process of every isolated agent and register the agent, in the place of any of this process.

    One whose process ends before its agent is ready is kept in `registry.broken`. Raises `UsageError` for a mistake in
    the settings; no process is left then.
    """
    agents = {name: _agent(settings, name, threads, Hooks(hooks)) for name in settings.isolate}
    outcomes = await asyncio.gather(*(agent.start() for agent in agents.values()), return_exceptions=True)
    mistakes = [one for one in outcomes if one is not None and not isinstance(one, PluginError)]
    try:
        if mistakes:
            raise mistakes[0]  # noqa: TRY301 - the processes that did start are closed below
        for (name, agent), outcome in zip(agents.items(), outcomes, strict=True):
            for entry in registry:
                if is_called(entry, name):
                    registry.remove(entry)
            if outcome is None:
                registry.register(agent, override=True, source=f"isolate.{name}")
                _check(settings, agent, name)
            else:
                registry.add_broken(str(settings.source), str(outcome))
    except BaseException:
        for agent in agents.values():
            await agent.close()
        raise
    return list(agents.values())


def _agent(settings: Settings, name: str, threads: int, hooks: Hooks) -> IsolatedAgent:
    from airside.server.child import SECRETS, Isolation
    from airside.server.isolation import IsolatedAgent

    options: IsolateOptions = read_options(IsolateOptions, settings.isolate[name], f"{settings.source}: isolate.{name}")
    env = SECRETS if options.env is None else tuple(options.env)
    plan = Isolation(name=name, python=options.python, modules=tuple(options.modules), env=env)
    return IsolatedAgent(plan, settings.agents.get(name), threads=threads, hooks=hooks)


def _check(settings: Settings, agent: IsolatedAgent, name: str) -> None:
    """Its options were looked up by the one name that was known before it started."""
    table, _ = options_table(settings, agent)
    if table and name not in settings.agents:
        raise UsageError(
            f"{settings.source}: write the options of {agent.name} as [agents.{name}], like [isolate.{name}]."
        )

"""The outlines of the agents that come along, so that a service need not load those that nobody has set up.

They stand in catalogue.json, by the names of their entry points. `python -m airside.agents.catalogue` writes that
file anew; a test holds it against the agents.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from airside.sdk.adapt import adapt
from airside.sdk.agent import Agent, AgentSettings
from airside.sdk.deferred import Outline
from airside.sdk.discovery import installed_plugins

FILE = Path(__file__).with_name("catalogue.json")
_OURS = "airside.agents."
_LOADED_AT_ONCE = {"k8s_job"}
"""Agents that a service offers only where they can be opened: they find a cluster, or none, where they start."""


def outlines() -> Mapping[str, Outline]:
    """The outline of each built-in agent that may be deferred, by the name of its entry point."""
    return {name: Outline(**fields) for name, fields in json.loads(FILE.read_text()).items()}


def is_ours(plugin: EntryPoint) -> bool:
    """True for the entry point of an agent that comes along, False for anybody else's, even under the same name."""
    return plugin.value.startswith(_OURS)


def written() -> str:
    """What catalogue.json must hold. Agents with access to this host are left out: they are loaded when enabled."""
    agents = {plugin.name: adapt(plugin.load()()) for plugin in installed_plugins() if is_ours(plugin)}
    listed = {
        name: _outline(agent)
        for name, agent in agents.items()
        if not agent.settings.host_access and name not in _LOADED_AT_ONCE
    }
    lines = (f"{json.dumps(name)}: {json.dumps(outline)}" for name, outline in listed.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _outline(agent: Agent) -> Mapping[str, Any]:
    defaults = AgentSettings()
    settings = {one.name: getattr(agent.settings, one.name) for one in fields(AgentSettings)}
    outline = Outline(
        name=agent.name,
        task_types=[(task_type.name, task_type.version) for task_type in agent.task_types],
        is_sync=agent.is_sync,
        settings={name: value for name, value in settings.items() if value != getattr(defaults, name)},
        supports=sorted(agent.supports),
        requires=dict(getattr(getattr(agent, "author", None), "requires", {})),
    )
    return {name: value for name, value in asdict(outline).items() if value}


if __name__ == "__main__":
    FILE.write_text(written())

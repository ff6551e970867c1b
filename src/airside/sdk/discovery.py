"""Find agents: installed plugins by entry point, and modules named on the command line."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from airside.model import AirsideError, PluginError
from airside.model.redaction import redact
from airside.sdk.registry import AgentRegistry, Registration, Registry

GROUP = "airside.agents"

log = logging.getLogger("airside.plugins")


def installed_plugins() -> Sequence[EntryPoint]:
    """The entry points of every installed plugin, by name."""
    return sorted(entry_points(group=GROUP), key=lambda plugin: plugin.name)


def load_plugins(registry: Registry, plugins: Iterable[EntryPoint]) -> None:
    """Register an instance of each plugin's class. One that fails is kept in `registry.broken`; the others serve on."""
    for plugin in plugins:
        source = f"entry point {plugin.name} = {plugin.value}"
        try:
            loaded = plugin.load()
            registry.register(loaded() if isinstance(loaded, type) else loaded, source=source)
        except KeyboardInterrupt:
            raise
        except BaseException as exc:  # noqa: BLE001 - a plugin that calls sys.exit must not end the service either
            registry.add_broken(source, explain(exc))


def load_modules(registry: Registry, modules: Sequence[str]) -> None:
    """Import modules and register the agents that they put into `AgentRegistry`.

    They win over the agents that have their task types. The working directory comes first on `sys.path`. Raises
    `PluginError` for a module that cannot be imported: it was asked for by name.
    """
    if not modules:
        return
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    for module in modules:
        if module.endswith(".py"):
            raise PluginError(f"{module!r} is a file; name the module, as in {Path(module).stem!r}.")
        try:
            importlib.import_module(module)
        except KeyboardInterrupt:
            raise
        except BaseException as exc:
            raise PluginError(f"Module {module!r} cannot be imported: {explain(exc)}") from exc
    if AgentRegistry is not registry:
        for entry in AgentRegistry:
            _say_whose_types_it_takes(entry, registry)
            registry.register(entry.agent, override=True, source=entry.source)


def _say_whose_types_it_takes(entry: Registration, registry: Registry) -> None:
    for owner in registry:
        taken = sorted(str(one) for one in entry.task_types if one in owner.task_types)
        if taken and owner.agent is not entry.agent:
            log.info(
                "%s (%s) takes %s from %s (%s)", entry.name, entry.source, ", ".join(taken), owner.name, owner.source
            )


def explain(exc: BaseException) -> str:
    """One sentence for an error while loading.

    >>> explain(ModuleNotFoundError("No module named 'snowflake'", name="snowflake"))
    "ModuleNotFoundError: No module named 'snowflake'"
    """
    if isinstance(exc, AirsideError):
        return redact(str(exc))
    text = " ".join(redact(str(exc)).split())
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__

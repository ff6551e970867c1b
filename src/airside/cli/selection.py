"""Choose which of the installed agents a service serves: `--agent`, or `agents` in `[serve]` of airside.toml."""

from __future__ import annotations

from collections.abc import Sequence

from airside.cli.registry import is_called
from airside.model import UsageError
from airside.sdk.registry import BrokenPlugin, Registration, Registry


def selected(registry: Registry, names: Sequence[str] | None) -> tuple[Sequence[Registration], Sequence[BrokenPlugin]]:
    """The agents that are called by one of `names`, all if it is None, and the broken plugins that matter then.

    A name is an agent's or one of its task types. A name that nobody has is an error, unless a plugin is broken:
    the name may be its. Broken plugins matter as long as a name is missing; else nobody asked for theirs.

    >>> from airside.agents.echo import EchoAgent
    >>> registry = Registry()
    >>> agent = registry.register(EchoAgent())
    >>> [entry.name for entry in selected(registry, ["echo"])[0]]
    ['echo']
    """
    if names is None:
        return tuple(registry), registry.broken
    if not names:
        raise UsageError("[serve] agents: names no agent; leave the key out to serve all.")
    missing = [name for name in names if not any(is_called(entry, name) for entry in registry)]
    if missing and not registry.broken:
        known = ", ".join(sorted({name for entry in registry for name in names_of(entry)}))
        raise UsageError(f"There is no agent {missing[0]!r} to serve (installed: {known}).")
    chosen = tuple(entry for entry in registry if any(is_called(entry, name) for name in names))
    lost = [BrokenPlugin(name, "no agent of this name could be loaded") for name in missing]
    return chosen, (*registry.broken, *lost) if missing else ()


def names_of(entry: Registration) -> tuple[str, ...]:
    """What an agent may be called: its name and its task types."""
    return tuple(dict.fromkeys((entry.name, *(task_type.name for task_type in entry.task_types))))

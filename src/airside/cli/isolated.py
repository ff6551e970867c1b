"""`python -m airside.cli.isolated FD`: the process of one isolated agent. Started by the service, not by people.

FD is an inherited socket. The first message on it says which agent to run; the process ends with its service.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping
from typing import Any

from airside import __version__
from airside.cli.registry import is_called, load_named
from airside.model import AirsideError, UsageError
from airside.model.redaction import redact
from airside.sdk.adapt import adapt_all
from airside.sdk.agent import Agent
from airside.sdk.discovery import explain, installed_plugins, load_plugins
from airside.sdk.options import read_options
from airside.sdk.registry import Registry

_PDEATHSIG = 1


class _Priority(logging.Formatter):
    """Begins each line with its priority, as services under systemd do, so that the service logs it at its level."""

    def format(self, record: logging.LogRecord) -> str:
        priority = next(number for level, number in _PRIORITIES if record.levelno >= level)
        return "\n".join(f"<{priority}>{line}" for line in redact(super().format(record)).splitlines())


_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (0, 7))


def main() -> None:
    """Run the agent until the service hangs up."""
    connected = socket.socket(fileno=int(sys.argv[1]))
    connected.set_inheritable(False)
    _die_with_parent()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Priority())
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    asyncio.run(_run(connected))
    sys.stderr.flush()
    os._exit(0)  # what still hangs on a thread must not keep the process


async def _run(connected: socket.socket) -> None:
    from airside.server.isolated import Isolated
    from airside.server.link import VERSION, Link

    link = await Link.over(connected)
    message = await link.receive()
    if message is None or message[0] != "order":
        return
    order = message[1]
    try:
        agent, options = find(order, VERSION)
    except AirsideError as exc:
        await _refuse(link, exc)
        return
    except BaseException as exc:  # noqa: BLE001 - an agent that calls sys.exit while it is imported, say
        await _refuse(link, UsageError(f"isolate.{order['name']}: {explain(exc)}"))
        return
    await Isolated(link, agent, options).serve()


async def _refuse(link: Any, error: AirsideError) -> None:
    from airside.wire.isolation import write_error

    await link.deliver("refused", write_error(error))
    await link.close()


def find(order: Mapping[str, Any], version: int) -> tuple[Agent, Any]:
    """The ordered agent of the plugins installed here and of the ordered modules, with its options."""
    from airside.hosting import ADAPTERS

    if order["version"] != version:
        raise UsageError(
            f"isolate.{order['name']}: {sys.executable} has Airside {__version__}, which speaks another version "
            "of the link; install the service's own version there."
        )
    name, registry = order["name"], Registry()
    load_plugins(registry, installed_plugins())
    load_named(registry, order["modules"])
    found = [entry for entry in registry if is_called(entry, name)]
    if not found:
        known = sorted({entry.name for entry in registry})
        broken = "".join(f"; {plugin.source}: {plugin.error}" for plugin in registry.broken)
        raise UsageError(f"isolate.{name}: {sys.executable} has no such agent (it has: {', '.join(known)}{broken}).")
    agents = adapt_all(registry, found, ADAPTERS, threads=order["threads"])
    if not agents:
        raise UsageError(f"isolate.{name}: {registry.broken[-1].error}")
    (agent, *_) = agents
    return agent, read_options(agent.options_type, order["options"], f"agents.{name}")


def _die_with_parent() -> None:
    """On Linux the system ends this process when its parent ends, even if it is stuck; elsewhere the link tells it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()

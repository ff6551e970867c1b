"""Processes of the service that start at once and can be killed at any instant: one is forked from a warm parent."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import socket
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from airside.model import UsageError
from airside.observe.logs import configure
from airside.sdk.adapt import adapt
from airside.server.settings import ServerSettings

_START = 30.0


class Replica:
    """One process of the service on a port of its own, which it keeps over its deaths.

    `agents` are their classes as "module:Class", `options` the tables of airside.toml by agent name. The log, which
    outlives the process, goes to `log_file`, a JSON object a line. `deaths` are when its processes were killed
    (`time.monotonic()`), by their ids.
    """

    def __init__(
        self, agents: Sequence[str], options: Mapping[str, Mapping[str, Any]], log_file: Path, **settings: Any
    ) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.log_file = log_file
        order = {
            "agents": list(agents),
            "options": options,
            "settings": {**settings, "port": self.port},
            "log_file": str(log_file),
        }
        self._order = json.dumps(order)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["airside.testing.replicas", "airside.server.app"])
        self._process: Any = None
        self._pipe: Connection | None = None
        self.metrics_port = 0
        self.deaths: dict[int, float] = {}

    @property
    def address(self) -> str:
        """Where it serves."""
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Serve; returns when calls are answered."""
        await asyncio.to_thread(self._start)

    async def kill(self) -> None:
        """Die as of a power failure."""
        pid = self._process.pid
        await asyncio.to_thread(self._end)
        self.deaths[pid] = time.monotonic()

    async def stop(self) -> None:
        """End it."""
        await asyncio.to_thread(self._end)

    def _start(self) -> None:
        self._pipe, theirs = self._context.Pipe()
        self._process = self._context.Process(target=_serve, args=(self._order, theirs), daemon=True)
        self._process.start()
        theirs.close()
        said = self._pipe.recv() if self._pipe.poll(_START) else "it does not answer"
        if not isinstance(said, int):
            self._end()
            raise UsageError(f"The replica did not start: {said}")
        self.metrics_port = said

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join(10.0)
            self._process.close()
            self._process = None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None


def _serve(order: str, pipe: Connection) -> None:
    plan = json.loads(order)
    with Path(plan["log_file"]).open("a", buffering=1) as log_file:
        configure("json", stream=log_file)
        asyncio.run(_serve_until_killed(plan, pipe))


async def _serve_until_killed(order: dict[str, Any], pipe: Connection) -> None:
    from airside.server.app import Server
    from airside.testing.target import find_agent

    agents = [adapt(find_agent(name)()) for name in order["agents"]]
    settings = ServerSettings(**{"drain_delay": 0.0, "metrics_port": 0, **order["settings"]})
    try:
        async with Server(agents, settings, options=order["options"], strict=True) as server:
            pipe.send(server.metrics_port)
            await asyncio.Event().wait()
    except Exception as exc:  # noqa: BLE001 - the parent says what it was
        pipe.send(repr(exc))

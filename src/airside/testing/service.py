"""A running service for tests: in this process, or in a child that can be killed."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import grpc.aio

from airside.model import UsageError
from airside.sdk.agent import Agent
from airside.server.app import Server
from airside.server.settings import ServerSettings

FAST = ServerSettings(port=0, max_age=0.0, drain_delay=0.0, grace=0.2)
"""Settings for tests: any free port, every ask reaches the agent, a stop takes no time."""

_START = 30.0  # seconds that a child process may take to serve
_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.max_send_message_length", 64 * 1024 * 1024),
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own, as another client would have
)


class Service(Protocol):
    """What both kinds of service can do."""

    address: str

    @property
    def channel(self) -> grpc.aio.Channel:
        """A channel to the service as it runs now."""

    def connect(self, options: Sequence[tuple[str, Any]]) -> grpc.aio.Channel:
        """Another channel to the service, with a connection of its own and these options."""

    async def start(self) -> None:
        """Serve; returns when calls are answered."""

    async def stop(self) -> None:
        """Stop serving, gently."""

    async def kill(self) -> None:
        """Stop serving as a power failure would."""

    async def restart(self, *, kill: bool = False) -> None:
        """Stop (or kill) the service and start it anew, on another port."""

    def log(self) -> str:
        """Everything logged so far."""


class LocalService:
    """The service on the loop of the test. A restart makes new agents if they were given by class."""

    def __init__(
        self,
        agents: Sequence[Callable[[], Agent]],
        *,
        settings: ServerSettings = FAST,
        options: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.address = ""
        self.server: Server | None = None
        self._agents = agents
        self._settings = settings
        self._options = options
        self._records = Records()

    @property
    def pid(self) -> int:
        """The process id, which is the test's own."""
        return os.getpid()

    @property
    def channel(self) -> grpc.aio.Channel:
        """A channel to the running service."""
        return self._channel

    def connect(self, options: Sequence[tuple[str, Any]]) -> grpc.aio.Channel:
        return open_channel(self.address, options)

    async def start(self) -> None:
        self._records.attach()
        try:
            agents = [make() for make in self._agents]
            server = Server(agents, self._settings, options=self._options, strict=True)
            await server.start()
        except BaseException:
            self._records.detach()
            raise
        self.server = server
        self.address = f"{self._settings.host}:{self.server.port}"
        self._channel = open_channel(self.address)

    async def stop(self) -> None:
        if self.server is None:
            return
        server, self.server = self.server, None
        await self._channel.close(None)
        await server.stop(drain_delay=0.0)
        self._records.detach()

    async def kill(self) -> None:
        """There is no killing the own process: a stop is as near as it gets."""
        await self.stop()

    async def restart(self, *, kill: bool = False) -> None:
        await (self.kill() if kill else self.stop())
        await self.start()

    def log(self) -> str:
        return self._records.text()


class ChildService:
    """The service in a process of its own, which can be killed. The agent is named, not handed over."""

    def __init__(
        self,
        agent: str,
        log_file: Path,
        *,
        settings: ServerSettings = FAST,
        options: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.address = ""
        self._log_file = log_file
        self._order = {"agent": agent, "settings": dataclasses.asdict(settings), "options": options or {}}
        self._child: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        """The process id of the child."""
        if self._child is None:
            raise UsageError("The service is not running.")
        return self._child.pid

    @property
    def channel(self) -> grpc.aio.Channel:
        """A channel to the running service."""
        return self._channel

    def connect(self, options: Sequence[tuple[str, Any]]) -> grpc.aio.Channel:
        return open_channel(self.address, options)

    async def start(self) -> None:
        port = await asyncio.wait_for(asyncio.to_thread(self._spawn), _START)
        self.address = f"127.0.0.1:{port}"
        self._channel = open_channel(self.address)

    async def stop(self) -> None:
        """Close the child's input, upon which it stops gently; kill it if it does not."""
        if self._child is None:
            return
        child, self._child = self._child, None
        await self._channel.close(None)
        await asyncio.to_thread(_end, child)

    async def kill(self) -> None:
        if self._child is None:
            return
        child, self._child = self._child, None
        child.send_signal(signal.SIGKILL)
        await self._channel.close(None)
        await asyncio.to_thread(_end, child)

    async def restart(self, *, kill: bool = False) -> None:
        await (self.kill() if kill else self.stop())
        await self.start()

    def log(self) -> str:
        return self._log_file.read_text(encoding="utf-8")

    def _spawn(self) -> int:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with self._log_file.open("a") as log_file:
            child = subprocess.Popen(
                [sys.executable, "-m", "airside.testing.child", json.dumps(self._order)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log_file,
                env=environment,
                text=True,
            )
        line = child.stdout.readline() if child.stdout else ""
        if not line.strip().isdigit():
            _end(child)
            raise UsageError(f"The service did not start: {line.strip() or self.log().strip()[-500:]}")
        self._child = child
        return int(line)


class Records(logging.Handler):
    """Everything that Airside logs while attached, as text with tracebacks, down to DEBUG."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s %(args)s"))
        self._lines: list[str] = []
        self._level = logging.NOTSET
        self._logger = logging.getLogger("airside")

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record))

    def text(self) -> str:
        """The log so far."""
        return "\n".join(self._lines)

    def attach(self) -> None:
        """Begin to listen."""
        others = self._others()
        self._level = others[0]._level if others else self._logger.level
        self._logger.setLevel(logging.DEBUG)
        self._logger.addHandler(self)

    def detach(self) -> None:
        """Listen no more; the last one to go leaves the logger's level as the first one found it."""
        self._logger.removeHandler(self)
        if not self._others():
            self._logger.setLevel(self._level)

    def _others(self) -> list[Records]:
        return [handler for handler in self._logger.handlers if isinstance(handler, Records)]


def open_channel(address: str, options: Sequence[tuple[str, Any]] = ()) -> grpc.aio.Channel:
    """A plaintext channel with a connection of its own."""
    return grpc.aio.insecure_channel(address, options=(*_CHANNEL_OPTIONS, *options))


def _end(child: subprocess.Popen[str]) -> None:
    if child.stdin:
        child.stdin.close()
    try:
        child.wait(timeout=10)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    if child.stdout:
        child.stdout.close()

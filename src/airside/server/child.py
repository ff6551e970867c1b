"""The process of an isolated agent: how it is started, what it gets of our environment, where its words go."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from queue import SimpleQueue
from typing import IO, Any

from airside.model.redaction import redact
from airside.wire import limits

log = logging.getLogger("airside.isolated")

MODULE = "airside.cli.isolated"
ENVIRONMENT = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "LC_*", "TZ", "TMPDIR"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy"),
    *("FLYTE_SECRETS_DEFAULT_DIR", "OTEL_*"),
)
"""The variables that every isolated agent gets. Python's own go to children of the same interpreter only."""
WITHHELD = ("OTEL_*HEADERS",)
"""Of these, what may hold a password: it goes along only if the settings' `env` names it."""
SECRETS = ("_FSEC_*",)
"""What an isolated agent gets besides, unless its settings say `env`."""

LINES = 200
"""Lines a second that are logged of one process; a process that writes more has to wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolation:
    """The table `[isolate.NAME]`: which agent runs in a process of its own, and in which interpreter."""

    name: str
    python: str = ""
    """The interpreter, if it is not the service's own; Airside's core must be installed there."""
    modules: Sequence[str] = ()
    """Modules to import there besides its installed plugins, as `--modules` does here."""
    env: Sequence[str] = SECRETS
    """Names of variables that go along, as patterns (`_FSEC_WAREHOUSE_*`), besides those that every agent gets."""

    @property
    def command(self) -> list[str]:
        """The command without the number of its socket."""
        return [os.path.expanduser(self.python) or sys.executable, "-m", MODULE]  # noqa: PTH111 - a path to run as written

    def environment(self, ours: Mapping[str, str]) -> dict[str, str]:
        """The part of our environment that the agent gets."""
        usual = [*ENVIRONMENT, *(() if self.python else ("PYTHON*", "COVERAGE*"))]
        return {
            name: value
            for name, value in ours.items()
            if _fits(name, self.env) or (_fits(name, usual) and not _fits(name, WITHHELD))
        }


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, one) for one in patterns)


class Keeper:
    """Starts the processes of one agent, one after the other, on a thread that lives as long as the agent.

    The system ends a child when the thread that started it ends (see `airside.cli.isolated`), so that thread must be
    this one and not one of a pool.
    """

    def __init__(self, plan: Isolation) -> None:
        self._plan = plan
        self._orders: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"{plan.name}-keeper", daemon=True)

    async def start(self) -> Child:
        """A new process, running. `OSError` if there is no such interpreter."""
        if not self._thread.is_alive():
            self._thread.start()
        loop = asyncio.get_running_loop()
        child = Child(self._plan.name, loop)
        started: asyncio.Future[None] = loop.create_future()

        def order() -> None:
            try:
                child.start(self._plan)
            except OSError as exc:
                _tell(loop, _fail, started, exc)
                return
            _tell(loop, _settle, started)
            child.wait()

        self._orders.put(order)
        await started
        return child

    def close(self) -> None:
        """Start no more."""
        self._orders.put(None)

    def _work(self) -> None:
        while (order := self._orders.get()) is not None:
            order()


class Child:
    """One process. `ended` is done when it is over; `socket` is our end of its link."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self.name = name
        self.ended = asyncio.Event()
        self.last_words: deque[str] = deque(maxlen=5)
        self._loop = loop

    def start(self, plan: Isolation) -> None:
        """Start it. Blocks."""
        self.socket, theirs = socket.socketpair(socket.AF_UNIX)
        with theirs:
            try:
                self.process = subprocess.Popen(
                    [*plan.command, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    env=plan.environment(os.environ),
                    start_new_session=True,  # a Ctrl-C is for the service, which ends its agents in order
                )
            except OSError:
                self.socket.close()
                raise
        words = threading.Thread(target=self._listen, name=f"{self.name}-stderr", daemon=True)
        words.start()

    def wait(self) -> None:
        """Until the process is over. Blocks."""
        self.process.wait()
        _tell(self._loop, self.ended.set)

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def end(self) -> str:
        """How it ended."""
        code = self.process.returncode
        return f"signal {-code}" if code is not None and code < 0 else f"status {code}"

    def _listen(self) -> None:
        """Log what the process writes to its standard error, not faster than a log can bear."""
        stream: IO[bytes] | None = self.process.stderr
        if stream is None:
            return
        since, lines = time.monotonic(), 0
        with stream:
            while line := stream.readline(limits.LOG_LINE):
                self._log(line.decode("utf-8", "replace").rstrip())
                lines += 1
                if lines >= LINES:
                    time.sleep(max(0.0, since + 1.0 - time.monotonic()))
                    since, lines = time.monotonic(), 0

    def _log(self, line: str) -> None:
        if not line:
            return
        found = _PRIORITY.match(line)
        level = _LEVELS[found[1]] if found else logging.INFO
        text = redact(line[found.end() :] if found else line)
        self.last_words.append(text)
        log.log(level, "%s", text, extra={"agent": self.name, "pid": self.process.pid})


_PRIORITY = re.compile(r"<([34567])>")
_LEVELS = {"3": logging.ERROR, "4": logging.WARNING, "5": logging.INFO, "6": logging.INFO, "7": logging.DEBUG}


def _tell(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *args: Any) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
        loop.call_soon_threadsafe(callback, *args)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _fail(future: asyncio.Future[None], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)

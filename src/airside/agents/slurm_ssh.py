"""Connections to login nodes: one for each node, user and key, made when needed and kept while they are used."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airside.model import Fail, Retry, UsageError
from airside.model.redaction import redact

if TYPE_CHECKING:
    import asyncssh

_SESSIONS = 8  # commands at once over one connection: sshd allows ten, of which some may have ended just now
_PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6)  # seconds until sshd has noticed that they have
_CONNECT_TIMEOUT = 20.0  # seconds
_KEEPALIVE = 15.0  # seconds
_IDLE = 600.0  # seconds until an unused connection is closed


@dataclass(frozen=True, slots=True)
class Login:
    """Whom to log in as and where. `keys` are private keys in PEM, `files` files with them; both empty: ssh's own."""

    host: str
    port: int = 0
    username: str = ""
    keys: tuple[str, ...] = field(default=(), repr=False)
    files: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The login in words, without its keys."""
        user = f"{self.username}@" if self.username else ""
        return f"{user}{self.host}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command printed and how it ended."""

    status: int
    out: str
    err: str


class SshPool:
    """Runs shell scripts on login nodes.

    Host keys are verified against `known_hosts`, a file, or `~/.ssh/known_hosts`. `config` is an OpenSSH client
    configuration, or empty. Raises `UsageError` for a file that is not there.
    """

    def __init__(self, known_hosts: str, config: str, *, timeout: float) -> None:
        self._known_hosts = _file(known_hosts, "known_hosts")
        self._config = _file(config, "ssh_config_file")
        self._timeout = timeout
        self._lines: dict[Login, _Line] = {}

    async def run(self, login: Login, script: str) -> Answer:
        """Run a script for /bin/sh on the login node. `Retry` if the node cannot be reached, `Fail` if it refuses.

        A script may run twice if the connection breaks under it.
        """
        import asyncssh

        await self._close_idle()
        line = self._lines.setdefault(login, _Line())
        for attempt in range(2):
            fresh = line.connection is None
            try:
                async with line.session(), asyncio.timeout(self._timeout):
                    return await self._ask(login, line, script)
            except TimeoutError as exc:
                line.drop()
                raise Retry(f"{login.name} did not answer within {self._timeout:g} s.") from exc
            except (asyncssh.Error, OSError) as exc:
                line.drop()
                if fresh or attempt or isinstance(exc, asyncssh.PermissionDenied):
                    raise _explained(login, exc) from exc
        raise AssertionError("the second try returns or raises")

    async def close(self) -> None:
        """Close every connection."""
        lines, self._lines = list(self._lines.values()), {}
        for line in lines:
            line.drop()

    async def _ask(self, login: Login, line: _Line, script: str) -> Answer:
        import asyncssh

        for pause in _PAUSES:
            connection = await self._connection(login, line)
            try:
                return await _run(connection, script)
            except asyncssh.ChannelOpenError:  # nothing was run, and other commands are under way on the connection
                if connection.is_closed():
                    raise
            await asyncio.sleep(pause)
        return await _run(await self._connection(login, line), script)

    async def _connection(self, login: Login, line: _Line) -> asyncssh.SSHClientConnection:
        async with line.connecting:
            if line.connection is not None and not line.connection.is_closed():
                return line.connection
            line.connection = await self._connect(login)
            return line.connection

    async def _connect(self, login: Login) -> asyncssh.SSHClientConnection:
        import asyncssh

        options: dict[str, Any] = {"config": [self._config] if self._config else None}
        if self._known_hosts:
            options["known_hosts"] = self._known_hosts
        if login.username:
            options["username"] = login.username
        if login.keys or login.files:
            options["client_keys"] = await asyncio.to_thread(_read_keys, login)
            options["agent_path"] = None
        return await asyncssh.connect(
            login.host,
            login.port or (),
            connect_timeout=_CONNECT_TIMEOUT,
            keepalive_interval=_KEEPALIVE,
            **options,
        )

    async def _close_idle(self) -> None:
        now = time.monotonic()
        for login, line in list(self._lines.items()):
            if line.is_idle and now - line.used > _IDLE:
                del self._lines[login]
                line.drop()


class _Line:
    """One connection and who uses it."""

    def __init__(self) -> None:
        self.connection: asyncssh.SSHClientConnection | None = None
        self.connecting = asyncio.Lock()
        self.used = time.monotonic()
        self._users = 0
        self._free = asyncio.Semaphore(_SESSIONS)

    @property
    def is_idle(self) -> bool:
        return not self._users

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """Wait for one of the commands that may run at once."""
        self._users += 1
        try:
            async with self._free:
                yield
        finally:
            self._users -= 1
            self.used = time.monotonic()

    def drop(self) -> None:
        if self.connection is not None:
            self.connection.abort()
            self.connection = None


async def _run(connection: asyncssh.SSHClientConnection, script: str) -> Answer:
    """The script goes in as the input of a shell: no login shell, whichever it is, has a say in its quoting."""
    async with connection.create_process("exec /bin/sh -s", encoding="utf-8", errors="replace") as process:
        out, err = await process.communicate(script)
    status = process.exit_status
    if status is None:
        raise OSError("the connection was lost")
    return Answer(status, out or "", err or "")


def _explained(login: Login, exc: Exception) -> Exception:
    import asyncssh

    said = redact(" ".join(str(exc).split()) or type(exc).__name__)
    if isinstance(exc, asyncssh.HostKeyNotVerifiable):
        message = (
            f"The host key of {login.host} is not the one in known_hosts, or not there: {said}. An operator may add "
            "the right one (ssh-keyscan); somebody may be between the service and the host."
        )
        return Fail(message, code="HostKeyNotVerified")
    if isinstance(exc, asyncssh.PermissionDenied):
        return Fail(f"{login.name} refuses the service's key: {said}.", code="Forbidden")
    return Retry(f"{login.name} cannot be reached: {said}.")


def _read_keys(login: Login) -> Sequence[Any]:
    import asyncssh

    try:
        keys = [asyncssh.import_private_key(key) for key in login.keys]
        return [*keys, *(asyncssh.read_private_key(str(Path(name).expanduser())) for name in login.files)]
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as exc:
        raise Fail(f"The private key for {login.name} cannot be used: {exc}.", code="Forbidden") from None
    except OSError as exc:
        raise Fail(f"The private key file {exc.filename} cannot be read: {exc.strerror}.", code="Forbidden") from None


def _file(name: str, option: str) -> str:
    if not name:
        return ""
    path = Path(name).expanduser()
    with suppress(OSError):
        if path.is_file():
            return str(path)
    raise UsageError(f"{option}: there is no file {path}.")

"""A service that runs elsewhere: reached at an address, or started there by a command of the caller's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from airside.engine.endpoint import Tls, checked, is_local, open_channel, reason
from airside.model import Retry, UsageError
from airside.testing.conformance.case import NotApplicable
from airside.testing.conformance.report import Result

_STARTS_WITHIN = 60.0  # seconds
_ENDS_WITHIN = 30.0
_ENDS_SOON = 1.0
_OPTIONS = (
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.max_send_message_length", 64 * 1024 * 1024),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class RemoteService:
    """A service in any language at `HOST:PORT`. With `command` it is started there, restarted and stopped.

    What a started service prints goes to `log_file`.
    """

    def __init__(
        self,
        target: str,
        log_file: Path,
        *,
        tls: Tls | None = None,
        token: str = "",
        command: Sequence[str] = (),
    ) -> None:
        self.name = checked(target).removeprefix("dns:///")
        self.address = target
        if token and tls is None and not is_local(target):
            raise UsageError(f"A token for {self.name} would travel in clear text: use TLS.")
        self._tls = tls
        self._token = token
        self._command = tuple(command)
        self._process: subprocess.Popen[bytes] | None = None
        self._log_file = log_file

    @property
    def channel(self) -> grpc.aio.Channel:
        return self._channel

    def connect(self, options: Sequence[tuple[str, Any]] = ()) -> grpc.aio.Channel:
        interceptors = [kind(self._token) for kind in _BEARERS] if self._token else []
        return open_channel(self.address, self._tls, options=(*_OPTIONS, *options), interceptors=interceptors)

    async def start(self) -> None:
        """Connect; with a command, start the service first. `Retry` if nothing answers, `UsageError` if it ends."""
        if self._command:
            await self._spawn()
        self._channel = self.connect()

    async def stop(self) -> None:
        await self._channel.close(None)
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        await self._channel.close(None)
        await self._end(signal.SIGKILL)

    async def restart(self, *, kill: bool = False) -> None:
        if not self._command:
            raise NotApplicable("the service can only be restarted if the check starts it")
        await (self.kill() if kill else self.stop())
        await self.start()

    async def revive(self, last: Result) -> str:
        """How the service that this started has ended, now that it is started again; empty if it runs."""
        if self._process is None:
            return ""
        if any(one.received.startswith("UNAVAILABLE") for one in last.exchanges):  # it may be about to end
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._process.wait, _ENDS_SOON)
        ended = self._process.poll()
        if ended is None:
            return ""
        how = f"the service ended with {ended}: {self._last_words()}"
        await self.stop()
        await self.start()
        return how

    def log(self) -> str:
        """What the service has printed; nothing of one that runs already."""
        return self._log_file.read_text(errors="replace") if self._log_file.exists() else ""

    async def _spawn(self) -> None:
        if not await self._problem():
            raise UsageError(f"Something answers at {self.name} already; it must be free for {self._command[0]}.")
        self._process = await asyncio.to_thread(self._open)
        until = asyncio.get_running_loop().time() + _STARTS_WITHIN
        while problem := await self._problem():
            ended = self._process.poll()
            if ended is None and asyncio.get_running_loop().time() < until:
                await asyncio.sleep(0.05)
                continue
            said = self._last_words()
            await self._end(signal.SIGKILL)
            if ended is None:
                raise UsageError(f"{self._command[0]} does not serve at {self.name}: {problem}. It said: {said}")
            raise UsageError(f"{self._command[0]} ended with {ended} instead of serving at {self.name}: {said}")

    def _open(self) -> subprocess.Popen[bytes]:
        try:
            with self._log_file.open("ab") as log:
                return subprocess.Popen(
                    self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
        except OSError as exc:
            raise UsageError(f"{self._command[0]} cannot be started: {exc.strerror}.") from None

    def _last_words(self) -> str:
        lines = self.log().strip().splitlines()
        telling = [line for line in lines if line.startswith(("panic:", "fatal error:"))]
        return (telling or lines or ["it said nothing"])[-1][-300:]

    async def _problem(self) -> str:
        """Why nothing answers at the address; empty if something does."""
        async with self.connect() as channel:
            return await unreachable(channel, timeout=1.0)

    async def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for one in (number, signal.SIGKILL):
            if process.poll() is None:
                os.killpg(process.pid, one)
            try:
                await asyncio.to_thread(process.wait, _ENDS_WITHIN)
                return
            except subprocess.TimeoutExpired:
                continue


async def unreachable(channel: grpc.aio.Channel, timeout: float) -> str:
    """Why no gRPC service answers on this channel, in a few words; empty if one does."""
    ask = channel.unary_unary("/grpc.health.v1.Health/Check", None, None)
    try:
        await ask(b"", timeout=timeout)
    except grpc.aio.AioRpcError as exc:
        if exc.code() is grpc.StatusCode.UNAVAILABLE:
            return reason(exc.details() or "") or "it is unavailable"
        if exc.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"no answer within {timeout:g} s"
    return ""


def nothing_answers(name: str, why: str) -> Retry:
    """The error for an address where nothing answers."""
    return Retry(f"No agent service answers at {name}: {why}.")


class _Bearer:
    """Sends the caller's token along with every call."""

    def __init__(self, token: str) -> None:
        self._header = ("authorization", f"Bearer {token}")

    def _with_token(self, details: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
        metadata = grpc.aio.Metadata(*(details.metadata or ()), self._header)
        return grpc.aio.ClientCallDetails(
            details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
        )


def _bearer(kind: Any, method: str) -> Callable[[str], Any]:
    async def intercept(self: Any, continuation: Any, details: grpc.aio.ClientCallDetails, request: Any) -> Any:
        return await continuation(self._with_token(details), request)

    return type(kind.__name__, (_Bearer, kind), {method: intercept})


_BEARERS = (
    _bearer(grpc.aio.UnaryUnaryClientInterceptor, "intercept_unary_unary"),
    _bearer(grpc.aio.UnaryStreamClientInterceptor, "intercept_unary_stream"),
    _bearer(grpc.aio.StreamStreamClientInterceptor, "intercept_stream_stream"),
)

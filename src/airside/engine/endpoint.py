"""One agent service elsewhere: its channel, how long calls may take, and what its errors mean."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from airside.model import AgentError, Call, Fail, Retry, UsageError
from airside.wire import limits
from airside.wire.families import FAMILIES, Family, Method
from airside.wire.status import error_from_status, one_line

TIMEOUTS: Mapping[str, float] = {
    "CreateTask": 30.0,
    "GetTask": 10.0,
    "DeleteTask": 30.0,
    "GetTaskMetrics": 30.0,
    "ListAgents": 5.0,
    "ListConnectors": 5.0,
}
"""Seconds that a call may take unless the caller says otherwise. A sync task and a log stream may take for ever."""

_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.max_receive_message_length", limits.REQUEST),
    ("grpc.max_send_message_length", limits.REQUEST),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # without it a ping is awaited for a minute
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 10_000),  # gRPC's own two minutes are long for a service that restarted
)
_UNREACHABLE = (
    "failed to connect to all addresses",
    "connections to all backends failing",
    "errors resolving",
    "DNS resolution failed",
)
_HINTS = {
    "WRONG_VERSION_NUMBER": "it does not speak TLS",
    "CERTIFICATE_VERIFY_FAILED": "its certificate cannot be verified",
    "Domain name not found": "there is no such host",
}


@dataclass(frozen=True, slots=True)
class Tls:
    """How a connection is secured. All are PEM; without `roots` gRPC's own authorities hold, or those in the file that
    the environment variable GRPC_DEFAULT_SSL_ROOTS_FILE_PATH names.

    `certificate` and `key` are this side's own, for services that ask for them; `server_name` is the name that
    the service's certificate must carry, if it is not the host's.
    """

    roots: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = field(default=None, repr=False)
    server_name: str = ""


class Endpoint:
    """A connection to one agent service. Make it, and use it, on one event loop.

    `target` is `HOST:PORT`, `dns:///HOST:PORT` or `unix:PATH`. `token` goes along with every call, over TLS or
    to this machine only. `timeouts` are seconds by the name of the RPC (`GetTask`) in any case, and `default`;
    a call ends at the earlier of its timeout and the caller's deadline; 0 means no limit. `service_config` is
    gRPC's own JSON, for balancing and the like.
    """

    def __init__(
        self,
        target: str,
        *,
        tls: Tls | None = None,
        token: str = "",
        timeouts: Mapping[str, float] | None = None,
        service_config: str = "",
    ) -> None:
        self.target = target
        self.name = checked(target).removeprefix("dns:///")
        if token and tls is None and not is_local(target):
            raise UsageError(f"A token for {self.name} would travel in clear text: use TLS.")
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._timeouts = {name.lower(): seconds for name, seconds in (timeouts or {}).items()}
        self._channel = open_channel(target, tls, service_config)
        self._unary: dict[str, Any] = {}

    async def close(self) -> None:
        """Close the connection; calls under way end."""
        await self._channel.close(None)

    async def ask(self, method: Method, request: bytes, call: Call) -> Any:
        """The answer to a unary call. Raises `Retry`, `Fail` or `NotFound`."""
        timeout = self._timeout(method, call)
        rpc = self._unary.get(method.path)
        if rpc is None:
            rpc = self._unary[method.path] = self._channel.unary_unary(method.path, None, None)
        try:
            return await rpc(request, timeout=timeout, metadata=self._metadata)
        except grpc.aio.AioRpcError as exc:
            raise self._error(exc, method, timeout) from exc

    async def listen(self, method: Method, requests: Iterable[bytes], call: Call) -> AsyncGenerator[bytes, None]:
        """The answers of a streaming call, as they come. Ends the call when its reader stops."""
        timeout = self._timeout(method, call)
        stream: Any
        if method.kind == "stream":
            stream = self._channel.stream_stream(method.path, None, None)(iter(requests), timeout, self._metadata)
        else:
            (request,) = requests
            stream = self._channel.unary_stream(method.path, None, None)(
                request, timeout=timeout, metadata=self._metadata
            )
        try:
            async for answer in stream:
                yield answer
        except grpc.aio.AioRpcError as exc:
            raise self._error(exc, method, timeout) from exc
        finally:
            stream.cancel()

    async def list(self, family: Family | None = None) -> tuple[Family, list[Any]]:
        """The agents that the service lists, and the family it spoke: the given one, or the first that it serves."""
        for one in FAMILIES if family is None else (family,):
            method = one.methods["list"]
            try:
                answer = method.response.FromString(await self.ask(method, b"", Call()))
            except Fail as exc:
                if exc.code == "Unimplemented" and family is None:
                    continue
                raise
            return one, list(answer.agents if one.name == "v1" else answer.connectors)
        raise UsageError(f"{self.name} answers, but it is no agent service: it lists neither agents nor connectors.")

    def _timeout(self, method: Method, call: Call) -> float | None:
        own = self._timeouts.get(method.name.lower(), self._timeouts.get("default", TIMEOUTS.get(method.name, 0.0)))
        left = call.remaining
        if not own:
            return left
        return own if left is None else min(own, left)

    def _error(self, exc: grpc.aio.AioRpcError, method: Method, timeout: float | None) -> AgentError:
        status, details = exc.code(), exc.details() or ""
        if status is grpc.StatusCode.UNAVAILABLE and details.startswith(_UNREACHABLE):
            return Retry(f"No agent service answers at {self.name}: {reason(details)}.")
        if status is grpc.StatusCode.DEADLINE_EXCEEDED and details == "Deadline Exceeded":
            return Retry(f"{self.name} did not answer {method.name} within {timeout or 0:.3g} s.")
        if status is grpc.StatusCode.UNIMPLEMENTED and details == "Method not found!":
            return Fail(f"{self.name} does not serve {method.path.strip('/')}.", code="Unimplemented")
        return error_from_status(status, details)


def checked(target: str) -> str:
    """The target, if it names a host and a port or a socket; else `UsageError` says how to write it."""
    if target.startswith(("unix:", "unix-abstract:")):
        return target
    host, _, port = target.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"{target!r} is no endpoint: write HOST:PORT, as in localhost:8000.")
    return target


def reason(details: str) -> str:
    """What kept a connection from being made, out of gRPC's own words.

    >>> reason("failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:9: "
    ...        "Failed to connect to remote host: Connection refused")
    'Connection refused'
    """
    hint = next((hint for mark, hint in _HINTS.items() if mark in details), "")
    if hint:
        return hint
    last = details.rpartition("last error: ")[2]
    last = re.sub(r"^[A-Z_]+: ", "", last)
    for noise in (
        r"^(ipv[46]|unix):\S+: ",
        r"^Failed to connect to remote host: ",
        r"^connect failed: addr: \S+ error: ",
    ):
        last = re.sub(noise, "", last)
    return one_line(last).rstrip(".")


def open_channel(
    target: str,
    tls: Tls | None = None,
    service_config: str = "",
    *,
    options: Iterable[tuple[str, Any]] = (),
    interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
) -> grpc.aio.Channel:
    """A channel to an agent service. `options` are further options of gRPC; of two with one name the last holds."""
    wanted: dict[str, Any] = dict(_OPTIONS)
    if service_config:
        wanted["grpc.service_config"] = service_config
    if is_local(target):
        wanted["grpc.enable_http_proxy"] = 0
    if tls is not None and tls.server_name:
        wanted["grpc.ssl_target_name_override"] = tls.server_name
    pairs = list({**wanted, **dict(options)}.items())
    if tls is None:
        return grpc.aio.insecure_channel(target, pairs, interceptors=interceptors)
    credentials = grpc.ssl_channel_credentials(tls.roots, tls.key, tls.certificate)
    return grpc.aio.secure_channel(target, credentials, pairs, interceptors=interceptors)


def is_local(target: str) -> bool:
    """True if the target is on this machine."""
    host = target.removeprefix("dns:///").rpartition(":")[0]
    return (
        target.startswith("unix") or host in ("localhost", "[::1]") or re.fullmatch(r"127(\.\d+){3}", host) is not None
    )

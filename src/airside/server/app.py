"""The server: opens the agents, listens, and stops without losing anything."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, ParamSpec, Self

import grpc
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from airside.model import UsageError
from airside.observe.events import Event, Hook, Hooks, What
from airside.observe.readings import Gauge, Reading
from airside.observe.tracing import Tracing
from airside.sdk.agent import Agent
from airside.sdk.discovery import explain
from airside.sdk.options import read_options
from airside.sdk.registry import BrokenPlugin
from airside.server.connections import NO_CONNECTIONS, Connections
from airside.server.handle import UNSIGNED, SigningKeys
from airside.server.handshakes import Handshakes
from airside.server.health import Health
from airside.server.http import HttpPages, Page
from airside.server.readings import read_lanes, read_service
from airside.server.reload import Look, keep_looking
from airside.server.rpc import generic_handlers
from airside.server.service import Service
from airside.server.settings import ServerSettings
from airside.server.tls import Certificates, TlsFiles
from airside.server.tokens import TokenGate, Tokens
from airside.server.watchdog import Watchdog
from airside.wire import limits
from airside.wire.families import FAMILIES

log = logging.getLogger("airside.server")

SPARE_CALLS = 1_000
"""Health checks, listings and refusals at once, beyond `max_calls`; there gRPC itself refuses."""
HURRY = 0.8
"""The part of the grace after which creates are answered pending."""

P = ParamSpec("P")

SERVICE_NAMES = tuple(name for family in FAMILIES for name in family.services)


class Server:
    """Serves agents to both Flyte generations on one port. `async with` it, or `start` and `stop`.

    `options` maps an agent's name or task type to its table of options. An agent that cannot be opened is not
    served and joins `broken`; the others are served. Raises `UsageError` if an option is wrong or the port is taken,
    if none can be served, and with `strict` if anything is broken; then nothing is left half-started. With `tls` the
    port takes encrypted calls only, with `token_file` only calls with one of its tokens; both follow their files.
    `hooks` are told every event; `metrics` renders the page /metrics; with `tracing` every call is a span.

    >>> import asyncio
    >>> from airside.agents.echo import EchoAgent
    >>> from airside.sdk.adapt import adapt
    >>> async def main():
    ...     async with Server([adapt(EchoAgent())], ServerSettings(port=0)) as server:
    ...         return server.port > 0
    >>> asyncio.run(main())
    True
    """

    def __init__(
        self,
        agents: Sequence[Agent],
        settings: ServerSettings = ServerSettings(),  # noqa: B008 - frozen
        *,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        keys: SigningKeys = UNSIGNED,
        connections: Connections = NO_CONNECTIONS,
        tls: TlsFiles | None = None,
        token_file: Path | None = None,
        hooks: Sequence[Hook] = (),
        metrics: Callable[[Iterable[Reading]], bytes] | None = None,
        tracing: Tracing | None = None,
        broken: Sequence[BrokenPlugin] = (),
        strict: bool = False,
    ) -> None:
        self._candidates = tuple(agents)
        self._settings = settings
        self._options = options or {}
        if connections and not keys.current:
            raise UsageError(
                "Named connections need a signing key, since whoever can write a handle chooses whose credentials are "
                "used: add [serve.signing]."
            )
        self._keys = keys
        self._connections = connections
        self._tls = tls
        self._token_file = token_file
        self._looks: list[Look] = []
        self._looking: asyncio.Task[None] | None = None
        self._hooks = Hooks(hooks)
        self._metrics = metrics
        self._tracing = tracing
        self._strict = strict
        self._health = Health(SERVICE_NAMES)
        self._handshakes = Handshakes(self._hooks.tell)
        self.service = Service((), settings, keys, self._hooks)
        self.agents: list[Agent] = []
        self.broken = list(broken)
        self._grpc: grpc.aio.Server | None = None
        self._pages: HttpPages | None = None
        self._watchdog: Watchdog | None = None
        self.port = 0
        self.metrics_port: int | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop(drain_delay=0.0)

    async def start(self) -> None:
        """Open the agents, then listen. SERVING once this returns."""
        try:
            await self._open_agents()
            await self._load_connections()
            self.service = Service(
                self.agents, self._settings, self._keys, self._hooks, self._connections, self._tracing
            )
            self._watchdog = Watchdog(self.agents, self._hooks)
            self._watchdog.start()
            await self._listen()
        except BaseException:
            await self._close()
            raise
        await self._health.set_serving(True)

    async def stop(self, *, drain_delay: float | None = None, grace: float | None = None) -> None:
        """Say NOT_SERVING, go on accepting for the drain delay, finish what is in flight, close. Jobs go on.

        Calls in flight get `grace` seconds. A create that is not done shortly before is answered pending if another
        process can take it up; for one that cannot be taken up, and is not done at the end, an event tells its key.
        """
        grace = self._settings.grace if grace is None else grace
        await self._health.set_serving(False)
        await asyncio.sleep(self._settings.drain_delay if drain_delay is None else drain_delay)
        hurry = asyncio.get_running_loop().call_later(grace * HURRY, self.service.ledger.hurry)
        try:
            async with asyncio.timeout(grace + 1.0):  # gRPC cancels what is left by itself
                await asyncio.gather(self._finish_calls(grace), self._finish_creates(grace))
        except TimeoutError:
            log.warning("calls did not end when they were cancelled")
        finally:
            hurry.cancel()
        await self._close()

    async def _finish_calls(self, grace: float) -> None:
        if self._grpc is not None:
            await self._grpc.stop(grace)

    async def _finish_creates(self, grace: float) -> None:
        """Wait for the creates under way, also for those that nobody waits for any more."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self.service.ledger.drain()
        for entry in self.service.ledger.running:
            if entry.promised:
                log.info("a create goes on in whichever process is asked for it next", extra={"key": entry.key})
                continue
            text = "the service stopped while the job was being created"
            log.warning(text, extra={"key": entry.key})
            self._hooks.tell(Event(what=What.UNCERTAIN, key=entry.key, message=text))

    async def _load_connections(self) -> None:
        if self._connections:
            await asyncio.to_thread(self._connections.load)
            self._looks.append(self._connections.look)

    async def _open_agents(self) -> None:
        options = [self._options_of(agent) for agent in self._candidates]  # all checked before any is opened
        opened = await asyncio.gather(
            *(agent.open(chosen) for agent, chosen in zip(self._candidates, options, strict=True)),
            return_exceptions=True,  # at once: one that is slow holds up no other
        )
        for agent, failure in zip(self._candidates, opened, strict=True):
            if isinstance(failure, BaseException):
                log.debug("agent %s did not open", agent.name, exc_info=failure)
                self.broken.append(BrokenPlugin(agent.name, explain(failure)))
            else:
                self.agents.append(agent)
        if self.broken and (self._strict or not self.agents):
            raise UsageError(f"{self.broken[0].source} cannot be served: {self.broken[0].error}")

    def _options_of(self, agent: Agent) -> Any:
        names = (agent.name, *(task_type.name for task_type in agent.task_types))
        found = next((name for name in names if name in self._options), names[0])
        return read_options(agent.options_type, self._options.get(found, {}), f"agents.{found}")

    async def _listen(self) -> None:
        settings = self._settings
        credentials, gates = await self._credentials(), await self._gates()
        server = grpc.aio.server(
            interceptors=gates,
            maximum_concurrent_rpcs=settings.max_calls + SPARE_CALLS,
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", settings.max_request_bytes),
                ("grpc.max_send_message_length", limits.REQUEST),
                # Flyte 2 pings every 30 s on long calls, others more often; none of them means harm.
                ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
                ("grpc.http2.max_ping_strikes", 0),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
        )
        server.add_generic_rpc_handlers(generic_handlers(self.service))
        self._health.add_to(server)
        reflection.enable_server_reflection((*SERVICE_NAMES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        address = f"{_bracketed(settings.host)}:{settings.port}"
        try:
            if credentials is None:
                self.port = server.add_insecure_port(address)
            else:
                self.port = server.add_secure_port(address, credentials)
        except RuntimeError as exc:
            raise UsageError(
                f"Port {settings.port} on {settings.host} cannot be listened on; "
                "if it is in use, choose another with --port."
            ) from exc
        self._grpc = server
        await server.start()
        if self._looks:
            self._looking = asyncio.create_task(keep_looking(self._looks))
        if settings.metrics_port is not None:
            await self._listen_http(settings.host, settings.metrics_port)

    async def _credentials(self) -> grpc.ServerCredentials | None:
        if self._tls is None:
            return None
        tell, began = self._from_anywhere(self._hooks.tell), self._from_anywhere(self._handshakes.began)
        certificates = await asyncio.to_thread(Certificates, self._tls, tell, began)
        self._looks += certificates.look, self._from_anywhere(self._handshakes.look)
        return certificates.credentials()

    async def _gates(self) -> list[grpc.aio.ServerInterceptor[Any, Any]]:
        gates: list[grpc.aio.ServerInterceptor[Any, Any]] = [] if self._tls is None else [self._handshakes]
        if self._token_file is None:
            return gates
        tokens = await asyncio.to_thread(Tokens, self._token_file, self._from_anywhere(self._hooks.tell))
        self._looks.append(tokens.look)
        return [*gates, TokenGate(tokens, self._hooks.tell)]

    def _from_anywhere(self, act: Callable[P, None]) -> Callable[P, None]:
        """Does the same on the loop, whichever thread asks for it."""
        loop = asyncio.get_running_loop()

        def act_on_loop(*args: P.args, **kwargs: P.kwargs) -> None:
            with contextlib.suppress(RuntimeError):  # a handshake that begins as the loop ends
                loop.call_soon_threadsafe(partial(act, *args, **kwargs))

        return act_on_loop

    async def _listen_http(self, host: str, port: int) -> None:
        self._pages = HttpPages(
            {
                "/healthz": self._healthz,
                "/readyz": self._readyz,
                "/metrics": self._metrics_page,
                "/uncertain": self._uncertain,
            }
        )
        try:
            self.metrics_port = await self._pages.start(host, port)
        except OSError as exc:
            raise UsageError(
                f"Metrics port {port} on {host} cannot be listened on: {exc.strerror}; "
                "choose another with --metrics-port."
            ) from exc

    def readings(self) -> Iterator[Reading]:
        """How the service stands right now, for the page /metrics."""
        yield Reading(Gauge.SERVING, float(self._health.serving))
        yield Reading(Gauge.AGENTS, len(self.agents))
        yield Reading(Gauge.BROKEN, len(self.broken))
        yield from read_service(self.service, self._keys)
        yield from read_lanes(self.agents)

    def _uncertain(self) -> Page:
        return Page(HTTPStatus.OK, self.service.uncertain.to_json(), "application/json")

    def _healthz(self) -> Page:
        return Page(HTTPStatus.OK, b"alive\n")

    def _readyz(self) -> Page:
        broken = "".join(f"not served: {plugin.source}: {plugin.error}\n" for plugin in self.broken).encode()
        if self._health.serving:
            return Page(HTTPStatus.OK, b"ready\n" + broken)
        return Page(HTTPStatus.SERVICE_UNAVAILABLE, b"not serving\n" + broken)

    def _metrics_page(self) -> Page:
        if self._metrics is None:
            return Page(HTTPStatus.NOT_IMPLEMENTED, b"no metrics: pip install 'airside[metrics]'\n")
        return Page(HTTPStatus.OK, self._metrics(self.readings()), "text/plain; version=0.0.4; charset=utf-8")

    async def _close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        if self._grpc is not None:
            await self._grpc.stop(None)
            self._grpc = None
        if self._pages is not None:
            await self._pages.stop()
            self._pages = None
        await self.service.watch.close()
        await self.service.earlier.close()
        await self.service.cancellation.close()
        self.service.offload.close()
        if self._watchdog is not None:
            self._watchdog.stop()
        agents, self.agents = self.agents, []
        for agent, problem in zip(
            agents, await asyncio.gather(*(agent.close() for agent in agents), return_exceptions=True), strict=True
        ):
            if isinstance(problem, Exception):
                log.error("agent %s did not close", agent.name, exc_info=problem)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host

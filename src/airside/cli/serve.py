"""`airside serve`: the gRPC service that Flyte's engines call."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from airside.cli.exits import Exit
from airside.cli.isolation import elsewhere, start_isolated
from airside.cli.readiness import is_built_in
from airside.cli.registry import has_host_access, load_for_service, load_named, options_table
from airside.cli.selection import names_of, selected
from airside.cli.serve_security import (
    SigningOptions,
    listen_host,
    named_connections,
    security_flags,
    signing_keys,
    tls_files,
)
from airside.cli.settings import Settings, load_settings
from airside.model import MissingExtra, UsageError
from airside.observe.logs import configure
from airside.observe.prometheus import Metrics
from airside.observe.tracing import Tracing
from airside.sdk.adapt import adapt_all
from airside.sdk.declare import missing_extra
from airside.sdk.discovery import installed_plugins
from airside.sdk.lane import THREADS
from airside.sdk.options import read_options
from airside.sdk.registry import Registration, Registry

if TYPE_CHECKING:
    from airside.sdk.agent import Agent
    from airside.server.app import Server

log = logging.getLogger("airside.serve")

LEAVE = 5.0
"""Seconds after the stop at which the process ends, whatever an agent has left behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """The table `[serve]` of airside.toml; a flag on the command line wins over its key. Times are in seconds."""

    host: str = ""
    port: int = 8000
    metrics_port: int = 9090
    insecure: bool = False
    tls_cert: str = ""
    tls_key: str = ""
    client_ca: str = ""
    token_file: str = ""
    max_calls: int = 10_000
    max_answer_bytes: int = 268_435_456
    signing: SigningOptions | None = None
    local_storage: tuple[str, ...] | None = None
    """Folders of this machine that callers may name."""
    modules: list[str] | None = None
    agents: list[str] | None = None
    """The agents to serve, by name or task type; None is all that are installed."""
    enable: list[str] | None = None
    host_access: list[str] | None = None
    """Agents with host access that may be served on an address other than loopback."""
    log_format: str = "console"
    log_level: str = "info"
    drain_delay: float = 15.0
    grace: float = 10.0
    threads: int = THREADS
    """How many blocking calls of one agent may run at once, in each of its two lanes."""
    tracing: bool = False
    """Make an OpenTelemetry span of each call."""
    strict: bool = False
    """Refuse to start if a plugin cannot be loaded."""


@click.command(epilog="Example: airside serve agent --port 8000 --modules my_agents")
@click.argument("kind", type=click.Choice(["agent", "connector"]), default="agent", required=False)
@click.option(
    "--host",
    metavar="ADDRESS",
    help="Address to listen on. [default: 127.0.0.1, or all interfaces with TLS or --insecure]",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), metavar="N", help="gRPC port; 0 picks a free one. [default: 8000]"
)
@click.option(
    "--metrics-port",
    type=click.IntRange(-1, 65535),
    metavar="N",
    help="HTTP port of /metrics, /readyz and /healthz; 0 picks a free one, -1 serves none. [default: 9090]",
)
@click.option(
    "--modules",
    "-m",
    multiple=True,
    metavar="MODULE",
    help="Import this module and serve the agents that it registers; repeatable.",
)
@click.option(
    "--agent",
    "agents",
    multiple=True,
    metavar="AGENT",
    help="Serve this agent, and no other; repeatable. [default: all]",
)
@click.option(
    "--enable", multiple=True, metavar="AGENT", help="Serve this agent although it has access to this host; repeatable."
)
@click.option(
    "--insecure",
    is_flag=True,
    default=None,
    envvar="AIRSIDE_INSECURE",
    help="Listen on all interfaces without TLS. [env: AIRSIDE_INSECURE=1]",
)
@security_flags
@click.option("--log-format", type=click.Choice(["console", "json"]), help="How log lines look. [default: console]")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="[default: info]")
@click.option(
    "--drain-delay",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Seconds to go on accepting after SIGTERM. [default: 15]",
)
@click.option("--tracing", is_flag=True, default=None, help="Make OpenTelemetry spans; needs an SDK in the process.")
@click.option("--strict", is_flag=True, default=None, help="Refuse to start if a plugin cannot be loaded.")
@click.option("--settings", "settings_file", metavar="FILE", help="Settings file. [default: airside.toml]")
def serve(kind: str, settings_file: str | None, **flags: Any) -> int:
    """Serve the installed agents to Flyte's engines, to Flyte 1 and Flyte 2 alike.

    `agent` and `connector` are the same service: both families of RPCs are always there. Stops on SIGTERM or Ctrl-C;
    remote jobs go on.

    Exit codes: 0 stopped on a signal, 2 wrong usage or settings: nothing was started.
    """
    del kind
    settings = load_settings(settings_file)
    options = serve_options(settings, flags)
    gc.disable()  # until all is loaded, of which nothing is garbage
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            code = runner.run(_serve(options, settings))
            _leave_soon(code)
            return code
    finally:
        gc.enable()


def _leave_soon(code: int) -> None:
    """End the process in a while even if an agent has left something behind that never ends: a thread, a coroutine."""

    def leave() -> None:
        log.warning("leaving although something of an agent's has not ended")
        logging.shutdown()
        os._exit(code)

    timer = threading.Timer(LEAVE, leave)
    timer.daemon = True
    timer.start()


def _loop_factory() -> Any:
    """uvloop if it is installed (the extra `fast`), else asyncio's own loop."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve(options: ServeOptions, settings: Settings) -> int:
    configure(options.log_format, options.log_level)  # type: ignore[arg-type]  # checked by `serve_options`
    registry = Registry()
    asked = _asked(options, settings)
    load_for_service(registry, elsewhere(installed_plugins(), settings), asked, threads=options.threads)
    load_named(registry, options.modules or ())
    metrics = _metrics()
    hooks = [metrics] if metrics else []
    isolated = await start_isolated(settings, registry, threads=options.threads, hooks=hooks)
    try:
        return await _run(_server(options, settings, registry, metrics), options)
    finally:
        for agent in isolated:  # those that are not served too
            await agent.close()


def _server(options: ServeOptions, settings: Settings, registry: Registry, metrics: Metrics | None) -> Server:
    from airside.hosting import ADAPTERS
    from airside.server.app import Server
    from airside.server.settings import ServerSettings

    entries, broken = selected(registry, options.agents)
    before = len(registry.broken)
    chosen = _with_their_libraries(allowed(registry, entries, options), options, settings)
    agents = adapt_all(registry, chosen, ADAPTERS, threads=options.threads)
    if not agents and not registry.broken:
        raise UsageError("No agent is left to serve: see above why each one is not, or leave out --agent.")
    return Server(
        agents,
        ServerSettings(
            host=listen_host(options),
            port=options.port,
            metrics_port=None if options.metrics_port < 0 else options.metrics_port,
            drain_delay=options.drain_delay,
            grace=options.grace,
            local_storage=options.local_storage,
            max_calls=options.max_calls,
            max_answer_bytes=options.max_answer_bytes,
        ),
        options=_agent_options(settings, registry, agents),
        keys=signing_keys(options.signing),
        connections=named_connections(settings, registry),
        tls=tls_files(options),
        token_file=Path(options.token_file) if options.token_file else None,
        hooks=[metrics] if metrics else [],
        metrics=metrics.render if metrics else None,
        tracing=Tracing() if options.tracing else None,
        broken=(*broken, *registry.broken[before:]),
        strict=options.strict,
    )


async def _run(server: Server, options: ServeOptions) -> int:
    """Serve until the first signal, then stop; at once upon a second one."""
    with _signals() as signals:
        await server.start()
        gc.freeze()  # what is loaded by now stays: the collector need not look at it again
        gc.enable()
        gc.set_threshold(10_000, 10, 10)
        _announce(server)
        await signals.get()
        log.info(
            "stopping: NOT_SERVING now, accepting for %g s more; a second signal stops at once", options.drain_delay
        )
        stopping = asyncio.create_task(server.stop())
        again = asyncio.create_task(signals.get())
        await asyncio.wait({stopping, again}, return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            stopping.cancel()
            await asyncio.wait({stopping})
            await server.stop(drain_delay=0.0, grace=0.0)
        again.cancel()
    return Exit.OK


def _metrics() -> Metrics | None:
    try:
        return Metrics()
    except MissingExtra:
        return None  # the page /metrics says what to install


def serve_options(settings: Settings, flags: Mapping[str, Any]) -> ServeOptions:
    """The table `[serve]` with the flags laid over it. Raises `UsageError` that names the key."""
    where = f"{settings.source}: serve"
    options: ServeOptions = read_options(ServeOptions, settings.serve, where)
    _check(options, where)
    given = {name: value for name, value in flags.items() if value not in (None, ())}
    lists = {name: list(value) for name, value in given.items() if isinstance(value, tuple)}
    return replace(options, **{**given, **lists})


def _check(options: ServeOptions, where: str) -> None:
    """What the flags check by themselves, for the keys of the settings."""
    expected = {
        "port": ("0 to 65535", 0 <= options.port <= 65535),
        "metrics_port": ("-1 to 65535", -1 <= options.metrics_port <= 65535),
        "log_format": ("console or json", options.log_format in ("console", "json")),
        "log_level": ("debug, info, warning or error", options.log_level in ("debug", "info", "warning", "error")),
        "drain_delay": ("0 or more", options.drain_delay >= 0),
        "grace": ("0 or more", options.grace >= 0),
        "threads": ("1 or more", options.threads >= 1),
    }
    for key, (values, fits) in expected.items():
        if not fits:
            raise UsageError(f"{where}.{key}: expected {values}, got {getattr(options, key)!r}")


def allowed(registry: Registry, entries: Sequence[Registration], options: ServeOptions) -> Iterable[Registration]:
    """The agents to serve: those with access to this host only if they were enabled by name."""
    from airside.server.settings import is_loopback

    enabled = set(options.enable or ())
    host = listen_host(options)
    names = {name for entry in registry for name in names_of(entry)}
    if unknown := sorted(enabled - names):
        raise UsageError(f"--enable {unknown[0]}: no such agent (installed: {', '.join(sorted(names))}).")
    if (wrong := sorted(set(options.host_access or ()) - names)) and not registry.broken:
        raise UsageError(
            f"[serve] host_access: there is no agent {wrong[0]!r} (installed: {', '.join(sorted(names))})."
        )
    if left_out := sorted(enabled - {name for entry in entries for name in names_of(entry)}):
        raise UsageError(
            f"--enable {left_out[0]}: it is not among the agents to serve; add --agent {left_out[0]}, "
            "or the name to agents in [serve] of airside.toml."
        )
    for entry in entries:
        if has_host_access(entry):
            if enabled.isdisjoint(names_of(entry)):
                log.info(
                    "not served: %s has access to this host; serve it with --enable %s", entry.name, entry.task_types[0]
                )
                continue
            if not is_loopback(host) and set(options.host_access or ()).isdisjoint(names_of(entry)):
                raise UsageError(
                    f"{entry.name} has access to this host, and {host} is not loopback; "
                    f'allow it in airside.toml with [serve] host_access = ["{entry.task_types[0].name}"].'
                )
        yield entry


def _asked(options: ServeOptions, settings: Settings) -> set[str]:
    """The agents that somebody has named or set up, by name or task type."""
    return {*(options.agents or ()), *(options.enable or ()), *settings.agents}


def _with_their_libraries(
    entries: Iterable[Registration], options: ServeOptions, settings: Settings
) -> list[Registration]:
    """The agents without those that come along, lack their library and were not asked for by name: one line for all."""
    asked = _asked(options, settings)
    kept, without = list[Registration](), list[str]()
    for entry in entries:
        if is_built_in(entry) and asked.isdisjoint(names_of(entry)) and missing_extra(entry.agent):
            without.append(entry.name)
        else:
            kept.append(entry)
    if without:
        log.info("not served, for want of a library: %s; `airside agents` says what to install", ", ".join(without))
    return kept


def _agent_options(settings: Settings, registry: Registry, agents: Sequence[Agent]) -> Mapping[str, Mapping[str, Any]]:
    """The options of the agents; a table for an agent that is not installed is a mistake worth stopping for."""
    names = sorted({name for entry in registry for name in names_of(entry)})
    for name in settings.agents:
        if name not in names and not registry.broken:
            raise UsageError(f"{settings.source}: agents.{name}: no such agent (installed: {', '.join(names)})")
    for agent in agents:  # the server reads them again, but does not know the file that a mistake is in
        table, where = options_table(settings, agent)
        read_options(agent.options_type, table, where)
    return settings.agents


@contextlib.contextmanager
def _signals() -> Iterator[asyncio.Queue[int]]:
    """SIGTERM and SIGINT as they come."""
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[int]()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, queue.put_nowait, int(number))
    try:
        yield queue
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _announce(server: Server) -> None:
    for plugin in server.broken:
        log.warning("not served: %s: %s", plugin.source, plugin.error)
    types = ", ".join(str(task_type) for agent in server.agents for task_type in agent.task_types)
    log.info(
        "serving on port %d: %s",
        server.port,
        types or "no agents",
        extra={"port": server.port, "metrics_port": server.metrics_port},
    )

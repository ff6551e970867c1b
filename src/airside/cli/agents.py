"""`airside agents`: which agents there are, here or at a service."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any

import click

from airside.cli.endpoint import EndpointOptions, endpoint_flags, read_endpoint
from airside.cli.exits import Exit
from airside.cli.readiness import Readiness, is_built_in, look
from airside.cli.registry import has_host_access, load_registry
from airside.cli.settings import load_settings, served_modules
from airside.model import UsageError
from airside.sdk.registry import Registration

_TYPES_WIDTH = 42
"""Columns for an agent's task types; more go onto further lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One agent, as it is listed. `once` says how it keeps one attempt to one job, `missing` what it lacks here."""

    name: str
    task_types: Sequence[str]
    kind: str
    once: str
    host_access: bool | None
    source: str
    missing: str = ""


@click.command()
@click.option("--endpoint", metavar="HOST:PORT", help="Ask the agent service at this address.")
@endpoint_flags
@click.option("--modules", "-m", multiple=True, metavar="MODULE", help="Import a module that registers agents.")
@click.option("--all", "all_of_them", is_flag=True, help="List the built-in agents, and whether each is ready here.")
@click.option("--probe", is_flag=True, help="With --all: ask each agent's backend, too.")
@click.option("--settings", metavar="FILE", help="With --all: the settings file. [default: airside.toml]")
@click.option("--strict", is_flag=True, help="Exit with 1 if a plugin cannot be loaded.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def agents(
    endpoint: str | None,
    modules: tuple[str, ...],
    all_of_them: bool,
    probe: bool,
    settings: str | None,
    strict: bool,
    as_json: bool,
    **access: Any,
) -> int:
    """List the agents that are installed, or those of a service.

    ONCE says how an agent keeps one attempt to one job: by its backend's own token, by finding the job again
    (find), or only within one process. HOST is yes for agents with access to the machine they run on; a service
    serves them only when named with --enable.

    With --all: every agent that is part of Airside, and every REST service that a file of --modules or of the
    settings describes; the extra that brings its library, and whether it could be served here: library, settings
    and credentials are there, and with --probe its backend answers.

    \b
    Examples:
      airside agents
      airside agents --all --probe
      airside agents --endpoint localhost:8000 --json

    Exit codes: 0 listed (also if a plugin is broken), 1 broken plugins (with --all: agents that are not ready) and
    --strict, 3 nothing answers.
    """
    if all_of_them or probe:
        if endpoint:
            raise UsageError("--all and --probe look at the agents that are installed here; leave out --endpoint.")
        return _list_built_in(settings, modules, probe=probe, strict=strict, as_json=as_json)
    at = read_endpoint(endpoint, access)
    if endpoint:
        rows, broken = _served(endpoint, at), list[tuple[str, str]]()
    else:
        registry = load_registry(modules)
        rows = [_row(entry) for entry in registry]
        broken = [(plugin.source, plugin.error) for plugin in registry.broken]
    if as_json:
        from airside.cli.main import echo_json

        failed = [{"source": source, "error": error} for source, error in broken]
        echo_json({"agents": [asdict(row) for row in rows], "broken": failed})
    else:
        _print(rows, broken)
    return Exit.FAILED if strict and broken else Exit.OK


def _list_built_in(file: str | None, modules: Sequence[str], *, probe: bool, strict: bool, as_json: bool) -> int:
    settings = load_settings(file)
    entries = [entry for entry in load_registry(modules or served_modules(settings)) if is_built_in(entry)]
    found = look(entries, settings, probe=probe)
    if as_json:
        from airside.cli.main import echo_json

        listed = [
            {**asdict(_row(entry)), **asdict(one), "ready": one.is_ready}
            for entry, one in zip(entries, found, strict=True)
        ]
        echo_json({"agents": listed})
    else:
        _print_readiness([_row(entry) for entry in entries], found)
    return Exit.FAILED if strict and not all(one.is_ready for one in found) else Exit.OK


def _print_readiness(rows: Sequence[Row], found: Sequence[Readiness]) -> None:
    cells = [("NAME", "TASK TYPES", "EXTRA", "ONCE", "READY", "CREDENTIALS")]
    for row, one in zip(rows, found, strict=True):
        ready = "yes" if one.is_ready else "no"
        described = row.source.partition("file ")[2]  # a REST service in a file
        name = f"{row.name} ({described})" if described else row.name
        cells.append((name, _wrapped(row.task_types), one.extra or "-", row.once, ready, one.credentials or "-"))
    _print_table(cells)
    for one in found:
        if one.endpoint:
            click.echo(f"{one.name}: {one.endpoint}")
        if one.problem:
            click.echo(f"not ready: {one.name}: {one.problem}", err=True)


def once_of(agent: Any) -> str:
    """How an agent keeps one attempt to one job: `token`, `find` or `process`."""
    from airside.sdk.agent import Agent

    settings = agent.settings if isinstance(agent, Agent) else agent
    if getattr(settings, "create_is_idempotent", False):
        return "token"
    finds = "find" in agent.supports if isinstance(agent, Agent) else callable(getattr(agent, "find", None))
    return "find" if finds else "process"


def _served(endpoint: str, at: EndpointOptions) -> list[Row]:
    """The agents that a service lists. It does not tell how they keep to one job, nor what they have access to."""
    import asyncio

    from airside.engine.remote import discover

    return [
        Row(
            name=agent.name,
            task_types=[str(task_type) for task_type in agent.task_types],
            kind="sync" if agent.is_sync else "async",
            once="-",
            host_access=None,
            source=endpoint,
        )
        for agent in asyncio.run(discover(endpoint, **at.access()))
    ]


def _row(entry: Registration) -> Row:
    from airside.sdk.agent import SyncAgent
    from airside.sdk.declare import missing_extra

    is_sync = isinstance(entry.agent, SyncAgent) or bool(getattr(entry.agent, "is_sync", False))
    return Row(
        name=entry.name,
        task_types=[str(task_type) for task_type in entry.task_types],
        kind="sync" if is_sync else "async",
        once=once_of(entry.agent),
        host_access=has_host_access(entry),
        source=entry.source,
        missing=str(missing_extra(entry.agent) or ""),
    )


def _print(rows: Sequence[Row], broken: Sequence[tuple[str, str]]) -> None:
    heads = ("NAME", "TASK TYPES", "KIND", "ONCE", "HOST", "SOURCE")
    host = {True: "yes", False: "no", None: "-"}
    cells = [
        (row.name, _wrapped(row.task_types), row.kind, row.once, host[row.host_access], row.source) for row in rows
    ]
    if cells:
        _print_table([heads, *cells])
    else:
        click.echo("No agents.")
    for row in rows:
        if row.missing:
            click.echo(f"not usable: {row.name}: {row.missing}", err=True)
    for source, error in broken:
        click.echo(f"broken: {source}: {error}", err=True)


def _wrapped(task_types: Sequence[str]) -> str:
    return textwrap.fill(", ".join(task_types), _TYPES_WIDTH, break_long_words=False, break_on_hyphens=False)


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    lines = [line for row in rows for line in zip_longest(*(cell.split("\n") for cell in row), fillvalue="")]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())

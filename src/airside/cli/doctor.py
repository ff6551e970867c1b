"""`airside doctor`: what keeps agents from being served here, or reached by Flyte's engines."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import asdict
from typing import Any

import click

from airside.cli.endpoint import endpoint_flags, read_endpoint
from airside.cli.exits import Exit
from airside.cli.finding import Findings


@click.command()
@click.option("--settings", metavar="FILE", help="Settings file. [default: airside.toml]")
@click.option("--config", metavar="FILE", help="Look at this YAML file of a Flyte engine, and at its services.")
@click.option("--endpoint", metavar="HOST:PORT", help="Look at the agent service at this address.")
@endpoint_flags
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def doctor(settings: str | None, config: str | None, endpoint: str | None, as_json: bool, **access: Any) -> int:
    """Find out what is wrong with an installation, and what to do about it. Changes nothing.

    Looks at this machine: versions, plugins, every table of airside.toml, certificates, keys, the engine's store,
    ports. With --config also at the routes to agents: what Flyte would ignore, which services answer, which task type
    goes where. With --endpoint at one service.

    \b
    Examples:
      airside doctor
      airside doctor --config flyte.yaml
      airside doctor --endpoint localhost:8000 --json

    Exit codes: 0 no problem (also with warnings), 1 problems, 2 wrong usage.
    """
    from airside.cli.doctor_here import look_here

    way_in = read_endpoint(endpoint, access).access()
    findings = Findings()
    can_call = look_here(settings, findings)
    if can_call and endpoint is not None:
        from airside.engine.endpoint import checked

        checked(endpoint)  # a mistake in it is one in the command
    if can_call and (config is not None or endpoint is not None):
        asyncio.run(_look_elsewhere(config, endpoint, way_in, findings))
    _report(findings, as_json=as_json)
    return Exit.FAILED if any(one.status == "problem" for one in findings) else Exit.OK


async def _look_elsewhere(config: str | None, endpoint: str | None, access: Any, findings: Findings) -> None:
    """Both at once, told one after the other."""
    from airside.cli.doctor_routes import look_at_config, look_at_endpoint

    routes, service = Findings(), Findings()
    async with asyncio.TaskGroup() as group:
        if config is not None:
            group.create_task(look_at_config(config, routes))
        if endpoint is not None:
            group.create_task(look_at_endpoint(endpoint, access, service))
    findings += [*routes, *service]


def _report(findings: Findings, *, as_json: bool) -> None:
    counts = Counter(one.status for one in findings)
    if as_json:
        from airside.cli.main import echo_json

        echo_json(
            {
                "findings": [asdict(one) for one in findings],
                "problems": counts["problem"],
                "warnings": counts["warning"],
            }
        )
        return
    for one in findings:
        click.echo(str(one))
    click.echo(f"{_count(counts['problem'], 'problem')}, {_count(counts['warning'], 'warning')}.")


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"

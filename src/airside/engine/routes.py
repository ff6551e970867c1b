"""From a task type to the service that runs it, as Flyte's engines decide: pins, discovery, defaults.

The services are asked again and again what they serve. One that does not answer keeps what it said last; Flyte's
engines would send its running tasks elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

from airside.engine.attempt import told
from airside.engine.database import Record
from airside.engine.driver import Driver
from airside.engine.drivers import Choose, MissingAgent, OpenedAgents
from airside.engine.endpoint import Tls
from airside.engine.flyteconfig import Deployment, FlyteConfig, Section
from airside.engine.job import Rules
from airside.engine.lane import Lane
from airside.engine.remote import FamilyName, RemoteAgent, discover
from airside.model import Fail, TaskType, UsageError
from airside.sdk.agent import AgentSettings

CONTAINER = "container"
"""Flyte's plugin that runs the container of a task."""
UNHEARD: FamilyName = "v1"
"""What a service is taken to speak until it has said so."""

_log = logging.getLogger("airside.engine")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What one deployment serves: task types, each sync or not, and the family that it speaks.

    `silent` says why it never answered.
    """

    family: FamilyName
    silent: str = ""
    types: Mapping[TaskType, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where a task type goes, and why."""

    section: Section
    deployment: Deployment
    family: FamilyName
    is_sync: bool
    why: str


class NoRoute(UsageError):
    """The configuration leads nowhere for a task type. `plugin` must run it, if that is none for agents.

    With `may_come` some service has not said yet what it serves.
    """

    def __init__(self, message: str, *, plugin: str = "", may_come: bool = False) -> None:
        super().__init__(message)
        self.plugin = plugin
        self.may_come = may_come


def find_route(
    config: FlyteConfig, listings: Mapping[str, Listing], task_type: TaskType, project: str = "", domain: str = ""
) -> Route:
    """The route of a task type: the most specific project and domain first, apps before pins, pins before discovery.

    Raises `NoRoute` that says what was looked at.
    """
    plugin = config.plugins.get(task_type.name.lower(), "")
    wanted = [one for one in config.sections if one.kind == plugin.lower()] if plugin else list(config.sections)
    if not wanted:
        hint = (
            "enable an agent that runs containers here" if plugin.lower() == CONTAINER else "only agents run tasks here"
        )
        raise NoRoute(
            f"Task type {task_type} is routed to the plugin {plugin!r} by default-for-task-types: {hint}.",
            plugin=plugin,
        )
    for section in wanted:
        for level in dict.fromkeys(((project, domain), ("", domain), ("", ""))):
            found = (
                _discovered(section, section.apps, listings, task_type, level, "an app")
                or _pinned(section, listings, task_type, level)
                or _discovered(section, _listed(section), listings, task_type, level, "discovery")
            )
            if found is not None:
                return found
    for section in wanted:
        if section.default is not None:
            why = "supportedTaskTypes" if task_type.name in section.supported else "the default deployment"
            return _route(section, section.default, listings, why)
    known = sorted({str(one) for listing in listings.values() for one in listing.types})
    silent = "".join(f"; {key}: {one.silent}" for key, one in listings.items() if one.silent)
    served = f"served: {', '.join(known) or 'none'}{silent}"
    text = f"No agent serves task type {task_type}, and there is no default ({served})."
    raise NoRoute(text, may_come=bool(silent))


def _pinned(
    section: Section, listings: Mapping[str, Listing], task_type: TaskType, level: tuple[str, str]
) -> Route | None:
    """A pin holds for all versions, and makes the type async whatever its service says."""
    by_case = {name.lower(): one for name, one in section.pins.items()}
    deployment = section.pins.get(task_type.name) or by_case.get(task_type.name.lower())
    if deployment is None or (deployment.project, deployment.domain) != level:
        return None
    return _route(section, deployment, listings, "a pin")


def _discovered(
    section: Section,
    deployments: Sequence[Deployment],
    listings: Mapping[str, Listing],
    task_type: TaskType,
    level: tuple[str, str],
    why: str,
) -> Route | None:
    for deployment in deployments:
        listing = listings.get(_key(section, deployment))
        if (deployment.project, deployment.domain) == level and listing and task_type in listing.types:
            return _route(section, deployment, listings, why, is_sync=listing.types[task_type])
    return None


def _listed(section: Section) -> list[Deployment]:
    """The deployments that are found by what they list, the more particular ones first."""
    return [*section.deployments, *([section.default] if section.default is not None else [])]


def _route(
    section: Section, deployment: Deployment, listings: Mapping[str, Listing], why: str, *, is_sync: bool = False
) -> Route:
    listing = listings.get(_key(section, deployment))
    family: FamilyName = listing.family if listing else UNHEARD
    return Route(section=section, deployment=deployment, family=family, is_sync=is_sync, why=why)


def _key(section: Section, deployment: Deployment) -> str:
    return f"{section.kind}/{'app ' if deployment in section.apps else ''}{deployment.id}"


def deployments_of(config: FlyteConfig) -> list[tuple[str, Section, Deployment]]:
    """Every deployment, with the key that its listing has and the section that it is in."""
    return [
        (_key(section, one), section, one) for section in config.sections for one in (*_listed(section), *section.apps)
    ]


def key_of(route: Route) -> str:
    """The key of the listing that a route leads to."""
    return _key(route.section, route.deployment)


class RoutedAgents:
    """The drivers of jobs that go where Flyte's configuration says. Asks every service what it serves, for ever.

    `containers` chooses the agent for task types that are routed to Flyte's plugin `container`.
    """

    def __init__(self, config: FlyteConfig, *, containers: Choose | None = None) -> None:
        self._config = config
        self._containers = OpenedAgents(containers) if containers is not None else None
        self._listings: dict[str, Listing] = {}
        self._pollers: list[asyncio.Task[None]] = []
        self._agents: list[RemoteAgent] = []
        self._lanes: dict[str, Lane] = {}
        self._warned: dict[str, str] = {}

    def route(self, task_type: TaskType, project: str = "", domain: str = "") -> Route | None:
        """Where a task type goes now; None: to the agent for containers. Raises `NoRoute`."""
        try:
            return find_route(self._config, self._listings, task_type, project, domain)
        except NoRoute as exc:
            if exc.plugin.lower() == CONTAINER and self._containers is not None:
                return None
            raise

    def _route_of(self, record: Record) -> Route | None:
        return self.route(record.task_type, record.source.get("project", ""), record.source.get("domain", ""))

    def key(self, record: Record) -> Any:
        """Jobs of one type that go to one deployment in one way share an agent."""
        try:
            route = self._route_of(record)
        except NoRoute as exc:
            return record.task_type, str(exc)
        if route is None and self._containers is not None:
            return CONTAINER, self._containers.key(record)
        assert route is not None  # noqa: S101 - only the agent for containers needs none
        return record.task_type, _key(route.section, route.deployment), route.family, route.is_sync

    async def find(self, record: Record) -> Driver:
        """The driver of a job; one that only tells what is wrong if nothing routes it."""
        try:
            route = self._route_of(record)
            if route is None and self._containers is not None:
                return await self._containers.find(record)
            assert route is not None  # noqa: S101 - only the agent for containers needs none
            agent = _agent_of(route, record.task_type)
            await agent.open(None)
        except NoRoute as exc:
            now = asyncio.get_running_loop().time()
            return Driver(MissingAgent(told(exc)), lost=now, held=told(exc) if exc.may_come else "")
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is for those who wait for the job
            return Driver(MissingAgent(told(exc)), lost=asyncio.get_running_loop().time())
        self._agents.append(agent)
        web_api = route.section.web_api
        rules = Rules(
            poll_interval=web_api.resync_interval,
            max_system_failures=web_api.max_system_failures,
            unfetched_tolerance=0.0,
        )
        lane = self._lanes.setdefault(_key(route.section, route.deployment), Lane(web_api.limits))
        return Driver(agent, rules, lane)

    async def open(self) -> None:
        """Learn what every service serves, once, and go on asking. Opened already, it stays so."""
        if self._pollers:
            return
        every = [(section, one) for section in self._config.sections for one in (*_listed(section), *section.apps)]
        await asyncio.gather(*(self._ask(section, deployment) for section, deployment in every))
        self._pollers = [asyncio.create_task(self._poll(section, deployment)) for section, deployment in every]

    async def close(self) -> None:
        """Ask no more, and close the connections."""
        pollers, self._pollers = self._pollers, []
        for poller in pollers:
            poller.cancel()
        if pollers:
            await asyncio.wait(pollers)
        if self._containers is not None:
            await self._containers.close()
        agents, self._agents = self._agents, []
        for agent in agents:
            with contextlib.suppress(Exception):
                await agent.close()

    async def _poll(self, section: Section, deployment: Deployment) -> None:
        while True:
            await asyncio.sleep(section.poll_interval)
            await self._ask(section, deployment)

    async def _ask(self, section: Section, deployment: Deployment) -> None:
        key = _key(section, deployment)
        try:
            found = await discover(
                deployment.endpoint,
                tls=None if deployment.insecure else Tls(),
                timeouts=deployment.timeouts,
                service_config=deployment.service_config,
            )
        except (Fail, UsageError) as exc:  # it lists nothing: pins and defaults still lead to it
            self._warn(key, told(exc))
            self._listings.setdefault(key, Listing(family=UNHEARD))
        except Exception as exc:  # noqa: BLE001 - a service that is away keeps what it said last
            self._warn(key, told(exc))
            if key not in self._listings or self._listings[key].silent:
                self._listings[key] = Listing(family=UNHEARD, silent=told(exc))
        else:
            types = {one: agent.is_sync for agent in found for one in agent.task_types}
            family: FamilyName = found[0].family.name if found and found[0].family else UNHEARD
            self._listings[key] = Listing(family=family, types=types)
            self._warned.pop(key, None)

    def _warn(self, key: str, text: str) -> None:
        if self._warned.get(key) != text:  # said once, not at every poll
            _log.warning("%s: %s", key, text)
            self._warned[key] = text


def _agent_of(route: Route, task_type: TaskType) -> RemoteAgent:
    deployment = route.deployment
    agent = RemoteAgent(
        deployment.endpoint,
        family=route.family,
        task_types=(task_type,),
        name=deployment.id,
        is_sync=route.is_sync,
        tls=None if deployment.insecure else Tls(),
        timeouts=deployment.timeouts,
        service_config=deployment.service_config,
    )
    agent.settings = AgentSettings(call_timeout=inf, create_timeout=inf)  # the deployment's own timeouts hold
    return agent

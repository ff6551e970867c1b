"""A watched job: what is known of it, how its refreshes went, and when the next one is due."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from airside.model import Call, LogLink, Phase, Resource
from airside.sdk.agent import Agent
from airside.server.handle import Handle, Kind
from airside.server.unexpected import explained

if TYPE_CHECKING:
    from airside.server.cancellation import Cancelling
    from airside.server.refresh import Group

log = logging.getLogger("airside.server")

YOUNG = 60.0
"""Seconds for which a job is young: nothing known of it means QUEUED, and a backend that lists late is not believed."""

MAX_AGE = 5.0
"""Seconds for which an answer counts as fresh if the agent does not say: enough for Flyte's askers ..."""
AGE_SHARE = 0.25
"""... and at most this share of the job's age, so that a job of one second is not found out five seconds later."""

NEVER = float("inf")


@dataclass(slots=True, eq=False)
class Job:
    """One watched job. `identity` is its place in the table. Times are `time.monotonic()` seconds."""

    identity: bytes
    handle: Handle
    agent: Agent
    call: Call
    resource: Resource
    links: tuple[LogLink, ...] = ()
    answer: bytes = b""
    fresh_at: float = float("-inf")
    known_at: float = float("-inf")  # when the refresh began that found something last
    refresh: asyncio.Future[None] | None = None
    refreshing_since: float = 0.0
    # -- when to refresh
    asked_at: float = 0.0
    period: float = 0.0
    asks: int = 0  # no more than 2 are counted
    spare: int = 0  # asks less refreshes that found something
    was_abandoned: bool = False  # the last refresh took too long
    is_ahead: bool = False  # the last refresh was made for the ask that comes next
    due: float = NEVER
    queued: float = NEVER
    group: Group | None = field(default=None, repr=False)
    is_dropped: bool = False
    began_pending: bool = False
    # -- how the refreshes went
    failures: int = 0
    failing_since: float = 0.0
    misses: int = 0
    missing_since: float = 0.0
    retry_at: float = 0.0
    held_until: float = 0.0  # the backend asked to be left alone until then
    # -- cancelling
    deletion: asyncio.Task[Cancelling | None] | None = field(default=None, repr=False)
    deleted: bool = False
    given_up: bool = False  # it failed for us, but may be running

    @property
    def is_over(self) -> bool:
        """True if nothing can change any more."""
        return self.resource.phase.is_terminal

    @property
    def age(self) -> float | None:
        """Seconds since the last answer was true; None if it is true for ever, or if nothing is known yet."""
        return None if self.is_over or self.fresh_at < 0 else time.monotonic() - self.fresh_at

    @property
    def is_young(self) -> bool:
        """True in the handle's first minute. Another machine's clock may be a little ahead of ours."""
        return abs(time.time() - self.handle.created_at) < YOUNG

    @property
    def fresh_for(self) -> float:
        """Seconds for which an answer counts as fresh: the agent's `max_age`, or longer if the answer said so.

        An agent that declares none gets few seconds while the job is young: the calls that this costs thin out as
        the job gets older, and only whoever asks so often causes them.
        """
        fresh = self.agent.settings.max_age
        if fresh is None:
            age = time.time() - self.handle.created_at
            fresh = MAX_AGE if age * AGE_SHARE >= MAX_AGE else max(0.0, age * AGE_SHARE)
        return max(fresh, self.poll_after) if self.resource.poll_after else fresh

    @property
    def poll_after(self) -> float:
        """Seconds for which the agent said that asking makes no sense."""
        return min(self.resource.poll_after or 0.0, MAX_POLL_AFTER)


MAX_POLL_AFTER = 300.0


def call_limit(agent: Agent) -> float:
    """Seconds that one call may take. The agent's own limit comes first; this one is for agents that have none."""
    return agent.settings.call_timeout + 1.0


def watched(identity: bytes, handle: Handle, agent: Agent, call: Call, links: tuple[LogLink, ...] = ()) -> Job:
    """A job of which nothing is known yet."""
    job = Job(identity, handle, agent, call, Resource(Phase.UNDEFINED), links, asked_at=time.monotonic())
    job.resource = nothing_known(job)
    return job


def correlation_of(job: Job) -> str:
    """What to look for in the log: the task attempt's key, or for a foreign handle what tells it apart."""
    return job.handle.key or hashlib.sha256(job.identity).hexdigest()


def nothing_known(job: Job) -> Resource:
    """QUEUED in the handle's first minute, else RUNNING."""
    return Resource(Phase.QUEUED if job.is_young else Phase.RUNNING, links=job.links)


def linked(job: Job, resource: Resource) -> Resource:
    """The resource with the job's own links added: Flyte shows only those of a phase's first answer."""
    resource = with_sound_links(resource, job.agent, job.handle.key)
    if not job.links:
        return resource
    return replace(resource, links=tuple(dict.fromkeys((*resource.links, *job.links))))


async def links_of(agent: Agent, handle: Handle) -> tuple[LogLink, ...]:
    """The links that the agent makes without its backend; one that fails makes none, nor does a handle of no job."""
    if "links" not in agent.supports or handle.kind is not Kind.JOB:
        return ()
    try:
        links: object = await agent.links(handle.meta)
    except Exception as exc:  # noqa: BLE001 - links are a courtesy
        said = explained(exc, agent=agent.name, key=handle.key)
        log.warning("links failed: %s", said, extra={"agent": agent.name, "key": handle.key})
        return ()
    return _sound(links, agent, handle.key)


def with_sound_links(resource: Resource, agent: Agent, key: str) -> Resource:
    """The resource without what is no link: no job may suffer for a courtesy."""
    links = resource.links
    if links == () or (isinstance(links, tuple) and all(map(_is_link, links))):
        return resource
    return replace(resource, links=_sound(links, agent, key))


def _sound(links: object, agent: Agent, key: str) -> tuple[LogLink, ...]:
    given = tuple(links) if isinstance(links, Iterable) else (links,)
    sound = tuple(filter(_is_link, given))
    if len(sound) < len(given):
        wrong = next(link for link in given if not _is_link(link))
        extra = {"agent": agent.name, "key": key}
        log.warning("left out what is no LogLink(uri, name) of two texts: %.200r", wrong, extra=extra)
    return sound


def _is_link(link: object) -> bool:
    return isinstance(link, LogLink) and all(isinstance(text, str) for text in (link.uri, link.name))

"""Read how a service stands right now: what is under way, what is remembered, whose threads are busy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from airside.observe.readings import Gauge, LaneLoad, Reading
from airside.sdk.adapt import Face
from airside.sdk.agent import Agent
from airside.sdk.deferred import DeferredAgent
from airside.server.handle import SigningKeys
from airside.server.observed import ObservedAgent
from airside.server.service import Service


def read_service(service: Service, keys: SigningKeys) -> Iterator[Reading]:
    """The jobs and calls of a service."""
    creates = service.ledger.running
    yield Reading(Gauge.IN_FLIGHT, service.calls_in_flight)
    yield Reading(Gauge.JOBS, len(service.watch))
    yield Reading(Gauge.CREATING, len(creates))
    yield Reading(Gauge.PENDING, sum(entry.promised for entry in creates))
    yield Reading(Gauge.CANCELLING, len(service.cancellation))
    yield Reading(Gauge.UNCERTAIN, len(service.uncertain))
    for key_id in ("none", *sorted(keys.known)):  # callers make up names of keys that are not known
        signed = service.watch.signed_by["" if key_id == "none" else key_id]
        yield Reading(Gauge.HANDLES, signed, (key_id,))
    for agent in dict.fromkeys(service.agents.values()):
        if isinstance(agent, ObservedAgent):
            yield Reading(Gauge.ASKING, agent.calls, (agent.name,))


def read_lanes(agents: Sequence[Agent]) -> Iterator[Reading]:
    """The threads of the agents whose methods block; those of an isolated agent are in its own process."""
    for agent in agents:
        for name, size, busy, stuck in lanes_of(agent):
            labels = (agent.name, name)
            yield Reading(Gauge.THREADS, size, labels)
            yield Reading(Gauge.BUSY, busy, labels)
            yield Reading(Gauge.STUCK, stuck, labels)


def lanes_of(agent: Agent) -> Sequence[LaneLoad]:
    """How busy the agent's lanes are; an isolated agent's, as its process said last."""
    if isinstance(agent, DeferredAgent):
        return lanes_of(agent.behind) if agent.behind is not None else ()
    if isinstance(agent, Face):
        return [LaneLoad(name, one.size, one.busy, one.stuck) for name, one in sorted(agent.invoker.lanes.items())]
    lanes: Sequence[LaneLoad] = getattr(agent, "lanes", ())
    return lanes

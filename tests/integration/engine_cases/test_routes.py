"""Where a task goes: discovery, pins, defaults, versions, projects and domains, deadlines, TLS (E01 to E11)."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.integration.engine_cases.service import (
    DONE,
    RUNNING,
    TASK,
    R,
    Start,
    agents,
    config,
    engine,
    finish,
    quick,
    until,
)

from airside import Phase
from airside.engine.flyteconfig import read_config
from airside.wire.families import V2


async def test_e01_a_discovered_type_goes_to_its_service(start: Start) -> None:
    default, other = await start(types=[("ray", 0)]), await start()
    outcome = await finish(config(default, **agents(other=other)))
    assert outcome.phase is Phase.SUCCEEDED
    assert (default.verbs, other.verbs) == ([], ["create", "get"])


@pytest.mark.parametrize("form", [{"spark": "Pinned"}, [{"spark": "Pinned"}]])
async def test_e02_a_pin_wins_over_discovery(start: Start, form: Any) -> None:
    default, pinned = await start(), await start(types=[])
    routes = config(default, agents={"Pinned": {"endpoint": pinned.endpoint, "insecure": True}}, agentForTaskTypes=form)
    await finish(routes)
    assert (default.verbs, pinned.verbs) == ([], ["create", "get"])


async def test_e03_capitals_do_not_matter(start: Start) -> None:
    service = await start()
    timeouts = {"CreateTask": "7s", "gettask": "8s"}
    my = {"endpoint": service.endpoint, "insecure": True, "timeouts": timeouts, "defaultTimeout": "9s"}
    await finish(config(agents={"myAgent": my}, agentForTaskTypes={"Spark": "MYAGENT"}))
    limits = {one.verb: one.limit for one in service.received if one.verb != "list"}
    assert limits["create"] == pytest.approx(7, abs=1)
    assert limits["get"] == pytest.approx(8, abs=1)


@pytest.mark.parametrize(("version", "expected"), [(1, [2, 0]), (2, [0, 2]), (3, [2, 0]), (4, [0, 0])])
async def test_e04_each_version_goes_to_its_own_service_deviation(
    start: Start, version: int, expected: list[int]
) -> None:
    one, two = await start(types=[("spark", 1), ("spark", 3)]), await start(types=[("spark", 2)])
    outcome = await finish(config(**agents(one=one, two=two)), replace(TASK, task_type_version=version))
    assert [len(one.verbs), len(two.verbs)] == expected
    assert outcome.code == ("" if any(expected) else "NoAgent")


async def test_e05_an_unknown_type_goes_to_the_default_or_fails(start: Start) -> None:
    service = await start(types=[("ray", 0)])
    assert (await finish(config(service))).phase is Phase.SUCCEEDED
    outcome = await finish(config(**agents(ray=service)))
    assert (outcome.phase, outcome.code) == (Phase.FAILED, "NoAgent")
    assert outcome.message == "No agent serves task type spark, and there is no default (served: ray)."


async def test_e06_the_most_specific_project_and_domain_win(start: Start) -> None:
    services = {name: await start(family=V2) for name in ("all", "d", "pd")}
    places = {"all": {}, "d": {"domain": "d"}, "pd": {"project": "p", "domain": "d"}}
    connectors = {name: {"endpoint": one.endpoint, "insecure": True, **places[name]} for name, one in services.items()}
    routes = quick(read_config({"plugins": {"connector-service": {"connectors": connectors}}}, "f.yaml"))
    wanted = [("p", "d", "pd"), ("q", "d", "d"), ("p", "x", "all"), ("", "", "all")]
    async with asyncio.timeout(20), engine(routes) as running:
        for project, domain, expected in wanted:
            seen = {name: len(one.verbs) for name, one in services.items()}
            await running.wait(await running.submit(TASK, source={"project": project, "domain": domain}))
            assert {name for name, one in services.items() if len(one.verbs) > seen[name]} == {expected}


def test_e06_apps_come_before_pins_and_pins_before_discovery_at_each_level() -> None:
    from airside.engine.routes import Listing, NoRoute, find_route
    from airside.model import TaskType

    def named(**more: str) -> dict[str, Any]:
        return {"endpoint": "localhost:1", "insecure": True, **more}

    section = {
        "connectors": {"a": named(), "pin": named(), "pd": named(project="p", domain="d"), "other": named(domain="x")},
        "connectorApps": {"app": named(), "a": named(domain="e")},
        "connectorForTaskTypes": {"ray": "pin", "dask": "other"},
    }
    read = read_config({"plugins": {"connector-service": section}}, "f.yaml")
    every = {TaskType("spark"): False, TaskType("ray"): True}
    listings = {f"connector-service/{id_}": Listing(family="v2", types=every) for id_ in ("a", "pd")}
    listings["connector-service/app app"] = Listing(family="v2", types={TaskType("spark"): False})
    listings["connector-service/app a"] = Listing(family="v2", types={TaskType("ray"): False})
    for name, project, domain, expected, why in [
        ("spark", "", "", "app", "an app"),
        ("spark", "p", "d", "pd", "discovery"),  # more specific than the app
        ("ray", "", "", "pin", "a pin"),
        ("ray", "p", "d", "pd", "discovery"),
        ("ray", "", "e", "a", "an app"),
        ("dask", "", "x", "other", "a pin"),
    ]:
        route = find_route(read, listings, TaskType(name), project, domain)
        assert (route.deployment.id, route.why) == (expected, why)
    with pytest.raises(NoRoute):
        find_route(read, listings, TaskType("dask"), "", "y")


async def test_e07_a_service_that_lists_nothing_still_gets_pins_and_defaults(start: Start) -> None:
    service = await start(script={"list": [grpc.StatusCode.UNIMPLEMENTED]})
    assert (await finish(config(service, supportedTaskTypes=["spark"]))).phase is Phase.SUCCEEDED
    assert (await finish(config(**agents(a=service), agentForTaskTypes={"spark": "a"}))).phase is Phase.SUCCEEDED


async def test_e08_a_service_that_fails_to_list_keeps_its_types_deviation(start: Start) -> None:
    service = await start(script={"list": [None, grpc.StatusCode.UNAVAILABLE], "get": [RUNNING]})
    async with engine(config(**agents(a=service), poll="10ms")) as running:
        first = await running.submit(TASK)
        await until(lambda: len(service.calls("list")) >= 3)
        second = await running.submit(TASK)
        service.script["get"] = [DONE]
        assert [(await running.wait(job)).phase for job in (first, second)] == [Phase.SUCCEEDED] * 2


async def test_e09_a_type_that_comes_later_is_found(start: Start) -> None:
    service = await start(types=[("ray", 0)])
    async with engine(config(**agents(a=service), poll="10ms")) as running:
        assert (await running.wait(await running.submit(TASK))).code == "NoAgent"
        service.types.append(("spark", 0))
        seen = len(service.calls("list"))
        await until(lambda: len(service.calls("list")) >= seen + 2)
        assert (await running.wait(await running.submit(TASK))).phase is Phase.SUCCEEDED


async def test_e10_timeouts_method_then_default_then_none(start: Start) -> None:
    service = await start(script={"get": [R(phase=Phase.RETRYABLE_FAILED.value), DONE]})
    own = {"timeouts": [{"CreateTask": "5s"}], "defaultTimeout": "20s"}
    await finish(config(service, defaultAgent=own), retries=1)
    limits = {one.verb: one.limit for one in service.received}
    assert limits["create"] == pytest.approx(5, abs=1)
    assert limits["get"] == pytest.approx(20, abs=1)
    assert limits["delete"] == pytest.approx(20, abs=1)
    unlimited = await start()
    await finish(config(**agents(a=unlimited)))
    assert {one.limit for one in unlimited.received if one.verb != "list"} == {None}


async def test_the_service_config_of_a_deployment_is_that_of_its_channel(start: Start) -> None:
    """It says here that gRPC itself is to repeat a call, so the engine does not hear of the first one's end."""
    service = await start(script={"create": [grpc.StatusCode.UNAVAILABLE, b"job-1"]})
    policy = {"maxAttempts": 2, "initialBackoff": "0.01s", "maxBackoff": "0.01s", "backoffMultiplier": 1}
    retry = {"name": [{}], "retryPolicy": {**policy, "retryableStatusCodes": ["UNAVAILABLE"]}}
    written = json.dumps({"loadBalancingConfig": [{"round_robin": {}}], "methodConfig": [retry]})
    outcome = await finish(config(service, defaultAgent={"defaultServiceConfig": written}))
    assert (outcome.phase, outcome.attempts) == (Phase.SUCCEEDED, 1)
    assert [one.output_prefix[-2:] for one in service.calls("create")] == ["/0", "/0"]


async def test_e11_tls_is_what_named_services_get_unless_insecure(start: Start) -> None:
    service = await start()
    routes = config(agents={"a": {"endpoint": service.endpoint}}, agentForTaskTypes={"spark": "a"})
    outcome = await finish(routes)
    assert outcome.code == "RetriesExhausted|Retryable"
    assert "it does not speak TLS" in outcome.message
    assert service.received == []


async def test_a_job_waits_for_a_service_that_has_not_said_what_it_serves(start: Start) -> None:
    service = await start(script={"list": [grpc.StatusCode.UNAVAILABLE] * 20 + [None]})
    read = config(**agents(a=service))
    async with asyncio.timeout(30), engine(read) as running:
        job = await running.submit(TASK)
        outcome = await running.wait(job)
        said = [event.message for event in await running.events(job) if event.phase is Phase.WAITING_FOR_RESOURCES]
    assert (outcome.phase, outcome.attempts) == (Phase.SUCCEEDED, 1)
    assert said
    assert "agent-service/a" in said[0]

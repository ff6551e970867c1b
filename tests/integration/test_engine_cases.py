"""What Flyte's engines do to agents, and this one too: over real gRPC, against a service that follows a script.

Cases are named by their ids; those that say "deviation" are where Flyte's own engines do worse.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from flyteidl.admin import agent_pb2
from flyteidl2.connector import connector_pb2
from flyteidl2.core import execution_pb2, literals_pb2, tasks_pb2

from airside import Container, Engine, Phase, TaskTemplate, kwtypes
from airside.engine.database import Database
from airside.engine.engine import Submitted, prepare
from airside.engine.flyteconfig import FlyteConfig, Rate, WebApi, read_config
from airside.engine.lane import Limits
from airside.wire.families import V1, V2, Family
from airside.wire.literal_map import LiteralValues

R = connector_pb2.Resource
TASK = TaskTemplate(name="work", task_type="spark")
ADD = TaskTemplate(name="add", task_type="spark", inputs=kwtypes(a=int), outputs=kwtypes(o0=int))
RUNNING = R(phase=Phase.RUNNING.value)
DONE = R(phase=Phase.SUCCEEDED.value)


@dataclass(frozen=True)
class Received:
    """One call that a service received; `limit` is how many seconds its deadline left."""

    verb: str
    request: Any
    limit: float | None


class Service:
    """A gRPC service that answers as told: an answer, a status, or a function of the request. The last repeats."""

    def __init__(self, family: Family = V1, types: Any = (("spark", 0),), *, is_sync: bool = False) -> None:
        self.family, self.types, self.is_sync = family, list(types), is_sync
        self.received: list[Received] = []
        self.script: dict[str, list[Any]] = {
            "create": [b"job-1"],
            "get": [DONE],
            "delete": [None],
            "do": [DONE],
            "list": [None],
        }
        self._asked: dict[str, int] = {}

    async def start(self) -> None:
        self._server = grpc.aio.server()
        for service in {method.path.split("/")[1] for method in self.family.methods.values()}:
            handlers = {
                method.name: self._handler(verb, method)
                for verb, method in self.family.methods.items()
                if method.path.split("/")[1] == service and verb in self.script
            }
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        self.endpoint = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(None)

    def calls(self, verb: str) -> list[Any]:
        return [one.request for one in self.received if one.verb == verb]

    @property
    def verbs(self) -> list[str]:
        return [one.verb for one in self.received if one.verb != "list"]

    def _handler(self, verb: str, method: Any) -> Any:
        kwargs = {
            "request_deserializer": method.request.FromString,
            "response_serializer": lambda message: message.SerializeToString(),
        }

        async def answer(request: Any, context: Any) -> Any:
            limit = context.time_remaining()
            self.received.append(Received(verb, request, limit))
            return await self._answer(verb, request, context, method)

        async def stream(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
            parts = [one async for one in requests]
            self.received.append(Received(verb, parts, None))
            yield await self._answer(verb, parts, context, method)

        if method.kind == "stream":
            return grpc.stream_stream_rpc_method_handler(stream, **kwargs)
        return grpc.unary_unary_rpc_method_handler(answer, **kwargs)

    async def _answer(self, verb: str, request: Any, context: Any, method: Any) -> Any:
        number = self._asked[verb] = self._asked.get(verb, -1) + 1
        steps = self.script[verb]
        step = steps[min(number, len(steps) - 1)]
        if callable(step):
            step = step(request)
        if inspect.isawaitable(step):
            step = await step
        if isinstance(step, grpc.StatusCode):
            await context.abort(step, f"{step.name} as told")
        if verb == "list":
            return self._listing(method)
        if verb == "create":
            return method.response(resource_meta=step)
        if verb == "delete":
            return method.response()
        resource = step if isinstance(step, bytes) else step.SerializeToString()
        if verb == "do":
            return method.response(
                header=agent_pb2.ExecuteTaskSyncResponseHeader(resource=agent_pb2.Resource.FromString(resource))
            )
        return method.response.FromString(b"\x0a" + _length(resource) + resource)

    def _listing(self, method: Any) -> Any:
        answer = method.response()
        entry = (answer.agents if self.family is V1 else answer.connectors).add(name="scripted")
        for name, version in self.types:
            entry.supported_task_categories.add(name=name, version=version)
        if self.is_sync:
            entry.is_sync = True
        return answer


def _length(data: bytes) -> bytes:
    size, out = len(data), b""
    while size > 127:
        out, size = out + bytes([size & 127 | 128]), size >> 7
    return out + bytes([size])


Start = Callable[..., Awaitable[Service]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    started: list[Service] = []

    async def begin(*args: Any, script: dict[str, list[Any]] | None = None, **kwargs: Any) -> Service:
        service = Service(*args, **kwargs)
        service.script |= script or {}
        await service.start()
        started.append(service)
        return service

    yield begin
    for service in started:
        await service.stop()


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRSIDE_STATE", str(tmp_path / "state"))


def config(
    default: Service | None = None, *, interval: float = 0.03, poll: str = "50ms", **section: Any
) -> FlyteConfig:
    """A configuration as FlytePropeller has it; polled more often than it would allow, for the tests' sake."""
    found: dict[str, Any] = {"pollInterval": poll, **section}
    if default is not None:
        found["defaultAgent"] = {"endpoint": default.endpoint, **section.get("defaultAgent", {})}
    read = read_config({"plugins": {"agent-service": found}}, "flyte.yaml")
    return quick(read, interval)


def quick(read: FlyteConfig, interval: float = 0.03) -> FlyteConfig:
    api = WebApi(resync_interval=interval, limits=Limits())
    return replace(read, sections=tuple(replace(one, web_api=api) for one in read.sections))


def engine(routes: FlyteConfig, store: str | Path = ":memory:") -> Engine:
    return Engine(store, routes=routes)


async def finish(routes: FlyteConfig, task: TaskTemplate = TASK, inputs: Any = None, **settings: Any) -> Any:
    async with asyncio.timeout(20), engine(routes) as running:
        return await running.wait(await running.submit(task, inputs or {}, **settings))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def agents(**services: Service) -> dict[str, Any]:
    return {"agents": {name: {"endpoint": one.endpoint, "insecure": True} for name, one in services.items()}}


# -- routes ----------------------------------------------------------------------------------------------------------


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


async def test_e11_tls_is_what_named_services_get_unless_insecure(start: Start) -> None:
    service = await start()
    routes = config(agents={"a": {"endpoint": service.endpoint}}, agentForTaskTypes={"spark": "a"})
    outcome = await finish(routes)
    assert outcome.code == "RetriesExhausted|Retryable"
    assert "it does not speak TLS" in outcome.message
    assert service.received == []


# -- create ----------------------------------------------------------------------------------------------------------

CONTAINER = TaskTemplate(
    name="box",
    task_type="spark",
    inputs=kwtypes(x=int),
    container=Container(image="i", args=("{{.Inputs.x}}", "{{ .outputPrefix }}")),
)


async def test_e12_the_request_is_complete_and_the_template_is_rendered_anew(start: Start) -> None:
    service = await start(script={"get": [R(phase=Phase.RETRYABLE_FAILED.value), DONE]})
    await finish(config(service), CONTAINER, {"x": 3}, retries=1)
    first, second = service.calls("create")
    assert list(first.template.container.args) == ["3", first.output_prefix]
    assert list(second.template.container.args) == ["3", second.output_prefix]
    assert first.output_prefix != second.output_prefix
    assert first.template.type == "spark"
    assert [entry.key for entry in interface_of(first).inputs.variables] == ["x"]
    assert LiteralValues(first.inputs.SerializeToString(), None, where="inputs")["x"] == 3
    task = first.task_execution_metadata.task_execution_id
    assert task.node_execution_id.execution_id.name
    assert task.node_execution_id.node_id == "box"
    assert (task.task_id.project, task.task_id.domain) == ("local", "local")
    assert task.task_id.name == "box"
    assert (task.retry_attempt, second.task_execution_metadata.task_execution_id.retry_attempt) == (0, 1)
    assert first.output_prefix.endswith(f"/{task.node_execution_id.execution_id.name}/0")


def interface_of(request: Any) -> Any:
    """The interface in a create request of either family, read with Flyte 2's classes."""
    return tasks_pb2.TaskTemplate.FromString(request.template.SerializeToString()).interface


async def test_e13_an_argument_that_nothing_fills_fails_before_any_call(start: Start) -> None:
    service = await start()
    task = replace(CONTAINER, container=Container(image="i", args=("{{.inputs.nope}}",)))
    outcome = await finish(config(service), task, {"x": 3})
    assert (outcome.phase, outcome.code) == (Phase.FAILED, "BadTaskTemplate")
    assert service.verbs == []


@pytest.mark.parametrize(("retries", "calls"), [(0, 1), (2, 3)])
async def test_e14_a_create_error_burns_an_attempt(start: Start, retries: int, calls: int) -> None:
    service = await start(script={"create": [grpc.StatusCode.INTERNAL]})
    outcome = await finish(config(service), retries=retries)
    assert outcome.code == "RetriesExhausted|Retryable"
    prefixes = [one.output_prefix.rpartition("/")[2] for one in service.calls("create")]
    assert prefixes == [str(number) for number in range(calls)]


async def test_e15_a_create_whose_answer_was_lost_is_repeated_with_the_same_prefix(
    start: Start, tmp_path: Path
) -> None:
    held = asyncio.Event()
    service = await start(script={"create": [lambda _: held.set() or grpc.StatusCode.UNAVAILABLE, b"job-1"]})
    store = tmp_path / "engine.db"
    async with engine(config(service), store) as running:
        save = running._store.save
        running._store.save = lambda *what: asyncio.Future() if held.is_set() else save(*what)  # type: ignore[method-assign]
        job = await running.submit(TASK)
        await held.wait()
    async with engine(config(service), store) as running:
        assert (await running.wait(job)).phase is Phase.SUCCEEDED
    first, second = service.calls("create")
    assert first == second


async def test_e16_after_a_restart_the_same_job_is_asked_for(start: Start, tmp_path: Path) -> None:
    service = await start(script={"get": [RUNNING]})
    store = tmp_path / "engine.db"
    async with engine(config(service), store) as running:
        job = await running.submit(replace(TASK, task_type_version=0))
        await until(lambda: len(service.calls("get")) >= 2)
    service.script["get"] = [DONE]
    asked = len(service.calls("get"))
    async with engine(config(service), store) as running:
        assert (await running.wait(job)).phase is Phase.SUCCEEDED
    assert len(service.calls("create")) == 1
    last = service.calls("get")[asked]
    assert (last.resource_meta, last.task_category.name, last.task_type) == (b"job-1", "spark", "spark")
    assert last.output_prefix == service.calls("create")[0].output_prefix


async def test_e17_polled_at_once_and_then_each_interval(start: Start) -> None:
    loop = asyncio.get_running_loop()
    times: list[float] = []
    service = await start(
        script={"get": [lambda _: times.append(loop.time()) or (DONE if len(times) > 2 else RUNNING)]}
    )
    await finish(config(service, interval=0.2))
    assert [later - earlier >= 0.19 for earlier, later in pairwise(times)] == [True, True]
    seldom = await start(script={"get": [DONE]})
    await finish(config(seldom, interval=3600.0))  # the first poll does not wait for the interval
    assert seldom.verbs == ["create", "get"]


# -- phases ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resource", "phase", "code", "message"),
    [
        (R(phase=3), Phase.SUCCEEDED, "", ""),
        (R(phase=4, message="m"), Phase.FAILED, "Aborted", "m"),
        (R(phase=5, message="m"), Phase.FAILED, "TaskFailedWithError", "m"),
        (R(phase=8, message="m"), Phase.FAILED, "RetriesExhausted|TaskFailedWithError", "m"),
    ],
)
async def test_e18_terminal_phases(start: Start, resource: Any, phase: Phase, code: str, message: str) -> None:
    service = await start(script={"get": [resource]})
    outcome = await finish(config(service))
    assert (outcome.phase, outcome.code, outcome.message) == (phase, code, message)


@pytest.mark.parametrize("phase", [Phase.QUEUED, Phase.WAITING_FOR_RESOURCES, Phase.INITIALIZING, Phase.RUNNING])
async def test_e18_phases_on_the_way(start: Start, phase: Phase) -> None:
    service = await start(script={"get": [R(phase=phase.value, message="m"), DONE]})
    async with engine(config(service)) as running:
        job = await running.submit(TASK)
        await running.wait(job)
        assert (phase, "m") in [(event.phase, event.message) for event in await running.events(job)]


async def test_e19_no_phase_and_no_state_is_a_retryable_failure(start: Start) -> None:
    service = await start(script={"get": [b"", DONE]})
    outcome = await finish(config(service), retries=1)
    assert (outcome.phase, outcome.attempts) == (Phase.SUCCEEDED, 2)


async def test_e19_no_phase_in_flyte_2_is_a_system_error(start: Start) -> None:
    service = await start(family=V2, script={"get": [b""] * 6 + [R(phase=4)]})
    outcome = await finish(config(service), retries=1)
    assert (outcome.phase, outcome.code, outcome.attempts) == (Phase.FAILED, "MaxSystemFailuresExceeded", 1)


@pytest.mark.parametrize(
    ("state", "seen", "code"),
    [
        (agent_pb2.RUNNING, Phase.RUNNING, None),
        (agent_pb2.PENDING, Phase.INITIALIZING, None),
        (agent_pb2.SUCCEEDED, Phase.SUCCEEDED, ""),
        (agent_pb2.PERMANENT_FAILURE, Phase.FAILED, "TaskFailedWithError"),
    ],
)
async def test_e20_an_old_agent_says_how_it_stands_by_state(
    start: Start, state: Any, seen: Phase, code: str | None
) -> None:
    old = agent_pb2.Resource(state=state).SerializeToString()
    service = await start(script={"get": [old, agent_pb2.Resource(state=agent_pb2.SUCCEEDED).SerializeToString()]})
    async with engine(config(service)) as running:
        job = await running.submit(TASK, retries=1)
        outcome = await running.wait(job)
        assert (outcome.code, outcome.attempts) == (code or "", 1)
        assert seen in [event.phase for event in await running.events(job)]
    assert len(service.calls("get")) == (2 if code is None else 1)


async def test_e21_a_phase_that_nobody_knows_fails_in_the_end(start: Start) -> None:
    service = await start(script={"get": [R(phase=99)] * 6 + [R(phase=4)]})
    outcome = await finish(config(service))
    assert (outcome.phase, outcome.code) == (Phase.FAILED, "MaxSystemFailuresExceeded")
    assert "phase 99" in outcome.message
    assert service.verbs == ["create", *["get"] * 6, "delete", "get"]


async def test_e22_never_fetched_and_failed_too_often(start: Start) -> None:
    service = await start(script={"get": [grpc.StatusCode.UNAVAILABLE] * 6 + [R(phase=4)]})
    outcome = await finish(config(service), retries=3)
    assert (outcome.phase, outcome.code) == (Phase.FAILED, "AutoRefreshCacheFailed")
    assert outcome.message == "UNAVAILABLE as told"
    assert service.verbs == ["create", *["get"] * 6, "delete", "get"]


async def test_e23_fetched_once_and_then_away_ends_in_bounded_time_deviation(start: Start) -> None:
    service = await start(script={"get": [RUNNING, *[grpc.StatusCode.UNAVAILABLE] * 9, R(phase=4)]})
    async with engine(config(service)) as running:
        find = running._drivers.find

        async def impatient(record: Any) -> Any:
            driver = await find(record)
            driver.rules = replace(driver.rules, fault_tolerance=0.2)
            return driver

        running._drivers.find = impatient  # type: ignore[method-assign]
        outcome = await running.wait(await running.submit(TASK))
    assert (outcome.phase, outcome.code) == (Phase.FAILED, "RetriesExhausted|AgentUnreachable")


async def test_e24_errors_between_answers_do_no_harm_deviation(start: Start) -> None:
    steps: list[Any] = [RUNNING, *[grpc.StatusCode.UNAVAILABLE] * 4] * 3
    service = await start(script={"get": [*steps, DONE]})
    assert (await finish(config(service))).phase is Phase.SUCCEEDED


async def test_e25_the_old_job_is_deleted_before_the_next_attempt(start: Start) -> None:
    service = await start(script={"create": [b"job-0", b"job-1"], "get": [R(phase=8), DONE]})
    assert (await finish(config(service), retries=1)).attempts == 2
    assert service.verbs == ["create", "get", "delete", "create", "get"]
    (deleted,) = service.calls("delete")
    assert (deleted.resource_meta, deleted.task_category.name, deleted.task_type) == (b"job-0", "spark", "spark")


@pytest.mark.parametrize(
    ("resource", "code"), [(R(phase=8), "RetriesExhausted|TaskFailedWithError"), (R(phase=5), "TaskFailedWithError")]
)
async def test_e26_a_last_failure_is_not_deleted(start: Start, resource: Any, code: str) -> None:
    service = await start(script={"get": [resource]})
    assert (await finish(config(service))).code == code
    assert service.verbs == ["create", "get"]


# -- abort, timeout, delete ------------------------------------------------------------------------------------------


async def test_e27_abort_while_running_twice(start: Start) -> None:
    service = await start(script={"get": [RUNNING] * 3 + [R(phase=4)]})
    async with engine(config(service)) as running:
        job = await running.submit(TASK)
        await until(lambda: len(service.calls("get")) >= 2)
        await running.cancel(job)
        await running.cancel(job)
        assert (await running.wait(job)).phase is Phase.ABORTED
    assert service.verbs.count("delete") == 1


async def test_e27_abort_before_create(start: Start) -> None:
    service = await start()
    read = config(service)
    api = replace(read.sections[0].web_api, limits=Limits(write=Rate(1, 1)))  # the second create waits for a second
    async with engine(replace(read, sections=(replace(read.sections[0], web_api=api),))) as running:
        first, second = await running.submit(TASK), await running.submit(TASK)
        await running.cancel(second)
        assert (await running.wait(second)).phase is Phase.ABORTED
        assert (await running.wait(first)).phase is Phase.SUCCEEDED
    assert service.verbs == ["create", "get"]


async def test_e28_a_timeout_deletes_and_tries_again_then_fails(start: Start) -> None:
    service = await start(
        script={
            "create": [lambda request: request.output_prefix[-1].encode()],
            "get": [
                lambda r: (
                    R(phase=4) if r.resource_meta in [d.resource_meta for d in service.calls("delete")] else RUNNING
                )
            ],
        }
    )
    outcome = await finish(config(service), retries=1, timeout=0.3)
    assert (outcome.phase, outcome.attempts) == (Phase.FAILED, 2)
    assert outcome.code.endswith("TimeoutExpired")
    assert deleted(service) == [b"0", b"1"]
    assert [verb for verb in service.verbs if verb != "get"] == ["create", "delete", "create", "delete"]


def deleted(service: Service) -> list[bytes]:
    """The jobs that the service was asked to delete."""
    return [one.resource_meta for one in service.calls("delete")]


async def test_e29_a_delete_that_keeps_failing_ends_deviation(start: Start) -> None:
    service = await start(script={"get": [RUNNING], "delete": [grpc.StatusCode.UNAVAILABLE]})
    async with engine(config(service)) as running:
        find = running._drivers.find

        async def impatient(record: Any) -> Any:
            driver = await find(record)
            driver.rules = replace(driver.rules, delete_tries=3)
            return driver

        running._drivers.find = impatient  # type: ignore[method-assign]
        job = await running.submit(TASK)
        await until(lambda: service.calls("get"))
        await running.cancel(job)
        outcome = await running.wait(job)
        assert (outcome.phase, outcome.job_may_live) == (Phase.ABORTED, True)
        notes = [event.note for event in await running.events(job)]
        assert notes.count("the cancel failed (UNAVAILABLE as told); trying again") == 2
    assert service.verbs.count("delete") == 3


# -- outputs ---------------------------------------------------------------------------------------------------------


def literals(**values: int) -> bytes:
    """A literal map of integers."""
    message = literals_pb2.LiteralMap()
    for name, value in values.items():
        entry = message.literals.add(name=name) if hasattr(message.literals, "add") else None
        target = message.literals[name] if entry is None else entry.value
        target.scalar.primitive.integer = value
    return bytes(message.SerializeToString())


def with_outputs(data: bytes) -> bytes:
    return DONE.SerializeToString() + b"\x12" + _length(data) + data


async def test_e30_outputs_are_written_as_they_came(start: Start) -> None:
    service = await start(script={"get": [with_outputs(literals(o0=7))]})
    outcome = await finish(config(service), ADD, {"a": 1})
    assert outcome.outputs == {"o0": 7}
    prefix = service.calls("create")[0].output_prefix
    assert await asyncio.to_thread(Path(prefix, "outputs.pb").read_bytes) == literals(o0=7)


async def write_file(service: Service, name: str, data: bytes) -> None:
    prefix = Path(service.calls("create")[-1].output_prefix)
    await asyncio.to_thread(lambda: (prefix.mkdir(parents=True, exist_ok=True), (prefix / name).write_bytes(data)))


def error_document(kind: int) -> bytes:
    error = execution_pb2.ContainerError(code="Boom", message="as told", kind=kind)
    return bytes(execution_pb2.ErrorDocument(error=error).SerializeToString())


@pytest.mark.parametrize(
    ("name", "data", "code", "outputs", "attempts"),
    [
        ("outputs.pb", literals(o0=9), "", {"o0": 9}, 1),
        ("nothing", b"", "RetriesExhausted|OutputsNotFound", {}, 2),
        ("error.pb", error_document(execution_pb2.ContainerError.RECOVERABLE), "RetriesExhausted|Boom", {}, 2),
        ("error.pb", error_document(execution_pb2.ContainerError.NON_RECOVERABLE), "Boom", {}, 1),
    ],
)
async def test_e31_e32_outputs_in_files(
    start: Start, name: str, data: bytes, code: str, outputs: dict[str, int], attempts: int
) -> None:
    service = await start(script={"get": [RUNNING]})
    async with engine(config(service)) as running:
        job = await running.submit(ADD, {"a": 1}, retries=1)
        for attempt in range(attempts):
            await until(lambda: len(service.calls("create")) > attempt)  # noqa: B023
            await write_file(service, name, data)
            service.script["get"] = [DONE]
            if attempt + 1 < attempts:
                await until(lambda: service.calls("delete"))
                service.script["get"] = [RUNNING]
        outcome = await running.wait(job)
    assert (outcome.code, outcome.outputs, outcome.attempts) == (code, outputs, attempts)


@pytest.mark.parametrize(("task", "outputs"), [(replace(ADD, outputs={}), {}), (ADD, {"o0": 7})])
async def test_e33_outputs_that_nobody_declared_are_ignored(
    start: Start, task: TaskTemplate, outputs: dict[str, int]
) -> None:
    service = await start(script={"get": [with_outputs(literals(o0=7))]})
    outcome = await finish(config(service), task, {"a": 1})
    assert (outcome.phase, outcome.outputs) == (Phase.SUCCEEDED, outputs)
    written = Path(service.calls("create")[0].output_prefix, "outputs.pb")
    assert await asyncio.to_thread(written.exists) == bool(outputs)


async def test_e34_links_that_come_late_are_published_deviation(start: Start) -> None:
    late = R(phase=Phase.RUNNING.value)
    late.log_links.add(uri="https://example.org/1", name="console")
    service = await start(script={"get": [RUNNING, late]})
    async with engine(config(service)) as running:
        job = await running.submit(TASK)
        await until(lambda: len(service.calls("get")) >= 4)
        assert [link.name for link in (await running.job(job)).job.links] == ["console"]


# -- sync, errors, limits --------------------------------------------------------------------------------------------


async def test_e35_a_sync_call_sends_header_and_inputs_and_takes_one_answer(start: Start) -> None:
    service = await start(is_sync=True, script={"do": [with_outputs(literals(o0=8))]})
    outcome = await finish(config(**agents(a=service)), ADD, {"a": 3})
    assert outcome.outputs == {"o0": 8}
    assert service.verbs == ["do"]
    (parts,) = service.calls("do")
    header, inputs = parts
    assert header.header.template.type == "spark"
    assert LiteralValues(inputs.inputs.SerializeToString(), None, where="inputs")["a"] == 3


async def test_e36_a_sync_agent_that_answers_running_fails_that_task_only(start: Start) -> None:
    service = await start(is_sync=True, script={"do": [RUNNING, DONE]})
    async with engine(config(**agents(a=service))) as running:
        assert (await running.wait(await running.submit(TASK))).code == "AgentError"
        assert (await running.wait(await running.submit(TASK))).phase is Phase.SUCCEEDED


@pytest.mark.parametrize(
    ("phase", "kind", "attempts"),
    [(8, agent_pb2.AgentError.NON_RECOVERABLE, 2), (5, agent_pb2.AgentError.RECOVERABLE, 1)],
)
async def test_e37_the_code_of_an_agent_error_is_used_and_the_phase_decides(
    start: Start, phase: int, kind: Any, attempts: int
) -> None:
    error = agent_pb2.AgentError(code="Quota", kind=kind)
    failed = agent_pb2.Resource(phase=phase, message="full", agent_error=error).SerializeToString()
    service = await start(script={"get": [failed]})
    outcome = await finish(config(service), retries=1)
    assert (outcome.code.rpartition("|")[2], outcome.attempts) == ("Quota", attempts)


def limited(service: Service, **api: Any) -> FlyteConfig:
    """A configuration with limits, as its file says them; polled more often than it may say."""
    read = config(service, webApi=api)
    web_api = read_config({"plugins": {"agent-service": {"webApi": api}}}, "flyte.yaml").sections[0].web_api
    sections = [replace(one, web_api=replace(web_api, resync_interval=0.03)) for one in read.sections]
    return replace(read, sections=tuple(sections))


async def test_e38_the_rate_of_reads_is_respected(start: Start) -> None:
    service = await start()
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with engine(limited(service, readRateLimiter={"qps": 20, "burst": 5})) as running:
        for job in [await running.submit(TASK) for _ in range(10)]:
            await running.wait(job)
    assert loop.time() - began >= 0.25 - 0.02


async def test_e38_so_many_workers_ask_at_once(start: Start) -> None:
    asking = most = 0
    go_on = asyncio.Event()

    async def ask(_: Any) -> Any:
        nonlocal asking, most
        asking += 1
        most = max(most, asking)
        await go_on.wait()
        asking -= 1
        return DONE

    service = await start(script={"get": [ask]})
    async with engine(limited(service, caching={"workers": 3})) as running:
        jobs = [await running.submit(TASK) for _ in range(8)]
        await until(lambda: asking == 3)
        await until(lambda: len(service.calls("create")) == 8)
        go_on.set()
        for job in jobs:
            assert (await running.wait(job)).phase is Phase.SUCCEEDED
    assert most == 3


def offloaded(**uris: str) -> bytes:
    """A literal map whose values are in files of their own."""
    message = literals_pb2.LiteralMap()
    for name, uri in uris.items():
        message.literals[name].offloaded_metadata.uri = uri
    return bytes(message.SerializeToString())


def hand_in(store: Path, *jobs: Submitted) -> None:
    """Write jobs into a store as `airside run --detach` does."""
    with Database(store) as database, database.transaction():
        for one in jobs:
            database.add(one.record, one.template, one.inputs)


async def test_e39_an_offloaded_input_is_fetched_before_it_is_used(start: Start, tmp_path: Path) -> None:
    kept = literals_pb2.Literal()
    kept.scalar.primitive.integer = 41
    (tmp_path / "x.pb").write_bytes(kept.SerializeToString())
    service = await start()
    store = tmp_path / "engine.db"
    there, gone = (
        replace(prepare(CONTAINER, {"x": 3}), inputs=offloaded(x=str(tmp_path / name))) for name in ("x.pb", "gone.pb")
    )
    await asyncio.to_thread(hand_in, store, there, gone)
    async with asyncio.timeout(20), engine(config(service), store) as running:
        assert (await running.wait(there.record.job.id)).phase is Phase.SUCCEEDED
        outcome = await running.wait(gone.record.job.id)
    assert outcome.phase is Phase.FAILED
    assert f"{tmp_path / 'gone.pb'} does not exist" in outcome.message
    (request,) = service.calls("create")  # the input that is gone stops its attempt before any call
    assert request.template.container.args[0] == "41"
    assert request.inputs.literals["x"].offloaded_metadata.uri == str(tmp_path / "x.pb")


async def test_e40_a_template_without_config_is_created_deviation(start: Start) -> None:
    service = await start(family=V2)
    assert (await finish(config(service))).phase is Phase.SUCCEEDED
    (request,) = service.calls("create")
    assert not request.connection.secrets
    assert not request.connection.configs
    assert {one.verb for one in service.received} == {"list", "create", "get"}


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


async def test_flyte_2_is_sent_the_connection_with_every_call(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_FSEC_BANK_TOKEN", "s3cret-of-the-bank")
    task = replace(TASK, config={"secrets": {"token": "bank_token"}, "configs": {"host": "h"}, "size": 3})
    lost = connector_pb2.Resource(phase=8)
    for family, secrets, configs in ((V2, {"token": "s3cret-of-the-bank"}, {"host": "h"}), (V1, {}, {})):
        service = await start(family=family, script={"get": [lost, connector_pb2.Resource(phase=3)]})
        async with asyncio.timeout(20), engine(config(service)) as running:
            job = await running.submit(task, retries=1)
            assert (await running.wait(job)).phase is Phase.SUCCEEDED
            assert "s3cret" not in str((await running.job(job)).source)
        assert service.verbs == ["create", "get", "delete", "create", "get"]
        for verb in ("create", "get", "delete"):
            data = service.calls(verb)[0].SerializeToString()
            connection = V2.methods[verb].request.FromString(data).connection
            assert (dict(connection.secrets), dict(connection.configs)) == (secrets, configs), (family.name, verb)


async def test_a_secret_that_is_missing_fails_the_task_before_any_call(start: Start) -> None:
    service = await start(family=V2)
    outcome = await finish(config(service), replace(TASK, config={"secrets": {"token": "nowhere"}}))
    assert outcome.phase is Phase.FAILED
    assert "Secret 'nowhere' is missing: set _FSEC_NOWHERE or put it into the file" in outcome.message
    assert "create" not in service.verbs


async def test_the_template_is_written_for_arguments_that_name_it(start: Start) -> None:
    service = await start()
    box = Container(image="i", args=("{{.TaskTemplatePath}}", "{{$Input}}", "{{ .rawoutputdataprefix }}"))
    await finish(config(service), replace(TASK, container=box))
    (request,) = service.calls("create")
    template, inputs, raw = request.template.container.args
    assert tasks_pb2.TaskTemplate.FromString(Path(template).read_bytes()).container.args[0] == "{{.TaskTemplatePath}}"
    assert Path(inputs).exists()
    assert raw == f"{request.output_prefix}/raw"

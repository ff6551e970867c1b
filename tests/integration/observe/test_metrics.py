"""What the page /metrics shows of a service at work, and that the documentation lists all of it."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from airside import AsyncAgent, NotFound, Phase, Resource, Retry
from airside.observe.events import Event, What
from airside.observe.prometheus import METRICS, Metrics
from airside.observe.readings import Gauge
from airside.sdk.agent import AgentSettings
from airside.server.handle import SigningKeys
from airside.testing import ScriptedAgent

from .conftest import SETTINGS, Start

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "metrics.md").read_text()
ROW = re.compile(r"^\| `((?:airside|flyte)_\w+)` \| (\w+) \| ([^|]*)\| ([^|]+) \|$", re.MULTILINE)


def page_of(server: Any, metrics: Metrics) -> dict[str, float]:
    """The series of a service, as `name{labels}`."""
    lines = metrics.render(server.readings()).decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


async def test_calls_of_the_agent_are_counted_by_method_and_by_how_they_failed(start: Start) -> None:
    metrics = Metrics()
    agent = ScriptedAgent(
        get=[Retry("busy"), ValueError("boom"), NotFound(), TimeoutError(), Resource(Phase.RUNNING)],
        create=b"job",
        settings=AgentSettings(create_is_idempotent=True),
    )
    server, client = await start(agent, hooks=[metrics])
    handle = await client.create("scripted", prefix="s3://b/r/0")
    for _ in range(6):
        await client.get(handle)
    await client.delete(handle)
    page = await asyncio.to_thread(page_of, server, metrics)
    asked = 'airside_backend_latency_seconds_count{operation="get",task_type="scripted"}'
    labels = 'operation="get",task_type="scripted"'
    errors = {name: page[f'airside_backend_errors_total{{error="{name}",{labels}}}'] for name in ("retry", "timeout")}
    assert errors == {"retry": 1, "timeout": 1}
    assert page[f'airside_backend_errors_total{{error="not_found",{labels}}}'] == 1
    assert page[f'airside_backend_errors_total{{error="unexpected",{labels}}}'] == 1
    assert page[asked] == len(agent.calls("get"))
    assert page['airside_backend_latency_seconds_count{operation="create",task_type="scripted"}'] == 1
    assert page['airside_backend_latency_seconds_count{operation="delete",task_type="scripted"}'] == 1
    assert page['airside_decisions_total{decision="fault_tolerated",task_type="scripted"}'] == 4


async def test_how_old_the_answers_are_is_told(start: Start) -> None:
    metrics = Metrics()
    agent = ScriptedAgent(get=[Resource(Phase.RUNNING), Retry("busy")])
    server, client = await start(agent, hooks=[metrics])
    handle = await client.create("scripted")
    await client.get(handle)
    await asyncio.sleep(0.15)
    await client.get(handle)  # the last answer once more, since the backend has none
    page = await asyncio.to_thread(page_of, server, metrics)
    assert page['airside_answer_age_seconds_count{task_type="scripted"}'] == 2
    assert page['airside_answer_age_seconds_bucket{le="0.1",task_type="scripted"}'] == 1
    assert page['airside_answer_age_seconds_sum{task_type="scripted"}'] > 0.15


async def test_an_answer_that_is_true_for_ever_has_no_age(start: Start) -> None:
    metrics = Metrics()
    server, client = await start(ScriptedAgent(get=Resource(Phase.SUCCEEDED)), hooks=[metrics])
    handle = await client.create("scripted")
    await client.get(handle)
    page = await asyncio.to_thread(page_of, server, metrics)
    assert 'airside_answer_age_seconds_count{task_type="scripted"}' not in page


async def test_the_size_of_batches_is_told(start: Start) -> None:
    metrics = Metrics()

    def many(metas: Sequence[bytes]) -> list[Resource]:
        return [Resource(Phase.RUNNING) for _ in metas]

    server, client = await start(ScriptedAgent(get_many=many), hooks=[metrics])
    handles = [await client.create("scripted", prefix=f"s3://b/{number}") for number in range(30)]
    await asyncio.gather(*(client.get(handle) for handle in handles))
    page = await asyncio.to_thread(page_of, server, metrics)
    assert page['airside_batch_size_sum{task_type="scripted"}'] >= 30
    calls = page['airside_batch_size_count{task_type="scripted"}']
    assert calls < 30
    assert page['airside_backend_latency_seconds_count{operation="get_many",task_type="scripted"}'] == calls


class Blocking(AsyncAgent[str]):
    """Its checks block until they are let go; its creates never end."""

    task_type = "blocking"
    create_is_idempotent = True
    call_timeout = 0.1

    def __init__(self) -> None:
        self.go = threading.Event()

    async def create(self, task: object) -> str:
        await asyncio.Event().wait()
        return ""

    def get(self, job: str) -> Resource:
        self.go.wait(20)
        return Resource(Phase.RUNNING)

    def delete(self, job: str) -> None: ...

    def read_handle(self, data: bytes) -> str:
        return data.decode()


async def test_gauges_say_how_things_stand(start: Start) -> None:
    metrics, agent = Metrics(), Blocking()
    keys = SigningKeys(current="k1", known={"k1": b"1" * 32, "k0": b"0" * 32})
    server, client = await start(
        agent, hooks=[metrics], keys=keys, settings=replace(SETTINGS, max_age=None, max_wait=0.1)
    )
    try:
        request = client.create_request("blocking", prefix="s3://b/r/0")
        handle = (await client.call("CreateTask", request, timeout=1.0)).resource_meta
        await client.get(handle, "blocking")
        await client.get(b"foreign", "blocking")
        lane = '{agent="Blocking",lane="refresh"}'
        expected = {
            "airside_serving": 1,
            "airside_agents": 1,
            "airside_agents_broken": 0,
            "airside_calls_in_flight": 0,
            "airside_jobs_watched": 2,
            'airside_handles{key="k1"}': 1,
            'airside_handles{key="k0"}': 0,
            'airside_handles{key="none"}': 1,
            "airside_creates_running": 1,
            "airside_creates_pending": 1,
            'airside_agent_calls{agent="Blocking"}': 1,
            f"airside_lane_threads{lane}": 16,
            f"airside_lane_stuck{lane}": 1,
        }
        page: dict[str, float] = {}
        async with asyncio.timeout(20):
            while not expected.items() <= page.items():
                await asyncio.sleep(0.02)
                page = await asyncio.to_thread(page_of, server, metrics)
    except TimeoutError:
        pytest.fail(str({name: page.get(name) for name, value in expected.items() if page.get(name) != value}))
    finally:
        agent.go.set()


async def test_what_a_peers_dashboard_reads_is_true(start: Start) -> None:
    """How long calls and the agent took, how large their inputs were, how calls failed, how late the loop was."""
    metrics = Metrics()

    async def create(task: Any) -> bytes:
        await asyncio.sleep(0.2)
        if task.output_prefix.endswith("bad/0"):
            raise Retry("no slot is free")
        return b"job"

    server, client = await start(ScriptedAgent(create=create), hooks=[metrics])
    request = client.create_request("scripted", inputs={"x": "x" * 1000}, prefix="s3://b/good/0")
    await client.call("CreateTask", request)
    with pytest.raises(grpc.aio.AioRpcError):
        await client.create("scripted", prefix="s3://b/bad/0")
    page: dict[str, float] = {}
    async with asyncio.timeout(20):
        while not page.get("airside_loop_lag_seconds_count") or "failure" not in str(page.keys()):
            await asyncio.sleep(0.05)
            page = await asyncio.to_thread(page_of, server, metrics)
    create_ = 'operation="create",task_type="scripted"'
    assert page[f"flyte_connector_requests_success_total{{{create_}}}"] == 1
    assert page[f'flyte_connector_requests_failure_total{{error_code="UNAVAILABLE",{create_}}}'] == 1
    assert page[f"flyte_connector_request_latency_seconds_count{{{create_}}}"] == 1
    assert page[f"flyte_connector_request_latency_seconds_sum{{{create_}}}"] >= 0.19
    assert page['flyte_connector_input_literal_bytes_count{task_type="scripted"}'] == 1
    assert page['flyte_connector_input_literal_bytes_sum{task_type="scripted"}'] == len(request.SerializeToString())
    assert page[f"airside_backend_latency_seconds_count{{{create_}}}"] == 2
    assert page[f"airside_backend_latency_seconds_sum{{{create_}}}"] >= 0.38


async def test_jobs_in_doubt_and_jobs_being_cancelled_are_counted(start: Start) -> None:
    metrics = Metrics()

    def create(task: Any) -> bytes:
        if task.output_prefix.endswith("bad/0"):
            raise Retry("lost")  # it may have been made, and nothing here can tell
        return b"job"

    agent = ScriptedAgent(create=create, get=Resource(Phase.RUNNING), delete=Retry("busy", after=60.0))
    server, client = await start(agent, hooks=[metrics])
    with pytest.raises(grpc.aio.AioRpcError):
        await client.create("scripted", prefix="s3://b/bad/0")
    handle = await client.create("scripted", prefix="s3://b/good/0")
    with pytest.raises(grpc.aio.AioRpcError):
        await client.delete(handle, "scripted")
    page = await asyncio.to_thread(page_of, server, metrics)
    assert (page["airside_jobs_uncertain"], page["airside_jobs_cancelling"]) == (1, 1)
    assert page['airside_decisions_total{decision="job_uncertain",task_type="scripted"}'] == 1


async def test_a_service_without_hooks_does_nothing_for_them(start: Start) -> None:
    agent = ScriptedAgent()
    server, _ = await start(agent)
    assert list(server.service.agents.values()) == [agent]


async def test_names_that_callers_make_up_are_in_no_series(start: Start) -> None:
    metrics = Metrics()
    server, client = await start(ScriptedAgent(), hooks=[metrics])
    with pytest.raises(grpc.aio.AioRpcError):
        await client.create("made_up")
    assert "made_up" not in str(await asyncio.to_thread(page_of, server, metrics))


def test_more_task_types_than_a_page_should_have_share_their_series() -> None:
    metrics = Metrics()
    for number in range(300):
        metrics(Event(What.CALL, task_type=f"type_{number}", operation="get", seconds=0.01))
    page = metrics.render().decode()
    count = re.findall(
        r'^flyte_connector_requests_success_total\{operation="get",task_type="(\w+)"\} (\S+)$', page, re.MULTILINE
    )
    assert len(count) == 257
    assert dict(count)["other"] == "44.0"


def test_the_page_lists_every_metric_with_its_type_and_labels() -> None:
    listed = {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _ in ROW.findall(PAGE)}
    assert listed == {metric.name: (metric.kind, metric.labels) for metric in METRICS}
    assert {gauge.value for gauge in Gauge} <= listed.keys()


def test_the_page_lists_every_decision() -> None:
    counted = {What.CALL, What.BACKEND, What.LOOP_LAG}
    table = PAGE.partition("| `decision` | means |")[2].partition("\n\n")[0]
    listed = {
        name
        for line in table.splitlines()
        for name in re.findall(r"`(\w+)`", line.split("|")[1:2][0] if line.startswith("|") else "")
    }
    assert listed == {what.value for what in set(What) - counted}


def test_what_is_rendered_is_what_is_listed() -> None:
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", Metrics().render().decode(), re.MULTILINE))
    assert types == {metric.name: metric.kind for metric in METRICS}

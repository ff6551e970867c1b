"""The low-level face gets all of it too: what the service promises holds for it, in a process of its own as well."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from airside import Phase
from airside.hosting import ADAPTERS
from airside.observe.prometheus import Metrics
from airside.observe.tracing import Tracing
from airside.sdk.adapt import adapt
from airside.sdk.agent import Agent
from airside.server import isolation
from airside.server.app import Server
from airside.server.child import Isolation
from airside.server.isolation import IsolatedAgent
from airside.server.settings import ServerSettings
from airside.testing.client import RawClient, Wire, task_template

from .lowlevel import LowLevel

HERE = Path(__file__).parent


@dataclass
class Lab:
    """A service with the agent, a client of it, and what can be seen of both."""

    server: Server
    client: RawClient
    metrics: Metrics
    exporter: InMemorySpanExporter

    async def create(self, order: str) -> bytes:
        template = task_template("lowlevel")
        template.custom.update({"order": order})
        request = self.client.create_request(template=template, prefix=f"s3://b/{order}/0")
        return bytes((await self.client.call("CreateTask", request, timeout=20)).resource_meta)

    async def page(self) -> dict[str, float]:
        """The series of /metrics."""
        text = await asyncio.to_thread(self.metrics.render, self.server.readings())
        pairs = (line.rpartition(" ") for line in text.decode().splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    async def calls(self, operation: str) -> float:
        """How often the agent's method was called."""
        series = f'airside_backend_latency_seconds_count{{operation="{operation}",task_type="lowlevel"}}'
        return (await self.page()).get(series, 0.0)


@pytest.fixture(params=["in this process", "isolated"])
async def lab(request: pytest.FixtureRequest, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lab]:
    agent: Agent = adapt(LowLevel(task_type="lowlevel"), ADAPTERS)
    if request.param == "isolated":
        monkeypatch.setenv("PYTHONPATH", str(HERE))
        monkeypatch.setattr(isolation, "PING", 0.05)
        agent = IsolatedAgent(Isolation(name="lowlevel", modules=("lowlevel",)))
        await agent.start()
    metrics, exporter, provider = Metrics(), InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    server = Server([agent], ServerSettings(port=0), hooks=[metrics], tracing=Tracing(provider))
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield Lab(server, RawClient(channel, wire), metrics, exporter)
    finally:
        await server.stop(drain_delay=0.0, grace=0.1)
        provider.shutdown()


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ("down", r"the warehouse is down \(Retryable, id "),
        ("mistake", r"KeyError: 'rows' \(UnexpectedError, id "),
        ("exit", r"SystemExit"),
    ],
)
async def test_a_fault_of_any_kind_fails_no_check(lab: Lab, order: str, said: str) -> None:
    handle = await lab.create(order)
    answer = await lab.client.get(handle, "lowlevel")
    assert answer.phase == Phase.QUEUED
    assert re.search(said, answer.message), answer.message
    assert (await lab.page())['airside_decisions_total{decision="fault_tolerated",task_type="lowlevel"}'] >= 1
    assert (await lab.client.get(await lab.create("well"), "lowlevel")).phase == Phase.RUNNING


async def test_an_attempt_has_one_job(lab: Lab) -> None:
    first, second = await asyncio.gather(lab.create("well"), lab.create("well"))
    assert first == second == await lab.create("well")
    assert await lab.calls("create") == 1


async def test_a_permanent_failure_is_told_by_its_handle(lab: Lab) -> None:
    answer = await lab.client.get(await lab.create("refuse"), "lowlevel")
    assert answer.phase == Phase.FAILED
    assert re.fullmatch(r"no such table \(FailedPrecondition, id [0-9a-f]{8}\)", answer.message)


async def test_a_failed_job_is_told_with_code_and_id(lab: Lab) -> None:
    answer = await lab.client.get(await lab.create("failed"), "lowlevel")
    assert answer.phase == Phase.FAILED
    assert re.fullmatch(r"exited with 3 \(UserError, id [0-9a-f]{8}\)", answer.message)


async def test_a_finished_job_is_not_deleted_and_a_running_one_is(lab: Lab) -> None:
    for order, deletes in (("over", 0), ("well", 1)):
        request = lab.client.job_request("DeleteTaskRequest", await lab.create(order), "lowlevel")
        await lab.client.call("DeleteTask", request, timeout=20)
        assert await lab.calls("delete") == deletes


async def test_its_lanes_and_its_spans_are_seen(lab: Lab) -> None:
    await lab.client.get(await lab.create("well"), "lowlevel")
    async with asyncio.timeout(20):
        while True:
            page = await lab.page()
            lanes = {name: value for name, value in page.items() if name.startswith("airside_lane_threads")}
            if {re.findall(r'lane="(\w+)"', name)[0] for name in lanes} == {"control", "refresh"}:
                break
            await asyncio.sleep(0.02)
    assert set(lanes.values()) == {16.0}
    spans = {span.name: span for span in lab.exporter.get_finished_spans()}
    for method, verb in (("CreateTask", "create"), ("GetTask", "get")):
        [call] = [span for name, span in spans.items() if name.endswith(f"/{method}")]
        inner = spans[f"LowLevel {verb}"]
        assert inner.parent is not None
        assert call.context is not None
        assert inner.parent.span_id == call.context.span_id

"""Spans: from the caller's trace, over the RPC, to the agent's method and what it calls."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import grpc.aio
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from airside import AsyncAgent, Phase, Resource, Retry, SyncAgent, UsageError
from airside.model.redaction import hide
from airside.observe.tracing import Tracing
from airside.sdk.agent import AgentSettings
from airside.server.settings import ServerSettings
from airside.testing import ScriptedAgent
from airside.testing.client import RawClient
from airside.wire.families import FAMILIES, Family

from .conftest import Start

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = (("traceparent", f"00-{TRACE}-{SPAN}-01"), ("binary-bin", b"\xff"))


class Spans:
    """The spans that a service has ended."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    async def one(self, name: str) -> ReadableSpan:
        """The span of this name, once it has ended."""
        async with asyncio.timeout(10):
            while not self.named(name):
                await asyncio.sleep(0.01)
        (span,) = self.named(name)
        return span

    def everything(self) -> str:
        return "".join(span.to_json() for span in self._exporter.get_finished_spans())


@pytest.fixture
def spans() -> Iterator[Spans]:
    made = Spans()
    yield made
    made.provider.shutdown()


async def call(client: RawClient, family: Family, verb: Any, request: Any) -> Any:
    """One unary call within the trace `TRACE`."""
    method = family.methods[verb]
    return await client.channel.unary_unary(method.path, None, method.response.FromString)(
        request.SerializeToString(), metadata=PARENT, timeout=10
    )


def ids(span: ReadableSpan) -> tuple[str, str, str]:
    """Its trace, itself, its parent."""
    assert span.context is not None
    parent = f"{span.parent.span_id:016x}" if span.parent else ""
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}", parent


def within(span: ReadableSpan, parent: ReadableSpan) -> bool:
    return ids(span)[0] == ids(parent)[0] and ids(span)[2] == ids(parent)[1]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
async def test_a_call_of_the_engine_leads_to_the_calls_of_the_agent(start: Start, spans: Spans, family: Family) -> None:
    """Create, get and delete of both families, each in the caller's trace."""
    _, client = await start(ScriptedAgent(get=Resource(Phase.RUNNING)), tracing=Tracing(spans.provider))
    client = RawClient(client.channel, family.name)
    made = await call(client, family, "create", client.create_request("scripted", prefix="s3://b/r/0"))
    for verb, request in (("get", "GetTaskRequest"), ("delete", "DeleteTaskRequest")):
        await call(client, family, verb, client.job_request(request, made.resource_meta, "scripted"))
    for verb, agent in (("create", "create"), ("get", "get"), ("delete", "delete")):
        method = family.methods[verb]
        rpc = await spans.one(method.path.strip("/"))
        assert (ids(rpc)[0], ids(rpc)[2]) == (TRACE, SPAN)
        assert rpc.kind is SpanKind.SERVER
        assert rpc.attributes is not None
        assert rpc.attributes["rpc.method"] == method.name
        assert rpc.attributes["rpc.grpc.status_code"] == 0
        inner = [span for span in spans.named(f"scripted {agent}") if within(span, rpc)]
        assert inner, verb
        assert inner[0].kind is SpanKind.CLIENT
        attributes = dict(inner[0].attributes or {})
        assert len(str(attributes.pop("airside.key"))) == 32
        assert attributes == {
            "airside.agent": "scripted",
            "airside.task_type": "scripted",
            "airside.operation": agent,
            "airside.jobs": 1,
        }


async def test_a_call_without_a_trace_begins_one(start: Start, spans: Spans) -> None:
    _, client = await start(ScriptedAgent(), tracing=Tracing(spans.provider))
    await client.create("scripted")
    rpc = await spans.one("flyteidl2.connector.AsyncConnectorService/CreateTask")
    assert rpc.parent is None
    assert within(await spans.one("scripted create"), rpc)


class Nested(AsyncAgent[str]):
    """Its methods make spans, as an instrumented client does: one on the loop, one on a thread."""

    task_type = "nested"

    def __init__(self, tracer: trace.Tracer) -> None:
        self.tracer = tracer

    async def create(self, task: object) -> str:
        with self.tracer.start_as_current_span("http create"):
            return "1"

    def get(self, job: str) -> Resource:
        with self.tracer.start_as_current_span("http get"):
            return Resource(Phase.RUNNING)

    def delete(self, job: str) -> None: ...


async def test_what_the_agent_calls_is_within_its_span(start: Start, spans: Spans) -> None:
    _, client = await start(Nested(spans.provider.get_tracer("client")), tracing=Tracing(spans.provider))
    handle = await client.create("nested")
    await client.get(handle, "nested")
    for verb in ("create", "get"):
        assert within(await spans.one(f"http {verb}"), await spans.one(f"Nested {verb}"))


class Sum(SyncAgent):
    task_type = "sum"

    def do(self, task: object) -> Resource:
        return Resource(Phase.SUCCEEDED)


async def test_a_sync_call_is_traced(start: Start, spans: Spans) -> None:
    _, client = await start(Sum(), tracing=Tracing(spans.provider))
    client = RawClient(client.channel, "v1")
    await client.do(client.sync_header("sum", 0, prefix="s3://b/r/0"), client.sync_inputs(b""))
    rpc = await spans.one("flyteidl.service.SyncAgentService/ExecuteTaskSync")
    assert within(await spans.one("Sum do"), rpc)


async def test_a_create_that_goes_on_behind_its_answer_stays_in_its_trace(start: Start, spans: Spans) -> None:
    release = asyncio.Event()

    async def create(_: object) -> bytes:
        await release.wait()
        return b"job"

    agent = ScriptedAgent(create=create, settings=AgentSettings(create_is_idempotent=True))
    _, client = await start(agent, tracing=Tracing(spans.provider))
    await client.call("CreateTask", client.create_request("scripted", prefix="s3://b/r/0"), timeout=1.0)
    rpc = await spans.one("flyteidl2.connector.AsyncConnectorService/CreateTask")
    release.set()
    assert within(await spans.one("scripted create"), rpc)


async def test_a_check_ahead_of_the_next_ask_is_nobody_s_call(start: Start, spans: Spans) -> None:
    settings = ServerSettings(port=0, drain_delay=0.0, grace=0.1)
    agent = ScriptedAgent(
        get=[Retry("busy", after=0.05), Resource(Phase.RUNNING)], settings=AgentSettings(max_age=0.01)
    )
    _, client = await start(agent, settings=settings, tracing=Tracing(spans.provider))
    handle = await client.create("scripted")
    await client.get(handle)
    async with asyncio.timeout(10):
        while len(spans.named("scripted get")) < 2:  # the second is the service's own repetition
            await asyncio.sleep(0.01)
    first, second = spans.named("scripted get")[:2]
    assert within(first, await spans.one("flyteidl2.connector.AsyncConnectorService/GetTask"))
    assert second.parent is None
    assert ids(second)[0] != ids(first)[0]


@pytest.mark.parametrize(
    ("error", "number", "status"),
    [(ValueError("secret-of-ours-123"), 13, StatusCode.ERROR), (None, 5, StatusCode.UNSET)],
)
async def test_how_a_call_ended_is_told_and_no_secret(
    start: Start, spans: Spans, error: Exception | None, number: int, status: StatusCode
) -> None:
    hide("hidden-secret-456")
    _, client = await start(
        ScriptedAgent(create=error or b"", get=Retry("no hidden-secret-456")), tracing=Tracing(spans.provider)
    )
    with pytest.raises(grpc.aio.AioRpcError):
        await client.create("scripted" if error else "unknown")
    rpc = await spans.one("flyteidl2.connector.AsyncConnectorService/CreateTask")
    assert (rpc.attributes or {})["rpc.grpc.status_code"] == number
    assert rpc.status.status_code is status
    if error:
        inner = await spans.one("scripted create")
        assert (inner.attributes or {})["error.type"] == "ValueError"
        assert (inner.status.status_code, inner.status.description) == (StatusCode.ERROR, "ValueError")
    assert "secret-of-ours" not in spans.everything()


async def test_a_known_secret_is_in_no_span(start: Start, spans: Spans) -> None:
    hide("hidden-secret-789")
    agent = ScriptedAgent(create=Retry("no hidden-secret-789"))
    _, client = await start(agent, tracing=Tracing(spans.provider))
    with pytest.raises(grpc.aio.AioRpcError):
        await client.create("scripted")
    assert (await spans.one("scripted create")).status.description == "no ***"
    assert "hidden-secret" not in spans.everything()


async def test_a_caller_that_goes_away_is_told(start: Start, spans: Spans) -> None:
    asked = asyncio.Event()

    async def create(_: object) -> bytes:
        asked.set()
        await asyncio.sleep(0.3)
        return b"job"

    _, client = await start(ScriptedAgent(create=create), tracing=Tracing(spans.provider))
    waiting = asyncio.create_task(client.create("scripted"))
    await asked.wait()
    waiting.cancel()
    rpc = await spans.one("flyteidl2.connector.AsyncConnectorService/CreateTask")
    assert (rpc.attributes or {})["rpc.grpc.status_code"] == 1
    assert rpc.status.status_code is StatusCode.UNSET


def test_without_an_sdk_it_says_what_to_do() -> None:
    with pytest.raises(UsageError, match="needs an OpenTelemetry SDK in this process: start the service with"):
        Tracing(trace.NoOpTracerProvider())


LOOK = """
import asyncio, sys
from airside.agents.echo import EchoAgent
from airside.observe.prometheus import Metrics
from airside.sdk.adapt import adapt
from airside.server.app import Server
from airside.server.settings import ServerSettings

async def main():
    async with Server([adapt(EchoAgent())], ServerSettings(port=0), hooks=[Metrics()]):
        print(sorted(name for name in sys.modules if name.startswith(("opentelemetry", "prometheus_client"))))

asyncio.run(main())
"""


def test_a_service_that_does_not_trace_loads_nothing_of_it() -> None:
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"

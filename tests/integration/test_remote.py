"""An agent in another service, driven over real gRPC: foreign services written with each IDL's own servicers."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flyteidl.admin import agent_pb2
from flyteidl.core import literals_pb2 as literals_v1_pb2
from flyteidl.service import agent_pb2_grpc
from flyteidl2.connector import connector_pb2, service_pb2_grpc
from flyteidl2.logs.dataplane import payload_pb2

from airside import (
    Call,
    Connection,
    Execution,
    Fail,
    LogLine,
    LogLink,
    NotFound,
    Phase,
    Resource,
    Retry,
    Task,
    TaskType,
    UsageError,
)
from airside.engine.endpoint import Tls
from airside.engine.remote import RemoteAgent, discover
from airside.wire.resource import write_resource
from airside.wire.template import key_of, read_request

FIVE = literals_v1_pb2.Literal(scalar=literals_v1_pb2.Scalar(primitive=literals_v1_pb2.Primitive(integer=5)))
NOON = datetime(2024, 1, 2, 12, tzinfo=UTC)
Behaviour = Callable[[Any, Any], Any]


class AgentV1(
    agent_pb2_grpc.AsyncAgentServiceServicer,
    agent_pb2_grpc.SyncAgentServiceServicer,
    agent_pb2_grpc.AgentMetadataServiceServicer,
):
    """A Flyte 1 agent service in another hand: it remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.metadata: list[dict[str, str]] = []
        self.resource = agent_pb2.Resource(phase=Phase.RUNNING.value)  # type: ignore[arg-type]  # the number is what travels
        self.fail: tuple[grpc.StatusCode, str] | None = None
        self.delay = 0.0
        self.agents = [
            agent_pb2.Agent(
                name="Warehouse",
                supported_task_types=["query", "query"],
                supported_task_categories=[
                    agent_pb2.TaskCategory(name="query"),
                    agent_pb2.TaskCategory(name="query", version=2),
                ],
            ),
            agent_pb2.Agent(name="Adder", supported_task_types=["add"], is_sync=True),
        ]

    async def _note(self, request: Any, context: Any) -> None:
        self.asked.append(request)
        self.metadata.append({key: value for key, value in context.invocation_metadata() if isinstance(value, str)})
        await asyncio.sleep(self.delay)
        if self.fail is not None:
            await context.abort(*self.fail)

    async def CreateTask(self, request: Any, context: Any) -> Any:
        await self._note(request, context)
        return agent_pb2.CreateTaskResponse(resource_meta=b"\x00\xffjob")

    async def GetTask(self, request: Any, context: Any) -> Any:
        await self._note(request, context)
        return agent_pb2.GetTaskResponse(resource=self.resource)

    async def DeleteTask(self, request: Any, context: Any) -> Any:
        await self._note(request, context)
        return agent_pb2.DeleteTaskResponse()

    async def ExecuteTaskSync(self, request_iterator: Any, context: Any) -> Any:
        self.asked += [request async for request in request_iterator]
        if self.fail is not None:
            await context.abort(*self.fail)
        yield agent_pb2.ExecuteTaskSyncResponse(header=agent_pb2.ExecuteTaskSyncResponseHeader(resource=self.resource))
        await asyncio.sleep(60)

    async def ListAgents(self, request: Any, context: Any) -> Any:
        await self._note(request, context)
        return agent_pb2.ListAgentsResponse(agents=self.agents)


class ConnectorV2(
    service_pb2_grpc.AsyncConnectorServiceServicer,
    service_pb2_grpc.ConnectorMetadataServiceServicer,
):
    """A Flyte 2 connector service in another hand."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.phase = Phase.RUNNING.value

    async def CreateTask(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        return connector_pb2.CreateTaskResponse(resource_meta=key_of(request).encode())

    async def GetTask(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        return connector_pb2.GetTaskResponse(resource=connector_pb2.Resource(phase=self.phase))

    async def DeleteTask(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        return connector_pb2.DeleteTaskResponse()

    async def GetTaskMetrics(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        answer = connector_pb2.GetTaskMetricsResponse()
        series = {"metric": {"pod": "a"}, "values": [[NOON.timestamp(), "0.5"]]}
        answer.results.add(metric="cpu").data.update({"resultType": "matrix", "result": [series]})
        return answer

    async def GetTaskLogs(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        first = int(request.token or 0)
        for number in range(first, min(first + request.lines, 5)):
            part = connector_pb2.GetTaskLogsResponse()
            part.body.lines.append(payload_pb2.LogLine(message=f"line {number}"))
            yield part
        end = connector_pb2.GetTaskLogsResponse()
        end.header.token = str(first + request.lines) if first + request.lines < 5 else ""
        yield end

    async def ListConnectors(self, request: Any, context: Any) -> Any:
        connector = connector_pb2.Connector(
            name="Warehouse", supported_task_categories=[connector_pb2.TaskCategory(name="query")]
        )
        return connector_pb2.ListConnectorsResponse(connectors=[connector])


@asynccontextmanager
async def serving(
    *, v1: AgentV1 | None = None, v2: ConnectorV2 | None = None, address: str = "127.0.0.1:0", **kwargs: Any
) -> AsyncIterator[str]:
    server = grpc.aio.server(**kwargs)
    if v1 is not None:
        agent_pb2_grpc.add_AsyncAgentServiceServicer_to_server(v1, server)
        agent_pb2_grpc.add_SyncAgentServiceServicer_to_server(v1, server)
        agent_pb2_grpc.add_AgentMetadataServiceServicer_to_server(v1, server)
    if v2 is not None:
        service_pb2_grpc.add_AsyncConnectorServiceServicer_to_server(v2, server)
        service_pb2_grpc.add_ConnectorMetadataServiceServicer_to_server(v2, server)
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield address if address.startswith("unix") else f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@asynccontextmanager
async def opened(target: str, **kwargs: Any) -> AsyncIterator[RemoteAgent]:
    agent = RemoteAgent(target, **kwargs)
    await agent.open(None)
    try:
        yield agent
    finally:
        await agent.close()


def a_task(**kwargs: Any) -> Task:
    defaults: dict[str, Any] = {
        "type": TaskType("query"),
        "inputs": {"x": 5},
        "output_prefix": "/tmp/run/0",
        "execution": Execution(project="p", name="run", attempt=1),
    }
    return Task(**{**defaults, **kwargs})


async def test_a_job_of_flyte_1_from_create_to_delete() -> None:
    service = AgentV1()
    async with serving(v1=service) as target, opened(target, task_type="query") as agent:
        assert (agent.name, agent.is_sync) == ("Warehouse", False)
        assert agent.task_types == (TaskType("query"), TaskType("query", 2))
        meta = await agent.create(a_task(), Call())
        assert meta == b"\x00\xffjob"
        created = service.asked[-1]
        assert created.inputs.literals["x"] == FIVE
        assert (created.template.type, created.output_prefix) == ("query", "/tmp/run/0")
        assert created.task_execution_metadata.task_execution_id.retry_attempt == 1

        assert (await agent.get(meta, Call(output_prefix="/tmp/run/0"))).phase is Phase.RUNNING
        got = service.asked[-1]
        assert (got.resource_meta, got.output_prefix) == (meta, "/tmp/run/0")
        assert (got.task_type, got.task_category.name, got.task_category.version) == ("query", "query", 0)

        await agent.get(meta, Call(task_type=TaskType("query", 2)))
        assert service.asked[-1].task_category.version == 2

        await agent.delete(meta, Call())
        assert (service.asked[-1].resource_meta, service.asked[-1].task_type) == (meta, "query")


async def test_a_finished_job_comes_back_with_all_that_is_known() -> None:
    service = AgentV1()
    service.resource = agent_pb2.Resource(phase=Phase.SUCCEEDED.value, message="done")  # type: ignore[arg-type]  # the number is what travels
    service.resource.outputs.literals["o0"].CopyFrom(FIVE)
    service.resource.log_links.add(uri="http://l", name="Console")
    service.resource.custom_info["rows"] = 3
    async with serving(v1=service) as target, opened(target, task_type="query") as agent:
        resource = await agent.get(b"m", Call())
    assert resource.phase is Phase.SUCCEEDED
    assert resource.outputs == {"o0": 5}
    assert resource.links == (LogLink("http://l", "Console"),)
    assert (resource.message, resource.info) == ("done", {"rows": 3})


async def test_an_old_agent_that_sends_only_state() -> None:
    service = AgentV1()
    service.agents = [agent_pb2.Agent(name="Old", supported_task_types=["query"])]
    service.resource = agent_pb2.Resource(state=agent_pb2.RUNNING)
    async with serving(v1=service) as target, opened(target) as agent:
        assert agent.task_types == (TaskType("query"),)
        assert (await agent.get(b"m", Call())).phase is Phase.RUNNING
        service.resource = agent_pb2.Resource()
        assert (await agent.get(b"m", Call())).phase is Phase.RETRYABLE_FAILED


async def test_a_job_of_flyte_2_with_its_connection() -> None:
    service = ConnectorV2()
    connection = Connection(secrets={"token": "s3cret-of-flyte-2"}, configs={"host": "h"})
    async with serving(v2=service) as target, opened(target) as agent:
        assert (agent.name, agent.task_types) == ("Warehouse", (TaskType("query"),))
        meta = await agent.create(a_task(connection=connection), Call(connection=connection))
        assert (await agent.get(meta, Call(connection=connection))).phase is Phase.RUNNING
        await agent.delete(meta, Call(connection=connection))
        for request in service.asked:
            assert dict(request.connection.secrets) == {"token": "s3cret-of-flyte-2"}
            assert dict(request.connection.configs) == {"host": "h"}
        assert read_request(service.asked[0], key="").inputs == {"x": 5}
        service.phase = 0
        with pytest.raises(Retry, match="phase 0"):
            await agent.get(meta, Call())
        with pytest.raises(Fail, match="has no sync calls"):
            await agent.do(a_task(), Call())


async def test_a_proxied_template_arrives_untouched() -> None:
    service = ConnectorV2()
    request = connector_pb2.CreateTaskRequest(output_prefix="/tmp/0")
    request.template.type = "query"
    request.template.config["a"] = "b"
    request.template.custom.update({"x": {"y": [1]}})
    request.template.id.project = "p"
    request.template.id.resource_type = 1
    request.inputs.literals.add(name="x").value.scalar.primitive.integer = 5
    async with serving(v2=service) as target, opened(target) as agent:
        await agent.create(read_request(request, key=""), Call())
    assert service.asked[0].template == request.template
    assert service.asked[0].inputs == request.inputs


async def test_a_sync_task_of_flyte_1() -> None:
    """E35: header, inputs, half-close, one answer; the call is over although the service would go on."""
    service = AgentV1()
    service.resource = agent_pb2.Resource.FromString(write_resource(Resource(Phase.SUCCEEDED, outputs={"o0": 8}), None))
    async with serving(v1=service) as target, opened(target, task_type="add") as agent:
        assert agent.is_sync
        resource = await asyncio.wait_for(agent.do(a_task(type=TaskType("add")), Call()), 5)
        assert (resource.phase, resource.outputs) == (Phase.SUCCEEDED, {"o0": 8})
        header, inputs = service.asked[-2:]
        assert (header.header.template.type, header.header.output_prefix) == ("add", "/tmp/run/0")
        assert inputs.inputs.literals["x"] == FIVE
        service.resource = agent_pb2.Resource(phase=Phase.RUNNING.value)  # type: ignore[arg-type]  # the number is what travels
        with pytest.raises(Fail, match=r"^The sync agent answered RUNNING, which is not terminal\.$"):
            await agent.do(a_task(type=TaskType("add")), Call())
        service.fail = (grpc.StatusCode.NOT_FOUND, "no such type")
        with pytest.raises(Fail, match="no such type"):
            await agent.do(a_task(type=TaskType("add")), Call())


async def test_pages_of_logs() -> None:
    async with serving(v2=ConnectorV2()) as target, opened(target) as agent:
        first = [line async for line in agent.logs(b"m", after="", limit=2, call=Call())]
        assert first == [LogLine("line 0"), LogLine("line 1", cursor="2")]
        last = [line async for line in agent.logs(b"m", after="2", limit=10, call=Call())]
        assert last == [LogLine("line 2"), LogLine("line 3"), LogLine("line 4")]
        page = agent.logs(b"m", after="2", limit=3, call=Call())
        assert [line.cursor async for line in page] == ["", "", ""]


async def test_metrics() -> None:
    service = ConnectorV2()
    async with serving(v2=service) as target, opened(target) as agent:
        end = NOON + timedelta(minutes=1)
        (metric,) = await agent.metrics(b"m", queries=["cpu"], start=NOON, end=end, step=1.5, call=Call())
    assert (metric.name, metric.points, metric.labels) == ("cpu", [(NOON, 0.5)], {"pod": "a"})
    request = service.asked[-1]
    assert (list(request.queries), request.step.ToTimedelta()) == (["cpu"], timedelta(seconds=1.5))
    assert request.end_time.ToDatetime(UTC) == end


async def test_what_a_service_does_not_serve() -> None:
    async with (
        serving(v2=ConnectorV2()) as target,
        opened(target, family="v1", task_types=[TaskType("query")]) as agent,
    ):
        with pytest.raises(Fail, match=r"does not serve flyteidl\.service\.AsyncAgentService/GetTask\.$") as caught:
            await agent.get(b"m", Call())
    assert caught.value.code == "Unimplemented"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (grpc.StatusCode.NOT_FOUND, NotFound),
        (grpc.StatusCode.INTERNAL, Retry),
        (grpc.StatusCode.UNAVAILABLE, Retry),
        (grpc.StatusCode.UNAUTHENTICATED, Retry),
        (grpc.StatusCode.INVALID_ARGUMENT, Fail),
    ],
)
async def test_an_agents_errors_arrive_as_its_own(status: grpc.StatusCode, error: type[Exception]) -> None:
    service = AgentV1()
    async with serving(v1=service) as target, opened(target, task_type="query") as agent:
        service.fail = (status, "the warehouse said no")
        with pytest.raises(error, match=r"^the warehouse said no$"):
            await agent.get(b"m", Call())


async def test_a_type_without_an_agent_is_for_good() -> None:
    service = AgentV1()
    async with serving(v1=service) as target, opened(target, task_type="query") as agent:
        service.fail = (grpc.StatusCode.NOT_FOUND, "Cannot find connector for task type: query.")
        with pytest.raises(Fail, match="Cannot find connector") as caught:
            await agent.create(a_task(), Call())
    assert caught.value.code == "TaskTypeNotServed"


async def test_the_earlier_of_timeout_and_deadline_holds() -> None:
    """E10."""
    service = AgentV1()
    timeouts = {"gettask": 0.1, "default": 9}
    async with serving(v1=service) as target, opened(target, task_type="query", timeouts=timeouts) as agent:
        service.delay = 5.0
        with pytest.raises(Retry, match=rf"^{target} did not answer GetTask within 0\.1 s\.$"):
            await agent.get(b"m", Call())
        with pytest.raises(Retry, match=r"did not answer DeleteTask within 0\."):
            await agent.delete(b"m", Call(deadline=time.monotonic() + 0.2))


async def test_a_message_above_16_mib_is_refused_for_good() -> None:
    service = AgentV1()
    options = [("grpc.max_receive_message_length", 40 << 20)]
    async with serving(v1=service, options=options) as target, opened(target, task_type="query") as agent:
        await agent.create(a_task(inputs={"x": "x" * (15 << 20)}), Call())
        with pytest.raises(Fail, match="larger than max") as caught:
            await agent.create(a_task(inputs={"x": "x" * (17 << 20)}), Call())
    assert caught.value.code == "MessageTooLarge"


async def test_discovery_lists_each_agent() -> None:
    service = AgentV1()
    async with serving(v1=service, v2=ConnectorV2()) as target:
        agents = await discover(target)
        assert [(agent.name, agent.is_sync, agent.task_types) for agent in agents] == [
            ("Warehouse", False, (TaskType("query"), TaskType("query", 2))),
            ("Adder", True, (TaskType("add"),)),
        ]
        asked = len(service.asked)
        await agents[0].open(None)
        assert await agents[0].create(a_task(), Call())
        await agents[0].close()
        assert len(service.asked) == asked + 1  # what is known is not asked again
        (connector,) = await discover(target, family="v2")
        assert connector.family is not None
        assert connector.family.name == "v2"


async def test_a_type_that_the_service_does_not_list() -> None:
    async with serving(v1=AgentV1()) as target:
        with pytest.raises(
            UsageError, match=rf"^{target} serves no task type spark \(it serves: query, query v2, add\)"
        ):
            await RemoteAgent(target, task_type="spark").open(None)


async def test_over_a_unix_socket(tmp_path: Path) -> None:
    async with (
        serving(v1=AgentV1(), address=f"unix:{tmp_path}/agent.sock") as target,
        opened(target, task_type="query", token="t0ken-for-a-socket") as agent,
    ):
        assert (await agent.get(b"m", Call())).phase is Phase.RUNNING


async def test_a_token_goes_along() -> None:
    service = AgentV1()
    async with serving(v1=service) as target, opened(target, task_type="query", token="t0ken-of-the-caller") as agent:
        await agent.get(b"m", Call())
    assert all(metadata["authorization"] == "Bearer t0ken-of-the-caller" for metadata in service.metadata)
    with pytest.raises(UsageError, match=r"^A token for agents\.example:8000 would travel in clear text: use TLS\.$"):
        await RemoteAgent("dns:///agents.example:8000", token="t0ken-of-the-caller").open(None)


async def test_over_tls() -> None:
    """E11: the service's certificate is checked, and a client certificate goes along when it is asked for."""
    certificate, key = make_certificate()
    server = grpc.aio.server()
    agent_pb2_grpc.add_AsyncAgentServiceServicer_to_server(AgentV1(), server)
    agent_pb2_grpc.add_AgentMetadataServiceServicer_to_server(AgentV1(), server)
    credentials = grpc.ssl_server_credentials([(key, certificate)], certificate, require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        target = f"127.0.0.1:{port}"
        tls = Tls(certificate, certificate, key, server_name="agents.test")
        async with opened(target, task_type="query", tls=tls, token="t") as agent:
            assert (await agent.get(b"m", Call())).phase is Phase.RUNNING
        with pytest.raises(
            Retry, match=rf"^No agent service answers at {target}: its certificate cannot be verified\.$"
        ):
            await RemoteAgent(target, tls=Tls()).open(None)
    finally:
        await server.stop(None)
    assert repr(key) not in repr(tls)


async def test_a_service_without_tls() -> None:
    async with serving(v1=AgentV1()) as target:
        with pytest.raises(Retry, match=rf"^No agent service answers at {target}: it does not speak TLS\.$"):
            await RemoteAgent(target, tls=Tls()).open(None)


async def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(Retry, match=rf"^No agent service answers at {target}: Connection refused\.$"):
        await discover(target)
    with pytest.raises(Retry, match=r"^No agent service answers at unix:/tmp/none\.sock: No such file or directory\.$"):
        await discover("unix:/tmp/none.sock")


async def test_somebody_else_there() -> None:
    async with serving() as target:
        with pytest.raises(UsageError, match=rf"^{target} answers, but it is no agent service: it lists neither"):
            await discover(target)


@pytest.mark.parametrize(
    "target", ["", "8000", ":8000", "localhost", "localhost:", "localhost:http", "h:0", "h:70000", "dns:///h"]
)
async def test_a_target_without_a_port(target: str) -> None:
    with pytest.raises(UsageError, match=r"is no endpoint: write HOST:PORT, as in localhost:8000\.$"):
        await discover(target)


async def test_an_agent_that_is_not_open_says_so() -> None:
    agent = RemoteAgent("localhost:8000", task_types=[TaskType("query")], family="v1")
    with pytest.raises(UsageError, match=r"^The agent at localhost:8000 is not open: call open\(\) first\.$"):
        await agent.get(b"m", Call())


async def test_a_service_that_comes_back_is_found_again() -> None:
    async with serving(v1=AgentV1()) as target:
        agent = RemoteAgent(target, task_type="query")
        await agent.open(None)
        assert (await agent.get(b"m", Call())).phase is Phase.RUNNING
    with pytest.raises(Retry):
        await agent.get(b"m", Call())
    async with serving(v1=AgentV1(), address=target):
        async with asyncio.timeout(10):
            while not await _answers(agent):
                await asyncio.sleep(0.05)
    await agent.close()


async def _answers(agent: RemoteAgent) -> bool:
    try:
        return (await agent.get(b"m", Call())).phase is Phase.RUNNING
    except Retry:
        return False


def make_certificate() -> tuple[bytes, bytes]:
    """A certificate for agents.test that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "agents.test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("agents.test")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(pem), private

"""Named connections: whose credentials a task gets, and that a handle cannot choose others."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest

from airside import Connection, Phase, Resource, Retry
from airside.model import TaskType, UsageError
from airside.observe.events import What
from airside.sdk.agent import AgentSettings
from airside.server.connections import Connections, NamedConnection
from airside.server.handle import Handle, Kind, SigningKeys, seal, unseal
from airside.testing.client import RawClient, Wire
from airside.testing.scripted import ScriptedAgent

from .conftest import SETTINGS

KEYS = SigningKeys("k1", {"k1": b"1" * 32})
TYPE = TaskType("scripted")
SECRETS = {"prod": "prod-password", "dev": "dev-password"}


def connections(secrets: Mapping[str, str] = SECRETS, **named: NamedConnection) -> Connections:
    def read(name: str) -> str:
        try:
            return secrets[name]
        except KeyError:
            raise UsageError(f"Secret {name!r} is missing.") from None

    return Connections(named, read)


def account(secret: str, **places: tuple[str, ...]) -> NamedConnection:
    return NamedConnection(
        task_types=("scripted",), secrets={"password": secret}, configs={"host": f"{secret}.example.org"}, **places
    )


def of(agent: ScriptedAgent, verb: str) -> list[Connection | None]:
    return [call.call.connection for call in agent.calls(verb) if call.call is not None]


def at_work() -> ScriptedAgent:
    return ScriptedAgent(
        create=b"job-1", get=Resource(Phase.RUNNING), delete=None, logs=[], metrics=[], find=lambda task: None
    )


async def create(client: RawClient, project: str, domain: str, **request: Any) -> bytes:
    message = client.create_request(prefix=f"{project}/{domain}", **request)
    run = message.task_execution_metadata.task_execution_id.node_execution_id.execution_id
    run.project, run.domain = project, domain
    return bytes((await client.call("CreateTask", message)).resource_meta)


# --- which one -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("project", "domain", "name"),
    [
        ("trips", "production", "both"),
        ("trips", "staging", "project"),
        ("other", "production", "domain"),
        ("other", "staging", "any"),
        ("", "", "any"),
        ("*", "*", "any"),
    ],
)
def test_the_most_specific_connection_wins(project: str, domain: str, name: str) -> None:
    found = connections(
        any=account("prod"),
        domain=account("prod", domains=("production",)),
        project=account("prod", projects=("trips",)),
        both=account("prod", projects=("trips", "more"), domains=("production",)),
    )
    assert found.name_for(TYPE, project, domain) == name
    assert found.name_for(TaskType("another"), project, domain) == ""


def test_two_that_fit_equally_well_are_refused() -> None:
    with pytest.raises(
        UsageError, match=r"connections\.b and connections\.a both claim task type scripted of project p"
    ):
        connections(a=account("prod", projects=("p", "q")), b=account("dev", projects=("o", "p")))


async def test_a_task_gets_the_connection_of_its_project(start: Any, connect: Any, wire: Wire) -> None:
    agent = at_work()
    named = connections(prod=account("prod", domains=("production",)), dev=account("dev", projects=("play",)))
    server = await start(agent, keys=KEYS, connections=named)
    client = RawClient(connect(server.address, tls=False), wire)
    handles = [await create(client, *place) for place in (("trips", "production"), ("play", "staging"), ("x", "y"))]
    prod = Connection("prod", {"password": "prod-password"}, {"host": "prod.example.org"})
    dev = Connection("dev", {"password": "dev-password"}, {"host": "dev.example.org"})
    assert of(agent, "create")[:2] == [prod, dev]
    assert [unseal(handle, KEYS).connection for handle in handles] == ["prod", "dev", ""]
    for handle in handles[:2]:
        await client.get(handle)
        await client.delete(handle)
        _ = [message async for message in client.logs(handle)]
    assert of(agent, "get")[:1] == [prod]
    assert dev in of(agent, "get")
    assert of(agent, "delete") == [prod, dev]
    assert of(agent, "logs") == [prod, dev]
    for handle in handles:
        assert b"password" not in handle


@pytest.mark.parametrize("wire", ["v2"])
async def test_credentials_that_the_caller_brings_win_and_are_never_mixed(start: Any, connect: Any, wire: Wire) -> None:
    agent = at_work()
    server = await start(agent, keys=KEYS, connections=connections(prod=account("prod")))
    client = RawClient(connect(server.address, tls=False), wire)
    own = Connection(secrets={"password": "their-own-password"}, configs={"region": "eu"})
    handle = await create(client, "trips", "production", connection=own)
    assert unseal(handle, KEYS).connection == ""
    await client.get(handle, connection=own)
    assert of(agent, "create") + of(agent, "get") == [own, own]
    # Settings alone, such as a host, must not lead our credentials elsewhere.
    bare = Connection(configs={"host": "evil.example.net"})
    handle = await create(client, "play", "production", connection=bare)
    await client.get(handle, connection=own)
    prod = Connection("prod", {"password": "prod-password"}, {"host": "prod.example.org"})
    assert of(agent, "create")[-1] == of(agent, "get")[-1] == prod


async def test_a_handle_that_is_not_signed_cannot_choose_a_connection(start: Any, connect: Any, wire: Wire) -> None:
    agent = at_work()
    server = await start(agent, keys=KEYS, connections=connections(prod=account("prod")))
    client = RawClient(connect(server.address, tls=False), wire)
    for forged in (
        seal(Handle(task_type=TYPE, meta=b"job-1", connection="prod")),
        seal(Handle(task_type=TYPE, kind=Kind.PENDING, connection="prod")),
        seal(Handle(task_type=TYPE, meta=b"job-1", connection="prod"), SigningKeys("k1", {"k1": b"x" * 32})),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.get(forged)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert of(agent, "get") == []
    assert len(server.told(What.FORGED)) == 3


def test_connections_need_a_signing_key() -> None:
    from airside.server.app import Server

    with pytest.raises(UsageError, match=r"Named connections need a signing key, .*: add \[serve\.signing\]\."):
        Server([], connections=connections(prod=account("prod")))


async def test_a_missing_secret_ends_the_start(start: Any) -> None:
    with pytest.raises(UsageError, match=r"connections\.prod: Secret 'prod' is missing"):
        await start(at_work(), keys=KEYS, connections=connections({}, prod=account("prod")))


# --- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick_looks")
async def test_a_rotated_secret_is_used_and_a_missing_one_keeps_its_value(
    start: Any, connect: Any, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    agent, secrets = at_work(), dict(SECRETS)
    server = await start(agent, keys=KEYS, connections=connections(secrets, prod=account("prod")))
    client = RawClient(connect(server.address, tls=False), wire)
    handle = await create(client, "p", "d")

    async def used(password: str) -> None:
        async with asyncio.timeout(10):
            while True:
                await client.get(handle)
                last = of(agent, "get")[-1]
                if last is not None and last.secrets["password"] == password:
                    return
                await asyncio.sleep(0.01)

    await used("prod-password")
    secrets["prod"] = "rotated-password"
    await used("rotated-password")
    del secrets["prod"]
    async with asyncio.timeout(10):
        while "keeps its last secrets" not in caplog.text:
            await asyncio.sleep(0.02)
    await used("rotated-password")


async def test_a_job_of_a_connection_that_is_gone_runs_on_and_alarms(start: Any, connect: Any, wire: Wire) -> None:
    agent = at_work()
    server = await start(agent, keys=KEYS, connections=connections(dev=account("dev")))
    client = RawClient(connect(server.address, tls=False), wire)
    resource = await client.get(seal(Handle(task_type=TYPE, meta=b"job-1", connection="prod"), KEYS))
    assert Phase(resource.phase) is Phase.RUNNING
    assert "this service has no connection 'prod' now" in resource.message
    assert len(server.told(What.UNSERVED)) == 1
    assert of(agent, "get") == []


async def test_a_pending_create_keeps_its_connection_in_another_process(start: Any, connect: Any, wire: Wire) -> None:
    slow = ScriptedAgent(
        settings=AgentSettings(create_is_idempotent=True, create_timeout=6.0),
        create=Retry("busy", after=4),
        get=Resource(Phase.RUNNING),
    )
    named = connections(prod=account("prod", projects=("trips",)))
    first = await start(slow, keys=KEYS, connections=named, settings=replace(SETTINGS, grace=0.0))
    client = RawClient(connect(first.address, tls=False), wire, timeout=0.3)
    handle = await create(client, "trips", "production")
    sealed = unseal(handle, KEYS)
    assert (sealed.kind, sealed.connection) == (Kind.PENDING, "prod")
    quick = ScriptedAgent(
        settings=AgentSettings(create_is_idempotent=True, create_timeout=6.0),
        create=b"job-1",
        get=Resource(Phase.RUNNING),
    )
    second = await start(quick, keys=KEYS, connections=connections(prod=account("dev", projects=("elsewhere",))))
    client = RawClient(connect(second.address, tls=False), wire)
    async with asyncio.timeout(10):
        while Phase((await client.get(handle)).phase) is not Phase.RUNNING:
            await asyncio.sleep(0.02)
    expected = Connection("prod", {"password": "dev-password"}, {"host": "dev.example.org"})
    assert of(quick, "create") == [expected]
    assert of(quick, "get")[-1] == expected

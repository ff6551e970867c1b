"""Signed handles through the service: rotation, forgeries, and jobs of another version of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import msgpack
import pytest

from airside import Phase, Resource
from airside.model import TaskType, UsageError
from airside.observe.events import What
from airside.server.handle import MAGIC, Handle, SigningKeys, seal, unseal
from airside.server.keys import read_keys
from airside.testing.client import RawClient, Wire
from airside.testing.scripted import ScriptedAgent

from .conftest import SETTINGS

K1, K2 = b"1" * 32, b"2" * 32
OLD = SigningKeys("k1", {"k1": K1})
BOTH = SigningKeys("k1", {"k1": K1, "k2": K2})
TURNED = SigningKeys("k2", {"k1": K1, "k2": K2})
NEW = SigningKeys("k2", {"k2": K2})
TYPE = TaskType("scripted")


def running() -> ScriptedAgent:
    return ScriptedAgent(create=b"job-1", get=Resource(Phase.RUNNING, message="at work"))


def client_of(server: Any, connect: Any, wire: Wire) -> RawClient:
    return RawClient(connect(server.address, tls=False), wire)


async def status(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def test_a_key_is_changed_in_three_rollouts_with_a_job_in_flight(start: Any, connect: Any, wire: Wire) -> None:
    first = client_of(await start(running(), keys=OLD), connect, wire)
    handle = await first.create()
    later = b""
    for keys in (BOTH, TURNED, BOTH, TURNED):  # back and forth, as a rollout that is undone
        client = client_of(await start(running(), keys=keys), connect, wire)
        assert (await client.get(handle)).message == "at work"
        later = await client.create(prefix="another")
        assert unseal(later, keys).meta == b"job-1"
    assert (await client_of(await start(running(), keys=NEW), connect, wire).get(later)).message == "at work"


async def test_jobs_from_before_the_first_key_are_served_until_one_is_required(
    start: Any, connect: Any, wire: Wire
) -> None:
    unsigned = await client_of(await start(running()), connect, wire).create()
    client = client_of(await start(running(), keys=NEW), connect, wire)
    assert (await client.get(unsigned)).message == "at work"
    strict = await start(running(), keys=replace(NEW, require=True))
    client = client_of(strict, connect, wire)
    code, details = await status(client.get(unsigned))
    assert (code, details) == (grpc.StatusCode.INVALID_ARGUMENT, "the job handle is not signed")
    assert len(strict.told(What.FORGED, task_type="scripted")) == 1


async def test_a_service_without_keys_serves_signed_handles(start: Any, connect: Any, wire: Wire) -> None:
    """So a first key can be rolled out, and rolled back."""
    client = client_of(await start(running()), connect, wire)
    assert (await client.get(seal(Handle(task_type=TYPE, meta=b"job-1"), NEW))).message == "at work"


async def test_forgeries_and_foreign_bytes_are_refused_and_counted(start: Any, connect: Any, wire: Wire) -> None:
    agent = running()
    server = await start(agent, keys=NEW)
    client = client_of(server, connect, wire)
    forged = seal(Handle(task_type=TYPE, meta=b"their-job"), SigningKeys("k2", {"k2": b"guessed" * 5}))
    for ask in (client.get, client.delete):
        assert await status(ask(forged)) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "the job handle's signature is wrong",
        )
    assert len(server.told(What.FORGED, task_type="scripted")) == 2
    stripped = MAGIC + bytes((1, 0)) + seal(Handle(task_type=TYPE, meta=b"x", connection="prod"), NEW)[6 + 32 :]
    code, details = await status(client.get(stripped))
    assert (code, details) == (grpc.StatusCode.INVALID_ARGUMENT, "the job handle is not signed")
    for foreign in (b"", b"job-1", b'{"id": 1}', MAGIC, MAGIC + b"\x01\x20", MAGIC + b"\x01\x00garbage"):
        code, _ = await status(client.get(foreign))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert len(server.told(What.FOREIGN)) == 6
    assert agent.calls("get") == []
    assert agent.calls("delete") == []
    await server.until(What.CALL, times=8, code="INVALID_ARGUMENT", operation="get")
    assert len(server.told(What.CALL, code="INVALID_ARGUMENT", operation="get")) == 8


HONEST = {
    "a retired key": (seal(Handle(task_type=TYPE, meta=b"j"), OLD), "signed with the key 'k1'"),
    "a newer format": (MAGIC + bytes((2, 0)) + b"whatever comes then", "has format 2"),
    "another type": (seal(Handle(task_type=TaskType("gone"), meta=b"j"), NEW), "no agent here serves task type gone"),
    "a pending create of another type": (
        MAGIC + bytes((1, 0)) + msgpack.packb({1: "gone", 4: 3}),
        "no agent here serves task type gone",
    ),
}


@pytest.mark.parametrize("case", HONEST)
async def test_an_honest_handle_that_cannot_be_served_now_runs_on_and_alarms(
    start: Any, connect: Any, wire: Wire, case: str
) -> None:
    handle, reason = HONEST[case]
    server = await start(running(), keys=NEW)
    client = client_of(server, connect, wire)
    for _ in range(25):
        resource = await client.get(handle)
        assert Phase(resource.phase) is Phase.RUNNING
        assert reason in resource.message
    assert len(server.told(What.UNSERVED, task_type="scripted")) == 1
    assert server.told(What.GIVEN_UP) == []
    code, details = await status(client.delete(handle))  # the engine asks again, and so does the next version
    assert code is grpc.StatusCode.UNAVAILABLE
    assert reason in details


@pytest.mark.parametrize("case", HONEST)
async def test_it_fails_so_that_it_may_be_retried_once_nobody_can_be_expected(
    start: Any, connect: Any, wire: Wire, case: str
) -> None:
    handle, reason = HONEST[case]
    server = await start(running(), keys=NEW, settings=replace(SETTINGS, unserved_tolerance=0.0))
    client = client_of(server, connect, wire)
    phases = [Phase((await client.get(handle)).phase) for _ in range(20)]
    assert phases == [Phase.RUNNING] * 19 + [Phase.RETRYABLE_FAILED]
    last = await client.get(handle)
    assert Phase(last.phase) is Phase.RETRYABLE_FAILED
    assert reason in last.message
    assert len(server.told(What.GIVEN_UP)) == 1
    await client.delete(handle)


async def test_a_rolling_update_and_back_with_jobs_in_flight(start: Any, connect: Any, wire: Wire) -> None:
    """Version N+1 signs with a key, knows a type and writes a field that N does not."""
    old = client_of(await start(running(), keys=OLD), connect, wire)
    new = client_of(
        await start(
            running(), ScriptedAgent("newer", ["newer"], create=b"n-1", get=Resource(Phase.RUNNING)), keys=BOTH
        ),
        connect,
        wire,
    )
    jobs = [await old.create(prefix="a"), await new.create(prefix="b")]
    body = msgpack.packb({1: "scripted", 10: b"job-1", 99: {"of": "the next version"}})
    jobs.append(MAGIC + bytes((1, 0)) + body)
    for client in (old, new, old):
        for job in jobs:
            assert (await client.get(job)).message == "at work"
    newer = await new.create("newer", prefix="c")
    assert Phase((await old.get(newer, "newer")).phase) is Phase.RUNNING
    assert Phase((await new.get(newer, "newer")).phase) is Phase.RUNNING


# --- the folder of keys ----------------------------------------------------------------------------------------------


def test_keys_are_read_from_a_folder_as_kubernetes_mounts_it(tmp_path: Path) -> None:
    version = tmp_path / "..2026_01_01"
    version.mkdir()
    for name, key in {"k1": K1 + b"\n", "k2": K2}.items():
        (version / name).write_bytes(key)
        (tmp_path / name).symlink_to(version / name)
    (tmp_path / "..data").symlink_to(version)
    keys = read_keys(tmp_path, "k2")
    assert (keys.current, keys.known, keys.require) == ("k2", {"k1": K1, "k2": K2}, False)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, r"there is no key 'k1' in .* \(keys: none\)"),
        ({"k2": K2}, r"there is no key 'k1' in .* \(keys: k2\)"),
        ({"k1": b"short\n"}, r"k1 has 5 bytes; a signing key has at least 32, such as `openssl rand -hex 32` makes"),
        ({"k1": K1, "my key": K2}, r"my key: a signing key is named with letters"),
    ],
)
def test_a_wrong_folder_is_told_in_one_sentence(tmp_path: Path, files: dict[str, bytes], sentence: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=sentence):
        read_keys(tmp_path, "k1")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"The signing keys in .*nowhere cannot be read: No such file"):
        read_keys(tmp_path / "nowhere", "k1")

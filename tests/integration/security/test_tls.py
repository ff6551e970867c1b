"""TLS on the port: who gets in, who is refused, and certificates that change under way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from flyteidl.admin import agent_pb2
from grpc_health.v1 import health_pb2

from airside.engine.endpoint import Tls
from airside.engine.remote import discover
from airside.model import Retry, UsageError
from airside.observe.events import What
from airside.server.tls import TlsFiles, check
from airside.wire.families import V1

LIST = V1.methods["list"]


def put(folder: Path, pair: Any, ca: bytes | None = None) -> TlsFiles:
    """Put a pair where the service reads it, each file in one move, as Kubernetes and certbot do."""
    files = {"tls.crt": pair.certificate, "tls.key": pair.key, **({"ca.crt": ca} if ca else {})}
    for name, content in files.items():
        draft = folder / f"{name}.new"
        draft.write_bytes(content)
        draft.replace(folder / name)
    return TlsFiles(certificate=folder / "tls.crt", key=folder / "tls.key", client_ca=folder / "ca.crt" if ca else None)


async def list_agents(channel: grpc.aio.Channel) -> list[str]:
    call = channel.unary_unary(LIST.path, None, agent_pb2.ListAgentsResponse.FromString)
    return [agent.name for agent in (await call(b"", timeout=5)).agents]


async def refused(channel: grpc.aio.Channel) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await list_agents(channel)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    return str(caught.value.details())


async def test_a_caller_that_trusts_the_certificate_is_served(
    start: Any, connect: Any, authority: Any, tmp_path: Path
) -> None:
    running = await start(tls=put(tmp_path, authority.issue()))
    assert await list_agents(connect(running.address, authority.certificate)) == ["echo"]
    assert len(running.told(What.HANDSHAKE)) == 1
    (remote,) = await discover(f"localhost:{running.server.port}", tls=Tls(roots=authority.certificate))
    assert remote.name == "echo"


async def test_plaintext_and_strangers_are_refused_and_counted(
    start: Any, connect: Any, authority: Any, stranger: Any, tmp_path: Path
) -> None:
    running = await start(tls=put(tmp_path, authority.issue()))
    await refused(connect(running.address, tls=False))
    assert "CERTIFICATE_VERIFY_FAILED" in await refused(connect(running.address, stranger.certificate))
    await running.until(What.HANDSHAKE)
    assert len(running.told(What.HANDSHAKE)) >= 2
    assert running.told(What.CALL) == []
    with pytest.raises(Retry, match="its certificate cannot be verified"):
        await discover(running.address, tls=Tls(roots=stranger.certificate))


@pytest.mark.usefixtures("quick_looks")
async def test_handshakes_that_come_to_nothing_are_counted_and_no_others(
    start: Any, connect: Any, authority: Any, stranger: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airside.server.handshakes.PATIENCE", 1.0)
    running = await start(tls=put(tmp_path, authority.issue(), authority.certificate))
    roots, mine = authority.certificate, authority.issue("caller")
    for _ in range(3):
        assert await list_agents(connect(running.address, roots, mine)) == ["echo"]
    probe = connect(running.address, roots, mine)
    check = probe.unary_unary("/grpc.health.v1.Health/Check", None, health_pb2.HealthCheckResponse.FromString)
    assert (await check(b"", timeout=5)).status == health_pb2.HealthCheckResponse.SERVING
    watched = probe.unary_stream("/grpc.health.v1.Health/Watch", None, health_pb2.HealthCheckResponse.FromString)
    assert (await anext(aiter(watched(b"", timeout=5)))).status == health_pb2.HealthCheckResponse.SERVING
    assert len(running.told(What.HANDSHAKE)) == 4
    wrong = {
        "plaintext": connect(running.address, tls=False),
        "a stranger's service": connect(running.address, stranger.certificate, mine),
        "no certificate of its own": connect(running.address, roots),
        "a stranger": connect(running.address, roots, stranger.issue("caller")),
    }
    for number, channel in enumerate(wrong.values(), start=1):
        await refused(channel)
        await channel.close(None)
        assert len(running.told(What.HANDSHAKE)) >= 4 + number
    async with asyncio.timeout(20):
        while len(running.told(What.HANDSHAKE_REFUSED)) < len(running.told(What.HANDSHAKE)) - 4:
            await asyncio.sleep(0.02)
    assert len(await asyncio.gather(*(list_agents(connect(running.address, roots, mine)) for _ in range(5)))) == 5
    await asyncio.sleep(2.5)  # long enough to take those for refused
    async with asyncio.timeout(20):  # those who are refused try again now and then
        while len(running.told(What.HANDSHAKE_REFUSED)) != len(running.told(What.HANDSHAKE)) - 9:
            await asyncio.sleep(0.02)


async def test_our_client_says_that_the_service_speaks_no_tls(start: Any, authority: Any) -> None:
    running = await start()
    with pytest.raises(Retry, match="it does not speak TLS"):
        await discover(running.address, tls=Tls(roots=authority.certificate))


async def test_mutual_tls_wants_a_certificate_of_the_right_authority(
    start: Any, connect: Any, authority: Any, stranger: Any, tmp_path: Path
) -> None:
    running = await start(tls=put(tmp_path, authority.issue(), authority.certificate))
    roots = authority.certificate
    await refused(connect(running.address, roots))
    await refused(connect(running.address, roots, stranger.issue("caller")))
    assert running.told(What.CALL) == []
    assert await list_agents(connect(running.address, roots, authority.issue("caller"))) == ["echo"]
    mine = authority.issue("caller")
    tls = Tls(roots=roots, certificate=mine.certificate, key=mine.key)
    assert [agent.name for agent in await discover(running.address, tls=tls)] == ["echo"]


@pytest.mark.usefixtures("quick_looks")
async def test_a_renewed_certificate_is_used_and_the_old_connection_stays(
    start: Any, connect: Any, authority: Any, stranger: Any, tmp_path: Path
) -> None:
    running = await start(tls=put(tmp_path, authority.issue()))
    before = connect(running.address, authority.certificate)
    assert await list_agents(before) == ["echo"]
    put(tmp_path, stranger.issue())
    await running.until(What.RELOADED, operation="tls")
    assert await list_agents(connect(running.address, stranger.certificate)) == ["echo"]
    await refused(connect(running.address, authority.certificate))
    assert await list_agents(before) == ["echo"]


@pytest.mark.usefixtures("quick_looks")
async def test_callers_of_a_new_authority_are_let_in_and_of_the_last_one_no_longer(
    start: Any, connect: Any, authority: Any, stranger: Any, tmp_path: Path
) -> None:
    pair = authority.issue()
    running = await start(tls=put(tmp_path, pair, authority.certificate))
    put(tmp_path, pair, stranger.certificate)
    await running.until(What.RELOADED)
    caller = connect(running.address, authority.certificate, stranger.issue("caller"))
    assert await list_agents(caller) == ["echo"]
    await refused(connect(running.address, authority.certificate, authority.issue("caller")))


@pytest.mark.usefixtures("quick_looks")
async def test_what_cannot_be_used_leaves_the_last_good_certificate(
    start: Any, connect: Any, authority: Any, stranger: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pair, other = authority.issue(), stranger.issue()
    running = await start(tls=put(tmp_path, pair))
    (tmp_path / "tls.key").write_bytes(other.key)
    await running.until(What.NOT_RELOADED)
    assert "are no pair" in running.told(What.NOT_RELOADED)[0].message
    (tmp_path / "tls.key").unlink()
    async with asyncio.timeout(10):
        while len(running.told(What.NOT_RELOADED)) < 2:
            await asyncio.sleep(0.02)
    assert await list_agents(connect(running.address, authority.certificate)) == ["echo"]
    complaints = [record for record in caplog.records if "cannot be renewed" in record.getMessage()]
    assert len(complaints) == 2  # one for each mistake, not one for each look
    put(tmp_path, other)
    await running.until(What.RELOADED)
    assert await list_agents(connect(running.address, stranger.certificate)) == ["echo"]


async def test_health_is_served_over_tls(start: Any, connect: Any, authority: Any, tmp_path: Path) -> None:
    running = await start(tls=put(tmp_path, authority.issue()))
    channel = connect(running.address, authority.certificate)
    call = channel.unary_unary("/grpc.health.v1.Health/Check", None, health_pb2.HealthCheckResponse.FromString)
    assert (await call(b"", timeout=5)).status == health_pb2.HealthCheckResponse.SERVING


Break = Callable[[Path, Any, Any], None]
MISTAKES: dict[str, tuple[Break, str]] = {
    "no key": (lambda at, *_: (at / "tls.key").unlink(), r"tls\.crt or .*tls\.key cannot be read: No such file"),
    "not pem": (lambda at, *_: (at / "tls.crt").write_bytes(b"?"), "no certificate and unencrypted key in PEM form"),
    "no pair": (lambda at, _, other: put(at, type(other)(other.certificate, b"")) and None, "PEM form"),
    "other key": (lambda at, _, other: (at / "tls.key").write_bytes(other.key) and None, r"tls\.key are no pair"),
    "empty ca": (lambda at, *_: (at / "ca.crt").write_bytes(b"") and None, r"ca\.crt holds no certificate in PEM form"),
    "no ca": (lambda at, *_: (at / "ca.crt").unlink(), r"ca\.crt holds no certificate in PEM form"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_sentence(mistake: str, authority: Any, stranger: Any, tmp_path: Path) -> None:
    files = put(tmp_path, authority.issue(), authority.certificate)
    check(files)
    spoil, sentence = MISTAKES[mistake]
    spoil(tmp_path, authority, stranger.issue())
    with pytest.raises(UsageError, match=sentence):
        check(files)


async def test_a_service_does_not_start_with_a_wrong_certificate(start: Any, authority: Any, tmp_path: Path) -> None:
    files = put(tmp_path, authority.issue())
    (tmp_path / "tls.key").unlink()
    with pytest.raises(UsageError, match=r"tls\.key cannot be read: No such file or directory"):
        await start(tls=files)

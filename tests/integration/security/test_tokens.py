"""Caller tokens: every kind of call is refused without one, and they change without a restart."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2

from airside.engine.remote import RemoteAgent, discover
from airside.model import Call, Execution, Retry, TaskTemplate, TaskType, UsageError
from airside.observe.events import Event, What
from airside.observe.prometheus import Metrics
from airside.server.tokens import REFUSAL, Tokens
from airside.wire.families import FAMILIES, V1, Family, Verb
from airside.wire.frame import frame
from airside.wire.template import create_request, split_header, write_template

OLD, NEW = "old-token-0123456789", "new-token-0123456789"

echo = TaskTemplate(name="t", task_type="echo")
METHODS = [(family, verb) for family in FAMILIES for verb in family.methods]


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"# of the mesh\n{OLD}\n\n{NEW}\n")
    return path


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def status_of(address: str, family: Family, verb: Verb, metadata: Any) -> tuple[str, str]:
    """How a call of this method ends: its status and details. Blocks.

    The blocking client, since the one for asyncio loses the status of a stream that is refused while it writes.
    """
    method = family.methods[verb]
    request = create_request(write_template(echo), b"", "", Execution())
    header, inputs = split_header(request)
    messages = {"create": [request.SerializeToString()], "do": [frame(1, header.SerializeToString()), frame(2, inputs)]}
    payloads = messages.get(verb, [b""])
    with grpc.insecure_channel(address) as channel:
        try:
            if method.kind == "stream":
                list(channel.stream_stream(method.path)(iter(payloads), timeout=5, metadata=metadata))
            elif method.kind == "server_stream":
                list(channel.unary_stream(method.path)(payloads[0], timeout=5, metadata=metadata))
            else:
                channel.unary_unary(method.path)(payloads[0], timeout=5, metadata=metadata)
        except grpc.RpcError as exc:
            return exc.code().name, exc.details() or ""
    return "OK", ""


async def ends(running: Any, family: Family, verb: Verb, metadata: Any) -> tuple[str, str]:
    return await asyncio.to_thread(status_of, running.address, family, verb, metadata)


def scraped(events: Sequence[Event]) -> str:
    """What Prometheus reads after these events. Blocks, for the import alone."""
    metrics = Metrics()
    for event in events:
        metrics(event)
    return metrics.render().decode()


@pytest.mark.parametrize("metadata", [(), bearer("wrong-token-123456789"), (("authorization", OLD),), bearer("")])
async def test_no_call_of_any_kind_passes_without_a_token(start: Any, token_file: Path, metadata: Any) -> None:
    running = await start(token_file=token_file)
    for family, verb in METHODS:
        assert await ends(running, family, verb, metadata) == ("UNAUTHENTICATED", REFUSAL), (family.name, verb)
        assert len(running.told(What.CALL, operation=verb, code="UNAUTHENTICATED")) >= 1
    assert len(running.told(What.CALL, code="UNAUTHENTICATED")) == len(METHODS)


async def test_every_call_passes_with_either_token(start: Any, token_file: Path) -> None:
    running = await start(token_file=token_file)
    for token in (OLD, NEW):
        for family, verb in METHODS:
            status, _ = await ends(running, family, verb, bearer(token))
            assert status != "UNAUTHENTICATED", (family.name, verb)
    assert (await ends(running, V1, "list", bearer(OLD)))[0] == "OK"


async def test_health_is_open_and_reflection_is_not(start: Any, connect: Any, token_file: Path) -> None:
    running = await start(token_file=token_file)
    channel = connect(running.address, tls=False)
    check = channel.unary_unary("/grpc.health.v1.Health/Check", None, health_pb2.HealthCheckResponse.FromString)
    assert (await check(b"", timeout=5)).status == health_pb2.HealthCheckResponse.SERVING
    reflect = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", None, None)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in reflect(iter([b""]), timeout=5):
            pass
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(grpc.aio.AioRpcError) as caught:  # whether a method is there is not told either
        await channel.unary_unary("/no.such.Service/Method", None, None)(b"", timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_our_own_client_sends_its_token(start: Any, token_file: Path) -> None:
    running = await start(token_file=token_file)
    with pytest.raises(Retry, match="wants a token that it knows"):
        await discover(running.address)
    (agent,) = await discover(running.address, token=NEW)
    await agent.open()
    task_type = TaskType("echo")
    assert agent.task_types == (task_type,)
    await agent.close()
    wrong = RemoteAgent(running.address, family="v2", task_types=(task_type,), token="wrong-token-123456789")
    await wrong.open()
    with pytest.raises(Retry, match="wants a token"):
        await wrong.get(b"", Call(task_type=task_type))
    await wrong.close()


async def test_refusals_are_counted_without_a_series_for_each_made_up_method(
    start: Any, connect: Any, token_file: Path
) -> None:
    running = await start(token_file=token_file)
    channel = connect(running.address, tls=False)
    for number in range(50):
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.unary_unary(f"/made.Up{number}/Method", None, None)(b"", timeout=5)
    await ends(running, V1, "get", ())
    page = await asyncio.to_thread(scraped, running.events)
    lines = [line for line in page.splitlines() if "UNAUTHENTICATED" in line and "total" in line]
    assert sorted(line.rpartition(" ")[2] for line in lines) == ["1.0", "50.0"]


@pytest.mark.usefixtures("quick_looks")
async def test_tokens_change_under_way(start: Any, token_file: Path) -> None:
    running = await start(token_file=token_file)
    token_file.write_text(f"{NEW}\n")
    await running.until(What.RELOADED, operation="tokens")
    assert (await ends(running, V1, "list", bearer(OLD)))[0] == "UNAUTHENTICATED"
    assert (await ends(running, V1, "list", bearer(NEW)))[0] == "OK"


@pytest.mark.usefixtures("quick_looks")
async def test_a_bad_line_changes_nothing_and_an_empty_file_lets_nobody_in(start: Any, token_file: Path) -> None:
    running = await start(token_file=token_file)
    token_file.write_text("short\n")
    await running.until(What.NOT_RELOADED, operation="tokens")
    assert (await ends(running, V1, "list", bearer(OLD)))[0] == "OK"
    token_file.write_text("")
    await running.until(What.RELOADED)
    assert (await ends(running, V1, "list", bearer(OLD)))[0] == "UNAUTHENTICATED"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "holds no token: put one on each line"),
        ("# nothing\n", "holds no token"),
        (f"{OLD}\nshort\n", "line 2: a token has at least 16"),
        (f"{OLD} {NEW}\n", "line 1: a token .* no spaces"),
        ("tökentökentökentöken\n", "line 1"),
    ],
)
def test_a_wrong_file_is_told_in_one_sentence(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(content)
    with pytest.raises(UsageError, match=sentence):
        Tokens(path, lambda _: None)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no-tokens cannot be read: No such file"):
        Tokens(tmp_path / "no-tokens", lambda _: None)


def test_how_long_a_look_takes_tells_nothing(tmp_path: Path) -> None:
    """A token that shares 40 characters with a known one is refused as fast as one that shares none."""
    path = tmp_path / "tokens"
    path.write_text("a" * 48 + "\n" + "b" * 48 + "\n")
    tokens = Tokens(path, lambda _: None)

    def seconds(token: str) -> float:
        began = time.perf_counter()
        for _ in range(200):
            tokens.knows(token)
        return time.perf_counter() - began

    near, far = [], []
    for _ in range(30):
        near.append(seconds("a" * 40 + "x" * 8))
        far.append(seconds("x" * 48))
    assert statistics.median(near) / statistics.median(far) == pytest.approx(1.0, abs=0.35)

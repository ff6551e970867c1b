"""Spoilt requests over every RPC of both families: nothing but documented answers, and no memory kept of them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from flyteidl2.connector import connector_pb2
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from airside.model import Connection, TaskType
from airside.server.handle import Handle, Kind, seal
from airside.testing.client import RawClient
from airside.wire.families import FAMILIES, Method

from .fuzzed import KEYS
from .mutations import KINDS, Mutation, mutated

HERE = Path(__file__).parent
TIMEOUT = 10.0  # seconds; whoever takes as long hangs
DELETE = 0.3
"""Seconds for a delete, which waits for a backend that does not accept it for nearly as long as its caller does."""
AT_ONCE = 50
GROWTH = 5 << 20
OK = grpc.StatusCode.OK
DOCUMENTED = {
    OK,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
"""What docs/reference/errors.md says of requests; INTERNAL is for mistakes, and these agents make none."""


CLIENT_S_OWN = "Internal error from Core"
"""What gRPC's client makes of a stream that is answered while it is sent: it hides the answer."""


HELD = re.compile(r"the loop turns again after ([\d.]+) s")
LOOP_MAY_REST = 2.0  # seconds: other processes may have the cores for as long as that
HELD_UP = "the loop has been blocked"  # another line tells for how long


@dataclass(frozen=True)
class Valid:
    """Messages that one method takes as they are."""

    method: Method
    messages: tuple[bytes, ...]


@dataclass
class Fuzzer:
    """Sends requests to one service, and keeps count of what came back."""

    channel: grpc.aio.Channel
    pid: int
    valid: Sequence[Valid]
    codes: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    memory: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    async def send(self, valid: Valid, messages: Sequence[bytes]) -> tuple[grpc.StatusCode, str]:
        path, kind = valid.method.path, valid.method.kind
        try:
            if kind == "unary":
                timeout = DELETE if valid.method.name == "DeleteTask" else TIMEOUT
                await self.channel.unary_unary(path)(messages[0], timeout=timeout)
            elif kind == "server_stream":
                _ = [answer async for answer in self.channel.unary_stream(path)(messages[0], timeout=TIMEOUT)]
            else:
                calls = self.channel.stream_stream(path)(iter(messages), timeout=TIMEOUT)
                _ = [answer async for answer in calls]
        except grpc.aio.AioRpcError as exc:
            return exc.code(), exc.details() or ""
        return OK, ""

    async def try_all(self, requests: Sequence[tuple[int, Sequence[Mutation]]]) -> None:
        """Sends a batch, and keeps what should not have come back."""
        chosen = [(self.valid[number % len(self.valid)], mutations) for number, mutations in requests]
        spoilt = [(one, [mutated(message, mutations) for message in one.messages]) for one, mutations in chosen]
        answers = await asyncio.gather(*(self.send(*one) for one in spoilt))
        for (one, messages), (code, details) in zip(spoilt, answers, strict=True):
            if one.method.kind == "stream" and details == CLIENT_S_OWN:
                self.codes["closed early"] += 1
                continue
            self.codes[code.name] += 1
            if one.method.name == "DeleteTask" and code is grpc.StatusCode.DEADLINE_EXCEEDED:
                continue
            if code not in DOCUMENTED:
                self.wrong.append(f"{one.method.path} {code.name} {details} {[message[:2000] for message in messages]}")
        before, self.sent = self.sent, self.sent + len(requests)
        if before // 10_000 != self.sent // 10_000:
            self.memory.append(resident(self.pid))


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def valid_requests(channel: grpc.aio.Channel) -> list[Valid]:
    """Requests of every kind, as engines send them, and some that they send rarely."""
    found: list[Valid] = []
    inputs = {"end": "running", "a": 1, "b": 2.5, "c": "x", "d": True, "e": b"\x81\xa1a\x01", "f": None}
    connection = Connection(name="c", secrets={"token": "fuzzed-secret-value"}, configs={"host": "h"})
    for family in FAMILIES:
        client = RawClient(channel, family.name)
        own = connection if family.name == "v2" else None
        creates = [
            client.create_request(
                kind, version, inputs=inputs, outputs={"o0": int, "o1": str}, prefix=prefix, connection=own
            )
            for kind, version in (("full", 0), ("full", 3), ("many", 0), ("sum", 0), ("echo", 0))
            for prefix in ("s3://bucket/run/n0/0", "")
        ]
        rich = client.create_request("full", prefix="s3://bucket/rich/n0/1", inputs=rich_inputs())
        rich.template.custom.update({"a": {"b": [1, "x", None, {"c": True}]}})
        rich.template.sql.statement = "SELECT 1"
        found += [Valid(family.methods["create"], (one.SerializeToString(),)) for one in (*creates, rich)]
        for meta, kind, ends in handles():
            for verb, name in (("get", "GetTaskRequest"), ("delete", "DeleteTaskRequest"))[: 1 + ends]:
                request = client.job_request(name, meta, kind, connection=own)
                found.append(Valid(family.methods[verb], (request.SerializeToString(),)))  # type: ignore[index]  # the verb is one of the table's
        for verb, name in (("logs", "GetTaskLogsRequest"), ("metrics", "GetTaskMetricsRequest")):
            meta = seal(Handle(task_type=TaskType("full"), meta=b'"done"'), KEYS)
            request = client.job_request(name, meta, "full")
            if verb == "logs":
                request.lines = 5
            else:
                request.queries.append("cpu")
                request.end_time.seconds = 10
            found += [Valid(family.methods[verb], (request.SerializeToString(),))] * 2  # type: ignore[index]  # the verb is one of the table's
        described = family.methods["describe"].request(name="Full")
        found += [
            Valid(family.methods["describe"], (described.SerializeToString(),)),
            Valid(family.methods["list"], (b"",)),
        ]
    v1 = RawClient(channel, "v1")
    for kind in ("sum", "echo", "full"):
        header, body = v1.sync_header(kind, inputs=inputs, prefix="s3://b/r/0"), v1.sync_inputs({"a": 1, "b": 2})
        for messages in ((header, body), (body, header), (header,), (header, header, body)):
            found.append(Valid(FAMILIES[0].methods["do"], tuple(one.SerializeToString() for one in messages)))
    return found


def rich_inputs() -> bytes:
    """Literals of the rarer kinds."""
    inputs = connector_pb2.CreateTaskRequest().inputs
    for number in range(9):
        inputs.literals.add(name=f"x{number}")
    values = [one.value for one in inputs.literals]
    values[0].collection.literals.add().map.literals["k"].scalar.primitive.integer = 1
    values[1].scalar.blob.uri = "s3://b/k"
    values[1].scalar.blob.metadata.type.format = "csv"
    values[2].scalar.structured_dataset.uri = "s3://b/d"
    values[3].scalar.generic.update({"a": [1, {"b": None}]})
    values[4].scalar.union.value.scalar.primitive.string_value = "u"
    values[4].scalar.union.type.simple = 3
    values[5].scalar.primitive.datetime.seconds = 1_700_000_000
    values[6].scalar.primitive.duration.nanos = 5
    values[7].scalar.error.message = "e"
    values[8].scalar.binary.value, values[8].scalar.binary.tag = b"\x93\x01\x02\x81\xa1a\x90", "msgpack"
    data: bytes = inputs.SerializeToString()
    return data


def handles() -> Iterator[tuple[bytes, str, bool]]:
    """Handles of every kind, signed and not, and bytes that are none; whether a delete of them is over soon."""
    for job in (b'"done"', b'"running"', b'"retry"', b'"fail"', b'"gone"', b"no json"):
        soon = job not in (b'"retry"', b"no json")
        yield seal(Handle(task_type=TaskType("full"), key="ab" * 16, meta=job), KEYS), "full", soon
    for kind in (Kind.DONE, Kind.FAILED, Kind.PENDING):
        handle = Handle(task_type=TaskType("full"), key="cd" * 16, kind=kind, code="C", message="m", result=b"\x28\x03")
        yield seal(handle, KEYS), "full", True
    yield seal(Handle(task_type=TaskType("many"), meta=b'{"key": "k"}')), "many", True
    yield seal(Handle(task_type=TaskType("nobody"), meta=b"x"), KEYS), "nobody", False
    yield b"foreign-job", "full", True
    yield b"", "full", True


MUTATIONS = st.lists(
    st.tuples(
        st.sampled_from(sorted(KINDS)),
        st.integers(0, 6),
        st.integers(0, 1 << 16),
        st.integers(0, 255),
        st.binary(max_size=12),
    ),
    max_size=4,
)
BATCHES = st.lists(st.tuples(st.integers(0, 1 << 16), MUTATIONS), min_size=AT_ONCE, max_size=AT_ONCE)


@contextmanager
def served(folder: Path) -> Iterator[tuple[int, int, subprocess.Popen[str], Path]]:
    """A service in a process of its own: its ports for gRPC and metrics, the process, its log."""
    log = folder / "log"
    # glibc gives each thread memory of its own, and lets it grow: with one for all, what grows is what is kept.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, str(HERE / "fuzzed.py")], stdout=subprocess.PIPE, stderr=stream, text=True, env=environment
        )
    assert process.stdout is not None
    try:
        port, metrics_port = process.stdout.readline().split()
        yield int(port), int(metrics_port), process, log
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def is_alarming(line: str) -> bool:
    """True for what no request must cause: an error of the service's own, a line past its log, an endless line."""
    if not line.startswith("{") or len(line) > 100_000:
        return True
    said = json.loads(line)
    if held := HELD.match(said["message"]):
        return float(held[1]) > LOOP_MAY_REST
    return said["level"] == "error" and not said["message"].startswith(HELD_UP)


def fuzz(folder: Path, requests: int, figures: Callable[..., None], *, repeatable: bool) -> None:
    began = time.monotonic()
    with served(folder) as (port, _, process, log), asyncio.Runner() as runner:

        async def connect() -> grpc.aio.Channel:
            options = [("grpc.enable_http_proxy", 0), ("grpc.max_send_message_length", 32 << 20)]
            return grpc.aio.insecure_channel(f"127.0.0.1:{port}", options)

        channel: Any = runner.run(connect())
        fuzzer = Fuzzer(channel, process.pid, valid_requests(channel))

        @settings(
            max_examples=requests // AT_ONCE,
            deadline=None,
            database=None,
            derandomize=repeatable,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )
        @given(BATCHES)
        def run(batch: list[tuple[int, list[Mutation]]]) -> None:
            if process.poll() is None and len(fuzzer.wrong) < 5:  # what went wrong once need not do so again
                runner.run(fuzzer.try_all(batch))

        try:
            run()
            assert process.poll() is None, f"the service ended: {log.read_text()[-3000:]}"
            assert not fuzzer.wrong, "\n".join(fuzzer.wrong) + log.read_text()[-3000:]
            assert [agent.name for agent in runner.run(RawClient(channel, "v2").list())]
        finally:
            runner.run(channel.close(None))
        text = log.read_text()
    told = ", ".join(f"{name} {count:,}" for name, count in fuzzer.codes.most_common())
    grown = fuzzer.memory[-1] - fuzzer.memory[4] if len(fuzzer.memory) > 5 else None
    figures(
        "7. fuzzing",
        requests=f"{fuzzer.sent:,}",
        answers=f"({told})",
        took=f"{time.monotonic() - began:.0f} s",
        **({} if grown is None else {"memory_after_the_first_50,000": f"{grown / (1 << 20):+.1f} MiB"}),
    )
    assert [line[:3000] for line in text.splitlines() if is_alarming(line)] == []
    assert "fuzzed-secret-value" not in text
    assert fuzzer.codes["OK"] > requests / 50  # some get through: not everything ends at the parser
    if grown is not None:
        assert grown < GROWTH


def test_spoilt_requests_are_answered_as_documented(tmp_path: Path, figures: Callable[..., None]) -> None:
    fuzz(tmp_path, 5_000, figures, repeatable=True)


@pytest.mark.faults
def test_two_hundred_thousand_spoilt_requests_are_answered_as_documented(
    tmp_path: Path, figures: Callable[..., None]
) -> None:
    fuzz(tmp_path, 200_000, figures, repeatable=False)

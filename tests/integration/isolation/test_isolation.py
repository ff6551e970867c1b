"""An agent in a process of its own does all that one in the service does, and dies alone."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from flyteidl2.core import literals_pb2, types_pb2
from tests.integration.isolation import awkward

from airside import (
    Call,
    Connection,
    ConversionError,
    Execution,
    Fail,
    LogLink,
    NotFound,
    OutputsAt,
    Phase,
    PluginError,
    Retry,
    Task,
    TaskType,
    UsageError,
)
from airside.model import Interface
from airside.observe.events import Event, Hooks, What
from airside.observe.readings import Gauge
from airside.observe.tracing import carrier, continued
from airside.sdk.adapt import adapt
from airside.server import isolation
from airside.server.child import Isolation
from airside.server.isolation import IsolatedAgent
from airside.server.readings import read_lanes
from airside.wire.literal_map import LiteralValues, pack
from airside.wire.types import to_variable_map

HERE = Path(__file__).parent
Start = Callable[..., Awaitable[IsolatedAgent]]


@pytest.fixture
async def events() -> list[Event]:
    return []


@pytest.fixture
async def start(monkeypatch: pytest.MonkeyPatch, events: list[Event]) -> AsyncIterator[Start]:
    """Start and open an isolated agent of the module beside this file."""
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    started: list[IsolatedAgent] = []

    async def run(name: str = "everything", options: Any = None, **plan: Any) -> IsolatedAgent:
        plan.setdefault("modules", ("awkward",))
        agent = IsolatedAgent(Isolation(name=name, **plan), options, hooks=Hooks([events.append]))
        started.append(agent)
        await agent.start()
        await agent.open({})
        return agent

    yield run
    for agent in started:
        await agent.close()


def task(order: str = "", kind: str = "everything", **parts: Any) -> Task:
    return Task(
        type=TaskType(kind),
        inputs=parts.pop("inputs", {}),
        config={"order": order},
        output_prefix="s3://b/run/0",
        key="k" * 32,
        **parts,
    )


async def test_what_the_agent_declares_is_known(start: Start) -> None:
    agent = await start()
    own = adapt(awkward.Everything())
    assert (agent.name, agent.task_types, agent.is_sync) == (own.name, own.task_types, own.is_sync)
    assert agent.settings == own.settings
    assert agent.supports == own.supports
    assert agent.pid not in (None, os.getpid())


async def test_a_create_arrives_whole_and_metadata_comes_back_exactly(start: Start) -> None:
    agent = await start(options={"host": "db.example.org"})
    call = Call(connection=Connection("prod", {"token": "s3cret-token"}, {"region": "eu"}), key="k" * 32)
    sent = task(
        inputs={"x": [1, 2]},
        interface=Interface({"x": list[int]}, {}),
        connection=call.connection,
        execution=Execution(node_id="n7"),
    )
    meta = await agent.create(sent, call)
    seen = awkward.Job(**adapt(awkward.Everything()).codec.decode(meta).__dict__).env  # type: ignore[attr-defined]  # what the agent's own class makes
    assert meta.startswith(b'{"id":"j1","order":""')
    assert seen["host"] == "db.example.org"
    assert seen["pid"] == str(agent.pid)
    assert (seen["key"], seen["prefix"], seen["x"], seen["node"]) == ("k" * 32, "s3://b/run/0", "[1, 2]", "n7")
    assert seen["connection"] == "({'token': 's3cret-token'}, {'region': 'eu'})"


async def test_the_callers_trace_goes_on_in_its_process(start: Start) -> None:
    agent = await start()

    async def seen() -> str:
        return str(json.loads(await agent.create(task(), Call()))["env"]["trace"])

    assert await seen() == ""
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with continued({"traceparent": parent}):
        assert carrier() == {"traceparent": parent}
        assert await seen() == parent
    assert await seen() == ""


async def test_its_lanes_are_read_here(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "PING", 0.05)
    agent = await start()
    meta = await agent.create(task("get:slow"), Call())
    asking = [asyncio.create_task(agent.get(meta, Call())) for _ in range(3)]

    async def until(busy: int, stuck: int) -> None:
        wanted = {("refresh", Gauge.THREADS, 16), ("refresh", Gauge.BUSY, busy), ("refresh", Gauge.STUCK, stuck)}
        async with asyncio.timeout(20):
            while not wanted <= {(one.labels[1], one.gauge, one.value) for one in read_lanes([agent])}:
                await asyncio.sleep(0.02)

    await until(busy=3, stuck=0)
    await asyncio.gather(*asking, return_exceptions=True)  # they take longer than they may
    await until(busy=3, stuck=3)


async def test_offloaded_inputs_come_from_the_service_and_from_nowhere_else(start: Start) -> None:
    stored = literals_pb2.Literal(scalar={"primitive": {"string_value": "from the store"}}).SerializeToString()
    inputs = literals_pb2.LiteralMap()
    literal = inputs.literals["x"]
    literal.offloaded_metadata.uri = "s3://b/x.pb"
    literal.offloaded_metadata.inferred_type.simple = types_pb2.STRING
    literal.offloaded_metadata.size_bytes = len(stored)
    asked: list[str] = []

    def fetch(uri: str) -> bytes:
        asked.append(uri)
        return stored

    values = LiteralValues(inputs, where="inputs", fetch=fetch)
    agent = await start()
    with pytest.raises(Retry, match=r"The service did not send the input in s3://b/x\.pb\."):
        await agent.create(task(inputs=values), Call())
    values.prefetch()
    meta = await agent.create(task(inputs=values), Call())
    assert b'"x":"\'from the store\'"' in meta
    assert asked == ["s3://b/x.pb"]


async def test_a_resource_comes_back_as_from_this_process(start: Start) -> None:
    agent, own = await start(), adapt(awkward.Everything())
    meta = b'{"id": "j1"}'
    theirs, ours = await agent.get(meta, Call()), await own.get(meta, Call())
    await own.close()
    for name in ("phase", "message", "code", "poll_after"):
        assert getattr(theirs, name) == getattr(ours, name), name
    assert tuple(theirs.links) == tuple(ours.links)
    assert theirs.info is not None
    assert theirs.info["odd"] == "<strange>"
    kinds = {"colour": awkward.Colour, "point": awkward.Point, "f": float, "i": float, "list": list[float]}
    variables = to_variable_map({**{name: type(v) for name, v in awkward.OUTPUTS.items()}, **kinds, "map": dict})
    declared = {entry.key: entry.value.type for entry in variables.variables}
    for types in (None, {name: kind for name, kind in declared.items() if name != "none"}):
        assert isinstance(theirs.outputs, dict)
        assert pack(theirs.outputs, types).data == pack(awkward.OUTPUTS, types).data


async def test_outputs_that_flyte_has_no_type_for_are_refused_in_the_same_words(start: Start) -> None:
    from airside.wire.parcel import pack as parcel
    from airside.wire.parcel import unpack

    crossed = unpack(parcel({"x": {"y": [awkward.Strange()]}, "z": awkward.Strange()}))
    for name in ("x", "z"):
        messages = []
        for values in (crossed, {"x": {"y": [awkward.Strange()]}, "z": awkward.Strange()}):
            with pytest.raises(ConversionError) as caught:
                pack({name: values[name]})
            messages.append(str(caught.value))
        assert messages[0] == messages[1]


async def test_outputs_elsewhere_and_deadlines_cross(start: Start) -> None:
    import time

    agent = await start()
    resource = await agent.get(b'{"id": "j1", "order": "at"}', Call(deadline=time.monotonic() + 3.4))
    assert resource.outputs == OutputsAt("s3://elsewhere")
    assert resource.message == "done 3"


ERRORS: list[tuple[str, Any, str, dict[str, Any]]] = [
    ("retry", Retry, "later, please", {"after": 2.5}),
    ("fail", Fail, "no such table", {"code": "TableNotFound"}),
    ("not found", NotFound, "nothing there", {}),
    ("conversion", ConversionError, "config.rows: expected int", {"path": "config.rows"}),
    ("value", Exception, "a word of the author's", {}),
    ("quota", Exception, "too many", {"after": 9.0}),
    ("reset", OSError, "peer went away", {}),
    ("exit", Exception, "SystemExit raised in the agent", {}),
]


async def test_errors_mean_the_same_here(start: Start) -> None:
    agent = await start()
    for order, kind, text, more in ERRORS:
        with pytest.raises(kind) as caught:
            await agent.create(task(order), Call())
        assert str(caught.value) == text
        assert {name: getattr(caught.value, name) for name in more} == more
        if order == "value":
            assert type(caught.value).__name__ == "ValueError"
            assert "awkward.py" in "".join(caught.value.__notes__)
    assert (await agent.create(task(), Call())).startswith(b"{")


async def test_the_other_methods(start: Start) -> None:
    agent = await start()
    meta = b'{"id": "j1"}'
    with pytest.raises(NotFound, match="no such job"):
        await agent.delete(meta, Call())
    first, second, third = await agent.get_many([meta, meta, meta], Call())
    assert (getattr(first, "phase", None), getattr(second, "after", None)) == (Phase.RUNNING, 4.5)
    assert isinstance(third, NotFound)
    assert await agent.find(task("find"), "abc", Call()) == b'{"id":"found abc","order":"","env":{}}'
    assert await agent.find(task(), "abc", Call()) is None
    assert tuple(await agent.links(meta)) == (LogLink("https://example.org/j1", "Job"),)
    assert await agent.read_handle(b"old:j9") == b'{"id":"j9","order":"","env":{}}'
    assert await agent.read_handle(b"else") is None
    start_, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    (metric, empty) = await agent.metrics(meta, queries=["rows"], start=start_, end=end, step=5.0, call=Call())
    assert (metric.name, metric.points, metric.labels) == ("rows", [(start_, 1.0), (end, 5.0)], {"job": "j1"})
    assert (empty.points, empty.labels) == ([], None)


async def test_logs_stream_no_faster_than_they_are_read(start: Start) -> None:
    agent = await start()
    lines = []
    async with aclosing(agent.logs(b'{"id": "j1"}', after="5", limit=1000, call=Call())) as stream:  # type: ignore[type-var]  # what the agent's own class makes
        async for line in stream:
            lines.append(line)
            if len(lines) == 300:
                break
    assert [lines[0].message, lines[-1].message, lines[-1].cursor] == ["line 5", "line 304", "305"]
    assert lines[0].timestamp == datetime(2026, 1, 1, tzinfo=UTC)
    with pytest.raises(Fail, match="the log is broken") as caught:
        async for _ in agent.logs(b'{"id": "j1", "order": "short logs"}', after="", limit=1000, call=Call()):
            pass
    assert caught.value.code == "LogBroken"


async def test_a_sync_agent(start: Start) -> None:
    agent = await start("sum")
    assert agent.is_sync
    interface = Interface({"a": int, "b": int}, {})
    resource = await agent.do(task(kind="sum", inputs={"a": 2, "b": 3}, interface=interface), Call())
    assert resource.outputs == {"o": 5}


async def test_a_dead_process_fails_its_calls_as_retry_and_is_replaced(
    start: Start, events: list[Event], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "WAIT", 60.0)  # the next process may take a while on a busy machine
    agent = await start()
    first = agent.pid
    calls = [agent.create(task("die later"), Call()), agent.get(b'{"id": "j1", "order": "get:slow"}', Call())]
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(outcome, Retry)
        assert "The process of Everything ended with signal 9 during the call" in str(outcome)
    meta = await agent.create(task(), Call())  # waits for the next one, which is opened like the first
    assert b'"host":""' in meta
    assert agent.pid not in (None, first)
    assert [event.agent for event in events if event.what is What.AGENT_RESTARTED] == ["Everything"]
    assert not [event for event in events if event.what is What.UNCERTAIN]  # it has `find`
    assert "the process of the agent ended with signal 9; 2 calls fail" in caplog.text


async def test_a_create_that_nobody_can_find_again_is_listed(start: Start, events: list[Event]) -> None:
    agent = await start("careless")
    with pytest.raises(Retry):
        await agent.create(task("die", "careless"), Call(key="lost-key"))
    assert [event.key for event in events if event.what is What.UNCERTAIN] == ["lost-key"]


async def test_between_two_processes_calls_say_when_to_come_back(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "FIRST_PAUSE", 30.0)
    monkeypatch.setattr(isolation, "WAIT", 0.05)
    agent = await start()
    assert agent.pid
    os.kill(agent.pid, signal.SIGKILL)
    async with asyncio.timeout(5):
        while agent.pid:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    with pytest.raises(Retry, match="ended and is being restarted") as caught:
        await agent.get(b'{"id": "j1"}', Call())
    assert caught.value.after is not None
    assert 25 < caught.value.after <= 30


async def test_a_process_that_gives_no_sign_of_life_is_replaced(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "PING", 0.05)
    monkeypatch.setattr(isolation, "UNRESPONSIVE", 0.5)
    monkeypatch.setattr(isolation, "MARGIN", 5.0)
    agent = await start("careless")
    first = agent.pid
    with pytest.raises(Retry, match="ended with signal 9"):
        await agent.get(b'{"id": "c1", "order": "freeze"}', Call())
    async with asyncio.timeout(30):
        while agent.pid in (None, first):  # a call waits for it for no longer than its own timeout
            await asyncio.sleep(0.02)
    assert (await agent.get(b'{"id": "c1"}', Call())).phase is Phase.RUNNING
    assert agent.pid != first


async def test_what_it_blocks_is_its_own_loop_and_its_log_says_where(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    agent = await start("careless")
    call = asyncio.create_task(agent.get(b'{"id": "c1", "order": "block"}', Call()))
    worst, last = 0.0, asyncio.get_running_loop().time()
    while not call.done():
        await asyncio.sleep(0.01)
        now = asyncio.get_running_loop().time()
        worst, last = max(worst, now - last), now
    assert worst < 0.5
    await asyncio.wait((call,))
    alarms = [record for record in caplog.records if "has been blocked" in record.getMessage()]
    assert [(record.levelno, getattr(record, "agent", "")) for record in alarms] == [(logging.ERROR, "careless")]
    assert "by agent Careless" in alarms[0].getMessage()
    assert "awkward.py" in alarms[0].getMessage()


async def test_a_call_that_takes_too_long_ends_and_its_process_lives(start: Start) -> None:
    agent = await start()
    pid = agent.pid
    with pytest.raises(TimeoutError, match=r"Everything-refresh did not come back within 1.5 s"):
        await agent.get(b'{"id": "j1", "order": "get:slow"}', Call())
    assert agent.pid == pid


async def test_what_it_sees_of_the_environment(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_FSEC_TOKEN", "_FSEC_BANK_TOKEN", "OTHER_ONE", "OTHER_TWO", "OTEL_NAME", "OTEL_X_HEADERS"):
        monkeypatch.setenv(name, "some-value")
    plain, narrow = await start(), await start(env=("_FSEC_BANK_*", "OTHER_ONE", "OTEL_*HEADERS"))
    seen = [adapt(awkward.Everything()).codec.decode(await one.create(task(), Call())).env for one in (plain, narrow)]  # type: ignore[attr-defined]  # what the agent's own class makes
    assert [one["visible"] for one in seen] == [
        "OTEL_NAME,_FSEC_BANK_TOKEN,_FSEC_TOKEN",
        "OTEL_NAME,OTEL_X_HEADERS,OTHER_ONE,_FSEC_BANK_TOKEN",
    ]


async def test_its_words_are_logged_under_its_name_and_its_secrets_hidden(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("_FSEC_TOKEN", "tell-nobody")
    agent = await start()
    with pytest.raises(Exception, match=r"refused: \*\*\*") as caught:
        await agent.create(task("secret"), Call())
    assert "tell-nobody" not in "".join(caught.value.__notes__)
    await asyncio.sleep(0.05)
    said = [record for record in caplog.records if record.getMessage() == "a word on standard error"]
    assert [getattr(record, "agent", "") for record in said] == ["everything"]


@pytest.mark.parametrize(
    ("plan", "kind", "text"),
    [
        ({"name": "nobody"}, UsageError, "isolate.nobody: .* has no such agent .it has: .*Everything"),
        ({"python": "/no/such/python"}, UsageError, "isolate.everything: /no/such/python cannot be run: No such file"),
        ({"modules": ("no_such_module",)}, UsageError, "Module 'no_such_module' cannot be imported"),
        ({"options": {"hots": "x"}}, UsageError, "agents.everything.hots: unknown key .known: host"),
    ],
)
async def test_mistakes_are_told_at_the_start(start: Start, plan: dict[str, Any], kind: Any, text: str) -> None:
    with pytest.raises(kind, match=text):
        await start(**plan)


async def test_an_interpreter_without_airside_says_so(start: Start, tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(PluginError, match=r"ended with status 1 before .* Install Airside into that environment\."):
        await start(python=str(bare))


async def test_closing_ends_the_process(start: Start) -> None:
    agent = await start()
    pid = agent.pid
    assert pid
    await agent.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)

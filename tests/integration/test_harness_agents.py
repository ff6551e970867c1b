"""Agents as authors write them, in all the ways that are allowed and in some that are not, served for real."""

from __future__ import annotations

import asyncio
import itertools
import re
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from airside import (
    Agent,
    AsyncAgent,
    Call,
    Connection,
    Fail,
    LogLine,
    LogLink,
    NotFound,
    PluginError,
    Resource,
    Retry,
    SyncAgent,
    Task,
    kwtypes,
)
from airside.model import Phase
from airside.testing import ScriptedAgent, harness
from airside.testing.client import Wire


@dataclass(frozen=True)
class Job:
    id: str


DONE = Resource(Phase.SUCCEEDED, outputs={"o0": 1})
RUNNING = Resource(Phase.RUNNING, message="at work")


# -- def or async def, with call or without ---------------------------------------------------------------------------


class Plain(AsyncAgent[Job]):
    """Every method is `def`, and none takes `call`."""

    task_type = "styles"

    def __init__(self) -> None:
        self.threads: dict[str, int] = {}
        self.received: dict[str, Call] = {}

    def note(self, method: str, call: Call | None = None) -> None:
        self.threads[method] = threading.get_ident()
        if call is not None:
            self.received[method] = call

    def create(self, task: Task) -> Job:
        self.note("create")
        return Job(task.key)

    def get(self, job: Job) -> Resource:
        self.note("get")
        return RUNNING

    def delete(self, job: Job) -> None:
        self.note("delete")


class PlainWithCall(Plain):
    def create(self, task: Task, call: Call) -> Job:
        self.note("create", call)
        return Job(task.key)

    def get(self, job: Job, call: Call) -> Resource:
        self.note("get", call)
        return RUNNING

    def delete(self, job: Job, call: Call) -> None:
        self.note("delete", call)


class Coroutines(Plain):
    async def create(self, task: Task) -> Job:  # type: ignore[override]  # authors choose their own signature
        self.note("create")
        return Job(task.key)

    async def get(self, job: Job) -> Resource:  # type: ignore[override]  # authors choose their own signature
        self.note("get")
        return RUNNING

    async def delete(self, job: Job) -> None:  # type: ignore[override]  # authors choose their own signature
        self.note("delete")


class CoroutinesWithCall(Plain):
    async def create(self, task: Task, *, call: Call) -> Job:  # type: ignore[override]  # authors choose their own signature
        self.note("create", call)
        return Job(task.key)

    async def get(self, job: Job, *, call: Call) -> Resource:  # type: ignore[override]  # authors choose their own signature
        self.note("get", call)
        return RUNNING

    async def delete(self, job: Job, *, call: Call) -> None:  # type: ignore[override]  # authors choose their own signature
        self.note("delete", call)


class Mixed(Plain):
    async def get(self, job: Job, **everything: Any) -> Resource:  # type: ignore[override]  # authors choose their own signature
        self.note("get", everything["call"])
        return RUNNING


@pytest.mark.parametrize(
    ("style", "on_loop", "with_call"),
    [
        (Plain, set(), set()),
        (PlainWithCall, set(), {"create", "get", "delete"}),
        (Coroutines, {"create", "get", "delete"}, set()),
        (CoroutinesWithCall, {"create", "get", "delete"}, {"create", "get", "delete"}),
        (Mixed, {"get"}, {"get"}),
    ],
)
async def test_each_method_is_def_or_async_def_and_takes_call_or_not(
    style: type[Plain], on_loop: set[str], with_call: set[str], wire: Wire
) -> None:
    agent = style()
    connection = Connection(configs={"host": "h"}) if wire == "v2" else None
    async with harness(agent, wire=wire) as h:
        job = await h.create(connection=connection)
        assert (await h.get(job)).message == "at work"
        await h.delete(job)
    here = threading.get_ident()
    assert {method for method, thread in agent.threads.items() if thread == here} == on_loop
    assert set(agent.threads) == {"create", "get", "delete"}
    assert set(agent.received) == with_call
    for call in agent.received.values():
        assert (call.key, call.output_prefix) == (job.task.key, job.output_prefix)
        assert call.task_type == ("styles", 0)
        assert connection is None or (call.connection is not None and call.connection.configs == {"host": "h"})


async def test_threads_belong_to_the_agent_and_keep_create_apart_from_get(wire: Wire) -> None:
    names: set[str] = set()

    class Named(Plain):
        name = "Warehouse"

        def create(self, task: Task) -> Job:
            names.add(threading.current_thread().name)
            return Job("1")

        def get(self, job: Job) -> Resource:
            names.add(threading.current_thread().name)
            return RUNNING

    async with harness(Named(), wire=wire) as h:
        await h.get(await h.create())
    assert len(names) == 2
    assert all(name.startswith("Warehouse") for name in names)


@pytest.mark.parametrize("style", ["def", "async def"])
async def test_a_sync_agent_is_def_or_async_def(style: str, wire: Wire) -> None:
    class Blocking(SyncAgent):
        task_type = "add"

        def do(self, task: Task) -> Resource:
            return Resource(Phase.SUCCEEDED, outputs={"o0": task.inputs["a"] + 1})

    class Coroutine(SyncAgent):
        task_type = "add"

        async def do(self, task: Task, call: Call) -> Resource:
            return Resource(Phase.SUCCEEDED, outputs={"o0": task.inputs["a"] + 1})

    agent: SyncAgent = Blocking() if style == "def" else Coroutine()
    async with harness(agent, wire=wire) as h:
        assert dict((await h.do(inputs={"a": 1}, outputs=kwtypes(o0=int))).outputs or {}) == {"o0": 2}


@pytest.mark.parametrize("style", ["def", "async def"])
async def test_logs_are_a_generator_of_either_kind(style: str, wire: Wire) -> None:
    class Generator(Plain):
        def logs(self, job: Job, *, after: str, limit: int) -> Iterator[LogLine]:
            yield from (LogLine(str(number), cursor=str(number)) for number in range(3))

    class AsyncGenerator(Plain):
        async def logs(self, job: Job, *, after: str, limit: int, call: Call) -> AsyncIterator[LogLine]:
            for number in range(3):
                yield LogLine(str(number), cursor=str(number))

    agent = Generator() if style == "def" else AsyncGenerator()
    async with harness(agent, wire=wire) as h:
        job = await h.create()
        assert [line.message async for line in h.logs(job)] == ["0", "1", "2"]


# -- open and close ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    host: str = "localhost"


def opened_by(style: str) -> tuple[Plain, list[str]]:
    steps: list[str] = []

    class Def(Plain):
        def open(self, options: Options) -> None:
            steps.append(f"open {options.host}")

        def close(self) -> None:
            steps.append("close")

    class Coroutine(Plain):
        async def open(self, options: Options) -> None:
            steps.append(f"open {options.host}")

        async def close(self) -> None:
            steps.append("close")

    class Without(Plain):
        def open(self) -> None:
            steps.append("open b.example.org")

        def close(self) -> None:
            steps.append("close")

    for cls in (Def, Coroutine, Without):
        cls.Options = Options  # type: ignore[assignment]  # declared as an author may
    return {"def": Def, "async def": Coroutine, "without options": Without}[style](), steps


@pytest.mark.parametrize("style", ["def", "async def", "without options"])
async def test_open_and_close_are_called_once_around_everything_else(style: str, wire: Wire) -> None:
    agent, steps = opened_by(style)
    async with harness(agent, wire=wire, options={"host": "b.example.org"}) as h:
        for _ in range(3):
            await h.get(await h.create())
        assert steps == ["open b.example.org"]
    assert steps == ["open b.example.org", "close"]


async def test_an_agent_that_does_not_close_does_not_hold_up_the_stop() -> None:
    class Sticky(Plain):
        def close(self) -> None:
            raise RuntimeError("cannot let go")

    agent = Sticky()
    async with harness(agent) as h:
        await h.create()
        service = h.service
    assert "cannot let go" in service.log()
    assert agent.threads


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["def", "async def"])
@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (Retry("the quota is used up"), "the quota is used up"),
        (ConnectionResetError("peer went away"), "ConnectionResetError: peer went away"),
        (NotFound("no such project"), "no such project"),
        (TimeoutError(), "TimeoutError"),
    ],
)
async def test_a_create_that_may_work_later_is_an_error(style: str, error: Exception, seen: str, wire: Wire) -> None:
    async with harness(raising(style, "create", error), wire=wire) as h:
        with pytest.raises((Retry, Fail), match=seen):
            await h.create()


@pytest.mark.parametrize("style", ["def", "async def"])
async def test_a_create_that_fails_for_good_is_a_failed_job(style: str, wire: Wire) -> None:
    """Flyte repeats every create that ends in an error, as often as the task has retries."""
    agent = raising(style, "create", Fail("no such table: trips", code="TableNotFound"))
    async with harness(agent, wire=wire) as h:
        job = await h.create()
        await h.restart()  # any replica knows
        resource = await h.finish(job)
        assert resource.phase is Phase.FAILED
        assert re.fullmatch(r"no such table: trips \(TableNotFound, id [0-9a-f]{8}\)", resource.message)
        assert wire == "v2" or resource.code == "TableNotFound"
        await h.delete(job)  # nothing to cancel, no error


async def test_an_input_that_does_not_fit_fails_the_task_with_its_path(wire: Wire) -> None:
    class Reader(Plain):
        def create(self, task: Task) -> Job:
            return Job(str(task.inputs["rows"]))

    async with harness(Reader(), wire=wire) as h:
        request = h.client.create_request("styles", inputs={"rows": 3}, prefix="/run/0")
        request.template.interface.inputs.variables  # noqa: B018 - both families have the field
        literals = request.inputs.literals
        literal = literals["rows"] if wire == "v1" else literals[0].value
        literal.scalar.primitive.string_value = "three"
        handle = (await h.client.call("CreateTask", request)).resource_meta
        resource = await h.client.get(handle, "styles")
    assert resource.phase == Phase.FAILED
    assert "inputs.rows: expected int, got 'three'" in resource.message


@pytest.mark.parametrize("style", ["def", "async def"])
@pytest.mark.parametrize(
    "error", [Retry("503"), ValueError("malformed body"), TimeoutError(), NotFound("not listed yet")]
)
async def test_a_get_that_fails_is_not_the_end_of_the_job(style: str, error: Exception, wire: Wire) -> None:
    """Flyte's engines stop asking for ever at the sixth failed GetTask."""
    agent = raising(style, "get", [error] * 7)
    async with harness(agent, wire=wire) as h:
        job = await h.create()
        for _ in range(7):
            resource = await h.get(job)
            assert resource.phase is Phase.QUEUED
            assert (str(error) or "TimeoutError") in resource.message
        assert (await h.get(job)).message == "at work"


@pytest.mark.parametrize("style", ["def", "async def"])
async def test_a_get_that_fails_for_good_fails_the_job(style: str, wire: Wire) -> None:
    agent = raising(style, "get", Fail("the result was purged", code="Purged"))
    async with harness(agent, wire=wire) as h:
        resource = await h.finish(await h.create())
    assert resource.phase is Phase.FAILED
    assert re.fullmatch(r"the result was purged \(Purged, id [0-9a-f]{8}\)", resource.message)
    assert wire == "v2" or resource.code == "Purged"


@pytest.mark.parametrize("style", ["def", "async def"])
async def test_a_delete_that_fails_is_an_error_and_may_be_repeated(style: str, wire: Wire) -> None:
    async with harness(raising(style, "delete", [Retry("the API is down")]), wire=wire) as h:
        job = await h.create()
        with pytest.raises(Retry, match="the API is down"):
            await h.delete(job)
        await h.delete(job)
        assert (await h.finish(job)).phase.is_failure


@pytest.mark.parametrize("error", [Fail("1 + None", code="BadSum"), Retry("busy"), KeyError("a")])
async def test_a_sync_agent_that_fails(error: Exception, wire: Wire) -> None:
    class Broken(SyncAgent):
        task_type = "add"

        def do(self, task: Task) -> Resource:
            raise error

    async with harness(Broken(), wire=wire) as h:
        if isinstance(error, Fail):
            resource = await h.do()
            assert resource.phase is Phase.FAILED
            code = "BadSum, " if wire == "v2" else ""  # Flyte 1 shows it by itself
            assert re.fullmatch(rf"1 \+ None \({code}id [0-9a-f]{{8}}\)", resource.message)
            assert wire == "v2" or resource.code == "BadSum"
        else:
            with pytest.raises(Retry, match=r"busy|KeyError: 'a'"):
                await h.do()


async def test_a_traceback_goes_to_the_log_and_not_over_the_wire(wire: Wire) -> None:
    async with harness(raising("def", "create", ZeroDivisionError("division by zero")), wire=wire) as h:
        with pytest.raises(Retry) as caught:
            await h.create()
        assert "Traceback" not in str(caught.value)
        assert "Traceback" in h.log
        [correlation] = [word for word in str(caught.value).split() if word.endswith(")")]
        assert correlation.rstrip(")") in h.log  # the sentence says under which id


def raising(style: str, method: str, errors: BaseException | list[BaseException]) -> Plain:
    """An agent whose `method` raises: an error each time, or a list of errors in turn before it goes well."""
    left = itertools.repeat(errors) if isinstance(errors, BaseException) else iter(errors)
    answers: dict[str, Any] = {"create": Job("1"), "get": RUNNING, "delete": None}

    def answer(called: str) -> Any:
        error = next(left, None) if called == method else None
        if error is not None:
            raise error
        return answers[called]

    class Def(Plain):
        def create(self, task: Task) -> Job:
            return answer("create")  # type: ignore[no-any-return]  # it raises, or gives anything

        def get(self, job: Job) -> Resource:
            return answer("get")  # type: ignore[no-any-return]  # it raises, or gives anything

        def delete(self, job: Job) -> None:
            answer("delete")

    class Coroutine(Plain):
        async def create(self, task: Task) -> Job:  # type: ignore[override]  # authors choose their own signature
            return answer("create")  # type: ignore[no-any-return]  # it raises, or gives anything

        async def get(self, job: Job) -> Resource:  # type: ignore[override]  # authors choose their own signature
            return answer("get")  # type: ignore[no-any-return]  # it raises, or gives anything

        async def delete(self, job: Job) -> None:  # type: ignore[override]  # authors choose their own signature
            answer("delete")

    return Def() if style == "def" else Coroutine()


# -- hostile agents ---------------------------------------------------------------------------------------------------


def endless(number: int = 0) -> int:
    return endless(number + 1)


def leave() -> None:
    sys.exit(3)


def interrupt() -> None:
    raise KeyboardInterrupt


def stop() -> None:
    raise StopIteration


def cancel() -> None:
    raise asyncio.CancelledError


def give_up() -> None:
    raise GeneratorExit


@pytest.mark.parametrize("style", ["def", "async def"])
@pytest.mark.parametrize("misdeed", [leave, interrupt, endless, stop, cancel, give_up])
async def test_a_method_that_tries_to_end_the_process_ends_its_call_only(
    misdeed: Callable[[], Any], style: str, wire: Wire
) -> None:
    class Def(Plain):
        def create(self, task: Task) -> Job:
            if task.inputs:
                misdeed()
            return Job("1")

        def get(self, job: Job) -> Resource:
            misdeed()
            return RUNNING

    class Coroutine(Plain):
        async def create(self, task: Task) -> Job:  # type: ignore[override]  # authors choose their own signature
            if task.inputs:
                misdeed()
            return Job("1")

        async def get(self, job: Job) -> Resource:  # type: ignore[override]  # authors choose their own signature
            misdeed()
            return RUNNING

    async with harness(Def() if style == "def" else Coroutine(), wire=wire) as h:
        with pytest.raises(Retry):
            await h.create(inputs={"x": 1})
        job = await h.create()
        assert (await h.get(job)).phase is Phase.QUEUED
        assert len(await h.client.list()) == 1


@pytest.mark.parametrize("style", ["def", "async def"])
async def test_logs_that_try_to_end_the_process_end_their_stream_only(style: str, wire: Wire) -> None:
    class Def(Plain):
        def logs(self, job: Job, *, after: str, limit: int) -> Iterator[LogLine]:
            yield LogLine("first")
            leave()

    class Coroutine(Plain):
        async def logs(self, job: Job, *, after: str, limit: int) -> AsyncIterator[LogLine]:
            yield LogLine("first")
            leave()

    async with harness(Def() if style == "def" else Coroutine(), wire=wire) as h:
        job = await h.create()
        with pytest.raises(Retry, match="SystemExit"):
            async for _ in h.logs(job):
                pass
        assert (await h.get(job)).message == "at work"


class Stuck(Plain):
    """Hangs in `get` until it is let go, except for the job that is told to be quick."""

    call_timeout = 0.1

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    def create(self, task: Task) -> Job:
        return Job(task.inputs["name"])

    def get(self, job: Job) -> Resource:
        if job.id != "quick":
            self.released.wait(30)
        return RUNNING


async def test_a_hung_thread_is_left_behind(wire: Wire) -> None:
    agent = Stuck()
    async with harness(agent, wire=wire) as h:
        try:
            slow, quick = await h.create(inputs={"name": "slow"}), await h.create(inputs={"name": "quick"})
            resource = await h.get(slow)
            assert resource.phase is Phase.QUEUED
            assert "TimeoutError" in resource.message
            assert (await h.get(quick)).message == "at work"
        finally:
            agent.released.set()


class Patient(Stuck):
    """Hangs for longer than any test takes, and counts the hung."""

    call_timeout = 60.0

    def __init__(self) -> None:
        super().__init__()
        self.hung = 0

    def get(self, job: Job) -> Resource:
        self.hung += 1
        return super().get(job)


async def test_hung_gets_do_not_hold_up_creates(wire: Wire) -> None:
    agent = Patient()
    async with harness(agent, wire=wire) as h:
        jobs = [await h.create(inputs={"name": f"slow {number}"}) for number in range(40)]
        asked = [asyncio.create_task(h.get(job)) for job in jobs]
        try:
            async with asyncio.timeout(10):
                while agent.hung < 16:
                    await asyncio.sleep(0.005)
                await h.create(inputs={"name": "another"})
            assert not any(one.done() for one in asked)
        finally:
            agent.released.set()
            await asyncio.gather(*asked)


async def test_a_stop_does_not_wait_for_hung_threads() -> None:
    agent = Stuck()
    try:
        async with harness(agent) as h:
            await h.get(await h.create(inputs={"name": "slow"}))
            began = time.monotonic()
        assert time.monotonic() - began < 2
    finally:
        agent.released.set()


# -- garbage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("garbage", [None, 3, "job-1", {"id": "1"}, object()])
async def test_a_create_that_returns_something_else_says_what(garbage: object, wire: Wire) -> None:
    class Odd(Plain):
        def create(self, task: Task) -> Job:
            return garbage  # type: ignore[return-value]  # what an author may return

    async with harness(Odd(), wire=wire) as h:
        with pytest.raises(
            Retry, match=rf"Odd\.create returned {type(garbage).__name__}, which is not its job metadata"
        ):
            await h.create()


@pytest.mark.parametrize("garbage", [None, 3, "RUNNING", {"phase": "RUNNING"}, Phase.RUNNING])
async def test_a_get_that_returns_something_else_says_what(garbage: object, wire: Wire) -> None:
    class Odd(Plain):
        def get(self, job: Job) -> Resource:
            return garbage  # type: ignore[return-value]  # what an author may return

    async with harness(Odd(), wire=wire) as h:
        resource = await h.get(await h.create())
        assert resource.phase is Phase.QUEUED
        assert f"Odd.get returned {type(garbage).__name__}, not a Resource" in resource.message


@pytest.mark.parametrize(
    "fields",
    [
        {"message": 3},
        {"message": "\ud800 half a character"},
        {"links": [3]},
        {"links": [LogLink("\x00", None)]},  # type: ignore[arg-type]  # what an author may return
        {"links": 3},
        {"info": {"when": len}},
        {"info": {3: "three"}},
        {"info": [1]},
        {"code": 404, "phase": Phase.FAILED},
    ],
    ids=str,
)
async def test_odd_fields_of_a_resource_do_not_stop_the_answers(fields: dict[str, Any], wire: Wire) -> None:
    agent = ScriptedAgent(get=lambda _: Resource(**{"phase": Phase.RUNNING, **fields}))
    async with harness(agent, wire=wire) as h:
        job = await h.create()
        for _ in range(2):
            assert (await h.get(job)).phase in set(Phase) - {Phase.UNDEFINED}


@pytest.mark.parametrize("outputs", [{"o0": object()}, {"o0": "three"}, {}, {"o0": [1]}, 3, {"o1": 3}])
async def test_outputs_that_do_not_fit_fail_the_task_with_their_path(outputs: Any, wire: Wire) -> None:
    agent = ScriptedAgent(get=Resource(Phase.SUCCEEDED, outputs=outputs))
    async with harness(agent, wire=wire) as h:
        resource = await h.finish(await h.create(outputs=kwtypes(o0=int)))
    assert resource.phase is Phase.FAILED
    assert "outputs" in resource.message
    assert wire == "v2" or resource.code == "OutputConversionError"


@pytest.mark.parametrize("garbage", [None, "done", Resource(Phase.RUNNING)])
async def test_a_sync_agent_that_returns_something_else(garbage: Any, wire: Wire) -> None:
    class Odd(SyncAgent):
        task_type = "add"

        def do(self, task: Task) -> Resource:
            return garbage  # type: ignore[no-any-return]  # what an author may return

    async with harness(Odd(), wire=wire) as h:
        try:
            resource = await h.do()
        except Retry as exc:
            assert "not a Resource" in str(exc)  # noqa: PT017 - either is right, by what was returned
        else:
            assert resource.phase is Phase.FAILED
            assert "not terminal" in resource.message


class Half(AsyncAgent[Job]):
    task_type = "half"

    def create(self, task: Task) -> Job:
        return Job("1")


class NoType(Plain):
    task_type = ""


class NotJson(AsyncAgent[threading.Thread]):
    task_type = "odd"

    def create(self, task: Task) -> threading.Thread: ...
    def get(self, job: threading.Thread) -> Resource: ...
    def delete(self, job: threading.Thread) -> None: ...


class Hasty(Plain):
    call_timeout = 0


@pytest.mark.parametrize(
    ("agent", "problem"),
    [
        (Half, r"Agent Half \(AsyncAgent\) has no method get and no method delete\."),
        (NoType, r"Agent NoType declares no task type"),
        (NotJson, r"Job metadata Thread must be a dataclass"),
        (Hasty, r"Agent Hasty: call_timeout must be a number of seconds above 0, not 0"),
    ],
)
def test_an_agent_that_cannot_be_served_is_refused_before_anything_starts(agent: type, problem: str) -> None:
    with pytest.raises(PluginError, match=problem):
        harness(agent)


async def test_a_raw_agent_is_served_as_it_is(wire: Wire) -> None:
    class Raw(Agent):
        from airside import TaskType

        name = "raw"
        task_types = (TaskType("raw"),)

        async def create(self, task: Task, call: Call) -> bytes:
            return b"\x00\xff"

        async def get(self, meta: bytes, call: Call) -> Resource:
            assert meta == b"\x00\xff"
            return DONE

    async with harness(Raw(), wire=wire) as h:
        assert dict((await h.finish(await h.create())).outputs or {}) == {"o0": 1}

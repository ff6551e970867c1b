"""The low-level face: messages of Flyte 1 in and out, errors set on the context."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import grpc
import pytest
from flyteidl.admin.agent_pb2 import (
    RUNNING,
    SUCCEEDED,
    CreateTaskResponse,
    DeleteTaskResponse,
    GetTaskResponse,
    Resource,
)
from flyteidl.core import literals_pb2, tasks_pb2
from flyteidl.core.execution_pb2 import TaskExecution, TaskLog

from airside import AgentBase, Call, Fail, LogLink, NotFound, Phase, PluginError, Retry, Task, TaskType
from airside.hosting import ADAPTERS
from airside.hosting.context import RecordingContext
from airside.sdk.adapt import adapt
from airside.wire.resource import write_resource

TASK = Task(type=TaskType("custom"), inputs={"x": 5}, config={"a": 1}, output_prefix="/tmp/0")


class Custom(AgentBase):
    """As the documentation has it; `answer` is what the backend says."""

    def __init__(self, answer: Any = None) -> None:
        super().__init__(task_type="custom")
        self.answer = answer or (lambda context: GetTaskResponse(resource=Resource(state=RUNNING)))
        self.seen: dict[str, Any] = {}

    def create(
        self,
        context: grpc.ServicerContext,
        output_prefix: str,
        task_template: tasks_pb2.TaskTemplate,
        inputs: literals_pb2.LiteralMap | None = None,
    ) -> CreateTaskResponse:
        self.seen = {"prefix": output_prefix, "template": task_template, "inputs": inputs, "context": context}
        self.seen["thread"] = threading.current_thread()
        return CreateTaskResponse(resource_meta=b"\x00\xff")

    def get(self, context: grpc.ServicerContext, resource_meta: bytes) -> GetTaskResponse:
        self.seen = {"meta": resource_meta, "context": context}
        response: GetTaskResponse = self.answer(context)
        return response

    def delete(self, context: grpc.ServicerContext, resource_meta: bytes) -> DeleteTaskResponse:
        self.seen = {"meta": resource_meta}
        self.answer(context)
        return DeleteTaskResponse()


class Async(Custom):
    """The same as coroutines, with other names for the arguments."""

    async def create(self, ctx: Any, prefix: str, template: Any, literals: Any = None) -> CreateTaskResponse:
        self.seen = {"prefix": prefix, "template": template, "inputs": literals, "context": ctx}
        return CreateTaskResponse(resource_meta=b"async")

    async def get(self, context: Any, resource_meta: bytes) -> GetTaskResponse:
        await asyncio.sleep(0)
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such job")
        raise AssertionError("abort must raise")


def call_on(agent: AgentBase) -> Any:
    return adapt(agent, ADAPTERS)


async def test_create_gets_the_messages_of_flyte_1() -> None:
    author = Custom()
    agent = call_on(author)
    assert await agent.create(TASK, Call(deadline=time.monotonic() + 9)) == b"\x00\xff"
    seen = author.seen
    assert isinstance(seen["template"], tasks_pb2.TaskTemplate)
    assert isinstance(seen["inputs"], literals_pb2.LiteralMap)
    assert (seen["prefix"], seen["template"].type, dict(seen["template"].custom)) == ("/tmp/0", "custom", {"a": 1})
    assert seen["inputs"].literals["x"].scalar.primitive.integer == 5
    assert isinstance(seen["context"], grpc.ServicerContext)
    assert 8 < seen["context"].time_remaining() <= 9
    assert seen["thread"] is not threading.main_thread()


async def test_coroutines_and_other_argument_names() -> None:
    author = Async()
    agent = call_on(author)
    assert await agent.create(TASK, Call()) == b"async"
    assert (author.seen["prefix"], author.seen["template"].type) == ("/tmp/0", "custom")
    assert author.seen["context"].time_remaining() is None
    with pytest.raises(NotFound, match=r"^no such job$"):
        await agent.get(b"m", Call())


async def test_a_state_alone_gives_the_phase() -> None:
    agent = call_on(Custom(lambda _: GetTaskResponse(resource=Resource(state=SUCCEEDED))))
    assert (await agent.get(b"m", Call())).phase is Phase.SUCCEEDED
    running = call_on(author := Custom())
    assert (await running.get(b"\x00\xff", Call())).phase is Phase.RUNNING
    assert author.seen["meta"] == b"\x00\xff"


async def test_all_that_a_resource_says() -> None:
    five = literals_pb2.Literal(scalar=literals_pb2.Scalar(primitive=literals_pb2.Primitive(integer=5)))
    answer = Resource(
        phase=TaskExecution.SUCCEEDED,
        message="done",
        outputs=literals_pb2.LiteralMap(literals={"o0": five}),
        log_links=[TaskLog(uri="http://l", name="Console")],
    )
    resource = await call_on(Custom(lambda _: GetTaskResponse(resource=answer))).get(b"m", Call())
    assert (resource.phase, resource.message, resource.outputs) == (Phase.SUCCEEDED, "done", {"o0": 5})
    assert resource.links == (LogLink("http://l", "Console"),)
    again = Resource.FromString(write_resource(resource, None))
    assert again.outputs == answer.outputs


@pytest.mark.parametrize(
    ("code", "error", "name"),
    [
        (grpc.StatusCode.INTERNAL, Retry, "Retryable"),
        (grpc.StatusCode.UNAVAILABLE, Retry, "Retryable"),
        (grpc.StatusCode.NOT_FOUND, NotFound, "JobNotFound"),
        (grpc.StatusCode.INVALID_ARGUMENT, Fail, "InvalidArgument"),
        (13, Retry, "Retryable"),
    ],
)
@pytest.mark.parametrize("method", ["get", "delete"])
async def test_a_code_on_the_context_is_an_error(code: Any, error: type[Exception], name: str, method: str) -> None:
    def answer(context: grpc.ServicerContext) -> GetTaskResponse:
        context.set_code(code)
        context.set_details("the service said no")
        return GetTaskResponse(resource=Resource(state=RUNNING))

    with pytest.raises(error, match=r"^the service said no$") as caught:
        await getattr(call_on(Custom(answer)), method)(b"m", Call())
    assert getattr(caught.value, "code") == name  # noqa: B009 - a name that is no attribute of the type


async def test_ok_on_the_context_is_no_error() -> None:
    def answer(context: grpc.ServicerContext) -> GetTaskResponse:
        context.set_code(grpc.StatusCode.OK)
        return GetTaskResponse(resource=Resource(state=RUNNING))

    assert (await call_on(Custom(answer)).get(b"m", Call())).phase is Phase.RUNNING


async def test_abort_ends_the_call() -> None:
    def answer(context: grpc.ServicerContext) -> GetTaskResponse:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not like this")
        raise AssertionError("abort must raise")

    with pytest.raises(Fail, match=r"^not like this$"):
        await call_on(Custom(answer)).get(b"m", Call())


async def test_an_agents_own_exception_passes() -> None:
    def answer(context: grpc.ServicerContext) -> GetTaskResponse:
        raise ConnectionError("no route")

    with pytest.raises(ConnectionError, match="no route"):
        await call_on(Custom(answer)).get(b"m", Call())


async def test_a_context_without_details() -> None:
    context = RecordingContext("Custom.get")
    assert context.error is None
    context.set_code(grpc.StatusCode.INTERNAL)
    assert str(context.error) == "Custom.get set the status INTERNAL"
    assert (context.code(), context.details(), context.is_active()) == (grpc.StatusCode.INTERNAL, "", True)


@pytest.mark.parametrize(
    ("response", "problem"),
    [
        (None, "Custom.get returned None, not a GetTaskResponse"),
        (CreateTaskResponse(), "Custom.get returned CreateTaskResponse, not a GetTaskResponse"),
        (GetTaskResponse(), "Custom.get returned a GetTaskResponse without a resource"),
    ],
)
async def test_a_wrong_answer_is_named(response: Any, problem: str) -> None:
    with pytest.raises(TypeError, match=f"^{problem}$"):
        await call_on(Custom(lambda _: response)).get(b"m", Call())


async def test_a_create_that_returns_nothing_is_named() -> None:
    class Forgetful(Custom):
        def create(self, context: Any, output_prefix: Any, task_template: Any, inputs: Any = None) -> Any:
            return None

    with pytest.raises(TypeError, match=r"^Forgetful\.create returned None, not a CreateTaskResponse$"):
        await call_on(Forgetful()).create(TASK, Call())


def test_an_agent_without_a_method_is_refused() -> None:
    class Half(AgentBase):
        def create(self, context: Any, output_prefix: Any, task_template: Any, inputs: Any = None) -> Any: ...

    with pytest.raises(PluginError, match=r"^Agent Half \(AgentBase\) has no method get and no method delete\.$"):
        call_on(Half(task_type="half"))
    with pytest.raises(PluginError, match="declares no task type"):
        adapt(Custom.__new__(Custom), ADAPTERS)

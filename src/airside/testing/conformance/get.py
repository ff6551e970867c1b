"""Cases about GetTask: how it is routed, and what a resource must say."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
from flyteidl.core import literals_pb2
from flyteidl2.core import tasks_pb2, types_pb2

from airside.model import Phase
from airside.testing.conformance.case import Answer, Probe, cases, name_of, never_over, shorten

_AT_ONCE = 2.0  # seconds
_LONG = 64 * 1024  # characters; Flyte keeps messages in etcd


async def routes_by_category(probe: Probe) -> None:
    """GetTask with only the task category is OK"""
    handle, _ = await probe.finished()
    request = probe.job_request("GetTaskRequest", handle)
    if probe.wire == "v1":
        request.task_type = ""
    probe.expect_ok(await probe.call("GetTask", request), "GetTask")


async def routes_by_old_task_type(probe: Probe) -> None:
    """GetTask with only the deprecated task_type is routed at version 0"""
    if probe.specimen.task_type.version:
        probe.skip("the task type has no version 0")
    handle, _ = await probe.finished()
    request = probe.job_request("GetTaskRequest", handle)
    request.ClearField("task_category")
    probe.expect_ok(await probe.call("GetTask", request), "GetTask")


async def prefers_category(probe: Probe) -> None:
    """GetTask with a category and another task_type is routed by the category"""
    handle, _ = await probe.finished()
    request = probe.job_request("GetTaskRequest", handle)
    request.task_type = "no-such-type"
    probe.expect_ok(await probe.call("GetTask", request), "GetTask")


async def answers_known_phases(probe: Probe) -> None:
    """GetTask answers phases of Flyte, and in the end a terminal one (Flyte 1: state is unset or says the same)"""
    for resource in await probe.seen():
        probe.expect(resource.phase in {int(phase) for phase in Phase}, f"the phase {resource.phase} is unknown")
        if probe.wire == "v1" and resource.state:
            mirrored = _STATES[Phase(resource.phase)]
            probe.expect(resource.state == mirrored, f"state is {resource.state} with phase {resource.phase}")
    with never_over("no terminal phase"):
        await probe.finished()


async def never_leaves_the_phase_out(probe: Probe) -> None:
    """GetTask never answers phase 0"""
    phases = [resource.phase for resource in await probe.seen()]
    probe.expect(all(phases), f"a phase is missing: {phases}")


async def fills_declared_outputs(probe: Probe) -> None:
    """A task that succeeded has its declared outputs as literals, or in outputs.pb under its output_prefix"""
    handle, resource = await probe.finished()
    probe.expect_success(resource)
    wanted = probe.specimen.outputs
    if not wanted:
        probe.skip("the task declares no outputs")
    outputs = _outputs(resource, probe.wire) if resource.HasField("outputs") else _in_file(probe, handle)
    probe.expect(set(outputs) == wanted, f"the outputs are {sorted(outputs)}, not {sorted(wanted)}")
    empty = [name for name, one in outputs.items() if one.WhichOneof("value") is None]
    probe.expect(not empty, f"no value in {', '.join(empty)}")
    interface = tasks_pb2.TaskTemplate.FromString(probe.specimen.template).interface
    declared = {one.key: one.value.type for one in interface.outputs.variables}
    odd = [f"{name} is {shorten(one)}" for name, one in outputs.items() if not fits(one, declared[name])]
    probe.expect(not odd, f"not of the declared type: {', '.join(odd)}")


async def tells_links_apart(probe: Probe) -> None:
    """A log link has a uri and a name"""
    links = [link for resource in await probe.seen() for link in resource.log_links]
    if not links:
        probe.skip("the agent gives no log links")
    broken = [link for link in links if not (link.uri and link.name)]
    probe.expect(not broken, f"without uri or name: {broken}")


async def bounds_messages(probe: Probe) -> None:
    """Messages are bounded"""
    longest = max(len(resource.message) for resource in await probe.seen())
    probe.expect(longest <= _LONG, f"a message has {longest:,} characters")


async def explains_failures(probe: Probe) -> None:
    """A failure carries agent_error, and its phase says whether it may be retried"""
    if probe.specimen.bad_inputs is None:
        resource = (await probe.finished())[1]
    else:
        created = await probe.create(probe.create_request(inputs=probe.specimen.bad_inputs))
        if not created.ok:
            probe.skip("the failing inputs are refused by CreateTask")
        resource = await probe.finish(bytes(created.message.resource_meta))
        probe.expect(not Phase(resource.phase).is_success, "the task succeeded with inputs that should make it fail")
    if Phase(resource.phase).is_success:
        probe.skip("the task succeeded")
    probe.expect(resource.HasField("agent_error"), "agent_error is absent")
    probe.expect(resource.agent_error.code, "agent_error.code is empty")
    recoverable = resource.agent_error.kind == 1
    probe.expect(
        recoverable is Phase(resource.phase).is_retryable,
        f"agent_error.kind is {resource.agent_error.kind} with phase {Phase(resource.phase).name}",
    )


async def refuses_malformed_handles(probe: Probe) -> None:
    """GetTask with bytes that are no handle is INTERNAL or INVALID_ARGUMENT, and the service stays up"""
    handle, _ = await probe.finished()
    answer = await probe.get(b"\xff\x00 these bytes are no handle")
    allowed = (grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT)
    probe.expect(answer.code in allowed, f"answered {answer.code.name}")
    probe.expect_ok(await probe.get(handle), "the next GetTask")


async def remembers_across_restarts(probe: Probe) -> None:
    """GetTask after a restart of the service, and in another process, gives the same answer as before"""
    handle, before = await probe.finished()
    await probe.service.restart()
    await _answers_the_same(probe, handle, before, "after a restart")
    async with probe.elsewhere() as there:
        if there is not None:
            await _answers_the_same(there, handle, before, "in another process")


async def _answers_the_same(probe: Probe, handle: bytes, before: Any, when: str) -> None:
    with never_over(f"the job was over, but not {when}"):
        after = await probe.finish(handle)
    was, now = (name_of(resource) for resource in (before, after))
    probe.expect(was == now, f"the phase was {was} before and is {now} {when}")
    same = before.HasField("outputs") is after.HasField("outputs")
    same = same and _in_order(_outputs(before, probe.wire)) == _in_order(_outputs(after, probe.wire))
    probe.expect(same, f"the outputs were {shorten(before.outputs)} before and are {shorten(after.outputs)} {when}")


async def answers_after_delete(probe: Probe) -> None:
    """GetTask after DeleteTask is OK and terminal"""
    handle = await probe.new_job()
    probe.expect_ok(await probe.delete(handle), "DeleteTask")
    with never_over("GetTask goes on without a terminal phase"):
        await probe.finish(handle)


async def answers_many_at_once(probe: Probe) -> None:
    """A hundred GetTasks at once are all answered within two seconds"""
    handle, _ = await probe.finished()
    shown = len(probe.exchanges)
    answers: list[Answer] = await asyncio.gather(*(probe.get(handle) for _ in range(100)))
    del probe.exchanges[shown + 1 :]
    for answer in answers:
        probe.expect_ok(answer, "GetTask")
    slowest = max(answer.seconds for answer in answers)
    probe.expect(slowest < _AT_ONCE, f"the slowest took {slowest:.2f} s")


def fits(literal: Any, kind: types_pb2.LiteralType) -> bool:
    """True unless the literal is plainly of another type than the declared one. Only simple types are looked into."""
    match kind.WhichOneof("type"):
        case "simple" if kind.simple in _PRIMITIVES:
            return bool(literal.scalar.primitive.WhichOneof("value") == _PRIMITIVES[kind.simple])
        case "collection_type" if literal.HasField("collection"):
            return all(fits(one, kind.collection_type) for one in literal.collection.literals)
        case "collection_type" | "map_value_type" as entries:
            return literal.WhichOneof("value") in _ENTRIES[entries]
    return True


_ENTRIES = {"collection_type": {"collection", "offloaded_metadata"}, "map_value_type": {"map", "offloaded_metadata"}}
_PRIMITIVES = {
    types_pb2.INTEGER: "integer",
    types_pb2.FLOAT: "float_value",
    types_pb2.STRING: "string_value",
    types_pb2.BOOLEAN: "boolean",
    types_pb2.DATETIME: "datetime",
    types_pb2.DURATION: "duration",
}


def _in_order(outputs: dict[str, Any]) -> dict[str, bytes]:
    """Literals by name, comparable: a service may send them, and the entries of maps in them, in any order."""
    return {name: outputs[name].SerializeToString(deterministic=True) for name in sorted(outputs)}


def _outputs(resource: Any, wire: str) -> dict[str, Any]:
    literals = resource.outputs.literals
    return dict(literals) if wire == "v1" else {one.name: one.value for one in literals}


def _in_file(probe: Probe, handle: bytes) -> dict[str, Any]:
    """The outputs in the job's folder, where the engine looks for them if the resource has none."""
    prefix = probe.prefixes[handle]
    if "://" in prefix:
        probe.skip("the outputs are in a file under the output prefix, which cannot be read here")
    file = Path(prefix, "outputs.pb")
    probe.expect(file.is_file(), "the resource has no outputs, and there is no outputs.pb under the output_prefix")
    return dict(literals_pb2.LiteralMap.FromString(file.read_bytes()).literals)


# flyteidl's deprecated State, by phase.
_RETRYABLE_FAILURE, _PERMANENT_FAILURE, _PENDING, _RUNNING, _SUCCEEDED = range(5)
_STATES = {
    Phase.UNDEFINED: _RETRYABLE_FAILURE,
    Phase.QUEUED: _PENDING,
    Phase.WAITING_FOR_RESOURCES: _PENDING,
    Phase.INITIALIZING: _PENDING,
    Phase.RUNNING: _RUNNING,
    Phase.SUCCEEDED: _SUCCEEDED,
    Phase.ABORTED: _PERMANENT_FAILURE,
    Phase.FAILED: _PERMANENT_FAILURE,
    Phase.RETRYABLE_FAILED: _RETRYABLE_FAILURE,
}

CASES = cases(
    "get",
    {
        "S19": routes_by_category,
        "S20": routes_by_old_task_type,
        "S21": prefers_category,
        "S22": answers_known_phases,
        "S23": never_leaves_the_phase_out,
        "S24": fills_declared_outputs,
        "S26": tells_links_apart,
        "S27": bounds_messages,
        "S28": explains_failures,
        "S29": refuses_malformed_handles,
        "S30": remembers_across_restarts,
        "S31": answers_after_delete,
        "S32": answers_many_at_once,
    },
    only={"S20": ("v1",), "S21": ("v1",), "S28": ("v1",)},
)

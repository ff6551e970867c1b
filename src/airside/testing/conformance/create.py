"""Cases about CreateTask: what it accepts, what it refuses, and that one attempt makes one job."""

from __future__ import annotations

import grpc

from airside.testing.client import literal
from airside.testing.conformance.case import Probe, cases

_UNKNOWN_VERSION = 4711
_UNKNOWN_FIELDS = b"\xa2\x06\x05hello\xa8\x06\x2a"  # field 100 a string, field 101 a number
_MIB = 1024 * 1024
_FAILURES = (grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION)
_GONE = 0.01  # seconds; time to send a request, hardly to answer it


async def creates(probe: Probe) -> None:
    """CreateTask of a served type is OK"""
    probe.expect_ok(await probe.create(), "CreateTask")


async def refuses_unknown_version(probe: Probe) -> None:
    """CreateTask of a version that is not served is NOT_FOUND"""
    name = probe.specimen.task_type.name
    request = probe.create_request()
    request.template.type, request.template.task_type_version = name, _UNKNOWN_VERSION
    answer = await probe.call("CreateTask", request)
    probe.expect(answer.code is grpc.StatusCode.NOT_FOUND, f"{name} v{_UNKNOWN_VERSION} is answered {answer.code.name}")


async def refuses_unknown_type(probe: Probe) -> None:
    """CreateTask of an unknown type is NOT_FOUND, and the message names the type"""
    request = probe.create_request()
    request.template.type = "no-such-type"
    answer = await probe.call("CreateTask", request)
    probe.expect(answer.code is grpc.StatusCode.NOT_FOUND, f"an unknown type is answered {answer.code.name}")
    probe.expect("no-such-type" in answer.details, f"the message does not name the type: {answer.details!r}")


async def explains_refusals(probe: Probe) -> None:
    """CreateTask of a task that cannot be started is INTERNAL, or the caller's mistake, and the service stays up"""
    if probe.specimen.bad_inputs is None:
        probe.skip("no inputs are given that make the task fail")
    answer = await probe.create(probe.create_request(inputs=probe.specimen.bad_inputs))
    if answer.ok:
        probe.skip("the failing inputs are taken, and fail the job later")
    probe.expect(answer.code in _FAILURES, f"a failing create is answered {answer.code.name}")
    probe.expect(answer.details, "no text says why")
    probe.expect_ok(await probe.create(), "the next CreateTask")


async def creates_without_inputs(probe: Probe) -> None:
    """CreateTask without the inputs field is OK"""
    if probe.specimen.has_inputs:
        probe.skip("the task declares inputs, so leaving them out is a mistake of the caller")
    probe.expect_ok(await probe.create(probe.create_request(inputs=None)), "CreateTask without inputs")


async def creates_from_little(probe: Probe) -> None:
    """CreateTask without task_execution_metadata, template metadata or, if it has no inputs, interface is OK"""
    request = probe.create_request()
    request.ClearField("task_execution_metadata")
    if not probe.specimen.has_inputs:  # a service may read the inputs by their declared types
        request.template.ClearField("interface")
    request.template.ClearField("metadata")
    probe.expect_ok(await probe.create(request), "CreateTask")


async def joins_a_repeated_create(probe: Probe) -> None:
    """CreateTask twice with the same output_prefix gives one job: the answers are identical"""
    request = probe.create_request()
    first, second = await probe.create(request), await probe.create(request)
    probe.expect_ok(first, "the first CreateTask")
    probe.expect_ok(second, "the second CreateTask")
    same = first.message.resource_meta == second.message.resource_meta
    probe.expect(same, "the second answer has another resource_meta")


async def creates_again_for_another_attempt(probe: Probe) -> None:
    """CreateTask for the next attempt, with its own output_prefix, gives a second job"""
    folder = probe.new_prefix().rpartition("/")[0]
    one, two = (0, 1) if probe.wire == "v1" else (1, 2)  # how each engine numbers its prefixes
    first = await probe.create(probe.create_request(prefix=f"{folder}/{one}", attempt=0))
    second = await probe.create(probe.create_request(prefix=f"{folder}/{two}", attempt=1))
    probe.expect_ok(first, "CreateTask of the first attempt")
    probe.expect_ok(second, "CreateTask of the second attempt")
    differ = first.message.resource_meta != second.message.resource_meta
    probe.expect(differ, "both attempts have the same resource_meta")


async def takes_large_inputs(probe: Probe) -> None:
    """CreateTask with 8 MiB of inputs is OK: the receive limit is raised"""
    request = probe.create_request()
    filler = literal("x" * (8 * _MIB)).SerializeToString()
    if probe.wire == "v1":
        request.inputs.literals["conformance_filler"].MergeFromString(filler)
    else:
        request.inputs.literals.add(name="conformance_filler").value.MergeFromString(filler)
    probe.expect_ok(await probe.create(request), "CreateTask with 8 MiB")


async def ignores_unknown_fields(probe: Probe) -> None:
    """CreateTask with unknown fields is OK"""
    request = probe.create_request()
    request.MergeFromString(_UNKNOWN_FIELDS)
    request.template.MergeFromString(_UNKNOWN_FIELDS)
    probe.expect_ok(await probe.create(request), "CreateTask with unknown fields")


async def outlives_its_caller(probe: Probe) -> None:
    """CreateTask whose caller's deadline has passed, and again with the same output_prefix, gives one job"""
    request = probe.create_request()
    await probe.call("CreateTask", request, timeout=_GONE)  # whatever it brings is lost to an engine that has gone
    again, once_more = await probe.create(request), await probe.create(request)
    probe.expect_ok(again, "the CreateTask after it")
    probe.expect_ok(once_more, "the CreateTask after that")
    same = again.message.resource_meta == once_more.message.resource_meta
    probe.expect(same, "the two answers have different resource_metas")


CASES = cases(
    "create",
    {
        "S07": creates,
        "S08": refuses_unknown_version,
        "S09": refuses_unknown_type,
        "S10": explains_refusals,
        "S11": creates_without_inputs,
        "S12": creates_from_little,
        "S13": joins_a_repeated_create,
        "S14": creates_again_for_another_attempt,
        "S15": takes_large_inputs,
        "S16": ignores_unknown_fields,
        "S36": outlives_its_caller,
    },
)

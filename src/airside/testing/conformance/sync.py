"""Cases about ExecuteTaskSync, which Flyte 1 alone has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc

from airside.testing.conformance.case import Answer, Probe, cases, is_over, name_of

_METHOD = "ExecuteTaskSync"
_LOST = "Internal error from Core"  # grpc.aio's own words for a stream that was answered before all was written
_TRIES = 10


async def answers_once(probe: Probe) -> None:
    """ExecuteTaskSync with header, inputs and half-close gets exactly one message: a header with a terminal phase"""
    _needs_sync(probe)
    answer = await _execute(probe, [_header(probe), _inputs(probe)])
    probe.expect_ok(answer, _METHOD)
    probe.expect(len(answer.message) == 1, f"{len(answer.message)} messages came back")
    resource = _resource(probe, answer)
    probe.expect(is_over(resource), f"the phase {name_of(resource)} is not terminal")
    probe.expect_success(resource)
    if probe.specimen.outputs:
        names = set(resource.outputs.literals)
        probe.expect(names == probe.specimen.outputs, f"the outputs are {sorted(names)}")


async def lets_the_client_go(probe: Probe) -> None:
    """A client that cancels after the first message, as Flyte does, leaves the service as it was"""
    _needs_sync(probe)
    call = probe.client.sync_call([_header(probe), _inputs(probe)])
    answer = await probe.record(_METHOD, "header, inputs, half-close; cancel after one message", call.read())
    call.cancel()
    probe.expect_ok(answer, _METHOD)
    again = await _execute(probe, [_header(probe), _inputs(probe)])
    probe.expect_ok(again, "the next ExecuteTaskSync")
    probe.expect(again.message, "the next ExecuteTaskSync has no answer")
    resource = _resource(probe, again)
    probe.expect(is_over(resource), f"the next ExecuteTaskSync answers {name_of(resource)}")
    log = probe.service.log()
    probe.expect("Traceback" not in log, "the service logged a traceback")


async def wants_the_header_first(probe: Probe) -> None:
    """ExecuteTaskSync that begins with inputs, or is empty, is INVALID_ARGUMENT"""
    for requests, what in (([_inputs(probe)], "inputs first"), ([], "an empty stream")):
        answer = await _execute(probe, requests)
        _needs_the_method(probe, answer)
        right = answer.code is grpc.StatusCode.INVALID_ARGUMENT
        probe.expect(right, f"{what} is answered {answer.code.name}")


async def does_not_wait_for_inputs(probe: Probe) -> None:
    """ExecuteTaskSync with a header and no inputs runs with none or is INVALID_ARGUMENT; it never hangs"""
    _needs_sync(probe)
    answer = await _execute(probe, [_header(probe)])
    allowed = (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT)
    needs_inputs = probe.specimen.has_inputs and answer.code is grpc.StatusCode.INTERNAL
    probe.expect(answer.code in allowed or needs_inputs, f"answered {answer.code.name}")


async def refuses_the_wrong_kind(probe: Probe) -> None:
    """ExecuteTaskSync on an async task type is a clear error"""
    if probe.specimen.is_sync:
        probe.skip("the agent is sync")
    answer = await _execute(probe, [_header(probe), _inputs(probe)])
    _needs_the_method(probe, answer)
    unclear = (grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED)
    probe.expect(answer.code not in unclear, f"answered {answer.code.name}")
    name = probe.specimen.task_type.name
    probe.expect(name in answer.details, f"the message does not name the task type: {answer.details!r}")


def _needs_sync(probe: Probe) -> None:
    if not probe.specimen.is_sync:
        probe.skip("the agent is async")


def _needs_the_method(probe: Probe, answer: Answer) -> None:
    """Skip the case for a service that has async agents only, and no sync calls at all."""
    names_the_type = probe.specimen.task_type.name in answer.details
    if answer.code is grpc.StatusCode.UNIMPLEMENTED and not names_the_type and not probe.specimen.is_sync:
        probe.skip("the service has no sync calls")


def _header(probe: Probe) -> Any:
    specimen = probe.specimen
    return probe.client.sync_header(*specimen.task_type, template=specimen.template, prefix=probe.new_prefix())


def _inputs(probe: Probe) -> Any:
    return probe.client.sync_inputs(probe.specimen.inputs)


async def _execute(probe: Probe, requests: Sequence[Any]) -> Answer:
    shown = len(probe.exchanges)
    for _ in range(_TRIES):
        del probe.exchanges[shown:]
        answer = await probe.record(_METHOD, list(requests), probe.client.do(*requests))
        if answer.details != _LOST:
            break
    return answer


def _resource(probe: Probe, answer: Answer) -> Any:
    message = answer.message[0]
    part = message.WhichOneof("res")
    probe.expect(part == "header", f"the message is {part}, not a header")
    return message.header.resource


CASES = cases(
    "sync",
    {
        "S37": answers_once,
        "S38": lets_the_client_go,
        "S39": wants_the_header_first,
        "S40": does_not_wait_for_inputs,
        "S42": refuses_the_wrong_kind,
    },
    only=dict.fromkeys(("S37", "S38", "S39", "S40", "S42"), ("v1",)),
)

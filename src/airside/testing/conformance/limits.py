"""Cases about the service around the calls: health, connections, input order, keepalive."""

from __future__ import annotations

import asyncio

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from airside.model import Connection
from airside.testing.conformance.case import CaseFailed, Probe, cases, name_of

_PING_EVERY, _PING_FOR = 30.0, 300.0  # seconds; what Flyte 2's engine does on a long call
_CANARY = "c0nf0rmance-canary-value"


async def is_healthy(probe: Probe) -> None:
    """Health Check of "" and of each service name is SERVING"""
    family = probe.client.family
    stub = health_pb2_grpc.HealthStub(probe.service.channel)
    for name in ("", family.service, family.metadata_service):
        request = health_pb2.HealthCheckRequest(service=name)
        answer = await probe.record("Check", request, stub.Check(request, timeout=probe.timeout))
        probe.expect_ok(answer, f"Check of {name!r}")
        serving = answer.message.status == health_pb2.HealthCheckResponse.SERVING
        probe.expect(serving, f"{name!r} has the status {answer.message.status}")


async def keeps_secrets(probe: Probe) -> None:
    """Secrets of a connection are accepted with Create, Get and Delete, and appear in no answer and no log"""
    given = probe.specimen.connection or Connection()
    connection = Connection(given.name, {**given.secrets, "conformance_canary": _CANARY}, given.configs)
    created = await probe.create(probe.create_request(connection=connection))
    probe.expect_ok(created, "CreateTask")
    handle = bytes(created.message.resource_meta)
    probe.expect(_CANARY.encode() not in handle, "the secret is in the resource_meta")
    got = await probe.get(handle, connection=connection)
    probe.expect_ok(got, "GetTask")
    probe.expect(_CANARY.encode() not in got.message.SerializeToString(), "the secret is in the resource")
    request = probe.job_request("DeleteTaskRequest", handle, connection=connection)
    probe.expect_ok(await probe.call("DeleteTask", request), "DeleteTask")
    log = probe.service.log()
    probe.expect(_CANARY not in log, "the secret is in the log")


async def takes_inputs_by_name(probe: Probe) -> None:
    """Inputs may come in any order, since Flyte 2 shuffles them, and of a name that comes twice the last holds"""
    usual = probe.create_request()
    orders = {}
    if len(usual.inputs.literals) > 1:
        orders["reversed"] = list(reversed(usual.inputs.literals))
    if probe.specimen.bad_inputs is not None:
        bad = type(usual.inputs).FromString(probe.specimen.bad_inputs)
        orders["given twice, the right ones last"] = [*bad.literals, *usual.inputs.literals]
    if not orders:
        probe.skip("the task has fewer than two inputs, and no inputs are given that make it fail")
    _, before = await probe.finished()
    for what, literals in orders.items():
        request = probe.create_request()
        del request.inputs.literals[:]
        request.inputs.literals.extend(literals)
        created = await probe.create(request)
        probe.expect_ok(created, f"CreateTask with the inputs {what}")
        after = await probe.finish(bytes(created.message.resource_meta))
        same = after.phase == before.phase
        probe.expect(same, f"with the inputs {what} it ends {name_of(after)}, and else {name_of(before)}")


async def accepts_pings(probe: Probe) -> None:
    """Keepalive pings every 30 s for 5 min bring no GOAWAY"""
    if not probe.slow:
        probe.skip("it takes five minutes; ask for the slow cases")
    options = [
        ("grpc.keepalive_time_ms", int(_PING_EVERY * 1000)),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    async with probe.service.connect(options) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        try:
            async with asyncio.timeout(_PING_FOR):
                while await watch.read():  # False at the end
                    pass
        except TimeoutError:
            watch.cancel()
            return
        except grpc.aio.AioRpcError as exc:
            how = f"{exc.code().name} {exc.details()}"
        else:
            how = "end of stream"
        raise CaseFailed(f"the stream ended: {how}")


CASES = cases(
    "limits",
    {
        "S46": is_healthy,
        "S48": keeps_secrets,
        "S49": takes_inputs_by_name,
        "S50": accepts_pings,
    },
    only={"S48": ("v2",), "S49": ("v2",)},
)

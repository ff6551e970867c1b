"""`python hostile_load.py PORT SECONDS TYPE...`: asks for a job of each type again and again, and creates a large task
each second. A process of its own, so that it does not hold up the one that measures. Prints how many asks failed."""

from __future__ import annotations

import asyncio
import sys
import time

import grpc
from flyteidl.admin import agent_pb2
from flyteidl.service.agent_pb2_grpc import AsyncAgentServiceStub

EVERY = 0.05
LARGE = 8 * 1024 * 1024


async def pester(stub: AsyncAgentServiceStub, kind: str, ends: float) -> int:
    """The number of asks that were answered with an error."""
    request = agent_pb2.CreateTaskRequest()
    request.template.type = kind
    meta = (await stub.CreateTask(request, timeout=10)).resource_meta
    ask = agent_pb2.GetTaskRequest(resource_meta=meta, task_category={"name": kind})
    failed = 0
    while time.monotonic() < ends:
        try:
            await stub.GetTask(ask, timeout=10)
        except grpc.aio.AioRpcError as exc:
            failed += 1
            print(kind, exc.code(), exc.details(), file=sys.stderr)
        await asyncio.sleep(EVERY)
    return failed


async def create_large(stub: AsyncAgentServiceStub, ends: float) -> int:
    """A create of 8 MiB each second; half of them one value, half of them many."""
    one = agent_pb2.CreateTaskRequest()
    one.template.type = "good"
    one.inputs.literals["x"].scalar.binary.value = bytes(LARGE)
    many = agent_pb2.CreateTaskRequest()
    many.template.type = "good"
    for number in range(LARGE // 100):
        many.inputs.literals["x"].collection.literals.add().scalar.primitive.string_value = f"{number:090}"
    requests = [one, many]
    failed = count = 0
    while time.monotonic() < ends:
        began = time.monotonic()
        try:
            await stub.CreateTask(requests[count % 2], timeout=10)
        except grpc.aio.AioRpcError as exc:
            failed += 1
            print("large", exc.code(), exc.details(), file=sys.stderr)
        count += 1
        await asyncio.sleep(max(0.0, began + 1.0 - time.monotonic()))
    return failed


async def main(port: str, seconds: str, *kinds: str) -> None:
    """Until the time is over."""
    ends = time.monotonic() + float(seconds)
    options = [("grpc.max_send_message_length", 2 * LARGE)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) as channel:
        stub = AsyncAgentServiceStub(channel)
        failed = await asyncio.gather(create_large(stub, ends), *(pester(stub, kind, ends) for kind in kinds))
    print(sum(failed))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

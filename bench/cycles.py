"""Full life cycles a second, in a process of its own: create, two polls, outputs written.

`python bench/cycles.py bare PORT COUNT FOLDER` only makes the RPCs; with `file` and `memory` the engine runs the jobs,
each commit on the disk or none, and keeps its files in a new folder in that one. They all hand in the jobs at once, and
have up to 64 calls of a kind under way. `resume` takes up so many jobs after a kill. Each prints its seconds.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

TASK_TYPE = "bench_twice"
WORKERS = 64
SUCCEEDED = 3


async def by_engine(store: str, port: int, count: int) -> float:
    """The engine: from the first submission until the last job is over and its outputs are in their file."""
    from airside import Engine, Phase, TaskTemplate, kwtypes
    from airside.engine.database import Record

    task = TaskTemplate(name="echo", task_type=TASK_TYPE, inputs=kwtypes(x=int), outputs=kwtypes(x=int))
    over, left = asyncio.Event(), count + 1

    def hear(record: Record, _: str) -> None:  # of what is on the disk
        nonlocal left
        left -= record.job.phase.is_terminal
        if left == 0:
            over.set()

    async with Engine(store, endpoint=f"127.0.0.1:{port}", on_change=hear) as engine:
        await engine.wait(await engine.submit(task, {"x": 0}))
        began = time.perf_counter()
        jobs = await asyncio.gather(*(engine.submit(task, {"x": n}) for n in range(count)))
        await over.wait()
        seconds = time.perf_counter() - began
        for n in range(0, count, max(1, count // 50)):
            outcome = await engine.wait(jobs[n])
            assert (outcome.phase, outcome.outputs) == (Phase.SUCCEEDED, {"x": n}), outcome
    return seconds


async def bare(port: int, count: int, _: Path) -> float:
    """The same calls from a loop that does nothing else, not even look at what it gets."""
    import grpc.aio
    from flyteidl.admin import agent_pb2 as admin
    from flyteidl.service.agent_pb2_grpc import AsyncAgentServiceStub

    from airside import TaskTemplate, kwtypes
    from airside.engine.rundir import RunDir
    from airside.engine.submission import Submission
    from airside.wire.template import write_request

    task = TaskTemplate(name="echo", task_type=TASK_TYPE, inputs=kwtypes(x=int), outputs=kwtypes(x=int))
    room = asyncio.Semaphore(WORKERS)
    category = admin.TaskCategory(name=TASK_TYPE)
    made = Submission(task, {"x": 3}).task(RunDir("run", "/runs/run"), 0)
    template = admin.CreateTaskRequest.FromString(write_request(made).SerializeToString())

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = AsyncAgentServiceStub(channel)

        async def cycle(n: int) -> None:
            request = admin.CreateTaskRequest()
            request.CopyFrom(template)
            request.output_prefix = f"/runs/{os.getpid()}/{n}/0"
            async with room:
                created = await stub.CreateTask(request)
            ask = admin.GetTaskRequest(
                task_type=TASK_TYPE,
                task_category=category,
                resource_meta=created.resource_meta,
                output_prefix=request.output_prefix,
            )
            phase = 0
            while phase != SUCCEEDED:
                async with room:
                    phase = (await stub.GetTask(ask)).resource.phase

        await cycle(-1)
        began = time.perf_counter()
        await asyncio.gather(*(cycle(n) for n in range(count)))
        return time.perf_counter() - began


async def by_file(port: int, count: int, folder: Path) -> float:
    return await by_engine(str(folder / "engine.db"), port, count)


async def in_memory(port: int, count: int, folder: Path) -> float:
    os.environ["AIRSIDE_STATE"] = str(folder)
    return await by_engine(":memory:", port, count)


async def resume(port: int, count: int, folder: Path) -> float:
    """An engine on a store as a kill leaves it, with so many jobs that were being watched: until it drives them all."""
    from airside import Engine, Phase, TaskTemplate, kwtypes
    from airside.engine.database import Database
    from airside.engine.engine import prepare
    from airside.engine.job import Stage, changed

    task = TaskTemplate(name="echo", task_type=TASK_TYPE, inputs=kwtypes(x=int), outputs=kwtypes(x=int))
    store = folder / "engine.db"
    with Database(store) as database, database.transaction():
        for n in range(count):
            made = prepare(task, {"x": n}, state=store.parent)
            database.add(made.record, made.template, made.inputs)
            created = time.time()
            watching = {"stage": Stage.WATCHING, "phase": Phase.RUNNING, "created_at": created, "meta": b"job"}
            database.save(changed(made.record.job, **watching))
    began = time.perf_counter()
    async with Engine(store, endpoint=f"127.0.0.1:{port}") as engine:
        seconds = time.perf_counter() - began
        assert engine.unfinished == count, engine.unfinished
    return seconds


SIDES: Mapping[str, Callable[[int, int, Path], Awaitable[float]]] = {
    "bare": bare,
    "file": by_file,
    "memory": in_memory,
    "resume": resume,
}


def main() -> None:
    side, port, count, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    made = Path(tempfile.mkdtemp(prefix=f"{side}-", dir=folder))
    print(asyncio.run(SIDES[side](port, count, made)))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()

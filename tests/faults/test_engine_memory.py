"""A hundred thousand jobs in flight in one engine: resumed after a kill, each asked for, in bounded memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = """
import asyncio, json, sys, time
from pathlib import Path
from airside import AsyncAgent, Engine, Phase, Resource, TaskTemplate, kwtypes
from airside.engine.database import Database
from airside.engine.engine import prepare
from airside.engine.job import Stage, changed

TASK = TaskTemplate(name="long", task_type="long", inputs=kwtypes(n=int))
count, store = int(sys.argv[1]), Path(sys.argv[2])

class Long(AsyncAgent[int]):
    task_type, poll_interval, asked = "long", 3600.0, 0
    async def create(self, task):
        raise AssertionError("every job was created before the kill")
    async def get(self, job):
        self.asked += 1
        return Resource(Phase.RUNNING, message="runs", poll_after=3600.0)
    async def delete(self, job): ...

def fill():
    with Database(store) as database, database.transaction():
        for n in range(count):
            made = prepare(TASK, {"n": n}, state=store.parent)
            database.add(made.record, made.template, made.inputs)
            watching = {"stage": Stage.WATCHING, "phase": Phase.RUNNING, "created_at": time.time(), "meta": b"7"}
            database.save(changed(made.record.job, **watching))

def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith(name))

async def main():
    agent, began = Long(), time.monotonic()
    async with Engine(store, agents=[agent]) as engine:
        resumed = time.monotonic() - began
        while agent.asked < count:
            await asyncio.sleep(0.1)
        asked = time.monotonic() - began
        print(json.dumps({
            "unfinished": engine.unfinished, "resumed": resumed, "asked": asked, "tasks": len(asyncio.all_tasks()),
            "resident": memory("VmRSS"), "peak": memory("VmHWM"),
        }))

fill() if sys.argv[3] == "fill" else asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("jobs", "most"), [pytest.param(2000, 256, id="short"), pytest.param(100_000, 1024, marks=pytest.mark.faults)]
)
def test_jobs_in_flight(tmp_path: Path, jobs: int, most: int) -> None:
    environment = {**os.environ, "AIRSIDE_STATE": str(tmp_path)}

    def child(what: str) -> str:
        command = [sys.executable, "-c", CHILD, str(jobs), str(tmp_path / "engine.db"), what]
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True).stdout

    child("fill")
    seen = json.loads(child("drive"))
    print(
        f"\n{jobs} jobs in flight: {seen['resident']} MiB (at most {seen['peak']} MiB), resumed in "
        f"{seen['resumed']:.1f} s, each asked for within {seen['asked']:.0f} s"
    )
    assert seen["unfinished"] == jobs
    assert seen["peak"] < most
    assert seen["tasks"] < 200

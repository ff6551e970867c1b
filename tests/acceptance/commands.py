"""Commands as a person runs them, each in a process of its own, and the engines and services behind them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from airside.engine.ownership import owner_of

AIRSIDE = str(Path(sys.executable).with_name("airside"))
PATIENCE = 60.0
"""Seconds that anything may take on a machine that does other things too."""

Start = Callable[..., subprocess.Popen[str]]
Call = Callable[..., subprocess.CompletedProcess[str]]
Ask = Callable[..., Any]

NAP = '''
from dataclasses import dataclass
from pathlib import Path
from airside import AsyncAgent, LogLine, Phase, Resource, SyncAgent, Task, TaskTemplate, kwtypes

HERE = Path(__file__).parent

@dataclass
class Job:
    key: str

class Nap(AsyncAgent[Job]):
    """Its jobs end when there is a file `done`; those that were deleted have a file of their own."""

    task_type = "nap"
    poll_interval = 0.05
    create_is_idempotent = True

    def create(self, task: Task) -> Job:
        with (HERE / "creates").open("a") as file:
            file.write(task.key + "\\n")
        return Job(task.key)

    def get(self, job: Job) -> Resource:
        if (HERE / f"{job.key}.deleted").exists():
            return Resource(Phase.ABORTED)
        if (HERE / "done").exists():
            return Resource(Phase.SUCCEEDED, outputs={"o0": 3})
        return Resource(Phase.RUNNING, message="asleep")

    def delete(self, job: Job) -> None:
        (HERE / f"{job.key}.deleted").touch()

    async def logs(self, job: Job, *, after, limit, call):
        yield LogLine("zzz")

nap = TaskTemplate(name="nap", task_type="nap", outputs=kwtypes(o0=int))
'''
"""A file with a task whose jobs the test ends."""


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition, and fail if it never holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def lines(path: Path) -> list[str]:
    """The lines of a file that may not be there yet."""
    return path.read_text().splitlines() if path.exists() else []


def driver_of(state: Path) -> int | None:
    """The process of the engine that drives the jobs of a state folder; 0 while it begins or ends."""
    owner = owner_of(str(state / "engine.db"))
    return None if owner is None else int(owner.get("pid", 0))


@contextmanager
def serving(folder: Path, *flags: str, **env: str) -> Iterator[str]:
    """A running service, and its address."""
    command = [AIRSIDE, "serve", "--port", "0", "--metrics-port", "-1", "--drain-delay", "0", *flags]
    service = subprocess.Popen(command, cwd=folder, env={**os.environ, **env}, text=True, stderr=subprocess.PIPE)
    assert service.stderr is not None
    try:
        said = ""
        for line in service.stderr:
            said += line
            if found := re.search(r"serving on port (\d+)", line):
                yield f"localhost:{found[1]}"
                break
        else:
            pytest.fail(f"the service did not start:\n{said}")
    finally:
        service.send_signal(signal.SIGTERM)
        service.communicate(timeout=PATIENCE)

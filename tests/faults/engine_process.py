"""Engines in processes that can be killed: one process imports everything once and forks an engine for each life.

Lines in: `STORE ENDPOINT JOBS`. Lines out: `pid N` of each engine, `ready` and `job ID` by the engine itself, and
`gone` when it is no more.
"""

from __future__ import annotations

import asyncio
import os
import sys
import traceback

from airside import Engine, TaskTemplate, kwtypes
from airside.engine import remote, run

IMPORTED = (remote, run)  # here, and not in every life

TASK = TaskTemplate(name="count", task_type="count", inputs=kwtypes(n=int), outputs=kwtypes(n=int), retries=9)


def say(*words: object) -> None:
    os.write(1, f"{' '.join(map(str, words))}\n".encode())  # one write, so a kill does not cut it


async def live(store: str, endpoint: str, jobs: int) -> None:
    """Resume what is there, hand in what is missing, and drive it all to its end."""
    async with Engine(store, endpoint=endpoint) as engine:
        say("ready")
        for n in range(len(await engine.jobs(limit=jobs)), jobs):
            say("job", await engine.submit(TASK, {"n": n}))
        while engine.unfinished:
            await asyncio.sleep(0.05)


def main() -> None:
    for line in sys.stdin:
        store, endpoint, jobs = line.split()
        child = os.fork()
        if child:
            say("pid", child)
            os.waitpid(child, 0)
            say("gone")
            continue
        try:
            asyncio.run(live(store, endpoint, int(jobs)))
        except BaseException:
            traceback.print_exc()
            say("failed")
        os._exit(0)


if __name__ == "__main__":
    main()

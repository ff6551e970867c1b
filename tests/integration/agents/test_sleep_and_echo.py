"""The sleep and echo agents."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from airside import kwtypes
from airside.agents.echo import EchoAgent
from airside.agents.sleep import SleepAgent, SleepTask
from airside.model import Fail, File, Phase

Open = Callable[..., Awaitable[Any]]


async def test_sleep_lasts_as_long_as_told_and_gives_its_inputs_back(open_agent: Open) -> None:
    sleep = await open_agent(SleepAgent())
    at = datetime(2024, 1, 2, tzinfo=UTC)
    inputs, outputs = {"seconds": 0.3, "at": at, "f": File("s3://b/f"), "n": 1}, kwtypes(at=datetime, f=File, n=int)
    started = time.monotonic()
    meta = await sleep.create(inputs=inputs, outputs=outputs, key="k")
    resource = await sleep.get(meta)
    assert resource.phase is Phase.RUNNING
    assert 0 < resource.poll_after <= 0.3
    assert (await sleep.finish(meta)).outputs == {"at": at, "f": File("s3://b/f"), "n": 1}
    assert time.monotonic() - started >= 0.29


async def test_sleep_ends_in_any_process(open_agent: Open) -> None:
    first, second = await open_agent(SleepAgent()), await open_agent(SleepAgent())
    meta = await first.create({"seconds": 0.2})
    assert (await second.get(meta)).phase is Phase.RUNNING
    assert (await second.finish(meta)).phase is Phase.SUCCEEDED


async def test_a_cancelled_sleep_is_over_where_it_was_cancelled(open_agent: Open) -> None:
    sleep = await open_agent(SleepAgent())
    meta, done = await sleep.create({"seconds": 60}), await sleep.create({"seconds": 0})
    for _ in range(2):
        await sleep.delete(meta)
        await sleep.delete(done)
    assert (await sleep.get(meta)).phase is Phase.ABORTED
    assert (await sleep.get(done)).phase is Phase.SUCCEEDED


@pytest.mark.parametrize("seconds", [None, -1, "3", True, float("inf"), float("nan")])
async def test_sleep_wants_a_number_of_seconds(open_agent: Open, seconds: Any) -> None:
    sleep = await open_agent(SleepAgent())
    with pytest.raises(Fail, match="A sleep task needs `seconds`, a number from 0, in its inputs or config, not"):
        await sleep.create({"seconds": seconds})
    with pytest.raises(Fail, match="gives back only small inputs, 8 KiB together"):
        await sleep.create({"seconds": 1}, inputs={"text": "x" * 9000})


async def test_sleep_as_a_task(open_agent: Open) -> None:
    task = SleepTask(name="nap", seconds=60, inputs=kwtypes(seconds=float), outputs=kwtypes(seconds=float))
    assert (await (await open_agent(SleepAgent())).run_template(task, seconds=0.01)).outputs == {"seconds": 0.01}


async def test_echo_gives_its_inputs_back(open_agent: Open) -> None:
    echo = await open_agent(EchoAgent())
    assert (await echo.do(inputs={"x": 1, "y": [File("a")]})).outputs == {"x": 1, "y": [File("a")]}
    assert (await echo.do(inputs={"x": 1, "y": 2}, outputs=kwtypes(y=int))).outputs == {"y": 2}

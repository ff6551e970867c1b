"""Sensors that wait for objects."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from tests.backends.storage.conftest import Store

from airside import Call, Phase, Resource, Retry, Task, TaskType
from airside.agents.sensor import SensorAgent
from airside.sdk.adapt import adapt
from airside.wire import storage


async def test_a_sensor_waits_for_an_object_or_anything_below_a_prefix(store: Store) -> None:
    sensor = adapt(SensorAgent())
    await sensor.open(SensorAgent.Options())
    try:
        table = f"{store.root}/{uuid.uuid4().hex}"
        done = f"{table}/day=1/_SUCCESS"
        paths = (done, f"{table}/day=1/", f"{table}/day=2", f"{table}/day")
        tasks = [Task(type=TaskType("sensor"), config={"sensor": "file", "path": path}) for path in paths]
        jobs = [await sensor.create(task, Call()) for task in tasks]
        answers = await sensor.get_many(jobs, Call())
        assert [one.phase for one in answers if isinstance(one, Resource)] == [Phase.RUNNING] * 4
        await asyncio.to_thread(storage.write, done, b"")
        answers = await sensor.get_many(jobs, Call())
        met = [one.phase is Phase.SUCCEEDED for one in answers if isinstance(one, Resource)]
        assert met == [True, True, False, False]
    finally:
        await sensor.close()


async def test_a_sensor_of_a_store_that_does_not_answer_goes_on(away: Store) -> None:
    sensor = adapt(SensorAgent())
    await sensor.open(SensorAgent.Options(least_poke_interval=0.1))
    try:
        config = {"sensor": "file", "path": f"{away.root}/x", "poke_interval": 3}
        job = await sensor.create(Task(type=TaskType("sensor"), config=config), Call())
        with pytest.raises(Retry, match=r"/x cannot be looked for: .*after 3 retries") as caught:
            await sensor.get(job, Call())
        assert caught.value.after == 3.0
        short = Task(type=TaskType("sensor"), config={**config, "timeout": 0.1})
        resource = await sensor.get(await sensor.create(short, Call()), Call())
        assert (resource.phase, resource.code) == (Phase.FAILED, "SensorTimeout")
        assert "cannot be looked for" in resource.message
    finally:
        await sensor.close()

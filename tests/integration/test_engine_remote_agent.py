"""An agent behind an endpoint, given to the engine by a program."""

from __future__ import annotations

from airside import Engine, Phase, TaskTemplate, kwtypes
from airside.agents.echo import EchoAgent
from airside.engine.remote import RemoteAgent
from airside.testing import harness

HELLO = TaskTemplate(name="hello", task_type="echo", inputs=kwtypes(x=int), outputs=kwtypes(x=int))


async def test_an_engine_drives_an_agent_behind_an_endpoint() -> None:
    async with harness(EchoAgent()) as h:
        agent = RemoteAgent(h.address, task_type="echo", token="t0ken")
        async with Engine(":memory:", agents=[agent]) as engine:
            outcome = await engine.wait(await engine.submit(HELLO, {"x": 3}))
    assert (outcome.phase, outcome.outputs) == (Phase.SUCCEEDED, {"x": 3})


async def test_a_type_that_the_service_does_not_serve_is_told() -> None:
    async with harness(EchoAgent()) as h:
        agent = RemoteAgent(h.address, task_type="spark")
        task = TaskTemplate(name="other", task_type="spark")
        async with Engine(":memory:", agents=[agent]) as engine:
            outcome = await engine.wait(await engine.submit(task))
    assert outcome.phase is Phase.FAILED
    assert "spark" in outcome.message

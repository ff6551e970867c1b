"""The routing configuration of Flyte's documentation, and a backend that takes a second for everything.

GetTask has 200 ms and the rest 50 ms, or 100 ms and 20 ms. Yet a job is created once, polled, succeeds, is deleted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from airside import AsyncAgent, Fail, Phase, Resource, Task
from airside.engine.flyteconfig import Deployment, FlyteConfig, load_config
from airside.engine.routes import find_route
from airside.model import TaskType
from airside.sdk.adapt import adapt
from airside.server.app import Server
from airside.server.settings import ServerSettings
from airside.testing.engine_model import EngineModel, Outcome, Timeouts
from airside.testing.faulty import FaultyBackend, Ticket
from airside.testing.replicas import Replica

StartReplicas = Callable[..., Awaitable[list[Replica]]]
Figures = Callable[..., None]

DOCUMENTED = """
tasks:
  task-plugins:
    enabled-plugins:
      - agent-service
    default-for-task-types:
      - bigquery_query_job_task: agent-service
      - custom_task: agent-service

plugins:
  agent-service:
    supportedTaskTypes:
      - bigquery_query_job_task
      - default_task
      - custom_task
    # By default, all the request will be sent to the default agent.
    defaultAgent:
      endpoint: "dns:///flyteagent.flyte.svc.cluster.local:8000"
      insecure: true
      timeouts:
        GetTask: 200ms
      defaultTimeout: 50ms
    agents:
      custom_agent:
        endpoint: "dns:///custom-flyteagent.flyte.svc.cluster.local:8000"
        insecure: false
        defaultServiceConfig: '{"loadBalancingConfig": [{"round_robin":{}}]}'
        timeouts:
          GetTask: 100ms
        defaultTimeout: 20ms
    agentForTaskTypes:
      # It will override the default agent for custom_task, which means propeller will send the request to this agent.
      - custom_task: custom_agent
"""
AGENTS = [f"{Path(__file__).with_name('agents.py')}:{name}" for name in ("DefaultTask", "CustomTask")]


@pytest.fixture
def documented(tmp_path: Path) -> FlyteConfig:
    file = tmp_path / "flyte.yaml"
    file.write_text(DOCUMENTED)
    config = load_config(file)
    assert not config.warnings
    return config


def timeouts_of(deployment: Deployment) -> Timeouts:
    given = deployment.timeouts
    return Timeouts(
        **{name: given.get(f"{name}task", given["default"]) for name in ("create", "get", "delete")},
    )


def test_the_documented_deadlines_are_read(documented: FlyteConfig) -> None:
    found = {
        name: (route.deployment.id, route.deployment.insecure, timeouts_of(route.deployment), route.why)
        for name in ("bigquery_query_job_task", "default_task", "custom_task")
        for route in [find_route(documented, {}, TaskType(name))]
    }
    default = Timeouts(create=0.05, get=0.2, delete=0.05)
    assert found == {
        "bigquery_query_job_task": ("(default)", True, default, "supportedTaskTypes"),
        "default_task": ("(default)", True, default, "supportedTaskTypes"),
        "custom_task": ("custom_agent", False, Timeouts(create=0.02, get=0.1, delete=0.02), "a pin"),
    }


async def created(engine: EngineModel, task_type: str, outcome: Outcome, config: dict[str, object]) -> bytes:
    """The handle of the first attempt that is answered: a busy machine may be late, as it may be for Flyte."""
    while outcome.attempts < 10:
        handle = await engine.create(task_type, outcome, config)
        if handle is not None:
            return handle
    raise AssertionError(outcome.create_errors)


@pytest.mark.parametrize(
    ("task_type", "killed", "strict"),
    [
        ("default_task", False, False),
        ("custom_task", True, False),
        *(
            pytest.param(task_type, killed, True, marks=pytest.mark.faults)
            for task_type in ("default_task", "custom_task")
            for killed in (False, True)
        ),
    ],
)
async def test_a_backend_that_takes_a_second(
    replicas: StartReplicas,
    documented: FlyteConfig,
    figures: Figures,
    task_type: str,
    *,
    killed: bool,
    strict: bool,
) -> None:
    timeouts = timeouts_of(find_route(documented, {}, TaskType(task_type)).deployment)
    async with FaultyBackend(latency=(0.0, 1.0)) as backend:
        (service,) = await replicas(backend.url, agents=AGENTS, seconds=1.5)
        async with EngineModel(service.address, resync=0.7, timeouts=timeouts) as engine:
            outcome = Outcome("s3://bucket/run/n0/data")
            handle = await created(engine, task_type, outcome, {})
            if killed:  # between the pending answer and the job
                await service.kill()
                await service.start()
            await engine.poll(task_type, handle, outcome)
            assert (outcome.phase, outcome.is_frozen) == (Phase.SUCCEEDED, False), outcome.message

            second = Outcome("s3://bucket/other/n0/data")
            endless = await created(engine, task_type, second, {"seconds": 100_000})
            async with asyncio.timeout(30.0):
                while not backend.live():
                    await asyncio.sleep(0.05)
                assert await engine.delete(task_type, endless, second)
                while backend.live():
                    await asyncio.sleep(0.05)
        states = sorted(job.state for job in backend.jobs.values())
    errors = [*outcome.create_errors, *second.create_errors]
    figures(
        f"{task_type}, Create {timeouts.create * 1000:.0f} ms, backend 1 s{', killed' if killed else ''}",
        jobs=len(states),
        refused_creates=len(errors),
        polls=len(outcome.asks),
        failed_polls=outcome.failed_polls,
        deletes_repeated=second.failed_deletes,
    )
    # An attempt whose create came too late may have left a job, which a token does not tell of.
    assert 1 <= states.count("SUCCEEDED") <= 1 + len(outcome.create_errors)
    if strict:
        assert (states, errors, outcome.failed_polls) == (["CANCELLED", "SUCCEEDED"], [], 0)


class Refuses(AsyncAgent[Ticket]):
    """Fails each create for good, after a while."""

    task_type = "refuses"
    creates = 0

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def create(self, task: Task) -> Ticket:
        type(self).creates += 1
        await asyncio.sleep(self.seconds)
        raise Fail("no such table: trips", code="TableNotFound")

    async def find(self, task: Task, key: str) -> Ticket | None:
        return None

    async def get(self, job: Ticket) -> Resource:
        raise AssertionError("there is no job")

    async def delete(self, job: Ticket) -> None:
        raise AssertionError("there is no job")


@pytest.mark.parametrize("seconds", [0.0, 1.0], ids=["at once", "behind a pending handle"])
async def test_a_permanent_failure_costs_one_create(figures: Figures, seconds: float) -> None:
    Refuses.creates = 0
    timeouts = Timeouts(create=0.3, get=0.5)
    async with (
        Server([adapt(Refuses(seconds))], ServerSettings(port=0)) as server,
        EngineModel(f"127.0.0.1:{server.port}", resync=0.5, timeouts=timeouts) as engine,
    ):
        outcome = await engine.run("refuses", "task", retries=5)
    figures("Fail in create, 5 retries", creates=Refuses.creates, phase=outcome.phase.name, code=outcome.code)
    assert (Refuses.creates, outcome.attempts) == (1, 1)
    assert (outcome.phase, outcome.code) == (Phase.FAILED, "TableNotFound")
    assert outcome.message.startswith("no such table: trips (TableNotFound, id ")

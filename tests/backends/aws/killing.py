"""Proofs for agents of AWS: one attempt, one job, although answers are lost and the service is killed.

`end_all` kills at random instants while calls fail, and takes up to two minutes: a create that was answered as pending
and died with its service is left to it for a minute. `end_untold` kills at the one worst instant, in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from airside.model import TaskTemplate
from airside.testing.client import Wire

FAULTS: dict[str, Any] = {
    "share": 0.3,
    "kinds": ["reset_before", "reset_after", "429", "503", "503_after", "malformed"],
    "latency": [0.05, 0.3],
    "match": "^POST /",
}


async def end_all(
    agent: str,
    tasks: Sequence[TaskTemplate],
    *,
    run: str,
    upstream: int,
    fault_proxy: Callable[..., Any],
    killed_service: Callable[..., Any],
    endpoint: str = "AWS_ENDPOINT_URL",
    wire: Wire = "v1",
    kills: int = 3,
    least_faults: int = 5,
    options: str = "",
    faults: dict[str, Any] = FAULTS,
) -> Sequence[Any]:
    """Create every task while the service is killed and calls fail, and see each of them succeed.

    Each is asked for again until it has an answer, as Flyte does. Returns the last answers.
    """
    proxy = fault_proxy(upstream, seed=7, **faults)
    service = killed_service(agent, env={endpoint: proxy.url}, options=options, seed=7)
    handles = await service.create(tasks, run=run, kills=kills, wire=wire)
    proxy.set(share=0.0, latency=[0, 0])
    resources: Sequence[Any] = await service.finish(handles, tasks[0].task_type, wire)
    assert service.kills >= 1
    assert sum(proxy.counts()["faults"].values()) >= least_faults
    return resources


async def end_untold(
    agent: str,
    tasks: Sequence[TaskTemplate],
    *,
    door: Any,
    operation: str,
    run: str,
    killed_service: Callable[..., Any],
    endpoint: str = "AWS_ENDPOINT_URL",
    wire: Wire = "v2",
    options: str = "",
) -> Sequence[Any]:
    """Kill the service when AWS has made the job of every task, and before it has told; see each of them succeed.

    `operation` makes a job. Returns the last answers.
    """
    door.lose(operation, len(tasks))
    service = killed_service(agent, env={endpoint: door.url}, options=options)
    handles = await service.create(tasks, run=run, kills=1, wire=wire, ready=lambda: door.to_lose == 0)
    assert (service.kills, door.to_lose) == (1, 0)
    resources: Sequence[Any] = await service.finish(handles, tasks[0].task_type, wire)
    return resources

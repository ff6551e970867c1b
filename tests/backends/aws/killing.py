"""Proofs for agents of AWS: one attempt, one job, although answers are lost and the service is killed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from airside.model import Phase, TaskTemplate
from airside.testing.client import FAMILIES, Wire

FAULTS: dict[str, Any] = {
    "share": 0.3,
    "kinds": ["reset_before", "reset_after", "429", "503", "503_after", "malformed"],
    "latency": [0.05, 0.3],
    "match": "^POST /",
}


def request_of(task: TaskTemplate, wire: Wire, prefix: str) -> Any:
    """The CreateTask of an attempt whose outputs go to this prefix."""
    from airside.wire.template import write_template

    message = FAMILIES[wire].message("CreateTaskRequest")()
    message.template.MergeFromString(write_template(task).SerializeToString())
    message.output_prefix = prefix
    return message


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
    requests = [request_of(task, wire, f"s3://runs/{run}/{number}/0") for number, task in enumerate(tasks)]
    handles = await service.create(requests, kills=kills, wire=wire)
    proxy.set(share=0.0, latency=[0, 0])
    resources: Sequence[Any] = await service.finish(handles, tasks[0].task_type, wire)
    assert [Phase(one.phase) for one in resources] == [Phase.SUCCEEDED] * len(tasks), [one.message for one in resources]
    assert service.kills >= 1
    assert sum(proxy.counts()["faults"].values()) >= least_faults
    return resources

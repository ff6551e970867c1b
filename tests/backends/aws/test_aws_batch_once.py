"""One attempt, one job of AWS Batch, although its answers are lost and the service is killed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from tests.backends.aws.killing import FAULTS, end_all, end_untold

from airside.agents.aws_batch import AWSBatchConfig, AWSBatchTask
from airside.model import Container

pytestmark = pytest.mark.may_block
COUNT = 12


def task(number: int, run: str) -> AWSBatchTask:
    """A container that nobody else asks for."""
    return AWSBatchTask(
        name=f"{run}-{number}",
        container=Container(image="busybox:1", command=("true",)),
        task_config=AWSBatchConfig(job_queue="flights"),
    )


async def test_a_service_killed_before_it_is_told_leaves_one_job(
    batch_queue: Any, door: Any, killed_service: Callable[..., Any]
) -> None:
    run = f"untold{time.time_ns()}"
    tasks = [task(number, run) for number in range(3)]
    await end_untold("aws-batch", tasks, door=door, operation="/submitjob$", run=run, killed_service=killed_service)
    assert len(door.calls("/v1/submitjob")) == 3  # the service that came after has found what was there
    assert jobs_of(batch_queue, run) == [1] * 3


def jobs_of(batch_queue: Any, run: str) -> list[int]:
    """How many jobs of each name there are."""
    shown = batch_queue.list_jobs(jobQueue="flights", filters=[{"name": "JOB_NAME", "values": [f"{run}*"]}])
    return sorted(Counter(one["jobName"] for one in shown["jobSummaryList"]).values())


@pytest.mark.backend  # a create that died with the service is left to it for up to a minute
async def test_the_service_is_killed_during_creates_and_each_attempt_has_one_job(
    batch_queue: Any, door: Any, fault_proxy: Callable[..., Any], killed_service: Callable[..., Any]
) -> None:
    run = f"once{time.time_ns()}"
    await end_all(
        "aws-batch",
        [task(number, run) for number in range(COUNT)],
        run=run,
        upstream=door.port,
        fault_proxy=fault_proxy,
        killed_service=killed_service,
        wire="v2",
        kills=2,
        least_faults=2,
        faults={**FAULTS, "match": "^POST /v1/submitjob"},
    )
    assert jobs_of(batch_queue, run) == [1] * COUNT
    asked = {body["jobName"]: body for body in door.calls("/v1/submitjob")}
    assert all(asked[body["jobName"]] == body for body in door.calls("/v1/submitjob"))

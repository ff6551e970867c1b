"""One attempt, one job of AWS Batch, although its answers are lost and the service is killed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from tests.backends.aws.killing import FAULTS, end_all

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
    shown = batch_queue.list_jobs(jobQueue="flights", filters=[{"name": "JOB_NAME", "values": [f"{run}*"]}])
    assert sorted(Counter(one["jobName"] for one in shown["jobSummaryList"]).values()) == [1] * COUNT
    asked = {body["jobName"]: body for body in door.calls("/v1/submitjob")}
    assert all(asked[body["jobName"]] == body for body in door.calls("/v1/submitjob"))

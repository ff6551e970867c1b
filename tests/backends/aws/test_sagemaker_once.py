"""One attempt, one endpoint, although answers are lost and the service is killed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.backends.aws.conftest import connect
from tests.backends.aws.killing import end_all, end_untold

from airside.agents.sagemaker import SageMakerEndpointTask

pytestmark = pytest.mark.may_block


def task(number: int, run: str) -> SageMakerEndpointTask:
    config = {"EndpointName": f"{run}-{number}", "EndpointConfigName": "flights"}
    return SageMakerEndpointTask(name=f"number-{number}", config=config)


@pytest.fixture
def outside(moto: int) -> Any:
    """SageMaker as another user sees it, with the configuration `flights`."""
    client = connect("sagemaker", f"http://127.0.0.1:{moto}")
    variant = {"VariantName": "all", "ModelName": "flights", "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
    role = "arn:aws:iam::123456789012:role/flights"
    client.create_model(ModelName="flights", ExecutionRoleArn=role, PrimaryContainer={"Image": "registry/model:1"})
    client.create_endpoint_config(EndpointConfigName="flights", ProductionVariants=[variant])
    return client


async def test_a_service_killed_before_it_is_told_leaves_one_endpoint(
    outside: Any, door: Any, killed_service: Callable[..., Any]
) -> None:
    run = f"untold{time.time_ns()}"
    tasks = [task(number, run) for number in range(3)]
    await end_untold("sagemaker", tasks, door=door, operation="CreateEndpoint", run=run, killed_service=killed_service)
    assert (len(door.tokens), door.repeats) == (3, 3)
    assert len(outside.list_endpoints(NameContains=run)["Endpoints"]) == 3


@pytest.mark.backend  # a create whose service was killed is left alone for a minute, so this takes 10 or 80 s
async def test_the_service_is_killed_during_creates_and_each_attempt_has_one_endpoint(
    outside: Any, door: Any, fault_proxy: Callable[..., Any], killed_service: Callable[..., Any]
) -> None:
    run = f"once{time.time_ns()}"
    await end_all(
        "sagemaker",
        [task(number, run) for number in range(12)],
        run=run,
        upstream=door.port,
        fault_proxy=fault_proxy,
        killed_service=killed_service,
        kills=2,
        least_faults=2,
    )
    assert len(door.tokens) == 12  # every other create was refused
    assert len(door.calls("DeleteEndpoint")) == 0

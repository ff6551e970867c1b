"""One attempt, one endpoint, although answers are lost and the service is killed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.backends.aws.conftest import connect

from airside.agents.sagemaker import SageMakerEndpointTask
from airside.model import Phase
from airside.testing.client import FAMILIES

pytestmark = pytest.mark.may_block


def request(number: int, run: str) -> Any:
    from airside.wire.template import write_template

    config = {"EndpointName": f"{run}-{number}", "EndpointConfigName": "flights"}
    message = FAMILIES["v1"].message("CreateTaskRequest")()
    template = write_template(SageMakerEndpointTask(name=f"number-{number}", config=config))
    message.template.MergeFromString(template.SerializeToString())
    message.output_prefix = f"s3://runs/{run}/{number}/0"
    return message


@pytest.mark.backend  # a create whose service was killed is left alone for a minute, so this takes 10 or 80 s
async def test_the_service_is_killed_during_creates_and_each_attempt_has_one_endpoint(
    moto: int, door: Any, fault_proxy: Callable[..., Any], killed_service: Callable[..., Any]
) -> None:
    outside = connect("sagemaker", f"http://127.0.0.1:{moto}")
    variant = {"VariantName": "all", "ModelName": "flights", "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
    role = "arn:aws:iam::123456789012:role/flights"
    outside.create_model(ModelName="flights", ExecutionRoleArn=role, PrimaryContainer={"Image": "registry/model:1"})
    outside.create_endpoint_config(EndpointConfigName="flights", ProductionVariants=[variant])
    run = f"once{time.time_ns()}"
    proxy = fault_proxy(
        door.port,
        seed=3,
        share=0.3,
        kinds=["reset_before", "reset_after", "429", "503", "503_after", "malformed"],
        latency=[0.05, 0.3],
        match="^POST /",
    )
    service = killed_service("sagemaker", env={"AWS_ENDPOINT_URL": proxy.url}, seed=3)
    handles = await service.create([request(number, run) for number in range(12)], kills=2, wire="v1")
    proxy.set(share=0.0, latency=[0, 0])
    resources = await service.finish(handles, "sagemaker-endpoint", "v1")
    assert [Phase(one.phase) for one in resources] == [Phase.SUCCEEDED] * 12
    assert len(door.tokens) == 12  # every other create was refused
    assert sum(proxy.counts()["faults"].values()) >= 2
    assert len(door.calls("DeleteEndpoint")) == 0
    assert service.kills >= 1

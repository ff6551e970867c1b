"""Tasks written with flytekit's own SageMaker plugin, and the example of the documentation, run unchanged."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
from google.protobuf.json_format import MessageToDict
from tests.backends.aws.conftest import connect
from tests.backends.aws.examples import run_example

from airside.agents.boto import BotoAgent
from airside.agents.boto_request import fill
from airside.agents.sagemaker import SageMakerAgent
from airside.model import Phase
from airside.testing.client import RawClient, Wire

PLUGIN = "flytekitplugins-awssagemaker==1.16.*"
WITH_FLYTEKIT = """
from flytekit import kwtypes
from flytekitplugins.awssagemaker_inference import (
    SageMakerEndpointConfigTask, SageMakerEndpointTask, SageMakerModelTask, triton_image_uri
)

model = SageMakerModelTask(
    name="model",
    config={
        "ModelName": "{inputs.model_name}",
        "PrimaryContainer": {"Image": "{images.primary}", "ModelDataUrl": "{inputs.model_path}"},
        "ExecutionRoleArn": "arn:aws:iam::123456789012:role/flights",
    },
    inputs=kwtypes(model_name=str, model_path=str),
    region="eu-west-1",
    images={"primary": triton_image_uri(version="21.08")},
)
configuration = SageMakerEndpointConfigTask(
    name="configuration",
    config={
        "EndpointConfigName": "{inputs.label}-{idempotence_token}",
        "ProductionVariants": [{
            "VariantName": "variant", "ModelName": "{inputs.model_name}",
            "InitialInstanceCount": 1, "InstanceType": "ml.m4.xlarge",
        }],
        "AsyncInferenceConfig": {"OutputConfig": {"S3OutputPath": "{inputs.output}"}},
    },
    inputs=kwtypes(label=str, model_name=str, output=str),
    region="eu-west-1",
)
endpoint = SageMakerEndpointTask(
    name="endpoint",
    config={"EndpointName": "{inputs.label}", "EndpointConfigName": "{inputs.configuration}"},
    inputs=kwtypes(label=str, configuration=str),
    region="eu-west-1",
)
"""
TOKEN = """
import json, sys
import xxhash
from flytekit.utils.dict_formatter import format_dict
from flytekitplugins.awssagemaker_inference.boto3_mixin import convert_floats_with_no_fraction_to_ints, sorted_dict_str

all = []
for config, inputs in json.loads(sys.argv[1]):
    made = convert_floats_with_no_fraction_to_ints(format_dict("sagemaker", config, {"inputs": inputs}))
    token = xxhash.xxh64(sorted_dict_str(made).encode("utf-8")).hexdigest()
    made = format_dict("sagemaker", made, {"inputs": inputs}, idempotence_token=token)
    all.append([made, token])
print(json.dumps(all))
"""

pytestmark = pytest.mark.may_block


def outputs_of(resource: Any, wire: Wire) -> dict[str, Any]:
    literals = resource.outputs.literals
    return dict(literals) if wire == "v1" else {one.name: one.value for one in literals}


async def finished(client: Any, task_type: str, task: Any, prefix: str) -> Any:
    handle = await client.create(task_type, template=task.template, inputs=task.inputs, prefix=prefix)
    while not Phase((resource := await client.get(handle, task_type)).phase).is_terminal:
        await asyncio.sleep(0.05)
    assert Phase(resource.phase) is Phase.SUCCEEDED, resource.message
    return resource


@pytest.mark.parametrize("wire", [pytest.param("v1", marks=pytest.mark.backend), "v2"])
async def test_a_deployment_of_the_plugin_runs_unchanged(
    moto: int,
    door: Any,
    start_service: Callable[..., Any],
    wire: Wire,
    plugin_task: Callable[..., Any],
    tmp_path: Path,
) -> None:
    def made(variable: str, **inputs: Any) -> Any:
        return plugin_task("flytekit", WITH_FLYTEKIT, variable, PLUGIN, **inputs)

    service = await start_service(BotoAgent(), SageMakerAgent())
    client = RawClient(service.channel, wire)
    run = f"{wire}{time.time_ns()}"
    prefix = f"{tmp_path}/{run}"
    model = made("model", model_name="plane", model_path="s3://flights/model.tar.gz")
    answer = outputs_of(await finished(client, "boto", model, f"{prefix}/a/0"), wire)
    assert answer["idempotence_token"].scalar.primitive.string_value == ""
    outside = connect("sagemaker", f"http://127.0.0.1:{moto}")
    assert outside.describe_model(ModelName="plane")["PrimaryContainer"] == {
        "Image": "802834080501.dkr.ecr.eu-west-1.amazonaws.com/sagemaker-tritonserver:21.08-py3",
        "ModelDataUrl": "s3://flights/model.tar.gz",
    }
    configuration = made("configuration", label=run, model_name="plane", output="s3://flights/out")
    answer = outputs_of(await finished(client, "boto", configuration, f"{prefix}/b/0"), wire)
    token = answer["idempotence_token"].scalar.primitive.string_value
    assert len(token) == 16
    endpoint = made("endpoint", label=run, configuration=f"{run}-{token}")
    answer = outputs_of(await finished(client, "sagemaker-endpoint", endpoint, f"{prefix}/c/0"), wire)
    assert json_of(answer["result"]) == {"EndpointArn": outside.describe_endpoint(EndpointName=run)["EndpointArn"]}


def json_of(literal: Any) -> Any:
    """A dictionary, in whichever form it is sent."""
    if literal.scalar.HasField("generic"):
        return MessageToDict(literal.scalar.generic)
    return msgpack.unpackb(literal.scalar.binary.value)


CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"EndpointName": "{inputs.a}-{idempotence_token}", "n": 3.0, "x": 0.5, "l": [2.0, "{inputs.a}"]}, {"a": "trips"}),
    ({"EndpointName": "{inputs.a}-{idempotence_token}"}, {"a": "x" * 55}),
    (
        {"Name": "n-{inputs.idempotence_token}", "b": None, "c": True, "d": {"z": 1, "a": {}}},
        {"idempotence_token": "a" * 80},
    ),
    ({"Count": "{inputs.n}", "Text": "{inputs.n} of {inputs.b}", "T": "{idempotence_token}"}, {"n": 7, "b": True}),
]


def test_the_token_is_the_one_that_the_plugin_makes(environment: Callable[..., Path]) -> None:
    python = environment("flytekit-plugins", PLUGIN) / "bin" / "python"
    done = subprocess.run([str(python), "-c", TOKEN, json.dumps(CASES)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for (config, inputs), (theirs, token) in zip(CASES, json.loads(done.stdout), strict=True):
        ours = fill(config, inputs, None, service="sagemaker")
        assert ours.arguments == theirs
        assert ours.token in ("", token)
    assert all(fill(config, inputs, None).token for config, inputs in CASES if "{idempotence_token}" in str(config))


def test_the_example_of_the_documentation_runs(moto: int, door: Any, tmp_path: Path) -> None:
    outside = connect("sagemaker", f"http://127.0.0.1:{moto}")
    variant = {"VariantName": "a", "ModelName": "delays", "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
    role = "arn:aws:iam::123456789012:role/flights"
    outside.create_model(ModelName="delays", ExecutionRoleArn=role, PrimaryContainer={"Image": "registry/model:1"})
    outside.create_endpoint_config(EndpointConfigName="delays-v3", ProductionVariants=[variant])
    deployed = run_example("sagemaker", tmp_path, "wf.py", "deploy", "--configuration", "delays-v3")
    looked = run_example("sagemaker", tmp_path, "wf.py", "look")
    assert deployed["outputs"]["result"]["EndpointArn"].endswith(":endpoint/delays-delays-v3")
    assert [one["EndpointName"] for one in looked["outputs"]["result"]["Endpoints"]] == ["delays-delays-v3"]

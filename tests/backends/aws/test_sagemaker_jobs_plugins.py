"""Jobs written with flytekit's own SageMaker plugin, and the example of the documentation, run unchanged."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.backends.aws.conftest import connect, outputs_pb
from tests.backends.aws.examples import run_example

from airside.agents import sagemaker_job_tasks
from airside.agents.boto import BotoAgent
from airside.agents.sagemaker import SageMakerAgent
from airside.agents.sagemaker_job_kinds import KINDS
from airside.agents.sagemaker_jobs import SageMakerJobsAgent
from airside.model import Phase
from airside.testing.client import RawClient, Wire

PLUGIN = "flytekitplugins-awssagemaker==1.16.*"
ROLE = "arn:aws:iam::123456789012:role/flights"
WITH_FLYTEKIT = """
from flytekit import kwtypes, task
from flytekitplugins.awssagemaker_batch_transform import SageMakerTransformJobTask
from flytekitplugins.awssagemaker_hyperparameter_tuning import SageMakerHyperParameterTuningJobTask
from flytekitplugins.awssagemaker_inference_recommender import SageMakerInferenceRecommenderJobTask
from flytekitplugins.awssagemaker_processing import SageMakerProcessing, SageMakerProcessingJobTask
from flytekitplugins.awssagemaker_training import (
    SageMakerDescribeTrainingJobTask, SageMakerTraining, SageMakerTrainingJobTask
)

from flytekitplugins.awssagemaker_inference import (
    SageMakerInvokeEndpointTask, create_sagemaker_deployment, delete_sagemaker_deployment
)

ROLE = "arn:aws:iam::123456789012:role/flights"
MACHINE = {"InstanceType": "ml.m5.large", "InstanceCount": 1}
PLACE = {"region": "eu-west-1", "inputs": kwtypes(run=str)}

training_job = SageMakerTrainingJobTask(
    name="train",
    config={
        "TrainingJobName": "{inputs.run}-{idempotence_token}",
        "AlgorithmSpecification": {"TrainingImage": "{images.train}", "TrainingInputMode": "File"},
        "RoleArn": ROLE,
        "OutputDataConfig": {"S3OutputPath": "s3://flights/models"},
        "ResourceConfig": {**MACHINE, "VolumeSizeInGB": 10},
        "StoppingCondition": {"MaxRuntimeInSeconds": 600},
    },
    images={"train": "registry/train:1"},
    **PLACE,
)
processing_job = SageMakerProcessingJobTask(
    name="clean",
    config={
        "ProcessingJobName": "{inputs.run}-clean",
        "AppSpecification": {"ImageUri": "{images.clean}"},
        "RoleArn": ROLE,
        "ProcessingResources": {"ClusterConfig": {**MACHINE, "VolumeSizeInGB": 10}},
    },
    images={"clean": "registry/clean:1"},
    **PLACE,
)
transform_job = SageMakerTransformJobTask(
    name="ask",
    config={
        "TransformJobName": "{inputs.run}-ask",
        "ModelName": "flights",
        "TransformInput": {"DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://flights/in"}}},
        "TransformOutput": {"S3OutputPath": "s3://flights/out"},
        "TransformResources": MACHINE,
    },
    **PLACE,
)
hyperparameter_tuning_job = SageMakerHyperParameterTuningJobTask(
    name="tune",
    config={
        "HyperParameterTuningJobName": "{inputs.run}",
        "HyperParameterTuningJobConfig": {
            "Strategy": "Bayesian", "ResourceLimits": {"MaxNumberOfTrainingJobs": 2, "MaxParallelTrainingJobs": 1},
        },
    },
    **PLACE,
)
inference_recommender_job = SageMakerInferenceRecommenderJobTask(
    name="recommend",
    config={
        "JobName": "{inputs.run}",
        "JobType": "Default",
        "RoleArn": ROLE,
        "InputConfig": {"ModelPackageVersionArn": "arn:aws:sagemaker:eu-west-1:123456789012:model-package/flights/1"},
    },
    **PLACE,
)
describe = SageMakerDescribeTrainingJobTask(
    name="describe", config={"TrainingJobName": "{inputs.run}"}, **PLACE
)

@task(
    task_config=SageMakerTraining(execution_role_arn=ROLE, region="eu-west-1", tags={"team": "a"}),
    container_image="registry/flyte:1",
)
def training_task(run: str) -> int:
    return len(run)

@task(
    task_config=SageMakerProcessing(execution_role_arn=ROLE, region="eu-west-1", job_name_prefix="flights"),
    container_image="registry/flyte:1",
)
def processing_task(run: str) -> int:
    return len(run)

variant = {"VariantName": "a", "ModelName": "deployed", "InitialInstanceCount": 1, "InstanceType": "ml.m4.xlarge"}
deployment = create_sagemaker_deployment(
    name="deployed",
    model_config={
        "ModelName": "deployed",
        "PrimaryContainer": {"Image": "{images.primary}", "ModelDataUrl": "{inputs.model_path}"},
        "ExecutionRoleArn": ROLE,
    },
    endpoint_config_config={"EndpointConfigName": "deployed", "ProductionVariants": [variant]},
    endpoint_config={"EndpointName": "deployed", "EndpointConfigName": "deployed"},
    images={"primary": "registry/model:1"},
    model_input_types=kwtypes(model_path=str),
    region_at_runtime=True,
)
made_model, made_config, made_endpoint = (node.flyte_entity for node in deployment.nodes)
removal = delete_sagemaker_deployment(name="gone", region="eu-west-1")
gone_endpoint, gone_config, gone_model = (node.flyte_entity for node in removal.nodes)
invoke = SageMakerInvokeEndpointTask(
    name="invoke", config={"EndpointName": "deployed-{inputs.token}", "InputLocation": "s3://flights/in"},
    region="eu-west-1", inputs=kwtypes(token=str),
)
"""
RUN, TOKEN = "RUN-RUN-RUN", "TOKEN-TOKEN-TOKE"  # as long as what takes their place
DEPLOYMENT = {
    "made_model": {"model_path": "s3://flights/model.tar.gz", "region": "eu-west-1"},
    "made_config": {"idempotence_token": TOKEN, "region": "eu-west-1"},
    "made_endpoint": {"idempotence_token": TOKEN, "region": "eu-west-1"},
    "invoke": {"token": TOKEN},
    "gone_endpoint": {"endpoint_name": f"deployed-{TOKEN}"},
    "gone_config": {"endpoint_config_name": f"deployed-{TOKEN}"},
    "gone_model": {"model_name": f"deployed-{TOKEN}"},
}
MAKE = """
import base64, importlib, json, runpy, sys

script, file, folder, inputs, told = sys.argv[1:]
made = {}
for name, given in json.loads(inputs).items():
    sys.argv = [script, file, name, json.dumps(given), folder + "/template", folder + "/inputs"]
    runpy.run_path(script)
    made[name] = [base64.b64encode(open(folder + "/" + one, "rb").read()).decode() for one in ("template", "inputs")]
from flytekitplugins.awssagemaker_batch_transform import connector as transform
from flytekitplugins.awssagemaker_hyperparameter_tuning import connector as tuning
from flytekitplugins.awssagemaker_inference_recommender import connector as recommender
from flytekitplugins.awssagemaker_processing import connector as processing
from flytekitplugins.awssagemaker_training import connector as training

makers = {
    "sagemaker-training-job": training._build_outputs, "sagemaker-processing-job": processing._build_outputs,
    "sagemaker-transform-job": transform._build_outputs,
    "sagemaker-inference-recommender-job": recommender._build_outputs,
    "sagemaker-hyperparameter-tuning-job": lambda one: tuning._build_outputs(one, one.get("BestModel")),
}
parts = ("training", "processing", "batch_transform", "hyperparameter_tuning", "inference_recommender")
names = [importlib.import_module("flytekitplugins.awssagemaker_" + part).__all__ for part in parts]
outputs = [makers[kind](one) for kind, one in json.loads(told)]
json.dump([made, names, outputs], open(folder + "/made", "w"))
"""
WHEN = datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
DESCRIPTIONS: list[tuple[str, dict[str, Any]]] = [
    *((kind, {}) for kind in KINDS if kind.endswith("-job")),
    (
        "sagemaker-training-job",
        {
            "TrainingJobArn": "a",
            "TrainingJobName": "n",
            "ModelArtifacts": {"S3ModelArtifacts": "s3://m"},
            "OutputDataConfig": {"S3OutputPath": "s3://o", "KmsKeyId": "k"},
            "FinalMetricDataList": [{"MetricName": "loss", "Value": 0.5, "Timestamp": WHEN}],
            "BillableTimeInSeconds": 7,
        },
    ),
    (
        "sagemaker-processing-job",
        {
            "ProcessingJobName": "n",
            "ProcessingOutputConfig": {
                "Outputs": [
                    {"OutputName": "a", "S3Output": {"S3Uri": "s3://a", "LocalPath": "/a"}},
                    {"OutputName": "b", "FeatureStoreOutput": {"FeatureGroupName": "g"}},
                ]
            },
            "ExitMessage": "done",
            "ProcessingEndTime": WHEN,
        },
    ),
    (
        "sagemaker-transform-job",
        {"ModelName": "m", "TransformOutput": {"S3OutputPath": "s3://o", "Accept": "a"}, "TransformEndTime": WHEN},
    ),
    (
        "sagemaker-hyperparameter-tuning-job",
        {
            "HyperParameterTuningJobName": "n",
            "BestModel": "s3://m",
            "BestTrainingJob": {
                "TrainingJobName": "t",
                "TunedHyperParameters": {"epochs": "9"},
                "FinalHyperParameterTuningJobObjectiveMetric": {"MetricName": "loss", "Value": 0.5, "Type": "Minimize"},
                "TrainingEndTime": WHEN,
            },
            "TrainingJobStatusCounters": {"Completed": 3},
            "ObjectiveStatusCounters": {"Succeeded": 3},
        },
    ),
    (
        "sagemaker-inference-recommender-job",
        {
            "JobName": "n",
            "JobType": "Default",
            "InferenceRecommendations": [
                {
                    "RecommendationId": "1",
                    "Metrics": {"CostPerHour": 0.5, "ModelLatency": 7},
                    "EndpointConfiguration": {"InstanceType": "ml.m5.large", "InitialInstanceCount": 1},
                    "ModelConfiguration": {"CompilationJobName": "c"},
                },
                {"EndpointConfiguration": {"ServerlessConfig": {"MemorySizeInMB": 2048}}, "InvocationEndTime": WHEN},
            ],
            "EndpointPerformances": [{"Metrics": {"MaxInvocations": 3}, "EndpointInfo": {"EndpointName": "e"}}],
            "CompletionTime": WHEN,
        },
    ),
]

pytestmark = pytest.mark.may_block


class Plugin(NamedTuple):
    """What flytekit's plugin makes: templates and inputs by task, the names of its classes, outputs."""

    made: Mapping[str, list[bytes]]
    names: Sequence[str]
    outputs: Sequence[Any]


@pytest.fixture(scope="module")
def plugin(environment: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Plugin:
    """All that is asked of the plugin, in one process."""
    python, folder = environment("flytekit-plugins", PLUGIN) / "bin" / "python", tmp_path_factory.mktemp("made")
    (folder / "wf.py").write_text(WITH_FLYTEKIT)
    script = Path(__file__).parents[1] / "plugins" / "make_flytekit.py"
    names = [*(kind.removeprefix("sagemaker-").replace("-", "_") for kind in KINDS), "describe"]
    inputs: dict[str, dict[str, str]] = {name: {"run": RUN} for name in names} | DEPLOYMENT
    descriptions = json.dumps(DESCRIPTIONS, default=lambda one: one.isoformat())
    argv = [python, "-c", MAKE, script, folder / "wf.py", folder, json.dumps(inputs), descriptions]
    done = subprocess.run([str(one) for one in argv], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    made, names, outputs = json.loads((folder / "made").read_text())
    decoded = {name: [base64.b64decode(one) for one in both] for name, both in made.items()}
    return Plugin(decoded, [name for one in names for name in one], outputs)


async def test_every_task_of_the_plugin_runs_unchanged(
    moto: int,
    door: Any,
    start_service: Callable[..., Any],
    wire: Wire,
    plugin: Plugin,
    tmp_path: Path,
) -> None:
    service = await start_service(SageMakerJobsAgent(), BotoAgent())
    client, run = RawClient(service.channel, wire), f"r{time.time_ns() % 10**10:010d}"
    door.answer("CreateInferenceRecommendationsJob", 200, {"JobArn": "a"})
    recommended = {"JobName": run, "Status": "COMPLETED", "InferenceRecommendations": []}
    for _ in range(3):
        door.answer("DescribeInferenceRecommendationsJob", 200, recommended)
    # The emulator never ends a tuning job.
    tuned = {"HyperParameterTuningJobName": run, "HyperParameterTuningJobStatus": "Completed"}
    for _ in range(3):
        door.answer("DescribeHyperParameterTuningJob", 200, tuned)
    for task_type in KINDS:
        name = task_type.removeprefix("sagemaker-").replace("-", "_")
        template, inputs = (one.replace(RUN.encode(), run.encode()) for one in plugin.made[name])
        prefix = tmp_path / wire / name / "0"
        prefix.mkdir(parents=True)  # what a container would write there
        (prefix / "outputs.pb").write_bytes(outputs_pb(o0=11))
        handle = await client.create(task_type, template=template, inputs=inputs, prefix=str(prefix))
        while not Phase((resource := await client.get(handle, task_type)).phase).is_terminal:
            await asyncio.sleep(0.02)
        assert Phase(resource.phase) is Phase.SUCCEEDED, (task_type, resource.message)
        literals = resource.outputs.literals
        outputs = dict(literals) if wire == "v1" else {one.name: one.value for one in literals}
        if task_type.endswith("-task"):
            assert outputs["o0"].scalar.primitive.integer == 11
        else:
            assert "result" in outputs, task_type
    outside = connect("sagemaker", f"http://127.0.0.1:{moto}")
    trained = [one for one in door.calls("CreateTrainingJob") if one["TrainingJobName"].startswith(f"{run}-")]
    assert [len(one["TrainingJobName"]) for one in trained] == [len(run) + 17]
    [by_function] = [one for one in door.calls("CreateTrainingJob") if one not in trained]
    assert by_function["AlgorithmSpecification"]["ContainerEntrypoint"][0] == "pyflyte-execute"
    assert by_function["OutputDataConfig"] == {"S3OutputPath": f"{tmp_path / wire}/training_task/0/_sagemaker_model"}
    assert {"Key": "team", "Value": "a"} in by_function["Tags"]
    processed = [one["ProcessingJobName"] for one in door.calls("CreateProcessingJob")]
    assert (processed[0], processed[1][:8]) == (f"{run}-clean", "flights-")
    template, inputs = (one.replace(RUN.encode(), b"known-train") for one in plugin.made["describe"])
    outside.create_training_job(**{**trained[0], "TrainingJobName": "known-train"})
    handle = await client.create("boto", template=template, inputs=inputs, prefix=f"{tmp_path}/{wire}/describe/0")
    resource = await client.get(handle, "boto")
    assert Phase(resource.phase) is Phase.SUCCEEDED, resource.message
    assert outside.describe_transform_job(TransformJobName=f"{run}-ask")["ModelName"] == "flights"


async def test_a_deployment_is_made_asked_and_taken_down_again(
    moto: int,
    door: Any,
    start_service: Callable[..., Any],
    wire: Wire,
    plugin: Plugin,
    tmp_path: Path,
) -> None:
    service = await start_service(SageMakerAgent(), BotoAgent())
    client = RawClient(service.channel, wire)

    async def run(name: str, token: str = TOKEN, task_type: str = "boto") -> str:
        template, inputs = (one.replace(TOKEN.encode(), token.encode()) for one in plugin.made[name])
        prefix = f"{tmp_path}/{wire}/{name}/0"
        handle = await client.create(task_type, template=template, inputs=inputs, prefix=prefix)
        while not Phase((resource := await client.get(handle, task_type)).phase).is_terminal:
            await asyncio.sleep(0.02)
        assert Phase(resource.phase) is Phase.SUCCEEDED, (name, resource.message)
        literals = resource.outputs.literals
        outputs = dict(literals) if wire == "v1" else {one.name: one.value for one in literals}
        made_token = outputs.get("idempotence_token")
        return "" if made_token is None else str(made_token.scalar.primitive.string_value)

    model = await run("made_model")
    config = await run("made_config", model)
    await run("made_endpoint", config, "sagemaker-endpoint")
    [asked] = door.calls("CreateEndpoint")
    assert asked["EndpointConfigName"] == f"deployed-{config}"
    [configured] = door.calls("CreateEndpointConfig")
    assert configured["ProductionVariants"][0]["ModelName"] == f"deployed-{model}"
    endpoint = asked["EndpointName"].removeprefix("deployed-")
    door.answer(f"/endpoints/deployed-{endpoint}/async-invocations", 202, {"InferenceId": "a"})
    await run("invoke", endpoint)
    await run("gone_endpoint", endpoint)
    await run("gone_config", config)
    await run("gone_model", model)
    outside = connect("sagemaker", f"http://127.0.0.1:{moto}")
    assert outside.list_endpoints(NameContains=endpoint)["Endpoints"] == []
    assert f"deployed-{model}" not in {one["ModelName"] for one in outside.list_models()["Models"]}


def test_classes_and_outputs_are_those_of_the_plugin(plugin: Plugin) -> None:
    wanted = {name for name in plugin.names if not name.endswith(("Connector", "Metadata"))}
    assert [name for name in sorted(wanted) if not hasattr(sagemaker_job_tasks, name)] == []
    assert [KINDS[kind].outputs(one) for kind, one in DESCRIPTIONS] == plugin.outputs


def test_the_example_of_the_documentation_runs(moto: int, door: Any, tmp_path: Path) -> None:
    result = run_example("sagemaker_jobs", tmp_path, "wf.py", "train", "--epochs", "3")["outputs"]["result"]
    assert result["ModelArtifacts"]["S3ModelArtifacts"].startswith("s3://flights/models/airside-")

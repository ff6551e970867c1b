"""The agent for jobs of SageMaker behind the real service, against moto."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from botocore.session import get_session
from tests.backends.aws.conftest import connect, outputs_pb, write_log
from tests.backends.aws.contract import departures, enum_of
from tests.backends.aws.killing import FAULTS, end_all, end_untold

from airside import kwtypes
from airside.agents import cloudwatch_logs
from airside.agents.sagemaker_job_kinds import KINDS, SECONDARY
from airside.agents.sagemaker_job_tasks import (
    SageMakerHyperParameterTuningJobTask,
    SageMakerInferenceRecommenderJobTask,
    SageMakerProcessing,
    SageMakerProcessingJobTask,
    SageMakerProcessingTask,
    SageMakerTraining,
    SageMakerTrainingJobTask,
    SageMakerTrainingTask,
    SageMakerTransformJobTask,
)
from airside.agents.sagemaker_jobs import Job, SageMakerJobsAgent
from airside.model import Call, Container, Fail, NotFound, OutputsAt, Phase, Retry, Task, TaskTemplate, TaskType
from airside.testing import harness
from airside.testing.client import Wire

MODEL = get_session().get_service_model("sagemaker")
ROLE = "arn:aws:iam::123456789012:role/flights"
TRAINING: dict[str, Any] = {
    "AlgorithmSpecification": {"TrainingImage": "{images.train}", "TrainingInputMode": "File"},
    "RoleArn": ROLE,
    "HyperParameters": {"epochs": "{inputs.epochs}"},
    "OutputDataConfig": {"S3OutputPath": "s3://flights/models"},
    "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 10},
    "StoppingCondition": {"MaxRuntimeInSeconds": 600},
}
PROCESSING: dict[str, Any] = {
    "AppSpecification": {"ImageUri": "registry/clean:1"},
    "RoleArn": ROLE,
    "ProcessingResources": {"ClusterConfig": {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 10}},
    "ProcessingOutputConfig": {
        "Outputs": [
            {
                "OutputName": "clean",
                "S3Output": {
                    "S3Uri": "s3://flights/clean",
                    "LocalPath": "/opt/ml/processing/out",
                    "S3UploadMode": "EndOfJob",
                },
            }
        ]
    },
}
TRANSFORM: dict[str, Any] = {
    "ModelName": "flights",
    "TransformInput": {"DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://flights/in"}}},
    "TransformOutput": {"S3OutputPath": "s3://flights/out"},
    "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
}

pytestmark = pytest.mark.may_block


@pytest.fixture
def sagemaker(moto: int) -> Any:
    return connect("sagemaker", f"http://127.0.0.1:{moto}")


@pytest.fixture
def agent(sagemaker: Any, door: Any) -> Any:
    made = SageMakerJobsAgent()
    made.open(made.Options())
    yield made
    made.close()


def train(**more: Any) -> SageMakerTrainingJobTask:
    config = {**TRAINING, **more}
    return SageMakerTrainingJobTask(
        name="train", config=config, images={"train": "registry/train:1"}, inputs={"epochs": int}
    )


def task_of(template: TaskTemplate, **more: Any) -> Task:
    given = {"key": f"{time.time_ns():032x}", "inputs": {"epochs": 3}, **more}
    return Task(type=TaskType(template.task_type), config=template.config, container=template.container, **given)


def job_of(task_type: str, name: str = "") -> Job:
    return Job(task_type=task_type, name=name or f"job-{time.time_ns()}", region="eu-west-1")


async def test_a_model_is_trained(sagemaker: Any, door: Any, wire: Wire) -> None:
    async with harness(SageMakerJobsAgent(), wire=wire) as h:
        job = await h.create(task=train(), inputs={"epochs": 3})
        first = await h.get(job)
        resource = await h.finish(job)
    assert resource.phase is Phase.SUCCEEDED, resource.message
    [asked] = door.calls("CreateTrainingJob")
    name = f"airside-{job.task.key}"
    assert asked["TrainingJobName"] == name
    assert asked["AlgorithmSpecification"]["TrainingImage"] == "registry/train:1"
    assert asked["HyperParameters"] == {"epochs": "3"}
    assert asked["Tags"] == [{"Key": "airside-key", "Value": job.task.key}]
    result = dict(resource.outputs)["result"]
    assert result["ModelArtifacts"] == {"S3ModelArtifacts": f"s3://flights/models/{name}/output/model.tar.gz"}
    assert result["FinalMetricDataList"][0]["MetricName"] == "train:progress"
    assert first.links[0].uri.endswith(f"/sagemaker/home?region=eu-west-1#/jobs/{name}")
    assert first.links[1].uri.endswith(f"$252Faws$252Fsagemaker$252FTrainingJobs$3FlogStreamNameFilter$3D{name}")
    assert resource.info["metrics"] == {"train:progress": 100.0}


async def test_data_is_processed_and_a_model_is_asked(sagemaker: Any, door: Any) -> None:
    clean = SageMakerProcessingJobTask(name="clean", config=PROCESSING)
    ask = SageMakerTransformJobTask(name="ask", config={**TRANSFORM, "TransformJobName": "t-{idempotence_token}"})
    async with harness(SageMakerJobsAgent()) as h:
        processed = await h.finish(await h.create(task=clean))
        asked = await h.finish(await h.create(task=ask))
    result = dict(processed.outputs)["result"]
    assert result["Outputs"] == [{"OutputName": "clean", "S3Uri": "s3://flights/clean"}]
    result = dict(asked.outputs)["result"]
    assert (result["ModelName"], result["TransformOutput"]) == ("flights", {"S3OutputPath": "s3://flights/out"})
    assert len(result["TransformJobName"]) == len("t-") + 16


@pytest.mark.parametrize(
    ("kind", "operation"), [("training", "CreateTrainingJob"), ("processing", "CreateProcessingJob")]
)
async def test_a_tasks_own_container_runs_as_a_job(sagemaker: Any, door: Any, kind: str, operation: str) -> None:
    config: dict[str, Any] = {"execution_role_arn": ROLE, "region": "eu-west-1", "environment": {"A": "b"}}
    given: dict[str, Any] = {
        "name": "train",
        "container": Container(image="registry/own:1", args=("train", "{{.inputs.epochs}}")),
        "inputs": kwtypes(epochs=int),
        "outputs": kwtypes(n=int),
    }
    models = "s3://flights/models"
    trained = kind == "training"
    place: Any = SageMakerTraining(**config, output_s3_path=models) if trained else SageMakerProcessing(**config)
    make: Any = SageMakerTrainingTask if trained else SageMakerProcessingTask
    async with harness(SageMakerJobsAgent()) as h:
        job = await h.create(task=make(task_config=place, **given), inputs={"epochs": 3})
        Path(job.output_prefix).mkdir(parents=True)  # what the container would write there
        (Path(job.output_prefix) / "outputs.pb").write_bytes(outputs_pb(n=4))
        resource = await h.finish(job)
    assert (resource.phase, dict(resource.outputs)) == (Phase.SUCCEEDED, {"n": 4})
    [asked] = door.calls(operation)
    asked_of = asked["AlgorithmSpecification" if trained else "AppSpecification"]
    assert asked_of["ContainerEntrypoint"] == ["train", "3"]
    assert asked["Environment"].items() >= {"A": "b", "FLYTE_FAIL_ON_ERROR": "true"}.items()
    assert asked[operation.removeprefix("Create") + "Name"] == f"flyte-{job.task.key}"
    assert departures(MODEL, operation, asked) == []


@pytest.mark.parametrize(
    ("container", "config", "message"),
    [
        (Container(image="a:1", args=("a",)), {"region": "eu-west-1"}, "needs config.execution_role_arn"),
        (Container(image="a:1"), {"execution_role_arn": ROLE}, "a container with arguments"),
        (Container(image="a:1", args=("a" * 257,)), {"execution_role_arn": ROLE}, "256 characters"),
        (None, {"execution_role_arn": ROLE}, "needs a container"),
        (
            Container(image="a:1", args=("a",), env={"LONG": "a" * 257}),
            {"execution_role_arn": ROLE},
            "The variable LONG is too long",
        ),
        (
            Container(image="a:1", args=("a",)),
            {"execution_role_arn": ROLE, "network_config": {"EnableNetworkIsolation": True}},
            "isolated container",
        ),
    ],
)
def test_a_container_that_cannot_be_run_fails_for_good(
    agent: SageMakerJobsAgent, container: Container | None, config: dict[str, Any], message: str
) -> None:
    task = Task(type=TaskType("sagemaker-processing-task"), container=container, config=config, key="0a")
    with pytest.raises(Fail, match=message):
        agent.create(task)


def test_a_job_of_the_name_is_taken_if_it_is_this_attempts(agent: SageMakerJobsAgent, door: Any) -> None:
    name = f"named-{time.time_ns()}"
    task = task_of(train(TrainingJobName=name))
    assert agent.create(task) == agent.create(task)
    assert door.repeats == 1
    with pytest.raises(Fail, match=f"There is a job {name} already, which is Completed") as raised:
        agent.create(task_of(train(TrainingJobName=name)))
    assert raised.value.code == "JobExists"


def test_a_job_that_does_the_same_is_taken_unless_it_has_failed(
    agent: SageMakerJobsAgent, sagemaker: Any, door: Any
) -> None:
    template = train(TrainingJobName=f"same{time.time_ns()}-{{idempotence_token}}")
    first = agent.create(task_of(template))
    assert agent.create(task_of(template)) == first
    told = {"TrainingJobName": first.name, "TrainingJobStatus": "Failed"}
    arn = sagemaker.describe_training_job(TrainingJobName=first.name)["TrainingJobArn"]
    door.answer("DescribeTrainingJob", 200, {**told, "TrainingJobArn": arn})
    with pytest.raises(Fail, match="already, which is Failed"):
        agent.create(task_of(template))


@pytest.mark.parametrize(
    ("task_type", "told", "phase", "code", "message"),
    [
        ("sagemaker-training-job", {"SecondaryStatus": "Pending"}, Phase.WAITING_FOR_RESOURCES, "", "Pending"),
        ("sagemaker-training-job", {"SecondaryStatus": "Training"}, Phase.RUNNING, "", "Training"),
        ("sagemaker-training-job", {"TrainingJobStatus": "Paused"}, Phase.RUNNING, "", ""),
        (
            "sagemaker-training-job",
            {"TrainingJobStatus": "Failed", "FailureReason": "CapacityError: Unable to provision"},
            Phase.RETRYABLE_FAILED,
            "CapacityError",
            "Unable to provision",
        ),
        (
            "sagemaker-training-job",
            {"TrainingJobStatus": "Failed", "FailureReason": "ClientError: no data"},
            Phase.FAILED,
            "ClientError",
            "no data",
        ),
        (
            "sagemaker-training-job",
            {"TrainingJobStatus": "Stopped", "SecondaryStatus": "MaxRuntimeExceeded"},
            Phase.FAILED,
            "TimeLimit",
            "MaxRuntimeExceeded",
        ),
        (
            "sagemaker-training-job",
            {"TrainingJobStatus": "Stopped", "SecondaryStatus": "Stopped"},
            Phase.ABORTED,
            "Cancelled",
            "Stopped",
        ),
        ("sagemaker-processing-job", {}, Phase.RUNNING, "", ""),
        (
            "sagemaker-processing-job",
            {"ProcessingJobStatus": "Failed", "ExitMessage": "no wings"},
            Phase.FAILED,
            "JobFailed",
            "no wings",
        ),
        ("sagemaker-transform-job", {"TransformJobStatus": "Stopped"}, Phase.ABORTED, "Cancelled", "stopped"),
        (
            "sagemaker-hyperparameter-tuning-job",
            {"TrainingJobStatusCounters": {"Completed": 3, "InProgress": 1}},
            Phase.RUNNING,
            "",
            "3 trials done, 1 running, 0 failed",
        ),
        (
            "sagemaker-hyperparameter-tuning-job",
            {"HyperParameterTuningJobStatus": "DeleteFailed"},
            Phase.FAILED,
            "JobFailed",
            "no reason",
        ),
        ("sagemaker-inference-recommender-job", {"Status": "PENDING"}, Phase.QUEUED, "", ""),
        (
            "sagemaker-inference-recommender-job",
            {"Status": "FAILED", "FailureReason": "bad model"},
            Phase.FAILED,
            "JobFailed",
            "bad model",
        ),
    ],
)
def test_what_a_job_says_of_itself(
    agent: SageMakerJobsAgent,
    door: Any,
    task_type: str,
    told: dict[str, Any],
    phase: Phase,
    code: str,
    message: str,
) -> None:
    kind, job = KINDS[task_type], job_of(task_type)
    operation = f"Describe{MODEL_NAMES[kind.method]}"
    door.answer(operation, 200, {kind.name: job.name, kind.status: "InProgress", kind.arn: "a", **told})
    resource = agent.get(job, Call())
    assert (resource.phase, resource.code) == (phase, code)
    assert message in resource.message


MODEL_NAMES = {
    "training_job": "TrainingJob",
    "processing_job": "ProcessingJob",
    "transform_job": "TransformJob",
    "hyper_parameter_tuning_job": "HyperParameterTuningJob",
    "inference_recommendations_job": "InferenceRecommendationsJob",
}


def test_a_failed_container_tells_its_error(agent: SageMakerJobsAgent, door: Any) -> None:
    job = Job(task_type="sagemaker-training-task", name="a", region="eu-west-1", place="s3://runs/0")
    door.answer("DescribeTrainingJob", 200, {"TrainingJobStatus": "Failed", "FailureReason": "ClientError: no"})
    assert agent.get(job, Call()).outputs == OutputsAt("s3://runs/0")


def test_the_best_trial_comes_with_its_model(agent: SageMakerJobsAgent, door: Any) -> None:
    best = {
        "TrainingJobName": "trial-7",
        "TunedHyperParameters": {"epochs": "9"},
        "FinalHyperParameterTuningJobObjectiveMetric": {"MetricName": "loss", "Value": 0.5},
    }
    told = {"HyperParameterTuningJobName": "t", "HyperParameterTuningJobStatus": "Completed", "BestTrainingJob": best}
    door.answer("DescribeHyperParameterTuningJob", 200, told)
    door.answer("DescribeTrainingJob", 200, {"ModelArtifacts": {"S3ModelArtifacts": "s3://flights/trial-7"}})
    resource = agent.get(job_of("sagemaker-hyperparameter-tuning-job", "t"), Call())
    result: Any = dict(resource.outputs or {})["result"]  # type: ignore[call-overload]
    assert result["ModelArtifacts"] == {"S3ModelArtifacts": "s3://flights/trial-7"}
    assert result["BestTrainingJob"]["TunedHyperParameters"] == {"epochs": "9"}
    assert door.calls("DescribeTrainingJob") == [{"TrainingJobName": "trial-7"}]


@pytest.mark.parametrize(
    ("kind", "said", "is_lost"),
    [
        ("ValidationException", "Requested resource not found.", True),
        ("AccessDeniedException", "not allowed", False),
        ("ThrottlingException", "slower", False),
    ],
)
def test_a_best_trial_that_cannot_be_looked_at_costs_no_result(
    agent: SageMakerJobsAgent, door: Any, kind: str, said: str, is_lost: bool
) -> None:
    told = {"HyperParameterTuningJobName": "t", "HyperParameterTuningJobStatus": "Completed"}
    door.answer("DescribeHyperParameterTuningJob", 200, {**told, "BestTrainingJob": {"TrainingJobName": "trial-7"}})
    door.answer("DescribeTrainingJob", 400, {"__type": kind, "message": said})
    job = job_of("sagemaker-hyperparameter-tuning-job", "t")
    if not is_lost:
        with pytest.raises(Retry, match=said):
            agent.get(job, Call())
        return
    resource = agent.get(job, Call())
    assert resource.phase is Phase.SUCCEEDED
    result: Any = dict(resource.outputs or {})["result"]  # type: ignore[call-overload]  # as above
    assert result["ModelArtifacts"] == {"S3ModelArtifacts": None}


def test_many_jobs_are_one_list(agent: SageMakerJobsAgent, door: Any) -> None:
    jobs = [agent.create(task_of(train())) for _ in range(4)]
    running = [
        {"TrainingJobName": job.name, "TrainingJobStatus": "InProgress", "SecondaryStatus": "Training"}
        for job in jobs[:3]
    ]
    door.answer("ListTrainingJobs", 200, {"TrainingJobSummaries": running})
    other, gone = job_of("sagemaker-processing-job"), job_of("sagemaker-training-job")
    missing = {"__type": "ValidationException", "message": "Requested resource not found."}
    door.answer("DescribeProcessingJob", 500, {"message": "no"})
    resources = agent.get_many([*jobs, other, gone], Call())
    assert [getattr(one, "phase", None) for one in resources[:4]] == [Phase.RUNNING] * 3 + [Phase.SUCCEEDED]
    assert [type(one) for one in resources[4:]] == [Retry, NotFound]
    assert len(door.calls("ListTrainingJobs")) == 1
    assert len(door.calls("DescribeTrainingJob")) == 2
    door.answer("DescribeTrainingJob", 400, missing)
    with pytest.raises(NotFound):
        agent.get(gone, Call())


def test_a_job_is_stopped_and_one_that_is_over_is_left(agent: SageMakerJobsAgent, door: Any) -> None:
    job = job_of("sagemaker-training-job")
    door.answer("StopTrainingJob", 200, {})
    agent.delete(job, Call())
    over = "The request was rejected because the training job is in a non-running state."
    door.answer("StopTrainingJob", 400, {"__type": "ValidationException", "message": over})
    agent.delete(job, Call())
    assert door.calls("StopTrainingJob") == [{"TrainingJobName": job.name}] * 2
    door.answer("StopTrainingJob", 400, {"__type": "ThrottlingException", "message": "slower"}, Retry_After="9")
    with pytest.raises(Retry) as raised:
        agent.delete(job, Call())
    assert raised.value.after == 9.0


def test_log_lines_and_last_words_come_from_cloudwatch(
    agent: SageMakerJobsAgent, moto: int, door: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloudwatch_logs, "SETTLES", 0.0)
    monkeypatch.setattr(cloudwatch_logs, "_PAUSE", 0.01)
    job = agent.create(task_of(train()))
    assert list(agent.logs(job, after="", limit=9, call=Call())) == []
    write_log(moto, "/aws/sagemaker/TrainingJobs", "another-job/algo-1-17", "not this")
    assert list(agent.logs(job, after="", limit=9, call=Call())) == []
    write_log(moto, "/aws/sagemaker/TrainingJobs", f"{job.name}/algo-1-17", "epoch 1", "ValueError: no wings")
    lines = list(agent.logs(job, after="", limit=9, call=Call()))
    assert [line.message for line in lines] == ["epoch 1", "ValueError: no wings"]
    failed = {"TrainingJobStatus": "Failed", "FailureReason": "AlgorithmError: exit code 1"}
    door.answer("DescribeTrainingJob", 200, failed)
    assert agent.get(job, Call()).message == "AlgorithmError: exit code 1: ValueError: no wings"
    tuning = job_of("sagemaker-hyperparameter-tuning-job", "t")
    over = {"HyperParameterTuningJobStatus": "Completed", "HyperParameterTuningEndTime": 1.0}
    door.answer("DescribeHyperParameterTuningJob", 200, over)
    assert list(agent.logs(tuning, after="", limit=9, call=Call())) == []


@pytest.mark.parametrize("task_type", KINDS)
def test_the_tables_of_states_are_complete(task_type: str) -> None:
    assert set(enum_of(MODEL, KINDS[task_type].shape)) == set(KINDS[task_type].states)
    assert set(enum_of(MODEL, "SecondaryStatus")) == set(SECONDARY)


@pytest.mark.parametrize("task_type", KINDS)
def test_every_name_of_a_kind_is_one_that_the_api_has(task_type: str) -> None:
    kind = KINDS[task_type]
    name = MODEL_NAMES[kind.method]
    described = MODEL.operation_model(f"Describe{name}").output_shape.members
    assert {kind.name, kind.status, kind.arn, kind.ended} <= set(described)
    listed = MODEL.operation_model(f"List{name}s")
    assert {kind.name, kind.status} <= set(listed.output_shape.members[kind.summaries].member.members)
    assert {"SortBy", "SortOrder", "MaxResults", "NextToken"} <= set(listed.input_shape.members)
    assert MODEL.operation_model(f"Create{name}").input_shape.members[kind.name].metadata["max"] == kind.longest
    errors = {shape.name for verb in ("Create", "Describe", "Stop") for shape in
              MODEL.operation_model(f"{verb}{name}").error_shapes}  # fmt: skip
    assert errors <= {"ResourceNotFound", "ResourceInUse", "ResourceLimitExceeded"}


def test_every_request_is_one_that_the_api_describes(agent: SageMakerJobsAgent, door: Any) -> None:
    job = agent.create(task_of(train()))
    agent.create(task_of(SageMakerProcessingJobTask(name="p", config=PROCESSING)))
    agent.create(task_of(SageMakerTransformJobTask(name="t", config=TRANSFORM)))
    tuning = {
        "HyperParameterTuningJobConfig": {"Strategy": "Bayesian", "ResourceLimits": {"MaxParallelTrainingJobs": 1}}
    }
    agent.create(task_of(SageMakerHyperParameterTuningJobTask(name="h", config=tuning)))
    version = "arn:aws:sagemaker:eu-west-1:123456789012:model-package/flights/1"
    recommend = {"JobType": "Default", "RoleArn": ROLE, "InputConfig": {"ModelPackageVersionArn": version}}
    door.answer("CreateInferenceRecommendationsJob", 200, {"JobArn": "a"})
    agent.create(task_of(SageMakerInferenceRecommenderJobTask(name="r", config=recommend)))
    agent.get_many([job, *(job_of("sagemaker-training-job") for _ in range(3))], Call())
    door.answer("StopTrainingJob", 200, {})
    agent.delete(job, Call())
    asked = {name for name, _ in door.asked}
    assert asked == {
        *(f"Create{name}" for name in MODEL_NAMES.values()),
        *("ListTrainingJobs", "DescribeTrainingJob", "StopTrainingJob"),
    }
    assert [problem for name, body in door.asked for problem in departures(MODEL, name, body)] == []


def test_times_in_outputs_are_texts(agent: SageMakerJobsAgent, door: Any) -> None:
    moment = datetime(2024, 1, 2, tzinfo=UTC)
    told = {"TransformJobName": "t", "TransformJobStatus": "Completed", "TransformEndTime": moment.timestamp()}
    door.answer("DescribeTransformJob", 200, told)
    resource = agent.get(job_of("sagemaker-transform-job", "t"), Call())
    result: Any = dict(resource.outputs or {})["result"]  # type: ignore[call-overload]  # as above
    assert datetime.fromisoformat(result["TransformEndTime"]) == moment


async def test_a_service_killed_before_it_is_told_leaves_one_job(
    sagemaker: Any, door: Any, killed_service: Callable[..., Any]
) -> None:
    run = f"untold{time.time_ns()}"
    await end_untold(
        "sagemaker-jobs",
        plain_trainings(run, 3),
        door=door,
        operation="CreateTrainingJob",
        run=run,
        killed_service=killed_service,
    )
    assert (len(door.tokens), door.repeats) == (3, 3)
    asked = door.calls("CreateTrainingJob")
    names = {one["TrainingJobName"] for one in asked}
    assert (len(asked), len(names), len({repr(one) for one in asked})) == (6, 3, 3)


def plain_trainings(run: str, count: int) -> list[TaskTemplate]:
    config = {name: value for name, value in TRAINING.items() if name != "HyperParameters"}
    return [
        SageMakerTrainingJobTask(name=f"{run}-{number}", config=config, images={"train": "registry/train:1"})
        for number in range(count)
    ]


@pytest.mark.backend  # a create that died with the service is left to it for up to a minute
async def test_the_service_is_killed_during_creates_and_each_attempt_has_one_job(
    sagemaker: Any, door: Any, fault_proxy: Callable[..., Any], killed_service: Callable[..., Any]
) -> None:
    run = f"once{time.time_ns()}"
    await end_all(
        "sagemaker-jobs",
        plain_trainings(run, 10),
        run=run,
        upstream=door.port,
        fault_proxy=fault_proxy,
        killed_service=killed_service,
        wire="v2",
        kills=2,
        least_faults=1,
        faults={**FAULTS, "share": 0.2},
    )
    assert len(door.tokens) == 10  # every other create was refused
    asked = door.calls("CreateTrainingJob")
    assert len({repr(one) for one in asked}) == 10  # a repeated create is the same to the letter

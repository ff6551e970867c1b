"""Tasks that are jobs of Amazon SageMaker, with the names and arguments of flytekit's plugin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from airside.agents.sagemaker import SageMakerCall
from airside.model import TaskTemplate, UsageError


@dataclass(frozen=True, kw_only=True)
class SageMakerJob(TaskTemplate):
    """A task that is one job of SageMaker. Its output `result` is what the job has made.

    config: what the job's `create_...` takes; `{inputs.name}` in any text stands for an input, `{images.name}` for one
    of `images`, `{idempotence_token}` for a hash of all arguments. Without a name the job gets one made of the task's
    key.
    """

    region: str | None = None
    images: Mapping[str, str] | None = None
    outputs: Mapping[str, Any] = field(default_factory=lambda: {"result": dict})

    def __post_init__(self) -> None:
        if not self.config:
            raise UsageError(f"Task {self.name!r} needs a config: what SageMaker is asked for.")
        images = dict(self.images) if self.images else None
        object.__setattr__(self, "config", {"config": dict(self.config), "region": self.region, "images": images})
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class SageMakerTrainingJobTask(SageMakerJob):
    """A task that trains a model. `result` says where it is, in `ModelArtifacts`, and has the last metrics.

    >>> config = {"AlgorithmSpecification": {"TrainingImage": "{images.train}", "TrainingInputMode": "File"}}
    >>> SageMakerTrainingJobTask(name="train", config=config, images={"train": "registry/train:1"}).config["images"]
    {'train': 'registry/train:1'}
    """

    task_type: str = "sagemaker-training-job"


@dataclass(frozen=True, kw_only=True)
class SageMakerProcessingJobTask(SageMakerJob):
    """A task that runs a container over data. `result` has the places of its `Outputs`."""

    task_type: str = "sagemaker-processing-job"


@dataclass(frozen=True, kw_only=True)
class SageMakerTransformJobTask(SageMakerJob):
    """A task that asks a model about a batch of data. `result` has the place of the answers, in `TransformOutput`."""

    task_type: str = "sagemaker-transform-job"


@dataclass(frozen=True, kw_only=True)
class SageMakerHyperParameterTuningJobTask(SageMakerJob):
    """A task that looks for the best hyperparameters. `result` has the `BestTrainingJob` and its model."""

    task_type: str = "sagemaker-hyperparameter-tuning-job"


@dataclass(frozen=True, kw_only=True)
class SageMakerInferenceRecommenderJobTask(SageMakerJob):
    """A task that looks for the best machines for a model. `result` has the `InferenceRecommendations`."""

    task_type: str = "sagemaker-inference-recommender-job"


@dataclass(frozen=True, kw_only=True)
class SageMakerContainer:
    """How SageMaker is to run a task's own container.

    execution_role_arn: the role of the job, for images, data and logs. region: such as "eu-west-1".
    max_runtime_in_seconds: after which the job is stopped. environment: besides the container's.
    job_name_prefix: of the job's name; the rest is the task's key.
    """

    execution_role_arn: str
    region: str
    instance_type: str = "ml.m5.large"
    instance_count: int = 1
    volume_size_in_gb: int = 30
    max_runtime_in_seconds: int = 3600
    environment: Mapping[str, str] | None = None
    kms_key_id: str | None = None
    tags: Mapping[str, str] | None = None
    job_name_prefix: str = "flyte-"

    def __post_init__(self) -> None:
        if not self.execution_role_arn or not self.region:
            raise UsageError("A container in SageMaker needs an execution_role_arn and a region.")
        if self.instance_count != 1:
            raise UsageError("A task's container runs on one instance: instance_count is 1.")
        if min(self.volume_size_in_gb, self.max_runtime_in_seconds) < 1:
            raise UsageError("volume_size_in_gb and max_runtime_in_seconds are numbers from 1.")


@dataclass(frozen=True, kw_only=True)
class SageMakerTraining(SageMakerContainer):
    """A container in a training job. output_s3_path: where SageMaker itself leaves a model; vpc_config: `VpcConfig`."""

    output_s3_path: str | None = None
    vpc_config: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class SageMakerProcessing(SageMakerContainer):
    """A container in a processing job. network_config: what SageMaker calls `NetworkConfig`."""

    network_config: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class SageMakerContainerTask(TaskTemplate):
    """A task that runs its container in SageMaker; outputs are what that writes to `outputs.pb`."""

    task_config: SageMakerContainer | None = None

    def __post_init__(self) -> None:
        if self.task_config is None:
            raise UsageError(f"Task {self.name!r} needs a task_config.")
        if self.container is None or not self.container.image:
            raise UsageError(f"Task {self.name!r} needs a container with an image.")
        told = {name: value for name, value in asdict(self.task_config).items() if value is not None}
        object.__setattr__(self, "config", {**told, **self.config})
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class SageMakerTrainingTask(SageMakerContainerTask):
    """A task that runs its container in a training job.

    >>> from airside import Container
    >>> place = SageMakerTraining(execution_role_arn="arn:aws:iam::123456789012:role/flights", region="eu-west-1")
    >>> image = Container(image="registry/train:1", args=("train",))
    >>> SageMakerTrainingTask(name="train", container=image, task_config=place).config["instance_type"]
    'ml.m5.large'
    """

    task_type: str = "sagemaker-training-task"


@dataclass(frozen=True, kw_only=True)
class SageMakerProcessingTask(SageMakerContainerTask):
    """A task that runs its container in a processing job."""

    task_type: str = "sagemaker-processing-task"


class SageMakerStopTrainingJobTask(SageMakerCall):
    """A task that stops a training job."""

    method: ClassVar[str] = "stop_training_job"


class SageMakerDescribeTrainingJobTask(SageMakerCall):
    """A task that gives back the description of a training job."""

    method: ClassVar[str] = "describe_training_job"


class SageMakerStopProcessingJobTask(SageMakerCall):
    """A task that stops a processing job."""

    method: ClassVar[str] = "stop_processing_job"


class SageMakerDescribeProcessingJobTask(SageMakerCall):
    """A task that gives back the description of a processing job."""

    method: ClassVar[str] = "describe_processing_job"


class SageMakerStopTransformJobTask(SageMakerCall):
    """A task that stops a transform job."""

    method: ClassVar[str] = "stop_transform_job"


class SageMakerDescribeTransformJobTask(SageMakerCall):
    """A task that gives back the description of a transform job."""

    method: ClassVar[str] = "describe_transform_job"


class SageMakerStopHyperParameterTuningJobTask(SageMakerCall):
    """A task that stops a tuning job."""

    method: ClassVar[str] = "stop_hyper_parameter_tuning_job"


class SageMakerDescribeHyperParameterTuningJobTask(SageMakerCall):
    """A task that gives back the description of a tuning job."""

    method: ClassVar[str] = "describe_hyper_parameter_tuning_job"


class SageMakerStopInferenceRecommenderJobTask(SageMakerCall):
    """A task that stops an inference recommender job."""

    method: ClassVar[str] = "stop_inference_recommendations_job"


class SageMakerDescribeInferenceRecommenderJobTask(SageMakerCall):
    """A task that gives back the description of an inference recommender job."""

    method: ClassVar[str] = "describe_inference_recommendations_job"

"""The kinds of jobs that Amazon SageMaker has: how each is asked for, what its states mean, what it gives back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from airside.agents.aws import words
from airside.agents.ecs_reasons import Reason
from airside.model import Phase

log = logging.getLogger("airside.agents.sagemaker_jobs")

_COMMON: Mapping[str, Phase] = {
    "InProgress": Phase.RUNNING,
    "Stopping": Phase.RUNNING,
    "Completed": Phase.SUCCEEDED,
    "Failed": Phase.FAILED,  # or RETRYABLE_FAILED: `reason_for` says
    "Stopped": Phase.ABORTED,
}
TUNING: Mapping[str, Phase] = {**_COMMON, "Deleting": Phase.ABORTED, "DeleteFailed": Phase.FAILED}
RECOMMENDATION: Mapping[str, Phase] = {
    "PENDING": Phase.QUEUED,
    "IN_PROGRESS": Phase.RUNNING,
    "STOPPING": Phase.RUNNING,
    "COMPLETED": Phase.SUCCEEDED,
    "FAILED": Phase.FAILED,
    "STOPPED": Phase.ABORTED,
    "DELETING": Phase.ABORTED,
    "DELETED": Phase.ABORTED,
}
SECONDARY: Mapping[str, Phase] = {
    "Starting": Phase.INITIALIZING,
    "Pending": Phase.WAITING_FOR_RESOURCES,
    "LaunchingMLInstances": Phase.INITIALIZING,
    "PreparingTrainingStack": Phase.INITIALIZING,
    "Downloading": Phase.INITIALIZING,
    "DownloadingTrainingImage": Phase.INITIALIZING,
    "Training": Phase.RUNNING,
    "Updating": Phase.RUNNING,
    "Uploading": Phase.RUNNING,
    "Interrupted": Phase.RUNNING,
    "Restarting": Phase.RUNNING,
    "Stopping": Phase.RUNNING,
    "Completed": Phase.RUNNING,  # the status itself says when a job is over
    "Failed": Phase.RUNNING,
    "Stopped": Phase.RUNNING,
    "MaxRuntimeExceeded": Phase.RUNNING,
    "MaxWaitTimeExceeded": Phase.RUNNING,
}
_AGAIN = ("InternalServerError", "InternalError", "CapacityError")
_LIMITS = ("MaxRuntimeExceeded", "MaxWaitTimeExceeded")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of job: `create_` and its like before `method` are boto3's names of what can be asked.

    name, status, ended: the fields of a description with these facts. longest: characters of a name.
    group: of CloudWatch Logs; empty if the kind has no log of its own. page: in the console.
    """

    method: str
    name: str
    status: str
    ended: str
    arn: str
    summaries: str
    states: Mapping[str, Phase]
    outputs: Callable[[Mapping[str, Any]], dict[str, Any]]
    group: str = ""
    page: str = ""
    longest: int = 63
    shape: str


def plain(value: Any) -> Any:
    """A value of an answer, with times as texts."""
    match value:
        case date():
            return value.isoformat()
        case dict():
            return {name: plain(one) for name, one in value.items()}
        case list():
            return [plain(one) for one in value]
    return value


def _some(told: Mapping[str, Any] | None, *names: str) -> dict[str, Any]:
    """These facts of an answer, None for what it leaves out."""
    return {name: plain((told or {}).get(name)) for name in names}


def _training(told: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **_some(told, "TrainingJobArn", "TrainingJobName"),
        "ModelArtifacts": _some(told.get("ModelArtifacts"), "S3ModelArtifacts"),
        "OutputDataConfig": _some(told.get("OutputDataConfig"), "S3OutputPath"),
        "FinalMetricDataList": [
            _some(one, "MetricName", "Value", "Timestamp") for one in told.get("FinalMetricDataList") or ()
        ],
        **_some(told, "BillableTimeInSeconds", "TrainingTimeInSeconds"),
    }


def _processing(told: Mapping[str, Any]) -> dict[str, Any]:
    outputs = []
    for one in (told.get("ProcessingOutputConfig") or {}).get("Outputs") or ():
        place = _some(one, "OutputName")
        if one.get("S3Output"):
            place |= _some(one["S3Output"], "S3Uri")
        if one.get("FeatureStoreOutput"):
            place |= _some(one["FeatureStoreOutput"], "FeatureGroupName")
        outputs.append(place)
    return {
        **_some(told, "ProcessingJobArn", "ProcessingJobName"),
        "Outputs": outputs,
        **_some(told, "ExitMessage", "ProcessingStartTime", "ProcessingEndTime"),
    }


def _transform(told: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **_some(told, "TransformJobArn", "TransformJobName", "ModelName"),
        "TransformOutput": _some(told.get("TransformOutput"), "S3OutputPath"),
        **_some(told, "TransformStartTime", "TransformEndTime"),
    }


def _tuning(told: Mapping[str, Any]) -> dict[str, Any]:
    """`BestModel` in it is where the best job's model is: the agent asks for that by itself."""
    best = told.get("BestTrainingJob") or {}
    model = {"S3ModelArtifacts": told.get("BestModel")}
    return {
        **_some(told, "HyperParameterTuningJobArn", "HyperParameterTuningJobName"),
        "BestTrainingJob": {
            **_some(best, "TrainingJobName", "TrainingJobArn", "TrainingJobStatus", "ObjectiveStatus"),
            "FinalHyperParameterTuningJobObjectiveMetric": _some(
                best.get("FinalHyperParameterTuningJobObjectiveMetric"), "MetricName", "Value"
            ),
            "TunedHyperParameters": dict(best.get("TunedHyperParameters") or {}),
            "ModelArtifacts": model,
            **_some(best, "TrainingStartTime", "TrainingEndTime"),
        },
        "ModelArtifacts": model,
        "TrainingJobStatusCounters": _some(
            told.get("TrainingJobStatusCounters"),
            *("Completed", "InProgress", "RetryableError", "NonRetryableError", "Stopped"),
        ),
        "ObjectiveStatusCounters": _some(told.get("ObjectiveStatusCounters"), "Succeeded", "Pending", "Failed"),
    }


def _recommendation(told: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **_some(told, "JobArn", "JobName", "JobType"),
        "InferenceRecommendations": [_recommended(one) for one in told.get("InferenceRecommendations") or ()],
        "EndpointPerformances": [
            {
                "Metrics": _some(one.get("Metrics"), "MaxInvocations", "ModelLatency"),
                "EndpointInfo": _some(one.get("EndpointInfo"), "EndpointName"),
            }
            for one in told.get("EndpointPerformances") or ()
        ],
        **_some(told, "CompletionTime"),
    }


def _recommended(one: Mapping[str, Any]) -> dict[str, Any]:
    endpoint = one.get("EndpointConfiguration") or {}
    serverless = endpoint.get("ServerlessConfig")
    sizes = ("MemorySizeInMB", "MaxConcurrency", "ProvisionedConcurrency")
    return {
        **_some(one, "RecommendationId"),
        "Metrics": _some(
            one.get("Metrics"),
            *("CostPerHour", "CostPerInference", "MaxInvocations", "ModelLatency", "CpuUtilization"),
            *("MemoryUtilization", "ModelSetupTime"),
        ),
        "EndpointConfiguration": {
            **_some(endpoint, "EndpointName", "VariantName", "InstanceType", "InitialInstanceCount"),
            "ServerlessConfig": _some(serverless, *sizes) if serverless else None,
        },
        "ModelConfiguration": _some(one.get("ModelConfiguration"), "InferenceSpecificationName", "CompilationJobName"),
        **_some(one, "InvocationStartTime", "InvocationEndTime"),
    }


TRAINING_KIND = Kind(
    method="training_job",
    name="TrainingJobName",
    status="TrainingJobStatus",
    ended="TrainingEndTime",
    arn="TrainingJobArn",
    summaries="TrainingJobSummaries",
    states={**_COMMON, "Deleting": Phase.ABORTED},
    outputs=_training,
    group="/aws/sagemaker/TrainingJobs",
    page="jobs",
    shape="TrainingJobStatus",
)
PROCESSING_KIND = Kind(
    method="processing_job",
    name="ProcessingJobName",
    status="ProcessingJobStatus",
    ended="ProcessingEndTime",
    arn="ProcessingJobArn",
    summaries="ProcessingJobSummaries",
    states=_COMMON,
    outputs=_processing,
    group="/aws/sagemaker/ProcessingJobs",
    page="processing-jobs",
    shape="ProcessingJobStatus",
)
KINDS: Mapping[str, Kind] = {
    "sagemaker-training-job": TRAINING_KIND,
    "sagemaker-training-task": TRAINING_KIND,
    "sagemaker-processing-job": PROCESSING_KIND,
    "sagemaker-processing-task": PROCESSING_KIND,
    "sagemaker-transform-job": Kind(
        method="transform_job",
        name="TransformJobName",
        status="TransformJobStatus",
        ended="TransformEndTime",
        arn="TransformJobArn",
        summaries="TransformJobSummaries",
        states=_COMMON,
        outputs=_transform,
        group="/aws/sagemaker/TransformJobs",
        page="transform-jobs",
        shape="TransformJobStatus",
    ),
    "sagemaker-hyperparameter-tuning-job": Kind(
        method="hyper_parameter_tuning_job",
        name="HyperParameterTuningJobName",
        status="HyperParameterTuningJobStatus",
        ended="HyperParameterTuningEndTime",
        arn="HyperParameterTuningJobArn",
        summaries="HyperParameterTuningJobSummaries",
        states=TUNING,
        outputs=_tuning,
        page="hyper-tuning-jobs",
        longest=32,
        shape="HyperParameterTuningJobStatus",
    ),
    "sagemaker-inference-recommender-job": Kind(
        method="inference_recommendations_job",
        name="JobName",
        status="Status",
        ended="CompletionTime",
        arn="JobArn",
        summaries="InferenceRecommendationsJobs",
        states=RECOMMENDATION,
        outputs=_recommendation,
        group="/aws/sagemaker/InferenceRecommendationsJobs",
        longest=64,
        shape="RecommendationJobStatus",
    ),
}
"""The kind of job behind each task type."""


def phase_of(kind: Kind, told: Mapping[str, Any]) -> Phase:
    """The phase of a job; a status that is not known yet is RUNNING, with a warning in the log.

    >>> phase_of(TRAINING_KIND, {"TrainingJobStatus": "InProgress", "SecondaryStatus": "Downloading"}).name
    'INITIALIZING'
    """
    status = str(told[kind.status])
    known = kind.states.get(status)
    if known is None:
        log.warning(
            "SageMaker names a status %r of a %s, which is not known here; it is taken to run", status, kind.method
        )
        return Phase.RUNNING
    if known is Phase.RUNNING and told.get("SecondaryStatus"):
        return SECONDARY.get(str(told["SecondaryStatus"]), Phase.RUNNING)
    return known


def reason_for(kind: Kind, told: Mapping[str, Any]) -> Reason:
    """Why a job has not succeeded.

    >>> told = {"TrainingJobStatus": "Failed", "FailureReason": "AlgorithmError: no wings, exit code: 1"}
    >>> reason_for(TRAINING_KIND, told).code
    'AlgorithmError'
    """
    said = words(str(told.get("FailureReason") or told.get("ExitMessage") or told.get("SecondaryStatus") or ""))
    limit = next((one for one in _LIMITS if one in (told.get("SecondaryStatus"), said.partition(":")[0])), "")
    if limit:
        return Reason(Phase.FAILED, "TimeLimit", said if said != limit else f"it ran into its limit: {limit}")
    phase = kind.states.get(str(told[kind.status]), Phase.FAILED)
    if phase is Phase.ABORTED:
        return Reason(phase, "Cancelled", said or f"the job is {str(told[kind.status]).lower()}")
    prefix, colon, _ = said.partition(":")
    code = prefix if colon and prefix.isidentifier() else "JobFailed"
    again = code in _AGAIN
    return Reason(Phase.RETRYABLE_FAILED if again else Phase.FAILED, code, said or "SageMaker tells no reason")


def message_of(told: Mapping[str, Any]) -> str:
    """What a job that is not over is doing.

    >>> message_of({"TrainingJobStatusCounters": {"Completed": 3, "InProgress": 1, "NonRetryableError": 2}})
    '3 trials done, 1 running, 2 failed'
    """
    counters = told.get("TrainingJobStatusCounters")
    if counters is None:
        return str(told.get("SecondaryStatus") or "")
    failed = (counters.get("RetryableError") or 0) + (counters.get("NonRetryableError") or 0)
    return f"{counters.get('Completed') or 0} trials done, {counters.get('InProgress') or 0} running, {failed} failed"

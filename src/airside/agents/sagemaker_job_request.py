"""What SageMaker is asked for: the job that a task describes, or one around the task's own container."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from airside.agents.boto_request import fill, fit
from airside.agents.flyte_container import container_of, environment_of, rendered
from airside.agents.json_values import to_json
from airside.agents.sagemaker_job_kinds import TRAINING_KIND, Kind
from airside.model import Fail, Task

KEY_TAG = "airside-key"
CONTAINERS = ("sagemaker-training-task", "sagemaker-processing-task")
_ODD = re.compile(r"[^a-zA-Z0-9-]+")
_MOST_WORDS, _LONGEST_WORD, _LONGEST_VALUE = 100, 256, 256


def is_container(task_type: str) -> bool:
    """True for a task that brings its own container, as a function of flytekit does."""
    return task_type in CONTAINERS


def arguments_of(task: Task, kind: Kind, client: Any) -> dict[str, Any]:
    """What the job's `create_...` is called with; the same for every create of one attempt."""
    if is_container(task.type.name):
        asked = _around_container(task, kind)
    else:
        config = dict(task.config.get("config") or {})
        config.setdefault(kind.name, _name("airside", task.key, kind.longest))
        region = client.meta.region_name
        asked = fill(config, task.inputs, task.config.get("images"), service="sagemaker", region=region).arguments
    operation = client.meta.method_to_api_mapping[f"create_{kind.method}"]
    fitted: dict[str, Any] = fit(asked, client.meta.service_model.operation_model(operation).input_shape)
    fitted["Tags"] = [*(fitted.get("Tags") or ()), {"Key": KEY_TAG, "Value": task.key}]
    return fitted


def _name(prefix: str, key: str, longest: int) -> str:
    """A name that ends with the key, as far as there is room.

    >>> _name("flyte-", "0a" * 16, 63)
    'flyte-0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a'
    """
    room = max(longest - len(key) - 1, 0)
    told = _ODD.sub("-", prefix).strip("-")[:room].strip("-")
    return (f"{told}-{key}" if told else key)[:longest]


def _around_container(task: Task, kind: Kind) -> dict[str, Any]:
    config: Mapping[str, Any] = to_json(task.config)
    if not config.get("execution_role_arn"):
        raise Fail(f"A {task.type.name} needs config.execution_role_arn.")
    container = container_of(task)
    words = rendered(task, [*container.command, *container.args])
    if not words:
        raise Fail(f"A {task.type.name} needs a container with arguments: SageMaker runs them as its entry point.")
    if len(words) > _MOST_WORDS or any(len(word) > _LONGEST_WORD for word in words):
        raise Fail(f"SageMaker takes {_MOST_WORDS} arguments of {_LONGEST_WORD} characters each, no more.")
    environment = {
        name: value for name, value in environment_of(task).items() if name != "AIRSIDE_OUTPUT_PREFIX" and value
    }
    environment |= {name: str(value) for name, value in (config.get("environment") or {}).items()}
    environment["FLYTE_FAIL_ON_ERROR"] = "true"
    too_long = [name for name, value in environment.items() if len(value) > _LONGEST_VALUE]
    if too_long and kind is not TRAINING_KIND:
        raise Fail(f"The variable {too_long[0]} is too long: SageMaker takes {_LONGEST_VALUE} characters.")
    machines = {
        "InstanceType": config.get("instance_type") or "ml.m5.large",
        "InstanceCount": int(config.get("instance_count") or 1),
        "VolumeSizeInGB": int(config.get("volume_size_in_gb") or 30),
    }
    if config.get("kms_key_id"):
        machines["VolumeKmsKeyId"] = config["kms_key_id"]
    asked: dict[str, Any] = {
        kind.name: _name(str(config.get("job_name_prefix") or "flyte-"), task.key, kind.longest),
        "RoleArn": config["execution_role_arn"],
        "StoppingCondition": {"MaxRuntimeInSeconds": int(config.get("max_runtime_in_seconds") or 3600)},
        "Environment": environment,
    }
    if config.get("tags"):
        asked["Tags"] = [{"Key": str(name), "Value": str(value)} for name, value in config["tags"].items()]
    image = container.image
    return asked | (_training if kind is TRAINING_KIND else _processing)(task, config, image, words, machines)


def _training(
    task: Task, config: Mapping[str, Any], image: str, words: list[str], machines: dict[str, Any]
) -> dict[str, Any]:
    place = config.get("output_s3_path") or f"{task.output_prefix.rstrip('/')}/_sagemaker_model"
    asked: dict[str, Any] = {
        "AlgorithmSpecification": {
            "TrainingImage": image,
            "ContainerEntrypoint": words,
            "TrainingInputMode": "File",
        },
        "ResourceConfig": machines,
        "OutputDataConfig": {"S3OutputPath": place},
    }
    return asked | ({"VpcConfig": config["vpc_config"]} if config.get("vpc_config") else {})


def _processing(
    _task: Task, config: Mapping[str, Any], image: str, words: list[str], machines: dict[str, Any]
) -> dict[str, Any]:
    network = config.get("network_config") or {}
    if network.get("EnableNetworkIsolation"):
        raise Fail("config.network_config: an isolated container cannot reach its inputs and outputs.")
    asked: dict[str, Any] = {
        "AppSpecification": {"ImageUri": image, "ContainerEntrypoint": words},
        "ProcessingResources": {"ClusterConfig": machines},
    }
    return asked | ({"NetworkConfig": network} if network else {})

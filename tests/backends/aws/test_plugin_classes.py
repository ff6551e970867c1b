"""Our task classes take what the classes of flytekit's plugins take, under the same names."""

from __future__ import annotations

import inspect
import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from airside.agents import athena, aws_batch, boto, emr_serverless, sagemaker, sagemaker_job_tasks

TELL = """
import importlib, inspect, json, sys

names = {}
for one in sys.argv[1:]:
    module, _, name = one.partition(":")
    made = inspect.signature(getattr(importlib.import_module(module), name)).parameters.values()
    names[name] = [each.name for each in made if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
print(json.dumps(names))
"""
ENDPOINTS = (
    "SageMakerModelTask",
    "SageMakerEndpointConfigTask",
    "SageMakerEndpointTask",
    "SageMakerInvokeEndpointTask",
)
DELETES = ("SageMakerDeleteEndpointTask", "SageMakerDeleteEndpointConfigTask", "SageMakerDeleteModelTask")
JOBS = {
    "training": ("SageMakerTraining", "SageMakerTrainingJobTask"),
    "processing": ("SageMakerProcessing", "SageMakerProcessingJobTask"),
    "batch_transform": ("SageMakerTransformJobTask",),
    "hyperparameter_tuning": ("SageMakerHyperParameterTuningJobTask",),
    "inference_recommender": ("SageMakerInferenceRecommenderJobTask",),
}
PLUGINS: dict[str, dict[str, Any]] = {
    "athena": {f"flytekitplugins.athena:{name}": athena for name in ("AthenaConfig", "AthenaTask")},
    "awsbatch": {"flytekitplugins.awsbatch:AWSBatchConfig": aws_batch},
    "awsemrserverless": {
        f"flytekitplugins.awsemrserverless:{name}": emr_serverless
        for name in ("EMRServerless", "EMRServerlessSparkJobDriver", "EMRServerlessHiveJobDriver")
    },
    "awssagemaker": {
        **{f"flytekitplugins.awssagemaker_inference:{name}": sagemaker for name in (*ENDPOINTS, *DELETES)},
        **{f"flytekitplugins.awssagemaker_inference:{name}": boto for name in ("BotoConfig", "BotoTask")},
        **{
            f"flytekitplugins.awssagemaker_{part}:{name}": sagemaker_job_tasks
            for part, names in JOBS.items()
            for name in names
        },
    },
}


def parameters(made: Any) -> Sequence[str]:
    return list(inspect.signature(made).parameters)


@pytest.mark.backend  # an environment for each plugin
@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_class_takes_what_the_plugins_takes(plugin: str, environment: Callable[..., Path]) -> None:
    ours = PLUGINS[plugin]
    python = environment("flytekit-plugins", f"flytekitplugins-{plugin}==1.16.*") / "bin" / "python"
    done = subprocess.run([str(python), "-c", TELL, *ours], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = json.loads(done.stdout)
    left_out = {
        name: sorted(set(theirs[name]) - set(parameters(getattr(module, name))))
        for name, module in ((one.partition(":")[2], module) for one, module in ours.items())
    }
    assert {name: missing for name, missing in left_out.items() if missing} == {}

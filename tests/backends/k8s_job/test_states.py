"""The tables and manifests of the k8s_job agent against the API's own description. Needs no cluster."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import kubernetes_validate
import pytest
from flyteidl2.connector import connector_pb2
from kubernetes import client

from airside import Container, Fail, kwtypes
from airside.agents.k8s_job import K8sJobTask
from airside.agents.k8s_job_manifest import Defaults, manifest_of
from airside.agents.k8s_job_states import CONDITIONS, POD_PHASES
from airside.model import Execution, Interface, Task, TaskType
from airside.wire.template import read_request

VERSIONS = ("1.25", "1.29", "1.33", "1.37")
DEFAULTS = Defaults(
    namespace="flights",
    ttl=600,
    service_account="runner",
    manifests=True,
    image_pull_policy="IfNotPresent",
    host_network=True,
)
POD_TASK = """
from flytekit import PodTemplate, task
from kubernetes import client

side = client.V1Container(name="side", image="side:1")
mount = client.V1VolumeMount(name="d", mount_path="/d")
main = client.V1Container(name="worker", image="flights:1", volume_mounts=[mount])
volume = client.V1Volume(name="d", empty_dir=client.V1EmptyDirVolumeSource())
pod = PodTemplate(
    primary_container_name="worker",
    labels={"team": "x"},
    pod_spec=client.V1PodSpec(containers=[side, main], volumes=[volume]),
)


@task(pod_template=pod, container_image="flights:1")
def count(n: int) -> int:
    return n
"""


def test_every_phase_of_a_pod_is_in_the_table() -> None:
    described = client.V1PodStatus.model_fields["phase"].description
    values = described.partition("phase values:")[2].partition("More info")[0]
    assert set(re.findall(r"(\w+): [A-Z]", values)) == set(POD_PHASES)


def test_every_condition_of_a_job_is_in_the_table() -> None:
    described = client.V1JobStatus.model_fields["conditions"].description
    named = set(re.findall(r'"(\w+)"', described))
    assert named >= {"Complete", "Failed", "Suspended"}
    assert named <= set(CONDITIONS)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_job_is_one_that_kubernetes_describes(version: str) -> None:
    task = K8sJobTask(
        name="all",
        container=Container(
            image="busybox:1",
            command=("echo", "{{.inputs.n}}"),
            env={"A": "{{.inputs.n}}"},
            requests={"cpu": "100m", "ephemeral_storage": "1Gi"},
            limits={"memory": "64Mi", "gpu": "1"},
        ),
        deadline=60,
        job={"spec": {"template": {"spec": {"nodeSelector": {"a": "b"}}}}},
    )
    execution = Execution(project="flights", domain="production", name="f1", node_id="n0", task_name="a.b")
    told = Task(
        type=TaskType("k8s_job"),
        config=task.config,
        container=task.container,
        inputs={"n": 7},
        interface=Interface(inputs=kwtypes(n=int)),
        key="0a" * 16,
        output_prefix="s3://runs/0",
        execution=execution,
    )
    manifest = manifest_of(told, "flights", DEFAULTS)
    kubernetes_validate.validate(manifest, version, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**manifest, "spec": {**manifest["spec"], "backoff": 0}}, version, strict=True)


@pytest.mark.backend
@pytest.mark.may_block
def test_a_pod_template_of_flytekit_is_a_job(plugin_task: Callable[..., Any]) -> None:
    made = plugin_task("flytekit", POD_TASK, "count", "flytekit==1.16.*", "kubernetes", n=7)
    request = connector_pb2.CreateTaskRequest(output_prefix="s3://runs/0")
    request.template.MergeFromString(made.template)
    assert request.template.WhichOneof("target") == "k8s_pod"
    task = read_request(request, key="0a" * 16)
    manifest = manifest_of(task, "flights", DEFAULTS)
    kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)
    template = manifest["spec"]["template"]
    worker, side = template["spec"]["containers"]
    assert (worker["name"], worker["image"], side["name"]) == ("worker", "flights:1", "side")
    assert worker["args"][:1] == ["pyflyte-execute"]
    assert worker["args"][worker["args"].index("--output-prefix") + 1] == "s3://runs/0"
    assert worker["volumeMounts"] == [{"mountPath": "/d", "name": "d"}]
    assert {"name": "FLYTE_FAIL_ON_ERROR", "value": "true"} in worker["env"]
    assert template["metadata"]["labels"]["team"] == "x"
    with pytest.raises(Fail, match="takes no manifests and no pods"):
        manifest_of(task, "flights", replace(DEFAULTS, manifests=False))

"""One attempt, one Job, although the service is killed in the middle of creates."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from airside import Container
from airside.agents.k8s_job import K8sJobTask
from airside.model import Phase
from airside.testing.client import Wire

pytestmark = [
    pytest.mark.backend,
    pytest.mark.may_block,
    pytest.mark.filterwarnings("ignore:Unverified HTTPS request"),
]
COUNT = 24
TASK = K8sJobTask(name="one", container=Container(image="busybox:1", command=("true",)))


@pytest.mark.parametrize("wire", ["v1", "v2"])
async def test_the_service_is_killed_during_creates_and_each_attempt_has_one_job(
    wire: Wire, plane: Any, options: Mapping[str, Any], namespace: str, killed_service: Callable[..., Any]
) -> None:
    table = "\n".join(f"{name} = {json.dumps(value)}" for name, value in options.items())
    service = killed_service("k8s_job", env={}, options=table, seed=7)
    handles = await service.create([TASK] * COUNT, run=f"{wire}-{time.time_ns()}", kills=4, wire=wire)
    made = plane.batch.list_namespaced_job(namespace).items
    assert len(made) == len(set(handles)) == COUNT
    assert len({one.metadata.labels["airside/key"] for one in made}) == COUNT
    assert service.kills >= 1


@pytest.mark.parametrize("wire", ["v1", "v2"])
async def test_answers_are_lost_as_well_and_each_attempt_has_one_job(
    wire: Wire,
    plane: Any,
    namespace: str,
    tmp_path: Path,
    fault_proxy: Callable[..., Any],
    killed_service: Callable[..., Any],
) -> None:
    proxy = fault_proxy(
        plane.port,
        upstream_authority=str(plane.folder / "apiserver" / "apiserver.crt"),
        seed=7,
        share=0.3,
        kinds=["reset_before", "reset_after", "429", "401", "503", "503_after", "malformed"],
        latency=[0.05, 0.3],
        match="^(POST|GET) .*/jobs",
    )
    cluster = {"server": proxy.url, "certificate-authority": proxy.authority}
    told = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "admin", "user": {"token": "admin-token"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "admin"}}],
        "current-context": "x",
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(told))  # JSON is YAML
    table = f'kubeconfig = "{tmp_path}/kubeconfig"\nnamespace = "{namespace}"'
    service = killed_service("k8s_job", env={}, options=table, seed=7)
    handles = await service.create([TASK] * COUNT, run=f"{wire}-{time.time_ns()}", kills=4, wire=wire)
    proxy.set(share=0.0, latency=[0, 0])
    await _run_all_pods(plane, namespace)
    resources = await service.finish(handles, "k8s_job", wire)
    made = plane.batch.list_namespaced_job(namespace).items
    assert [Phase(one.phase) for one in resources] == [Phase.SUCCEEDED] * COUNT
    assert len(made) == len({one.metadata.labels["airside/key"] for one in made}) == COUNT
    assert service.kills >= 1
    faults = proxy.counts()["faults"]
    assert sum(faults.values()) >= 10, faults
    assert {"reset_after", "503_after", "malformed"} & set(faults), faults


async def _run_all_pods(plane: Any, namespace: str) -> None:
    """Play the kubelet: every Job's pod has succeeded."""
    async with asyncio.timeout(120):
        while len(pods := plane.core.list_namespaced_pod(namespace).items) < COUNT:
            await asyncio.sleep(0.2)
    for pod in pods:
        plane.core.patch_namespaced_pod_status(pod.metadata.name, namespace, {"status": {"phase": "Succeeded"}})

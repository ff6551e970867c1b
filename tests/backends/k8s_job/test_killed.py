"""One attempt, one Job, although the service is killed in the middle of creates."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from airside import Container
from airside.agents.k8s_job import K8sJobTask
from airside.testing.client import Wire

pytestmark = [
    pytest.mark.backend,
    pytest.mark.may_block,
    pytest.mark.filterwarnings("ignore:Unverified HTTPS request"),
]
COUNT = 24


@pytest.mark.parametrize("wire", ["v1", "v2"])
async def test_the_service_is_killed_during_creates_and_each_attempt_has_one_job(
    wire: Wire, plane: Any, options: Mapping[str, Any], namespace: str, killed_service: Callable[..., Any]
) -> None:
    table = "\n".join(f"{name} = {json.dumps(value)}" for name, value in options.items())
    service = killed_service("k8s_job", env={}, options=table, seed=7)
    task = K8sJobTask(name="one", container=Container(image="busybox:1", command=("true",)))
    handles = await service.create([task] * COUNT, run=f"{wire}-{time.time_ns()}", kills=4, wire=wire)
    made = plane.batch.list_namespaced_job(namespace).items
    assert len(made) == len(set(handles)) == COUNT
    assert len({one.metadata.labels["airside/key"] for one in made}) == COUNT
    assert service.kills >= 1

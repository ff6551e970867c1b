"""Tasks of flytekit's own Ray plugin run unchanged, on a cluster that is there already."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from flyteidl2.core import tasks_pb2
from tests.backends.ray.conftest import PLUGIN

from airside.agents.ray_job import RayJobAgent
from airside.model import Phase
from airside.testing import harness
from airside.testing.client import Wire

pytestmark = [pytest.mark.backend, pytest.mark.may_block, pytest.mark.timeout(900)]
WITH_FLYTEKIT = """
import ray
from flytekit import task
from flytekitplugins.ray import HeadNodeConfig, RayJobConfig, WorkerNodeConfig

config = RayJobConfig(
    head_node_config=HeadNodeConfig(ray_start_params={"log-color": "True"}),
    worker_node_config=[WorkerNodeConfig(group_name="workers", replicas=1)],
    runtime_env={"env_vars": {"PYTHONPATH": "FOLDER"}},
)

@ray.remote
def square(n):
    return n * n

@task(task_config=config, container_image="ghcr.io/example/flights:v1")
def squares(n: int) -> int:
    return sum(ray.get([square.remote(one) for one in range(n)]))

@task(task_config=config, container_image="ghcr.io/example/flights:v1")
def broken(n: int) -> int:
    if n:
        raise ValueError("no such table: trips")
    return n
"""


def as_an_engine_sends_it(template: bytes, inputs: Path, prefix: str) -> tasks_pb2.TaskTemplate:
    """The template with the paths filled in, which Flyte's engines do before they call."""
    message = tasks_pb2.TaskTemplate.FromString(template)
    values = {
        "{{.input}}": str(inputs),
        "{{.outputPrefix}}": prefix,
        "{{.rawOutputDataPrefix}}": f"{prefix}/raw",
        "{{.checkpointOutputPrefix}}": f"{prefix}/checkpoint",
        "{{.prevCheckpointPrefix}}": '""',
    }
    args = [values.get(one, one) for one in message.container.args]
    del message.container.args[:]
    message.container.args.extend(args)
    return message


@pytest.mark.parametrize("wire", ["v1", "v2"])
async def test_a_function_of_the_plugin_runs_unchanged(
    wire: Wire, cluster: Any, options: Mapping[str, Any], tmp_path: Path, plugin_task: Callable[..., Any]
) -> None:
    source = WITH_FLYTEKIT.replace("FOLDER", str(cluster.folder / "code"))
    (cluster.folder / "code").mkdir(exist_ok=True)
    (cluster.folder / "code" / "wf.py").write_text(source)
    ends = {}
    async with harness(RayJobAgent(), options=options, wire=wire) as h:
        for name in ("squares", "broken"):
            task = plugin_task("flytekit", source, name, *PLUGIN, n=4)
            (tmp_path / "inputs.pb").write_bytes(task.inputs)
            prefix = f"{tmp_path}/{name}/0"
            template = as_an_engine_sends_it(task.template, tmp_path / "inputs.pb", prefix)
            handle = await h.client.create("ray", template=template, inputs=task.inputs, prefix=prefix)
            while not Phase((end := await h.client.get(handle, "ray")).phase).is_terminal:
                await asyncio.sleep(0.2)
            ends[name] = end
    outputs = ends["squares"].outputs.literals
    assert Phase(ends["squares"].phase) is Phase.SUCCEEDED, ends["squares"].message
    literal = outputs["o0"] if wire == "v1" else {one.name: one.value for one in outputs}["o0"]
    assert literal.scalar.primitive.integer == 14
    assert Phase(ends["broken"].phase).is_failure
    assert "no such table: trips" in ends["broken"].message, (ends["broken"], sys.version)

"""Tasks written with flytekit's own plugin for AWS Batch, and the example of the documentation, run unchanged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.backends.aws.conftest import outputs_pb
from tests.backends.aws.examples import run_example

from airside.agents.aws_batch import AWSBatchAgent
from airside.model import Phase
from airside.testing.client import RawClient, Wire

WITH_FLYTEKIT = """
from flytekit import Resources, task
from flytekitplugins.awsbatch import AWSBatchConfig

config = AWSBatchConfig(
    parameters={"codec": "mp4"}, platformCapabilities="EC2", propagateTags=True, tags={"team": "a"},
)

@task(task_config=config, container_image="registry/late:1", limits=Resources(cpu="2", mem="4Gi"), timeout=600)
def late(least: int) -> int:
    return least + 1
"""

pytestmark = pytest.mark.may_block


async def test_a_task_of_the_plugin_runs_unchanged(
    batch_queue: Any,
    door: Any,
    start_service: Callable[..., Any],
    wire: Wire,
    plugin_task: Callable[..., Any],
    tmp_path: Path,
) -> None:
    task = plugin_task("flytekit", WITH_FLYTEKIT, "late", "flytekitplugins-awsbatch==1.16.*", least=3)
    service = await start_service(AWSBatchAgent(), options={"aws-batch": {"queue": "flights"}})
    client = RawClient(service.channel, wire)
    prefix = tmp_path / wire / str(time.time_ns()) / "0"
    (prefix / "0").mkdir(parents=True)  # what the container would write there
    (prefix / "0" / "outputs.pb").write_bytes(outputs_pb(o0=4))
    handle = await client.create("aws-batch", template=task.template, inputs=task.inputs, prefix=str(prefix))
    while not Phase((resource := await client.get(handle, "aws-batch")).phase).is_terminal:
        await asyncio.sleep(0.05)
    assert Phase(resource.phase) is Phase.SUCCEEDED, resource.message
    outputs = resource.outputs.literals
    literal = outputs["o0"] if wire == "v1" else {one.name: one.value for one in outputs}["o0"]
    assert literal.scalar.primitive.integer == 4
    (submitted,) = door.calls("/v1/submitjob")
    overrides = submitted["containerOverrides"]
    assert overrides["command"][:5] == ["pyflyte-execute", "--inputs", "{{.input}}", "--output-prefix", f"{prefix}/0"]
    assert overrides["resourceRequirements"] == [{"type": "VCPU", "value": "2"}, {"type": "MEMORY", "value": "4096"}]
    assert {name: submitted[name] for name in ("parameters", "propagateTags", "tags", "timeout", "jobQueue")} == {
        "parameters": {"codec": "mp4"},
        "propagateTags": True,
        "tags": {"team": "a"},
        "timeout": {"attemptDurationSeconds": 600},
        "jobQueue": "flights",
    }


def test_the_example_of_the_documentation_runs(batch_queue: Any, door: Any, tmp_path: Path) -> None:
    done = run_example("aws_batch", tmp_path, "wf.py", "convert", "--video", "s3://flights/landing.mov")
    assert done["phase"] == "SUCCEEDED"
    (submitted,) = door.calls("/v1/submitjob")
    assert "s3://flights/landing.mov" in submitted["containerOverrides"]["command"]

"""Tasks of flytekit's own Spark plugin run unchanged, on a cluster that is there already."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flyteidl2.core import tasks_pb2
from tests.backends.spark.conftest import SPARK

from airside.agents.spark_submit import SparkSubmitAgent
from airside.model import Phase
from airside.testing import harness
from airside.testing.client import Wire

pytestmark = [pytest.mark.backend, pytest.mark.may_block, pytest.mark.timeout(900)]
WITH_FLYTEKIT = """
from flytekit import current_context, task
from flytekitplugins.spark import Spark

config = Spark(
    spark_conf={"spark.driver.memory": "512m", "spark.executor.memory": "512m", "spark.cores.max": "1"},
    hadoop_conf={"fs.s3a.path.style.access": "true"},
    executor_path="PYTHON",
    applications_path="local://ENTRYPOINT",
)

@task(task_config=config, container_image="ghcr.io/example/flights:v1", environment={"PYTHONPATH": "FOLDER"})
def evens(n: int) -> str:
    spark = current_context().spark_session
    assert spark.sparkContext.getConf().get("spark.hadoop.fs.s3a.path.style.access") == "true"
    return f"{spark.range(n).where('id % 2 = 0').count()} {spark.sparkContext.master}"

@task(task_config=config, container_image="ghcr.io/example/flights:v1", environment={"PYTHONPATH": "FOLDER"})
def broken(n: int) -> str:
    if n:
        raise ValueError("no such table: trips")
    return ""
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
    wire: Wire, spark: Any, tmp_path: Path, plugin_task: Callable[..., Any]
) -> None:
    [entrypoint] = spark.bin.parent.glob("lib/python*/site-packages/flytekit/bin/entrypoint.py")
    source = WITH_FLYTEKIT.replace("FOLDER", str(spark.folder)).replace("ENTRYPOINT", str(entrypoint))
    source = source.replace("PYTHON", str(spark.bin / "python"), 1)
    spark.write("wf.py", source)
    ends = {}
    async with harness(SparkSubmitAgent(), options=dict(spark.options), wire=wire) as h:
        for name in ("evens", "broken"):
            task = plugin_task("flytekit", source, name, *SPARK, n=10)
            (tmp_path / "inputs.pb").write_bytes(task.inputs)
            prefix = f"{tmp_path}/{name}/0"
            template = as_an_engine_sends_it(task.template, tmp_path / "inputs.pb", prefix)
            handle = await h.client.create("spark", template=template, inputs=task.inputs, prefix=prefix)
            while not Phase((end := await h.client.get(handle, "spark")).phase).is_terminal:
                await asyncio.sleep(0.2)
            ends[name] = end
    assert Phase(ends["evens"].phase) is Phase.SUCCEEDED, ends["evens"].message
    outputs = ends["evens"].outputs.literals
    literal = outputs["o0"] if wire == "v1" else {one.name: one.value for one in outputs}["o0"]
    assert literal.scalar.primitive.string_value == f"5 spark://127.0.0.1:{spark.port}"
    assert Phase(ends["broken"].phase).is_failure
    assert "no such table: trips" in ends["broken"].message, json.dumps(ends["broken"].message)

"""Tasks written with flytekit's own Athena plugin, and the example of the documentation, run unchanged."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.backends.aws.examples import run_example

from airside.agents.athena import AthenaAgent
from airside.model import Phase
from airside.testing.client import RawClient, Wire

WITH_FLYTEKIT = """
from flytekit import kwtypes
from flytekit.types.schema import FlyteSchema
from flytekitplugins.athena import AthenaConfig, AthenaTask

late = AthenaTask(
    name="sql.athena.late",
    inputs=kwtypes(tail=str, least=int),
    task_config=AthenaConfig(database="flights", workgroup="primary", catalog="AwsDataCatalog"),
    query_template="SELECT '{{ .Inputs.tail }}' AS tail, {{ .Inputs.least }} AS least",
    output_schema_type=FlyteSchema,
)
"""

pytestmark = pytest.mark.may_block


async def test_a_task_of_the_plugin_runs_unchanged(
    athena: Any, athena_door: Any, start_service: Callable[..., Any], wire: Wire, plugin_task: Callable[..., Any]
) -> None:
    task = plugin_task("flytekit", WITH_FLYTEKIT, "late", "flytekitplugins-athena==1.16.*", tail="it's", least=3)
    service = await start_service(AthenaAgent())
    client = RawClient(service.channel, wire)
    handle = await client.create(
        "presto", template=task.template, inputs=task.inputs, prefix=f"s3://flights/runs/{wire}/{os.getpid()}/0"
    )
    while not Phase((resource := await client.get(handle, "presto")).phase).is_terminal:
        await asyncio.sleep(0.05)
    assert Phase(resource.phase) is Phase.SUCCEEDED, resource.message
    (asked,) = athena_door.calls("StartQueryExecution")
    place = f"s3://flights/runs/{wire}/{os.getpid()}/0/athena/"
    assert {name: value for name, value in asked.items() if name != "ClientRequestToken"} == {
        "QueryString": "SELECT 'it''s' AS tail, 3 AS least",
        "QueryExecutionContext": {"Database": "flights", "Catalog": "AwsDataCatalog"},
        "WorkGroup": "primary",
        "ResultConfiguration": {"OutputLocation": place},
    }
    outputs = resource.outputs.literals
    literal = outputs["results"] if wire == "v1" else {one.name: one.value for one in outputs}["results"]
    uri = literal.scalar.schema.uri
    assert uri.startswith(place)
    assert uri.endswith(".csv")


def test_the_example_of_the_documentation_runs(athena: Any, tmp_path: Path) -> None:
    done = run_example("athena", tmp_path, "wf.py", "how_many", "--least", "2")
    assert done["outputs"] == {"n": 2, "longest": 9.5}

"""Tasks written with Flyte's own Snowflake plugins, and the example of the documentation, run unchanged."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from snowflake.connector import SnowflakeConnection

from airside.agents.snowflake import SnowflakeAgent
from airside.model import Phase

FLYTEKIT = ("flytekitplugins-snowflake==1.16.*",)
FLYTE2 = ("flyteplugins-snowflake==2.*",)
QUERY = "SELECT * FROM trips WHERE delay > %(least)s"
WITH_FLYTEKIT = f"""
from flytekit import kwtypes
from flytekit.types.structured import StructuredDataset
from flytekitplugins.snowflake import SnowflakeConfig, SnowflakeTask

late = SnowflakeTask(
    name="late",
    inputs=kwtypes(least=int),
    query_template="{QUERY}",
    output_schema_type=StructuredDataset,
    task_config=SnowflakeConfig(user="etl", account="org-fake", database="DB1", schema="S1", warehouse="WH"),
)
"""
WITH_FLYTE2 = f"""
import flyte
from flyte.io import DataFrame
from flyteplugins.snowflake import Snowflake, SnowflakeConfig

late = Snowflake(
    name="late",
    inputs={{"least": int}},
    query_template="{QUERY}",
    output_dataframe_type=DataFrame,
    plugin_config=SnowflakeConfig(
        user="etl", account="org-fake", database="DB1", schema="S1", warehouse="WH", connection_kwargs={{"role": "R"}}
    ),
    snowflake_private_key="key",
)
flyte.TaskEnvironment.from_task("snowflake", late)
"""
AIRSIDE = str(Path(sys.executable).with_name("airside"))

pytestmark = pytest.mark.may_block


@pytest.mark.parametrize("kit", ["flytekit", "flyte2"])
async def test_a_task_of_a_plugin_runs_unchanged(
    kit: str,
    door: Any,
    outside: SnowflakeConnection,
    start_service: Callable[..., Any],
    wire: Any,
    plugin_task: Callable[..., Any],
    tmp_path: Path,
) -> None:
    from airside.testing.client import RawClient

    source, packages = (WITH_FLYTEKIT, FLYTEKIT) if kit == "flytekit" else (WITH_FLYTE2, FLYTE2)
    task = plugin_task(kit, source, "late", *packages, least=10)
    service = await start_service(SnowflakeAgent(), options={"snowflake": door})
    client = RawClient(service.channel, wire)
    handle = await client.create("snowflake", template=task.template, inputs=task.inputs, prefix=str(tmp_path / "0"))
    while not Phase((resource := await client.get(handle, "snowflake")).phase).is_terminal:
        await asyncio.sleep(0.05)
    assert Phase(resource.phase) is Phase.SUCCEEDED, resource.message
    outputs = resource.outputs.literals
    literal = outputs["results"] if wire == "v1" else {one.name: one.value for one in outputs}["results"]
    uri = literal.scalar.structured_dataset.uri
    _, user, account, warehouse, database, schema, query_id = re.split(r"\/|://|:", uri)  # as Flyte's plugins read it
    assert (user, account, warehouse, database, schema) == ("etl", "org-fake", "WH", "DB1", "S1")
    assert query_id


def test_the_example_of_the_documentation_runs(emulator: int, tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "agents" / "snowflake.md").read_text()
    [example] = re.findall(r"```python file=wf\.py\n(.*?)```", page, re.DOTALL)
    (tmp_path / "wf.py").write_text(example)
    settings = f'[agents.snowflake]\nhost = "localhost"\nport = {emulator}\nprotocol = "http"\n'
    (tmp_path / "airside.toml").write_text(settings)
    argv = [AIRSIDE, "run", "--json", "wf.py", "how_many", "--least", "10"]
    env = {**os.environ, "AIRSIDE_STATE": str(tmp_path / "state"), "_FSEC_SNOWFLAKE_PASSWORD": "pass-of-etl"}
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outputs"] == {"n": 2, "worst": 30.0}

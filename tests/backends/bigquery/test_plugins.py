"""Tasks written with Flyte's own BigQuery plugins, or after Flyte's documentation, run unchanged."""

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
from google.cloud.bigquery import Client

from airside.agents.bigquery import BigQueryAgent

FLYTEKIT = ("flytekitplugins-bigquery==1.16.*",)
FLYTE2 = ("flyteplugins-bigquery==2.*",)
QUERY = "SELECT * FROM `bigquery-public-data.crypto_dogecoin.transactions` WHERE version = @version LIMIT 10;"
DOCUMENTED = f"""
bigquery_doge_coin = BigQueryTask(
    name=f"bigquery.doge_coin",
    inputs=kwtypes(version=int),
    query_template="{QUERY}",
    output_structured_dataset_type=StructuredDataset,
    task_config=BigQueryConfig(ProjectID="flyte-test-340607")
)
"""
WITH_FLYTEKIT = f"""
from flytekit import StructuredDataset, kwtypes
from flytekitplugins.bigquery import BigQueryConfig, BigQueryTask
from google.cloud.bigquery import QueryJobConfig, ScalarQueryParameter
{DOCUMENTED}
limited = BigQueryTask(
    name="limited",
    inputs=kwtypes(day=str, names=list[str]),
    query_template="SELECT * FROM UNNEST(@names) AS name WHERE @day = DATE '2024-01-02' AND @more = 1",
    output_structured_dataset_type=StructuredDataset,
    task_config=BigQueryConfig(
        ProjectID="flights",
        Location="US",
        QueryJobConfig=QueryJobConfig(
            query_parameters=[ScalarQueryParameter("day", "DATE", None), ScalarQueryParameter("more", "INT64", 1)],
            destination="flights.trips.limited",
            write_disposition="WRITE_TRUNCATE",
            maximum_bytes_billed=10**9,
            priority="BATCH",
        ),
    ),
)
"""  # noqa: S608
WITH_FLYTE2 = f"""
import flyte
from flyte.io import DataFrame
from flyteplugins.bigquery import BigQueryConfig, BigQueryTask

bigquery_doge_coin = BigQueryTask(
    name="bigquery.doge_coin",
    inputs={{"version": int}},
    query_template="{QUERY}",
    output_dataframe_type=DataFrame,
    plugin_config=BigQueryConfig(ProjectID="flyte-test-340607", Location="US"),
)
flyte.TaskEnvironment.from_task("bigquery", bigquery_doge_coin)
"""
WITH_AIRSIDE = f"""
from airside import StructuredDataset, kwtypes
from airside.agents.bigquery import BigQueryConfig, BigQueryTask
{DOCUMENTED}
"""
AIRSIDE = str(Path(sys.executable).with_name("airside"))

pytestmark = pytest.mark.may_block


async def finished(client: Any, handle: bytes) -> Any:
    from airside.model import Phase

    while True:
        resource = await client.get(handle, "bigquery_query_job_task")
        if Phase(resource.phase).is_terminal:
            return resource
        await asyncio.sleep(0.05)


def rows_at(bigquery: Client, uri: str) -> list[dict[str, Any]]:
    assert uri.startswith("bq://")
    return [dict(row) for row in bigquery.list_rows(uri.removeprefix("bq://").replace(":", "."))]


@pytest.mark.parametrize(
    ("kit", "source", "packages"), [("flytekit", WITH_FLYTEKIT, FLYTEKIT), ("flyte2", WITH_FLYTE2, FLYTE2)]
)
async def test_the_documented_task_of_a_plugin_runs_unchanged(
    kit: str,
    source: str,
    packages: tuple[str, ...],
    bigquery: Client,
    serve: Callable[..., Any],
    plugin_task: Callable[..., Any],
    tmp_path: Path,
) -> None:
    task = plugin_task(kit, source, "bigquery_doge_coin", *packages, version=10)
    client = await serve(BigQueryAgent())
    handle = await client.create(
        "bigquery_query_job_task", template=task.template, inputs=task.inputs, prefix=str(tmp_path / "0")
    )
    resource = await finished(client, handle)
    assert not resource.message
    outputs = resource.outputs.literals
    literal = outputs["results"] if client.wire == "v1" else {one.name: one.value for one in outputs}["results"]
    rows = rows_at(bigquery, literal.scalar.structured_dataset.uri)
    assert len(rows) == 10
    assert {row["version"] for row in rows} == {10}


async def test_the_whole_configuration_of_a_plugins_task_is_kept(
    bigquery: Client, serve: Callable[..., Any], plugin_task: Callable[..., Any], tmp_path: Path
) -> None:
    task = plugin_task("flytekit", WITH_FLYTEKIT, "limited", *FLYTEKIT, day="2024-01-02", names=["a", "b"])
    client = await serve(BigQueryAgent())
    handle = await client.create(
        "bigquery_query_job_task", template=task.template, inputs=task.inputs, prefix=str(tmp_path / "0")
    )
    resource = await finished(client, handle)
    assert not resource.message
    assert rows_at(bigquery, "bq://flights:trips.limited") == [{"name": "a"}, {"name": "b"}]
    job = bigquery.get_job(resource.custom_info["job_id"])
    assert (job.maximum_bytes_billed, job.priority) == (10**9, "BATCH")


def test_the_documented_file_runs_with_its_import_lines_changed(bigquery: Client, tmp_path: Path) -> None:
    (tmp_path / "wf.py").write_text(WITH_AIRSIDE)
    argv = [AIRSIDE, "run", "--json", "wf.py", "bigquery_doge_coin", "--version", "10"]
    env = {**os.environ, "AIRSIDE_STATE": str(tmp_path / "state")}
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    table = json.loads(done.stdout)["outputs"]["results"]
    assert len(rows_at(bigquery, table["uri"] if isinstance(table, dict) else table)) == 10


def test_the_example_of_the_documentation_runs(bigquery: Client, tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "agents" / "bigquery.md").read_text()
    [example] = re.findall(r"```python file=wf\.py\n(.*?)```", page, re.DOTALL)
    (tmp_path / "wf.py").write_text(example)
    argv = [AIRSIDE, "run", "--json", "wf.py", "how_many", "--version", "10"]
    env = {**os.environ, "AIRSIDE_STATE": str(tmp_path / "state")}
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outputs"] == {"n": 20, "largest": 39_000}

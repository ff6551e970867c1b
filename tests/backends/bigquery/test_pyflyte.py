"""`pyflyte run` of flytekit's own file, unchanged, with Airside's agent behind it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.cloud.bigquery import Client

from airside.agents.bigquery import BigQueryAgent

ROOT = Path(__file__).parents[3]
QUERY = "SELECT * FROM `bigquery-public-data.crypto_dogecoin.transactions` WHERE version = @version LIMIT 10;"
FILE = f"""
from flytekit import StructuredDataset, kwtypes
from flytekitplugins.bigquery import BigQueryConfig, BigQueryTask

bigquery_doge_coin = BigQueryTask(
    name="bigquery.doge_coin",
    inputs=kwtypes(version=int),
    query_template="{QUERY}",
    output_structured_dataset_type=StructuredDataset,
    task_config=BigQueryConfig(ProjectID="flyte-test-340607")
)
"""

pytestmark = pytest.mark.may_block


@pytest.fixture(scope="session")
def pyflyte(environment: Callable[..., Path]) -> Path:
    """flytekit's command, beside which Airside is installed."""
    packages = ("flytekitplugins-bigquery==1.16.*", "--editable", str(ROOT))
    return environment("flytekit-airside", *packages) / "bin" / "pyflyte"


async def run(pyflyte: Path, folder: Path, version: str, **env: str) -> tuple[int, str]:
    (folder / "wf.py").write_text(FILE)
    argv = [str(pyflyte), "run", "wf.py", "bigquery_doge_coin", "--version", version]
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=folder,
        env={**os.environ, "NO_GCE_CHECK": "true", **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


async def test_the_task_runs_on_our_agent(
    bigquery: Client, start_service: Callable[..., Any], pyflyte: Path, tmp_path: Path
) -> None:
    service = await start_service(BigQueryAgent())
    before = {job.job_id for job in bigquery.list_jobs(project="flyte-test-340607")}
    code, out = await run(pyflyte, tmp_path, "10", AIRSIDE_ENDPOINT=service.address)
    assert code == 0, out
    made = {job.job_id for job in bigquery.list_jobs(project="flyte-test-340607")} - before
    [job_id] = made
    assert job_id.startswith("airside_")
    rows = list(bigquery.get_job(job_id, project="flyte-test-340607").result())
    assert (len(rows), {row["version"] for row in rows}) == (10, {10})
    assert "StructuredDataset(" in out


async def test_a_service_that_is_not_there_is_named(
    bigquery: Client, free_port: Callable[[], int], pyflyte: Path, tmp_path: Path
) -> None:
    endpoint = f"localhost:{free_port()}"
    code, out = await run(pyflyte, tmp_path, "10", AIRSIDE_ENDPOINT=endpoint)
    assert code != 0
    assert f"AIRSIDE_ENDPOINT={endpoint}: no agent service answers there" in " ".join(out.split()), out

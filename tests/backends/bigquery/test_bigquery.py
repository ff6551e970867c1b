"""The BigQuery agent behind the real service, against the emulator."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from google.cloud.bigquery import Client

from airside import kwtypes
from airside.agents.bigquery import BigQueryAgent, BigQueryConfig, BigQueryTask
from airside.model import Execution, Phase, StructuredDataset
from airside.testing import harness

Wire = Literal["v1", "v2"]
SLOW = (
    "SELECT COUNT(*) AS n FROM UNNEST(GENERATE_ARRAY(1, 20000)) a "
    "CROSS JOIN UNNEST(GENERATE_ARRAY(1, 60000)) b WHERE MOD(a*b, 7) = 3"
)

pytestmark = pytest.mark.may_block  # the client of the tests does


def query(sql: str, **more: Any) -> BigQueryTask:
    config = more.pop("task_config", BigQueryConfig(ProjectID="flights", Location="US"))
    return BigQueryTask(name="asked", query_template=sql, task_config=config, **more)


doge = query(
    "SELECT * FROM `bigquery-public-data.crypto_dogecoin.transactions` WHERE version = @version LIMIT 10",
    inputs=kwtypes(version=int),
    output_structured_dataset_type=StructuredDataset,
)


@pytest.fixture(params=["v1", "v2"])
def wire(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_a_query_ends_with_the_table_of_its_result(bigquery: Client, wire: Wire) -> None:
    async with harness(BigQueryAgent(), wire=wire) as h:
        job = await h.create(task=doge, inputs={"version": 10})
        first = await h.get(job)
        resource = await h.finish(job)
    assert resource.phase is Phase.SUCCEEDED, resource.message
    table = dict(resource.outputs)["results"].uri
    assert table.startswith("bq://flights:")
    rows = list(bigquery.list_rows(table.removeprefix("bq://").replace(":", ".")))
    assert len(rows) == 10
    assert {row["version"] for row in rows} == {10}
    assert first.links[0].name == "BigQuery Console"
    assert f"j=bq:US:airside_{job.task.key}&" in first.links[0].uri
    assert resource.info["job_id"] == f"airside_{job.task.key}"
    assert resource.info["cache_hit"] is False
    assert resource.info["bytes_billed"] == 0

"""Agents on this machine keep to one job an attempt, whoever asks for it again."""

from __future__ import annotations

from pathlib import Path

from airside import kwtypes
from airside.agents.duckdb_query import DuckDBAgent, DuckDBQuery
from airside.agents.sleep import SleepAgent
from airside.model import Phase, Task, TaskType
from airside.testing import harness


async def test_a_query_is_one_process_although_the_service_was_killed(tmp_path: Path) -> None:
    task = DuckDBQuery(name="n", query="SELECT 7 AS n", outputs=kwtypes(n=int))
    async with harness(DuckDBAgent, process=True, options={"state_dir": str(tmp_path / "jobs")}) as h:
        job = await h.create(task=task)
        await h.restart(kill=True)
        again = await h.create(task=task, output_prefix=job.task.output_prefix)
        for one in (job, again):
            resource = await h.finish(one)
            assert (resource.phase, dict(resource.outputs or {})) == (Phase.SUCCEEDED, {"n": 7})
    assert len(list((tmp_path / "jobs").iterdir())) == 1


async def test_a_sleep_made_by_another_service_is_the_same_one(tmp_path: Path) -> None:
    task = Task(type=TaskType("sleep"), inputs={"seconds": 60}, key="0a" * 16)
    made = [SleepAgent().create(task) for _ in range(2)]
    assert made[0].id == made[1].id == task.key

"""One attempt, one batch of OpenAI, although its answers are lost and the service is killed."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from tests.backends.openai.conftest import KEY

from airside.agents.openai_batch import OpenAIBatchTask
from airside.testing.client import Wire

pytestmark = [pytest.mark.may_block, pytest.mark.timeout(300)]


@pytest.mark.parametrize(
    ("wire", "tasks", "kills"),
    [pytest.param("v1", 8, 1, marks=pytest.mark.backend), pytest.param("v2", 40, 6, marks=pytest.mark.faults)],
)
async def test_the_service_is_killed_during_creates_and_each_attempt_has_one_batch(
    wire: Wire,
    tasks: int,
    kills: int,
    door: Any,
    llmock: int,
    fault_proxy: Callable[..., Any],
    killed_service: Callable[..., Any],
) -> None:
    run = f"{wire}-{time.time_ns()}"
    proxy = fault_proxy(
        llmock,
        seed=7,
        share=0.3,
        kinds=["reset_before", "reset_after", "429", "503", "503_after", "malformed"],
        latency=[0.05, 0.3],
        match="^(POST|GET) /v1/batches",
    )
    env = {"_FSEC_FLYTE_OPENAI_API_KEY": KEY}
    service = killed_service("openai-batch", env=env, options=f'base_url = "{proxy.url}/v1"', seed=7)
    task = OpenAIBatchTask(name="one", config={"metadata": {"run": run}})
    inputs = {"input_file_id": await asyncio.to_thread(uploaded, door)}
    handles = await service.create([task] * tasks, run=run, kills=kills, wire=wire, inputs=inputs)
    proxy.set(share=0.0, latency=[0, 0])
    await service.finish(handles, "openai-batch", wire)
    made = await asyncio.to_thread(keys, door, run)
    assert sorted(made.values()) == [1] * tasks
    assert service.kills >= 1
    assert sum(proxy.counts()["faults"].values()) >= 1


def uploaded(door: Any) -> str:
    """The id of a file with one request."""
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": []}}
    fields = {'name="purpose"': "batch", 'name="file"; filename="in.jsonl"': json.dumps(line)}
    parts = [f"--xyz\r\nContent-Disposition: form-data; {name}\r\n\r\n{text}\r\n" for name, text in fields.items()]
    answer = door.send("/v1/files", "".join([*parts, "--xyz--\r\n"]).encode(), "multipart/form-data; boundary=xyz")
    return str(json.loads(answer)["id"])


def keys(door: Any, run: str) -> Counter[str]:
    """How many batches there are for each attempt of a run."""
    made: Counter[str] = Counter()
    after = ""
    while True:
        page = json.loads(door.send_get(f"/v1/batches?limit=100{after}"))
        made.update(one["metadata"]["airside_key"] for one in page["data"] if one["metadata"].get("run") == run)
        if not page["has_more"]:
            return made
        after = f"&after={page['data'][-1]['id']}"

"""Tasks that flytekit's own plugin serialised run unchanged.

`plugin_templates.json` is what `plugin_tasks.py` prints in an environment with the plugin; the heavy test makes it
anew.
"""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flyteidl2.core import tasks_pb2

from airside import Phase
from airside.agents.chatgpt import ChatGPTAgent
from airside.agents.openai_batch import OpenAIBatchAgent
from airside.testing import harness

HERE = Path(__file__).parent
PACKAGES = ("flytekit==1.16.31", "flytekitplugins-openai==1.16.31", "setuptools")


def read(printed: str) -> dict[str, tasks_pb2.TaskTemplate]:
    return {
        name: tasks_pb2.TaskTemplate.FromString(base64.b64decode(data)) for name, data in json.loads(printed).items()
    }


def recorded() -> dict[str, tasks_pb2.TaskTemplate]:
    return read((HERE / "plugin_templates.json").read_text())


async def finished(client: Any, handle: bytes, task_type: str) -> Any:
    while True:
        resource = await client.get(handle, task_type)
        if Phase(resource.phase).is_terminal:
            return resource
        await asyncio.sleep(0.1)


async def test_a_batch_of_the_plugin_runs(wire: Any, door: Any) -> None:
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": []}}
    boundary = "xyz"
    content = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n'
        f"{json.dumps(line)}\r\n--{boundary}--\r\n"
    )
    file_id = json.loads(door.send("/v1/files", content.encode(), f"multipart/form-data; boundary={boundary}"))["id"]
    async with harness(OpenAIBatchAgent, wire=wire, options={"base_url": f"{door.url}/v1"}) as h:
        request = h.client.create_request(
            "openai-batch",
            template=recorded()["openai-batch"],
            inputs={"input_file_id": file_id},
            prefix=f"/tmp/airside/{door.port}/0",
        )
        handle = (await h.client.call("CreateTask", request)).resource_meta
        resource = await finished(h.client, handle, "openai-batch")
    assert Phase(resource.phase) is Phase.SUCCEEDED, resource
    names = [*resource.outputs.literals] if wire == "v1" else [one.name for one in resource.outputs.literals]
    assert names == ["result"]
    create = next(one for one in door.calls("/v1/batches") if one.method == "POST")
    assert create.headers["openai-organization"] == "org-1"
    assert create.body["metadata"]["team"] == "a"
    assert (create.body["completion_window"], create.body["endpoint"]) == ("24h", "/v1/chat/completions")


async def test_a_chat_of_the_plugin_runs(door: Any) -> None:
    template = recorded()["chatgpt"]
    async with harness(ChatGPTAgent, wire="v1", options={"base_url": f"{door.url}/v1"}) as h:
        header = h.client.sync_header("chatgpt", template=template)
        (answer,) = await h.client.do(header, h.client.sync_inputs({"message": "hello"}))
    resource = answer.header.resource
    assert Phase(resource.phase) is Phase.SUCCEEDED, resource
    assert resource.outputs.literals["o0"].scalar.primitive.string_value
    (asked,) = door.calls("/v1/chat/completions")
    assert asked.body == {
        "model": "gpt-4o-mini",
        "temperature": 0.7,
        "max_tokens": 40,
        "messages": [{"role": "user", "content": "hello"}],
    }


@pytest.mark.backend
def test_the_recorded_templates_are_those_of_the_plugin(environment: Callable[..., Path]) -> None:
    python = environment("flyte-openai", *PACKAGES) / "bin" / "python"
    made = subprocess.run([python, "plugin_tasks.py"], cwd=HERE, capture_output=True, text=True, check=True)
    assert read(made.stdout) == recorded()

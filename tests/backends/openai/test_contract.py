"""The agents' requests as they went over the wire against OpenAI's own description of its API.

`description.json` is what `cut_description.py` leaves of it.
"""

from __future__ import annotations

import asyncio
import email
import email.policy
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from tests.backends.door import Asked

from airside import File, Phase, kwtypes
from airside.agents.chatgpt import ChatGPTAgent, ChatGPTTask
from airside.agents.openai_batch import STATES, OpenAIBatchAgent, OpenAIBatchTask
from airside.model import Call
from airside.sdk.adapt import adapt
from airside.testing import harness

Description = Mapping[str, Any]


@pytest.fixture(scope="module")
def description() -> Description:
    told: Description = json.loads(Path(__file__).with_name("description.json").read_text())
    return told


async def test_every_request_is_one_that_the_api_describes(door: Any, description: Description, tmp_path: Path) -> None:
    await everything(door, tmp_path)
    problems = [problem for one in door.asked for problem in judge(one, description)]
    assert not problems
    described = {(method, path) for path, methods in description["paths"].items() for method in methods}
    assert {operation_of(one, description) for one in door.asked} == described


def test_the_table_of_states_is_complete(description: Description) -> None:
    assert set(description["components"]["schemas"]["Batch"]["properties"]["status"]["enum"]) == set(STATES)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"path": "/v1/batch"}, "no such operation"),
        ({"query": {"page": "2"}}, "no parameter page"),
        ({"body": {"input_file_id": "file-1", "endpoint": "/v1/responses"}}, "'completion_window' is a required"),
        ({"body": {"metadata": {"a": 1}}}, "{'a': 1} is not valid"),
        ({"body": {"input_file": "file-1"}}, "input_file"),
    ],
)
def test_a_request_that_is_not_described_is_noticed(
    description: Description, changed: Mapping[str, Any], says: str
) -> None:
    asked = {"method": "POST", "path": "/v1/batches", "query": {}, "body": {}, "headers": {}, **changed}
    assert any(says in problem for problem in judge(Asked(**asked), description))


async def everything(door: Any, folder: Path) -> None:
    """Every request that the two agents ever make."""
    options = {"base_url": f"{door.url}/v1", "allowed_directories": [str(folder)]}
    task = OpenAIBatchTask(
        name="b",
        inputs=kwtypes(requests=list[dict]),
        outputs=kwtypes(output_file=File),
        config={"metadata": {"team": "a"}},
    )
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    agent = adapt(OpenAIBatchAgent())
    await agent.open(OpenAIBatchAgent.Options(**options))
    async with harness(OpenAIBatchAgent, options=options) as h:
        works = [
            h.task(task=task, inputs={"requests": [line]}, output_prefix=str(folder / str(number)))
            for number in range(2)
        ]
    assert await agent.find(works[0], works[0].key, Call()) is None
    metas = [await agent.create(work, Call()) for work in works]
    await agent.delete(metas[1], Call())
    await asyncio.to_thread(agent.author.probe)
    async with asyncio.timeout(60):
        while (await agent.get_many(metas, Call()))[0].phase is not Phase.SUCCEEDED:
            await asyncio.sleep(0.1)
    assert (await agent.get(metas[0], Call())).phase is Phase.SUCCEEDED
    await agent.close()
    chat = ChatGPTTask(name="ask", chatgpt_config={"model": "gpt-4o-mini", "temperature": 0.5, "max_tokens": 40})
    async with harness(ChatGPTAgent, wire="v1", options={"base_url": f"{door.url}/v1"}) as h:
        assert (await h.do(task=chat, inputs={"message": "hello"})).phase is Phase.SUCCEEDED


def operation_of(asked: Asked, description: Description) -> tuple[str, str] | None:
    """Method and path of the operation in the description; None if there is no such one."""
    path = asked.path.removeprefix("/v1")
    for described, methods in description["paths"].items():
        pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(described))
        if re.fullmatch(pattern, path) and asked.method.lower() in methods:
            return asked.method.lower(), described
    return None


def judge(asked: Asked, description: Description) -> list[str]:
    """What is wrong with a request."""
    found = operation_of(asked, description)
    if found is None:
        return [f"{asked.method} {asked.path}: no such operation"]
    method, path = found
    operation = description["paths"][path][method]
    parameters = [one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"]
    problems = [f"{path}: no parameter {name}" for name in asked.query if name not in parameters]
    content = operation.get("requestBody", {}).get("content", {})
    kind = "multipart/form-data" if "multipart/form-data" in content else "application/json"
    if not content:
        return [*problems, *([f"{path}: it takes no body"] if asked.body else [])]
    body = form_of(asked) if kind == "multipart/form-data" else asked.body
    schema = {**content[kind]["schema"], "unevaluatedProperties": False, "components": description["components"]}
    return [*problems, *(f"{path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(body))]


def form_of(asked: Asked) -> dict[str, str]:
    """The fields of a form, by name."""
    head = f"Content-Type: {asked.headers['content-type']}\r\n\r\n".encode()
    form = email.message_from_bytes(head + asked.body, policy=email.policy.HTTP)
    return {
        str(part.get_param("name", header="content-disposition")): str(part.get_payload()) for part in form.iter_parts()
    }

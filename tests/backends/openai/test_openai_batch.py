"""The openai-batch agent against llmock, and against answers in the shape of OpenAI's own."""

from __future__ import annotations

import asyncio
import json
import re
import typing
from pathlib import Path
from typing import Any

import pytest
from openai.types import Batch as TheirBatch
from openai.types import BatchCreateParams

from airside import Connection, Fail, File, NotFound, Phase, Retry, kwtypes
from airside.agents.openai_batch import STATES, Batch, OpenAIBatchAgent, OpenAIBatchTask
from airside.model import Call
from airside.sdk.adapt import adapt
from airside.testing import harness


def request(number: int, **more: Any) -> dict[str, Any]:
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": f"question {number}"}]}
    return {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions", "body": body, **more}


def options(door: Any, **more: Any) -> dict[str, Any]:
    return {"base_url": f"{door.url}/v1", **more}


async def opened(door: Any, **more: Any) -> Any:
    agent = adapt(OpenAIBatchAgent())
    await agent.open(OpenAIBatchAgent.Options(**options(door, **more)))
    return agent


def batch(status: str, total: int = 0, completed: int = 0, failed: int = 0, **more: Any) -> dict[str, Any]:
    told = {
        "id": "batch_1",
        "object": "batch",
        "endpoint": "/v1/chat/completions",
        "input_file_id": "file-1",
        "completion_window": "24h",
        "created_at": 1,
        "status": status,
        "request_counts": {"total": total, "completed": completed, "failed": failed},
        **more,
    }
    TheirBatch.model_validate(told)
    return told


async def test_a_file_goes_up_and_the_answers_come_down(door: Any, wire: Any, tmp_path: Path) -> None:
    requests = [*(request(number) for number in range(5)), request(5, url="/v1/nothing")]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(one) + "\n" for one in requests))
    task = OpenAIBatchTask(
        name="batch",
        inputs=kwtypes(input_file=File),
        outputs=kwtypes(result=dict, output_file=File, error_file=File, completed=int, failed=int),
        config={"metadata": {"team": "a"}},
    )
    async with harness(OpenAIBatchAgent, wire=wire, options=options(door, allowed_directories=[str(tmp_path)])) as h:
        prefix = str(tmp_path / "0")
        job = await h.create(task=task, inputs={"input_file": File(str(source))}, output_prefix=prefix)
        first = await h.get(job)
        done = await h.finish(job)
    assert not first.links  # a page of OpenAI's would not show it
    assert done.phase is Phase.SUCCEEDED, done
    outputs = dict(done.outputs or {})
    answers = [json.loads(line) for line in (tmp_path / "0" / "output_file.jsonl").read_text().splitlines()]
    errors = [json.loads(line) for line in (tmp_path / "0" / "error_file.jsonl").read_text().splitlines()]
    assert [one["custom_id"] for one in answers] == ["r0", "r1", "r2", "r3", "r4"]
    assert [one["custom_id"] for one in errors] == ["r5"]
    assert (outputs["completed"], outputs["failed"]) == (5, 1)
    assert outputs["result"]["metadata"].keys() == {"team", "airside_key"}
    assert Path(outputs["output_file"].uri).name == "output_file.jsonl"
    assert done.info["usage"]["input_tokens"] > 0
    assert done.info["usage"]["output_tokens"] > 0
    assert done.message.startswith("5 of 6 requests done, 1 failed; r5: ")
    upload = door.calls("/files")[0]
    assert source.read_bytes() in upload.body
    assert job.task.key.encode() in upload.body
    assert {one.authorization for one in door.asked} == {"Bearer sk-0123456789abcdef"}


async def test_requests_may_be_a_list_and_there_may_be_no_errors(door: Any, tmp_path: Path) -> None:
    task = OpenAIBatchTask(
        name="batch", inputs=kwtypes(requests=list[dict]), outputs=kwtypes(error_file=File, total=int)
    )
    async with harness(OpenAIBatchAgent, options=options(door, allowed_directories=[str(tmp_path)])) as h:
        prefix = str(tmp_path / "0")
        done = await h.finish(await h.create(task=task, inputs={"requests": [request(1)]}, output_prefix=prefix))
    assert done.phase is Phase.SUCCEEDED, done
    assert dict(done.outputs or {})["total"] == 1
    assert (tmp_path / "0" / "error_file.jsonl").read_bytes() == b""


async def test_a_batch_of_bad_lines_fails_with_the_first_errors(door: Any) -> None:
    task = OpenAIBatchTask(name="batch", inputs=kwtypes(requests=list[dict]))
    async with harness(OpenAIBatchAgent, options=options(door)) as h:
        lines = [request(number, url="/v1/nothing") for number in range(5)]
        done = await h.finish(await h.create(task=task, inputs={"requests": lines}))
    assert done.phase is Phase.FAILED
    assert done.info["requests"] == {"total": 5, "completed": 0, "failed": 5}
    assert [one.partition(":")[0] for one in done.info["errors"]] == ["r0", "r1", "r2"]


async def test_a_batch_is_cancelled(door: Any) -> None:
    task = OpenAIBatchTask(name="batch", inputs=kwtypes(requests=list[dict]))
    async with harness(OpenAIBatchAgent, options=options(door)) as h:
        job = await h.create(task=task, inputs={"requests": [request(1)]})
        await h.delete(job)
        assert (await h.finish(job)).phase in (Phase.ABORTED, Phase.FAILED)
    assert len(door.calls("/cancel")) == 1


async def test_a_service_that_dies_in_a_create_makes_one_batch(door: Any) -> None:
    task = OpenAIBatchTask(
        name="killed", config={"metadata": {"at": str(door.port)}}, inputs=kwtypes(requests=list[dict])
    )
    arguments: dict[str, Any] = {"task": task, "inputs": {"requests": [request(1)]}}
    async with harness(OpenAIBatchAgent, process=True, options=options(door)) as h:
        arguments["output_prefix"] = f"/tmp/airside-killed/{door.port}/0"
        door.keep_back.add("/v1/batches")
        creating = asyncio.create_task(h.create(**arguments))
        assert await asyncio.to_thread(door.kept.wait, 60)  # OpenAI has made the batch; nobody knows of it
        await h.kill()
        with pytest.raises(Retry):
            await creating
        door.keep_back.clear()
        door.released.set()
        await h.restart()
        done = await h.finish(await h.create(**arguments))
    assert done.phase is Phase.SUCCEEDED
    listed = await asyncio.to_thread(door.ask, "GET", "/v1/batches?limit=100")
    assert len([one for one in listed["data"] if one["metadata"].get("at") == str(door.port)]) == 1


async def test_one_list_answers_for_many_batches(door: Any) -> None:
    agent = await opened(door)
    metas = [agent.codec.encode(Batch(f"batch_{number}")) for number in (1, 2, 3)]
    listed = [{**batch("in_progress", 10, 4), "id": "batch_1"}, {**batch("finalizing", 10, 10), "id": "batch_2"}]
    door.answer("/batches", {"object": "list", "data": listed, "has_more": False})
    door.answer("/batches/batch_3", {**batch("completed", 1, 1), "id": "batch_3"})
    answers = await agent.get_many(metas, Call())
    assert [one.phase for one in answers] == [Phase.RUNNING, Phase.RUNNING, Phase.SUCCEEDED]
    assert answers[0].message == "4 of 10 requests done"
    assert [one.path for one in door.asked] == ["/v1/batches", "/v1/batches/batch_3"]
    await agent.close()


@pytest.mark.parametrize(
    ("told", "job", "phase", "code", "says"),
    [
        (batch("validating"), {}, Phase.INITIALIZING, "", "0 of 0"),
        (
            batch("failed", errors={"data": [{"code": "invalid_json_line", "line": 3, "message": "not JSON"}]}),
            {},
            Phase.FAILED,
            "InvalidBatch",
            "line 3: not JSON",
        ),
        (
            batch("expired", 100, 40, output_file_id="file-2"),
            {},
            Phase.FAILED,
            "Expired",
            "expired with 40 answers, in file-2",
        ),
        (batch("expired", 100, 40), {"accept_partial": True}, Phase.SUCCEEDED, "", "40 of 100"),
        (batch("cancelled", 100, 40), {}, Phase.ABORTED, "Canceled", "40 of 100"),
        (batch("cancelling", 100, 40), {}, Phase.RUNNING, "", "40 of 100"),
        (batch("completed", 2, 0, 2), {}, Phase.FAILED, "EveryRequestFailed", "2 failed"),
    ],
)
async def test_what_a_batch_says_of_itself(
    door: Any, told: dict[str, Any], job: dict[str, Any], phase: Phase, code: str, says: str
) -> None:
    agent = await opened(door)
    door.answer("/batches/batch_1", told)
    resource = await agent.get(agent.codec.encode(Batch("batch_1", **job)), Call())
    assert (resource.phase, resource.code) == (phase, code)
    assert says in resource.message
    await agent.close()


def test_every_state_and_every_argument_of_the_sdk_is_known() -> None:
    assert set(typing.get_args(TheirBatch.model_fields["status"].annotation)) == set(STATES)
    known = {"endpoint", "completion_window", "metadata", "input_file_id"}
    assert known <= set(BatchCreateParams.__annotations__)


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (400, {"message": "no such model", "code": "model_not_found"}, "InvalidRequest"),
        (403, {"message": "not yours", "code": "forbidden"}, "Forbidden"),
        (429, {"message": "pay first", "code": "insufficient_quota"}, "QuotaExceeded"),
    ],
)
async def test_a_create_that_cannot_succeed_fails_with_the_words_of_openai(
    door: Any, status: int, body: dict[str, str], code: str
) -> None:
    door.answer("POST /v1/batches", {"error": body}, status)
    async with harness(OpenAIBatchAgent, options=options(door)) as h:
        done = await h.finish(await h.create(task=OpenAIBatchTask(name="b"), inputs={"input_file_id": "file-1"}))
    assert (done.phase, done.code) == (Phase.FAILED, code)
    assert done.message == f"OpenAI: {body['code']}: {body['message']}"


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
async def test_a_poll_that_fails_is_repeated_when_openai_says(door: Any, status: int) -> None:
    agent = await opened(door)
    door.answer("/batches/batch_1", {"error": {"message": "busy"}}, status, Retry_After="7")
    with pytest.raises(Retry, match=r"OpenAI: busy$") as caught:
        await agent.get(agent.codec.encode(Batch("batch_1")), Call())
    assert caught.value.after == 7
    assert len(door.asked) == 1
    await agent.close()


async def test_a_batch_that_is_not_known(door: Any) -> None:
    agent = await opened(door)
    meta = agent.codec.encode(Batch("batch_none"))
    with pytest.raises(NotFound):
        await agent.get(meta, Call())
    with pytest.raises(NotFound):
        await agent.delete(meta, Call())
    await agent.close()


@pytest.mark.parametrize(
    ("inputs", "code", "says"),
    [
        ({"input_file": File("/etc/hostname")}, "PathNotAllowed", "allowed_directories"),
        ({"input_file": File("ftp://host/x")}, "FileNotReadable", "cannot be read"),
        ({"x": 1}, "UserError", "one of the inputs input_file_id, input_file and requests"),
        ({"requests": [1]}, "UserError", r"requests\[0\]: expected an object"),
    ],
)
async def test_requests_that_cannot_be_sent_are_told_in_one_sentence(
    door: Any, inputs: dict[str, Any], code: str, says: str
) -> None:
    async with harness(OpenAIBatchAgent, options=options(door)) as h:
        done = await h.finish(await h.create(inputs=inputs, config={"config": {}}))
    assert (done.phase, done.code) == (Phase.FAILED, code), done
    assert re.search(says, done.message)
    assert not door.calls("/files")


async def test_a_connection_brings_its_key_and_sends_it_to_allowed_hosts_only(door: Any) -> None:
    agent = await opened(door)
    meta = agent.codec.encode(Batch("batch_1"))
    door.answer("/batches/batch_1", batch("in_progress"))
    await agent.get(meta, Call(connection=Connection(secrets={"api_key": "sk-theirs"})))
    assert door.asked[-1].authorization == "Bearer sk-theirs"
    elsewhere = Connection(secrets={"api_key": "sk-theirs"}, configs={"base_url": "https://openai.evil.example/v1"})
    with pytest.raises(Fail, match=r"not sent to openai\.evil\.example"):
        await agent.get(meta, Call(connection=elsewhere))
    without = Connection(configs={"base_url": "https://eu.api.openai.com/v1"})
    with pytest.raises(Fail, match="no secret openai_api_key or api_key"):
        await agent.get(meta, Call(connection=without))
    await agent.close()


def test_whether_it_is_ready_is_told(door: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = OpenAIBatchAgent()
    agent.open(OpenAIBatchAgent.Options(**options(door)))
    assert agent.check_credentials() == "the secret FLYTE_OPENAI_API_KEY"
    assert agent.probe() == "OpenAI answers"
    agent.close()
    monkeypatch.delenv("_FSEC_FLYTE_OPENAI_API_KEY")
    agent.open(OpenAIBatchAgent.Options(**options(door)))
    with pytest.raises(Fail, match=r"OpenAI|no key"):
        agent.check_credentials()
    agent.close()


def test_the_page_of_a_batch_is_linked() -> None:
    agent = OpenAIBatchAgent()
    agent.open(OpenAIBatchAgent.Options())
    assert [one.uri for one in agent.links(Batch("batch_1"))] == ["https://platform.openai.com/batches/batch_1"]

"""The anthropic-batch agent against mock-ai-api, and against answers in the shape of Anthropic's own."""

from __future__ import annotations

import asyncio
import json
import re
import typing
from pathlib import Path
from typing import Any

import pytest
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from anthropic.types.messages import (
    BatchCreateParams,
    BatchListParams,
    MessageBatch,
    MessageBatchIndividualResponse,
    MessageBatchRequestCounts,
)
from anthropic.types.messages.batch_create_params import Request
from pydantic import TypeAdapter

from airside import Connection, Fail, File, NotFound, Phase, Retry, kwtypes
from airside.agents.anthropic_batch import STATES, AnthropicBatchAgent, AnthropicBatchTask
from airside.agents.batches import Batch
from airside.model import Call
from airside.sdk.adapt import adapt
from airside.testing import harness

CONFIG = {"model": "claude-sonnet-4-5", "max_tokens": 20}


def request(number: int, **params: Any) -> dict[str, Any]:
    return {"custom_id": f"r{number}", "params": {"messages": [{"role": "user", "content": f"q {number}"}], **params}}


def options(door: Any, **more: Any) -> dict[str, Any]:
    return {"base_url": door.url, **more}


async def opened(door: Any, **more: Any) -> Any:
    agent = adapt(AnthropicBatchAgent())
    await agent.open(AnthropicBatchAgent.Options(**options(door, **more)))
    return agent


def batch(status: str, *, identity: str = "msgbatch_1", processing: int = 0, **counts: int) -> dict[str, Any]:
    told = {
        "id": identity,
        "type": "message_batch",
        "processing_status": status,
        "request_counts": {
            "processing": processing,
            **dict.fromkeys(("succeeded", "errored", "canceled", "expired"), 0),
            **counts,
        },
        "created_at": "2026-01-02T03:04:05Z",
        "expires_at": "2026-01-03T03:04:05Z",
        "results_url": f"/v1/messages/batches/{identity}/results",
    }
    MessageBatch.model_validate(told)
    return told


def errored(name: str, message: str) -> dict[str, Any]:
    error = {"type": "error", "error": {"type": "invalid_request_error", "message": message}, "request_id": None}
    told = {"custom_id": name, "result": {"type": "errored", "error": error}}
    MessageBatchIndividualResponse.model_validate(told)
    return told


async def test_a_file_goes_up_and_the_answers_come_down(door: Any, wire: Any, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(request(number)) + "\n\n" for number in range(3)))
    task = AnthropicBatchTask(
        name="batch",
        config=CONFIG,
        inputs=kwtypes(input_file=File),
        outputs=kwtypes(result=dict, output_file=File, total=int, succeeded=int, errored=int),
    )
    table = options(door, allowed_directories=[str(tmp_path)])
    async with harness(AnthropicBatchAgent, wire=wire, options=table) as h:
        prefix = str(tmp_path / "0")
        job = await h.create(task=task, inputs={"input_file": File(str(source))}, output_prefix=prefix)
        first = await h.get(job)
        assert first.phase is Phase.RUNNING, first
        assert first.message == "3 requests in the batch"
        assert not first.links  # a page of Anthropic's would not show it
        door.send_get(f"/v1/messages/batches/{first.info['batch_id']}/results")  # upon which the emulator's batch ends
        done = await h.finish(job)
        assert "sk-ant-0123456789abcdef" not in h.log
    assert done.phase is Phase.SUCCEEDED, done
    outputs = dict(done.outputs or {})
    assert [outputs[name] for name in ("total", "succeeded", "errored")] == [3, 3, 0]
    answers = [json.loads(line) for line in (tmp_path / "0" / "output_file.jsonl").read_text().splitlines()]
    assert [(one["custom_id"], one["result"]["type"]) for one in answers] == [(f"r{n}", "succeeded") for n in range(3)]
    assert done.info["usage"]["output_tokens"] > 0
    create = next(one for one in door.asked if one.method == "POST")
    assert [one["params"]["model"] for one in create.body["requests"]] == ["claude-sonnet-4-5"] * 3
    assert create.authorization == "Bearer sk-ant-0123456789abcdef"


async def test_repeated_creates_make_one_batch_while_the_service_lives(door: Any, tmp_path: Path) -> None:
    task = AnthropicBatchTask(name="b", config=CONFIG)
    more = {"inputs": {"requests": [request(1)]}, "output_prefix": str(tmp_path / "0")}

    def made() -> int:
        return len([one for one in door.asked if one.method == "POST"])

    async with harness(AnthropicBatchAgent, options=options(door)) as h:
        jobs = await asyncio.gather(*(h.create(task=task, **more) for _ in range(3)))
        assert (len({job.handle for job in jobs}), made()) == (1, 1)
        assert (await h.create(task=task, **more)).handle == jobs[0].handle
        assert made() == 1
        await h.restart()  # nothing at Anthropic tells whose a batch is
        await h.create(task=task, **more)
        assert made() == 2


async def test_a_request_says_otherwise_than_the_config(door: Any) -> None:
    agent = await opened(door)
    async with harness(AnthropicBatchAgent, options=options(door)) as h:
        work = h.task(task=AnthropicBatchTask(name="b", config=CONFIG), inputs={"requests": [request(1, max_tokens=5)]})
        await agent.create(work, Call())
    (create,) = [one for one in door.asked if one.method == "POST"]
    assert create.body == {
        "requests": [{"custom_id": "r1", "params": {**CONFIG, **request(1)["params"], "max_tokens": 5}}]
    }
    await agent.close()


async def test_every_request_is_one_that_the_sdk_describes(door: Any) -> None:
    """The SDK's types of parameters are made from Anthropic's own description of its API."""
    agent = await opened(door)
    task = AnthropicBatchTask(name="b", config={**CONFIG, "system": "Be brief."})
    async with harness(AnthropicBatchAgent, options=options(door)) as h:
        work = h.task(task=task, inputs={"requests": [request(1), request(2, stop_sequences=["END"])]})
    meta = await agent.create(work, Call())
    door.answer("GET /v1/messages/batches", {"data": [batch("in_progress")], "has_more": True})
    await agent.get_many([meta, meta, agent.codec.encode(Batch("msgbatch_1"))], Call())
    await agent.delete(meta, Call())
    await asyncio.to_thread(agent.author.probe)
    await agent.close()
    [create] = [one for one in door.asked if one.method == "POST" and one.path == "/v1/messages/batches"]
    TypeAdapter(BatchCreateParams).validate_python(create.body)
    assert set(create.body) <= set(typing.get_type_hints(BatchCreateParams))
    params = set(typing.get_type_hints(MessageCreateParamsNonStreaming))
    for one in create.body["requests"]:
        assert set(one) == set(typing.get_type_hints(Request))
        assert set(one["params"]) <= params
    asked = {(one.method, one.path.replace(work_id(agent, meta), "ID")) for one in door.asked}
    assert asked >= {
        ("POST", "/v1/messages/batches"),
        ("GET", "/v1/messages/batches"),
        ("GET", "/v1/messages/batches/ID"),
        ("POST", "/v1/messages/batches/ID/cancel"),
        ("GET", "/v1/models"),
    }
    lists = [one for one in door.asked if one.path == "/v1/messages/batches" and one.method == "GET"]
    assert {name for one in lists for name in one.query} <= set(typing.get_type_hints(BatchListParams))
    assert all(one.headers["anthropic-version"] for one in door.asked)


def work_id(agent: Any, meta: bytes) -> str:
    return str(agent.codec.decode(meta).id)


async def test_callers_of_one_attempt_share_a_batch(door: Any) -> None:
    """What `once` promises here: within one process."""
    task = AnthropicBatchTask(name="b", config=CONFIG)
    arguments: dict[str, Any] = {"task": task, "inputs": {"requests": [request(1)]}, "output_prefix": "s3://runs/one/0"}
    async with harness(AnthropicBatchAgent, options=options(door)) as h:
        jobs = await asyncio.gather(*(h.create(**arguments) for _ in range(3)), h.create(**arguments))
        jobs.append(await h.create(**arguments))
    assert len({job.handle for job in jobs}) == 1
    assert len([one for one in door.asked if one.method == "POST"]) == 1


async def test_a_batch_whose_create_was_cut_off_cannot_be_found_again(door: Any) -> None:
    """And what it does not: Anthropic tells nothing of a batch by which it could be known for this attempt's."""
    task = AnthropicBatchTask(name="b", config=CONFIG)
    arguments: dict[str, Any] = {"task": task, "inputs": {"requests": [request(1)]}, "output_prefix": "s3://runs/two/0"}
    async with harness(AnthropicBatchAgent, process=True, options=options(door)) as h:
        door.keep_back.add("/v1/messages/batches")
        creating = asyncio.create_task(h.create(**arguments))
        assert await asyncio.to_thread(door.kept.wait, 60)
        await h.kill()
        with pytest.raises(Retry):
            await creating
        door.keep_back.clear()
        door.released.set()
        await h.restart()
        job = await h.create(**arguments)
        door.send_get(f"/v1/messages/batches/{(await h.get(job)).info['batch_id']}/results")  # it ends
        assert (await h.finish(job)).phase is Phase.SUCCEEDED
    assert len([one for one in door.asked if one.method == "POST"]) == 2


async def test_one_list_answers_for_many_batches(door: Any) -> None:
    agent = await opened(door)
    metas = [agent.codec.encode(Batch(f"msgbatch_{number}")) for number in (1, 2, 3)]
    data = [batch("in_progress", processing=4), batch("canceling", identity="msgbatch_2", processing=1)]
    door.answer("/batches", {"data": data, "has_more": False, "first_id": None, "last_id": None})
    door.answer("/batches/msgbatch_3", batch("ended", identity="msgbatch_3", succeeded=1))
    answers = await agent.get_many(metas, Call())
    assert [one.phase for one in answers] == [Phase.RUNNING, Phase.RUNNING, Phase.SUCCEEDED]
    assert [one.path for one in door.asked] == ["/v1/messages/batches", "/v1/messages/batches/msgbatch_3"]
    await agent.close()


@pytest.mark.parametrize(
    ("counts", "job", "phase", "code"),
    [
        ({"succeeded": 2, "errored": 1}, {}, Phase.SUCCEEDED, ""),
        ({"errored": 2}, {}, Phase.FAILED, "EveryRequestFailed"),
        ({"succeeded": 2, "expired": 1}, {}, Phase.FAILED, "Expired"),
        ({"succeeded": 2, "expired": 1}, {"accept_partial": True}, Phase.SUCCEEDED, ""),
        ({"expired": 3}, {"accept_partial": True}, Phase.FAILED, "Expired"),
        ({"succeeded": 2, "canceled": 1}, {}, Phase.ABORTED, "Canceled"),
        ({"succeeded": 2, "canceled": 1}, {"accept_partial": True}, Phase.SUCCEEDED, ""),
    ],
)
async def test_what_an_ended_batch_means(
    door: Any, counts: dict[str, int], job: dict[str, Any], phase: Phase, code: str
) -> None:
    agent = await opened(door)
    door.answer("/batches/msgbatch_1", batch("ended", **counts))
    lines = [errored("r7", "max_tokens: too large"), errored("r8", "no model")]
    door.answer("/results", "".join(json.dumps(line) + "\n" for line in lines))
    resource = await agent.get(agent.codec.encode(Batch("msgbatch_1", **job)), Call())
    assert (resource.phase, resource.code) == (phase, code)
    assert resource.message.startswith(f"{counts.get('succeeded', 0)} of {sum(counts.values())} requests succeeded")
    if "errored" in counts:
        assert resource.info is not None
        assert resource.info["errors"] == ["r7: max_tokens: too large", "r8: no model"]
    await agent.close()


def test_every_state_and_count_of_the_sdk_is_known() -> None:
    assert set(typing.get_args(MessageBatch.model_fields["processing_status"].annotation)) == set(STATES)
    known = {"processing", "succeeded", "errored", "canceled", "expired"}
    assert set(MessageBatchRequestCounts.model_fields) == known


async def test_a_batch_is_cancelled_and_an_unknown_one_is_told(door: Any) -> None:
    agent = await opened(door)
    async with harness(AnthropicBatchAgent, options=options(door)) as h:
        work = h.task(task=AnthropicBatchTask(name="b", config=CONFIG), inputs={"requests": [request(1)]})
        meta = await agent.create(work, Call())
    await agent.delete(meta, Call())
    resource = await agent.get(meta, Call())
    assert (resource.phase, resource.info["status"]) == (Phase.RUNNING, "canceling")
    unknown = agent.codec.encode(Batch("msgbatch_none"))
    with pytest.raises(NotFound, match="not_found_error: Batch not found"):
        await agent.get(unknown, Call())
    with pytest.raises(NotFound):
        await agent.delete(unknown, Call())
    await agent.close()


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "InvalidRequest"), (403, "Forbidden"), (413, "RequestTooLarge"), (404, "ResourceNotFound")],
)
async def test_a_create_that_cannot_succeed_fails_with_the_words_of_anthropic(
    door: Any, status: int, code: str
) -> None:
    door.answer("/batches", {"type": "error", "error": {"type": "some_error", "message": "because"}}, status)
    async with harness(AnthropicBatchAgent, options=options(door)) as h:
        task = AnthropicBatchTask(name="b", config=CONFIG)
        done = await h.finish(await h.create(task=task, inputs={"requests": [request(1)]}))
    assert (done.phase, done.code) == (Phase.FAILED, code)
    assert done.message.startswith(f"Anthropic: some_error: because ({code}, id ")


@pytest.mark.parametrize("status", [401, 403, 429, 500, 529])
async def test_a_poll_that_fails_is_repeated_when_anthropic_says(door: Any, status: int) -> None:
    agent = await opened(door)
    door.answer("/batches/msgbatch_1", {"error": {"message": "busy"}}, status, Retry_After="7")
    with pytest.raises(Retry, match=r"Anthropic: busy$") as caught:
        await agent.get(agent.codec.encode(Batch("msgbatch_1")), Call())
    assert caught.value.after == 7
    assert len(door.asked) == 1
    await agent.close()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("{}\n", "Line 1 of the requests must be an object with custom_id and params"),
        ('{"custom_id": "a", "params": {}}\n{', "Line 2 of the requests is not JSON"),
    ],
)
async def test_requests_that_are_none_are_told_by_their_line(door: Any, tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "in.jsonl").write_text(text)
    async with harness(AnthropicBatchAgent, options=options(door, allowed_directories=[str(tmp_path)])) as h:
        inputs = {"input_file": File(str(tmp_path / "in.jsonl"))}
        done = await h.finish(await h.create(inputs=inputs, config={"config": {}}))
    assert done.phase is Phase.FAILED
    assert re.search(says, done.message)
    assert not door.asked


async def test_a_key_goes_to_allowed_hosts_only(door: Any) -> None:
    agent = await opened(door)
    elsewhere = Connection(secrets={"api_key": "sk-theirs"}, configs={"base_url": "https://anthropic.evil.example"})
    with pytest.raises(Fail, match=r"not sent to anthropic\.evil\.example"):
        await agent.delete(agent.codec.encode(Batch("msgbatch_1")), Call(connection=elsewhere))
    await agent.close()


def test_whether_it_is_ready_is_told(door: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = AnthropicBatchAgent()
    agent.open(AnthropicBatchAgent.Options(**options(door)))
    assert agent.check_credentials() == "the secret FLYTE_ANTHROPIC_API_KEY"
    assert agent.probe() == "Anthropic answers"
    agent.close()
    monkeypatch.delenv("_FSEC_FLYTE_ANTHROPIC_API_KEY")
    agent.open(AnthropicBatchAgent.Options(**options(door)))
    with pytest.raises(Fail, match="no key for Anthropic: set the secret FLYTE_ANTHROPIC_API_KEY"):
        agent.check_credentials()
    agent.close()


async def test_without_a_key_a_task_fails_with_what_to_do(door: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("_FSEC_FLYTE_ANTHROPIC_API_KEY")
    async with harness(AnthropicBatchAgent, options=options(door)) as h:
        task = AnthropicBatchTask(name="b", config=CONFIG)
        done = await h.finish(await h.create(task=task, inputs={"requests": [request(1)]}))
    assert (done.phase, done.code) == (Phase.FAILED, "NoCredentials")
    assert done.message.startswith("There is no key for Anthropic: set the secret FLYTE_ANTHROPIC_API_KEY.")


async def test_the_key_goes_to_no_other_host_for_the_answers(door: Any, tmp_path: Path) -> None:
    agent = await opened(door, allowed_directories=[str(tmp_path)])
    elsewhere = {"results_url": "http://127.0.0.1:9/v1/messages/batches/msgbatch_1/results"}  # behind a gateway
    door.answer("/batches/msgbatch_1", {**batch("ended", succeeded=1), **elsewhere})
    line = (
        '{"custom_id": "r1", "result": {"type": "succeeded", "message": {"content": "a\u2028b\u0085c"}}, "more": 1}\n'
    )
    door.answer("/batches/msgbatch_1/results", line)
    job = Batch("msgbatch_1", outputs=["output_file"], prefix=str(tmp_path))
    resource = await agent.get(agent.codec.encode(job), Call())
    assert resource.phase is Phase.SUCCEEDED, resource
    assert (tmp_path / "output_file.jsonl").read_bytes() == line.encode()
    assert door.asked[-1].authorization == "Bearer sk-ant-0123456789abcdef"
    await agent.close()


async def test_one_batch_needs_no_list(door: Any) -> None:
    agent = await opened(door)
    door.answer("/batches/msgbatch_1", batch("in_progress", processing=4))
    await agent.get_many([agent.codec.encode(Batch("msgbatch_1"))], Call())
    assert [one.path for one in door.asked] == ["/v1/messages/batches/msgbatch_1"]
    await agent.close()


def test_the_page_of_batches_is_linked() -> None:
    agent = AnthropicBatchAgent()
    agent.open(AnthropicBatchAgent.Options())
    assert [one.name for one in agent.links(Batch("msgbatch_1"))] == ["Anthropic batches"]

"""The openai-batch agent against llmock, and against answers in the shape of OpenAI's own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
import typing
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Batch as TheirBatch
from openai.types import BatchCreateParams
from tests.backends.openai.conftest import KEY

from airside import Connection, Fail, File, NotFound, Phase, Retry, kwtypes
from airside.agents.batches import Batch
from airside.agents.openai_batch import STATES, OpenAIBatchAgent, OpenAIBatchTask
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


async def test_a_batch_that_is_over_needs_no_cancelling(door: Any) -> None:
    agent = await opened(door)
    door.answer(
        "/batches/batch_1/cancel", {"error": {"message": "Cannot cancel a batch with status 'completed'."}}, 409
    )
    door.answer("/batches/batch_1", batch("completed", 1, 1))
    await agent.delete(agent.codec.encode(Batch("batch_1")), Call())
    door.answer("/batches/batch_1/cancel", {"error": {"message": "busy"}}, 409)
    door.answer("/batches/batch_1", batch("in_progress", 1, 0))
    with pytest.raises(Retry, match="OpenAI: busy"):
        await agent.delete(agent.codec.encode(Batch("batch_1")), Call())
    await agent.close()


async def test_answers_are_kept_to_the_byte_whatever_they_say(door: Any, tmp_path: Path) -> None:
    agent = await opened(door, allowed_directories=[str(tmp_path)])
    text = "one\u2028two\u0085three\u2029 \x1c \u65e5\u672c"
    body = {"choices": [{"message": {"content": text}}], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}
    lines = [{"custom_id": f"r{number}", "response": {"body": body}} for number in range(2)]
    content = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in lines)
    door.answer("/batches/batch_1", batch("completed", 2, 2, output_file_id="file-2"))
    door.answer("/files/file-2/content", content)
    job = Batch("batch_1", outputs=["output_file"], prefix=str(tmp_path))
    resource = await agent.get(agent.codec.encode(job), Call())
    assert resource.phase is Phase.SUCCEEDED, resource
    assert (tmp_path / "output_file.jsonl").read_bytes() == content.encode()
    assert resource.info["usage"] == {"input_tokens": 2, "output_tokens": 4}
    await agent.close()


async def test_answers_that_break_off_are_fetched_again(door: Any, tmp_path: Path) -> None:
    agent = await opened(door, allowed_directories=[str(tmp_path)])
    meta = agent.codec.encode(Batch("batch_1", outputs=["output_file"], prefix=str(tmp_path)))
    door.cut.add("/content")
    for _ in range(2):
        door.answer("/batches/batch_1", batch("completed", 1, 1, output_file_id="file-2"))
        door.answer("/files/file-2/content", '{"custom_id": "r1", "response": {}}\n')
    with pytest.raises(Retry, match=r"OpenAI: peer closed connection [^()]*\([^()]*\)$"):
        await agent.get(meta, Call())
    assert not list(tmp_path.iterdir())
    door.cut.clear()
    assert (await agent.get(meta, Call())).phase is Phase.SUCCEEDED
    await agent.close()


async def test_the_first_errors_may_be_missing(door: Any) -> None:
    agent = await opened(door)
    door.cut.add("/content")
    door.answer("/batches/batch_1", batch("completed", 2, 1, 1, error_file_id="file-3"))
    door.answer("/files/file-3/content", '{"custom_id": "r1", "error": {"message": "no"}}')
    resource = await agent.get(agent.codec.encode(Batch("batch_1")), Call())
    assert (resource.phase, resource.info["errors"]) == (Phase.SUCCEEDED, [])
    await agent.close()


@pytest.mark.parametrize("prefix", ["/nowhere/0", ""])
async def test_a_batch_whose_answers_could_not_be_kept_is_not_begun(door: Any, prefix: str) -> None:
    agent = await opened(door)
    task = OpenAIBatchTask(name="b", inputs=kwtypes(requests=list[dict]), outputs=kwtypes(error_file=File))
    async with harness(OpenAIBatchAgent, options=options(door)) as h:
        work = replace(h.task(task=task, inputs={"requests": [request(1)]}), output_prefix=prefix)
    with pytest.raises(Fail, match="allowed_directories" if prefix else "no output prefix"):
        await agent.create(work, Call())
    assert not door.asked
    await agent.close()


async def test_when_files_take_long_the_next_call_fetches_the_others(door: Any, tmp_path: Path) -> None:
    agent = await opened(door, allowed_directories=[str(tmp_path)])
    metas = [agent.codec.encode(Batch(f"batch_{number}", outputs=["output_file"])) for number in (1, 2)]
    listed = [{**batch("in_progress", 10, 4), "id": "batch_1"}, {**batch("completed", 10, 10), "id": "batch_2"}]
    door.answer("/batches", {"object": "list", "data": listed, "has_more": False})
    answers = await agent.get_many(metas, Call(deadline=time.monotonic() + 30))
    assert [(one.phase, one.message) for one in answers] == [
        (Phase.RUNNING, "4 of 10 requests done"),
        (Phase.RUNNING, "over; its answers are fetched next"),
    ]
    await agent.close()


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
        (batch("expired", 100, 0), {"accept_partial": True}, Phase.FAILED, "Expired", "expired with 0 answers"),
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
    assert done.message.startswith(f"OpenAI: {body['code']}: {body['message']} ({code}, id ")


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
async def test_a_poll_that_fails_is_repeated_when_openai_says(door: Any, status: int) -> None:
    agent = await opened(door)
    door.answer("/batches/batch_1", {"error": {"message": "busy"}}, status, Retry_After="7")
    with pytest.raises(Retry, match=r"OpenAI: busy$") as caught:
        await agent.get(agent.codec.encode(Batch("batch_1")), Call())
    assert caught.value.after == 7
    assert len(door.asked) == 1
    await agent.close()


async def test_a_client_is_made_once_and_anew_when_its_key_is_refused(
    door: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    real = openai.OpenAI
    monkeypatch.setattr(openai, "OpenAI", lambda **more: (made.append(more["api_key"]), real(**more))[1])
    agent = await opened(door)
    meta = agent.codec.encode(Batch("batch_1"))
    mine = Call(connection=Connection(secrets={"api_key": "sk-theirs"}))
    for _ in range(4):
        for call in (Call(), mine):
            door.answer("/batches/batch_1", batch("in_progress"))
            await agent.get(meta, call)
    assert made == [KEY, "sk-theirs"]
    door.answer("/batches/batch_1", {"error": {"message": "who are you?"}}, 401)
    with pytest.raises(Retry, match="who are you"):
        await agent.get(meta, mine)
    door.answer("/batches/batch_1", batch("in_progress"))
    await agent.get(meta, mine)
    assert made == [KEY, "sk-theirs", "sk-theirs"]
    assert b"sk-" not in meta
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


async def test_a_key_of_the_task_that_there_is_not_is_named(door: Any) -> None:
    async with harness(OpenAIBatchAgent, options=options(door)) as h:
        done = await h.finish(await h.create(inputs={"input_file_id": "file-1"}, config={"confg": {}}))
    assert done.phase is Phase.FAILED
    assert done.message.startswith(
        "config.confg: an openai-batch task knows no such key (known: config, accept_partial, openai_organization)."
    )
    assert all(one.method == "GET" for one in door.asked)


async def test_a_connection_brings_its_key_and_sends_it_to_allowed_hosts_only(door: Any) -> None:
    agent = await opened(door)
    meta = agent.codec.encode(Batch("batch_1"))
    door.answer("/batches/batch_1", batch("in_progress"))
    await agent.get(meta, Call(connection=Connection(secrets={"api_key": "sk-theirs"})))
    assert door.asked[-1].authorization == "Bearer sk-theirs"
    elsewhere = Connection(secrets={"api_key": "sk-theirs"}, configs={"base_url": "https://openai.evil.example/v1"})
    with pytest.raises(Fail, match=r"not sent to openai\.evil\.example"):
        await agent.delete(meta, Call(connection=elsewhere))
    without = Connection(configs={"base_url": "https://eu.api.openai.com/v1"})
    with pytest.raises(Fail, match="no secret openai_api_key or api_key"):
        await agent.delete(meta, Call(connection=without))
    await agent.close()


async def test_a_batch_is_not_given_up_because_its_key_is_missing_for_a_while(
    door: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await opened(door)
    meta = agent.codec.encode(Batch("batch_1"))
    monkeypatch.delenv("_FSEC_FLYTE_OPENAI_API_KEY")
    with pytest.raises(Retry, match="no key for OpenAI: set the secret FLYTE_OPENAI_API_KEY"):
        await agent.get(meta, Call())
    await agent.close()


@pytest.mark.parametrize(("key", "sent"), [(" sk-of-a-file\n", "sk-of-a-file"), ("sk-\u00e9", "")])
async def test_a_key_is_what_a_header_can_hold(door: Any, monkeypatch: pytest.MonkeyPatch, key: str, sent: str) -> None:
    monkeypatch.setenv("_FSEC_FLYTE_OPENAI_API_KEY", key)
    agent = await opened(door)
    door.answer("/batches/batch_1", batch("in_progress"))
    if sent:
        await agent.get(agent.codec.encode(Batch("batch_1")), Call())
        assert door.asked[-1].authorization == f"Bearer {sent}"
    else:
        with pytest.raises(Retry, match="FLYTE_OPENAI_API_KEY has characters that no key has"):
            await agent.get(agent.codec.encode(Batch("batch_1")), Call())
    await agent.close()


def test_whether_it_is_ready_is_told(door: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = OpenAIBatchAgent()
    agent.open(OpenAIBatchAgent.Options(**options(door)))
    assert agent.check_credentials() == "the secret FLYTE_OPENAI_API_KEY"
    assert agent.probe() == "OpenAI answers"
    agent.close()
    monkeypatch.delenv("_FSEC_FLYTE_OPENAI_API_KEY")
    agent.open(OpenAIBatchAgent.Options(**options(door)))
    with pytest.raises(Fail, match="no key for OpenAI: set the secret FLYTE_OPENAI_API_KEY"):
        agent.check_credentials()
    agent.close()


def test_the_page_of_a_batch_is_linked() -> None:
    agent = OpenAIBatchAgent()
    agent.open(OpenAIBatchAgent.Options())
    assert [one.uri for one in agent.links(Batch("batch_1"))] == ["https://platform.openai.com/batches/batch_1"]


@pytest.mark.may_block
def test_the_example_of_the_documentation_runs(door: Any, tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "agents" / "openai.md").read_text()
    examples = re.findall(r"```python run\n(.*?)```", page, re.DOTALL)
    (tmp_path / "tasks.py").write_text("\n".join(examples))
    (tmp_path / "requests.jsonl").write_text(json.dumps(request(1)) + "\n")
    tables = ("openai-batch", "chatgpt")
    settings = "".join(f'[agents.{name}]\nbase_url = "{door.url}/v1"\n' for name in tables)
    (tmp_path / "airside.toml").write_text(settings)
    env = {**os.environ, "AIRSIDE_STATE": str(tmp_path / "state")}
    told = {}
    for name, flags in {"label": ["--input-file", "requests.jsonl"], "ask": ["--message", "hello"]}.items():
        argv = [str(Path(sys.executable).with_name("airside")), "run", "--json", "tasks.py", name, *flags]
        done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=100)
        assert done.returncode == 0, done.stdout + done.stderr
        told[name] = json.loads(done.stdout)["outputs"]
    assert (told["label"]["completed"], told["label"]["failed"]) == (1, 0)
    assert told["ask"]["o0"]

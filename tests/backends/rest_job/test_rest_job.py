"""Agents that a file describes, against a real job service in a process of its own."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.backends.conftest import Process, answers
from tests.backends.rest_job.conftest import FIND, LOGS, MANY, TOKEN

from airside import Connection, Fail, File, NotFound, Phase, Retry, TaskTemplate, UsageError, kwtypes
from airside.agents.rest_job import Job, rest_job
from airside.cli.main import execute
from airside.engine.remote import RemoteAgent
from airside.model import Call, TaskType
from airside.sdk.adapt import adapt
from airside.testing import check_agent, harness

IDEMPOTENT = {
    'id = "$.id"\n\n[get]': 'id = "$.id"\nidempotent = true\nheaders = {Idempotency-Key = "{{.key}}"}\n\n[get]'
}
NAMED = {  # a service whose callers name their jobs, and which refuses a second one of a name
    'path = "/jobs"\njson': 'path = "/jobs/job-{{.key}}"\nmethod = "PUT"\nidempotent = true\nexists = [409]\njson',
    'id = "$.id"\n\n[get]': 'id = "job-{{.key}}"\n\n[get]',
}
TASK = TaskTemplate(
    name="count",
    task_type="count_words",
    inputs=kwtypes(text=str, seconds=float),
    outputs=kwtypes(words=int, file=File, took=float),
)
INPUTS = {"text": "a rose is a rose", "seconds": 0.3}


async def made(path: Path) -> Any:
    """The agent; a description is read before there is a loop."""
    return await asyncio.to_thread(rest_job, path)


async def opened(path: Path) -> Any:
    agent = adapt(await made(path))
    await agent.open(None)
    return agent


async def test_a_job_runs_to_its_outputs(words: Any, wire: Any) -> None:
    async with harness(await made(words.describe(LOGS)), wire=wire) as h:
        job = await h.create(task=TASK, inputs=INPUTS)
        first = await h.get(job)
        done = await h.finish(job)
        pages = [[line.message async for line in h.logs(job, after=after, limit=3)] for after in ("", "3")]
        assert TOKEN not in h.log
    assert first.phase is Phase.RUNNING
    assert done.phase is Phase.SUCCEEDED, done
    assert dict(done.outputs or {}) == {"words": 5, "file": File("s3://bucket/words.txt"), "took": 1.5}
    assert first.links[0].uri.startswith(f"http://127.0.0.1:{words.port}/ui/job%2F")
    assert pages == [["a", "rose", "is"], ["a", "rose"]]
    told = await asyncio.to_thread(words.told)
    assert told["jobs"][-1]["label"] == job.task.key


async def test_a_job_that_fails_says_why(words: Any) -> None:
    path = words.describe(changes={"seconds = ": 'fails = "the rose wilted", seconds = '})
    async with harness(await made(path)) as h:
        done = await h.finish(await h.create(task=TASK, inputs=INPUTS))
    assert (done.phase, done.code) == (Phase.FAILED, "JobFailed")
    assert done.message.startswith("the rose wilted (JobFailed")
    assert done.info["state"] == "error"


async def test_a_job_is_cancelled(words: Any) -> None:
    async with harness(await made(words.describe())) as h:
        job = await h.create(task=TASK, inputs={**INPUTS, "seconds": 600.0})
        await h.delete(job)
        assert (await h.finish(job)).phase in (Phase.ABORTED, Phase.FAILED)
    told = await asyncio.to_thread(words.told)
    assert told["jobs"][-1]["cancelled"]


async def test_one_question_answers_for_many_jobs(words: Any) -> None:
    agent = await opened(words.describe(MANY))
    async with harness(await made(words.describe(MANY))) as h:
        metas = [await agent.create(h.task(task=TASK, inputs=INPUTS), Call()) for _ in range(3)]
    await asyncio.to_thread(words.told)
    unknown = agent.codec.encode(Job("job/none"))
    *answers, missing = await agent.get_many([*metas, unknown], Call())
    assert [one.phase for one in answers] == [Phase.RUNNING] * 3
    assert isinstance(missing, NotFound)
    told = await asyncio.to_thread(words.told)
    assert [one.partition("?")[0] for one in told["asked"]] == ["GET /v1/jobs", "GET /v1/jobs/job/none"]
    await agent.close()


async def test_outputs_may_have_a_request_of_their_own(words: Any) -> None:
    result = '[result]\npath = "/jobs/{{.id}}/result"\noutputs = {words = "$.words"}\n'
    changes = {'outputs = {words = "$.result.words", ': "outputs = {"}
    async with harness(await made(words.describe(result, changes))) as h:
        done = await h.finish(await h.create(task=TASK, inputs=INPUTS))
    assert dict(done.outputs or {})["words"] == 5


async def test_a_create_that_is_refused_fails_with_the_words_of_the_service(words: Any) -> None:
    path = words.describe(changes={'text = "{{.inputs.text}}"': "text = 3"})
    async with harness(await made(path)) as h:
        done = await h.finish(await h.create(task=TASK, inputs=INPUTS))
    assert (done.phase, done.code) == (Phase.FAILED, "InvalidRequest")
    assert ": text must be a text (InvalidRequest, id " in done.message
    assert done.message.startswith("words answered 422 ")


async def test_faults_and_unknown_jobs_are_told_apart(words: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = await opened(words.describe())
    with pytest.raises(Retry, match="come back later") as caught:
        await agent.get(agent.codec.encode(Job("busy")), Call())
    assert caught.value.after == 7
    with pytest.raises(Retry, match=r"answered 503 .*: xxx"):
        await agent.get(agent.codec.encode(Job("long")), Call())
    with pytest.raises(NotFound, match="no job x"):
        await agent.get(agent.codec.encode(Job("x")), Call())
    with pytest.raises(NotFound):
        await agent.delete(agent.codec.encode(Job("x")), Call())
    with pytest.raises(Retry, match="who are you"):
        await agent.get(agent.codec.encode(Job("x")), Call(connection=Connection(secrets={"token": "token-4711"})))
    monkeypatch.delenv("_FSEC_WORDS_TOKEN")
    with pytest.raises(Fail, match="'token' is missing"):
        await agent.delete(agent.codec.encode(Job("x")), Call())
    with pytest.raises(Retry, match="'token' is missing"):  # a job that runs is not given up for that
        await agent.get(agent.codec.encode(Job("x")), Call())
    await agent.close()


@pytest.mark.parametrize(("more", "changes"), [(FIND, {}), ("", IDEMPOTENT)], ids=["find", "token"])
async def test_a_create_whose_answer_is_garbled_is_repeated(words: Any, more: str, changes: Mapping[str, str]) -> None:
    path = words.describe(more, {**changes, "seconds = ": "garbled = true, seconds = "})
    before = len((await asyncio.to_thread(words.told))["jobs"])
    async with harness(await made(path)) as h:
        done = await h.finish(await h.create(task=TASK, inputs={**INPUTS, "seconds": 0.0}))
    assert done.phase is Phase.SUCCEEDED, done
    assert len((await asyncio.to_thread(words.told))["jobs"]) == before + 1


async def test_a_secret_is_what_a_header_can_hold(words: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = await opened(words.describe())
    monkeypatch.setenv("_FSEC_WORDS_TOKEN", f"{TOKEN}\n")  # as a file of secrets ends
    with pytest.raises(NotFound, match="no job x"):
        await agent.get(agent.codec.encode(Job("x")), Call())
    monkeypatch.setenv("_FSEC_WORDS_TOKEN", "two\nlines-4711")
    with pytest.raises(Fail, match=r"^The secret token has characters that no header can have\.$"):
        await agent.delete(agent.codec.encode(Job("x")), Call())
    await agent.close()


async def test_when_time_runs_out_the_next_call_asks_for_the_others(words: Any) -> None:
    agent = await opened(words.describe(MANY))
    unknown = [agent.codec.encode(Job(f"job/none{number}")) for number in range(2)]
    answers = await agent.get_many(unknown, Call(deadline=time.monotonic() + 5))
    assert [str(one) for one in answers] == ["there was no time left to ask for this job"] * 2
    told = await asyncio.to_thread(words.told)
    assert len(told["asked"]) == 1
    await agent.close()


async def test_a_state_that_is_not_described_is_a_running_one(words: Any, caplog: pytest.LogCaptureFixture) -> None:
    path = words.describe(changes={'done = "SUCCEEDED"': 'finished = "SUCCEEDED"'})
    agent = await opened(path)
    async with harness(await made(path)) as h:
        meta = await agent.create(h.task(task=TASK, inputs={**INPUTS, "seconds": 0.0}), Call())
    assert [(await agent.get(meta, Call())).phase for _ in range(3)] == [Phase.RUNNING] * 3
    assert [record.message for record in caplog.records if "get.states" in record.message] == [
        "words names the state 'done' of a job, which get.states does not know"
    ]
    await agent.close()


async def test_an_output_of_another_type_fails_the_task(words: Any) -> None:
    path = words.describe(changes={'took = "$.result.took"': 'took = "$.result.file"'})
    async with harness(await made(path)) as h:
        done = await h.finish(await h.create(task=TASK, inputs={**INPUTS, "seconds": 0.0}))
    assert (done.phase, done.code) == (Phase.FAILED, "OutputConversionError")


async def test_an_input_stays_within_its_part_of_the_path(words: Any) -> None:
    path = words.describe(changes={'[create]\npath = "/jobs"': '[create]\npath = "/jobs/{{.inputs.text}}"'})
    agent = await opened(path)
    async with harness(await made(path)) as h:
        for text in ("../../admin", "a?b#c"):
            with pytest.raises(Fail):
                await agent.create(h.task(task=TASK, inputs={**INPUTS, "text": text}), Call())
        with pytest.raises(Fail, match="would lead the request elsewhere"):
            await agent.create(h.task(task=TASK, inputs={**INPUTS, "text": ".."}), Call())
    told = await asyncio.to_thread(words.told)
    assert all(one.startswith("POST /v1/jobs/") for one in told["asked"])
    await agent.close()


async def test_an_input_stays_within_its_header(words: Any) -> None:
    path = words.describe(changes={'id = "$.id"\n\n[get]': 'id = "$.id"\nheaders = {X = "{{.inputs.text}}"}\n\n[get]'})
    async with harness(await made(path)) as h:
        fine = await h.finish(await h.create(task=TASK, inputs={**INPUTS, "text": "caf\u00e9", "seconds": 0.0}))
        assert fine.phase is Phase.SUCCEEDED, fine
        await asyncio.to_thread(words.told)
        done = await h.finish(await h.create(task=TASK, inputs={**INPUTS, "text": "a\r\nAuthorization: me"}))
    assert done.phase is Phase.FAILED
    assert done.message.startswith("words: the header X has characters that it cannot have.")
    assert not (await asyncio.to_thread(words.told))["asked"]


@pytest.mark.parametrize(
    ("more", "changes"), [(FIND, {}), ("", IDEMPOTENT), ("", NAMED)], ids=["find", "token", "name"]
)
async def test_a_service_that_dies_in_a_create_makes_one_job(
    words: Any, free_port: Callable[[], int], more: str, changes: Mapping[str, str]
) -> None:
    path = words.describe(more, {**changes, "seconds = ": "slowly = 0.5, seconds = "})
    async with Served(path, free_port()) as served:
        before = len((await asyncio.to_thread(words.told))["jobs"])
        creating = asyncio.create_task(served.create())
        while not creating.done() and len((await asyncio.to_thread(words.told))["jobs"]) == before:
            await asyncio.sleep(0.01)  # the job is there, and its answer is on its way
        await served.kill()
        with pytest.raises(Retry):
            await creating
        await served.start()
        resource = await served.finish(await served.create())
    assert resource.phase is Phase.SUCCEEDED, resource
    assert len((await asyncio.to_thread(words.told))["jobs"]) == before + 1


async def test_without_either_callers_of_one_attempt_share_a_job_within_a_process(words: Any) -> None:
    before = len((await asyncio.to_thread(words.told))["jobs"])
    path = words.describe(changes={"seconds = ": "slowly = 0.3, seconds = "})
    async with harness(await made(path)) as h:
        create = functools.partial(h.create, task=TASK, inputs=INPUTS, output_prefix=f"/tmp/airside-words/{before}/0")
        jobs = await asyncio.gather(*(create() for _ in range(3)))
        jobs.append(await create())
        assert (await h.finish(jobs[0])).phase is Phase.SUCCEEDED
    assert len({job.handle for job in jobs}) == 1
    assert len((await asyncio.to_thread(words.told))["jobs"]) == before + 1


async def test_a_secret_may_be_a_password(words: Any) -> None:
    path = words.describe(changes={'secret = "words/token"': 'secret = "words/token"\nuser = "etl"'})
    async with harness(await made(path)) as h:
        assert (await h.finish(await h.create(task=TASK, inputs=INPUTS))).phase is Phase.SUCCEEDED
        assert TOKEN not in h.log
    wrong = words.describe(changes={'secret = "words/token"': 'secret = "words/token"\nuser = "eve"'})
    agent = await opened(wrong)
    with pytest.raises(Retry, match="who are you"):
        await agent.get(agent.codec.encode(Job("x")), Call())
    await agent.close()


class Served:
    """The agent in `airside serve --modules FILE`, which can be killed."""

    def __init__(self, path: Path, port: int) -> None:
        serve = ["serve", "--modules", str(path), "--port", str(port), "--metrics-port", "-1", "--agent", "words"]
        self._argv, self._path, self._port = [str(Path(sys.executable).parent / "airside"), *serve], path, port
        self._prefix = f"/tmp/airside-words/{port}/0"

    async def __aenter__(self) -> Served:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._remote.close()
        await self.kill()

    async def start(self) -> None:
        self._process = Process(self._argv, os.environ, self._path.with_name("log"))
        await asyncio.to_thread(self._process.wait_for, lambda: answers(self._port))
        self._remote = RemoteAgent(f"127.0.0.1:{self._port}", family="v2", task_types=(TaskType("count_words"),))
        await self._remote.open(None)

    async def kill(self) -> None:
        await asyncio.to_thread(self._process.kill)

    async def create(self) -> bytes:
        async with harness(await made(self._path)) as h:
            work = h.task(task=TASK, inputs={"text": "one two", "seconds": 0.0}, output_prefix=self._prefix)
        return await self._remote.create(work, Call(output_prefix=self._prefix, key=work.key))

    async def finish(self, meta: bytes) -> Any:
        while not (resource := await self._remote.get(meta, Call(output_prefix=self._prefix))).phase.is_terminal:
            await asyncio.sleep(0.1)
        return resource


def test_the_conformance_suite_holds(words: Any) -> None:
    report = check_agent(
        rest_job(words.describe(FIND)), task=TASK, inputs={"text": "one two", "seconds": 0.2}, wires=("v2",)
    )
    assert report.ok, str(report)


def test_yaml_describes_the_same(words: Any, tmp_path: Path) -> None:
    table = tomllib.loads(words.describe(FIND).read_text())
    path = tmp_path / "words.yaml"
    path.write_text(yaml.safe_dump(table))
    agent = rest_job(path)
    assert (agent.name, agent.task_type, callable(agent.find)) == ("words", "count_words", True)
    table["get"]["states"] = {True: "SUCCEEDED", 3: "FAILED"}
    path.write_text(yaml.safe_dump(table))
    assert rest_job(path)._described.get.states == {"true": "SUCCEEDED", "3": "FAILED"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"base_url": "base_uri"}, "base_uri: unknown key (known: base_url, create, "),
        ({'state = "$.status.state"\n': ""}, "get.state: missing"),
        ({'error = "FAILED"': 'error = "BROKEN"'}, "get.states.error: expected 'QUEUED' or "),
        ({'done = "SUCCEEDED", ': ""}, 'get.states: no state means "SUCCEEDED"'),
        ({'error = "FAILED", cancelled = "ABORTED"': 'x = "RUNNING"'}, 'get.states: no state means "FAILED", '),
        ({'"$.status.state"': '"$.status["'}, "get.state: '$.status[' is not a JSONPath: "),
        ({'"$.status.state"': '"status"'}, "get.state: 'status' is not a JSONPath: it begins with $"),
        ({"jobs/{{.id}}": "jobs/{{.job}}"}, "get.path: {{.job}} is not known there (known: {{.id}})"),
        ({"{{.inputs.text}}": "{{.inputs}}"}, "create.json: {{.inputs}} is not known there"),
        ({'path = "/jobs"': 'path = "jobs"'}, "create.path: must begin with /"),
        ({'id = "$.id"': 'id = "$.id"\nexists = [409]'}, "create.exists: needs an id that the caller chooses"),
        (
            {"{{.key}}": "x", 'id = "$.id"': 'id = "$.id"\nidempotent = true'},
            "create.idempotent: nothing in the request",
        ),
        ({"poll_interval = 0.2": "poll_interval = 0"}, "poll_interval: must be above 0"),
        ({"http://127.0.0.1": "ftp://127.0.0.1"}, "base_url: the address must begin with https:// or http://"),
        ({'id = "$.id"': "id = 3"}, "create.id: expected str, got 3"),
    ],
)
def test_a_mistake_is_named_by_file_and_key(words: Any, changes: Mapping[str, str], says: str) -> None:
    path = words.describe(changes=changes)
    with pytest.raises(UsageError) as caught:
        rest_job(path)
    assert str(caught.value).startswith(f"{path}: {says}"), caught.value


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.toml cannot be read: No such file"):
        rest_job(tmp_path / "none.toml")
    (tmp_path / "a.toml").write_text("= 3")
    with pytest.raises(UsageError, match="is not TOML"):
        rest_job(tmp_path / "a.toml")
    (tmp_path / "a.yaml").write_text("a: [")
    with pytest.raises(UsageError, match="is not YAML"):
        rest_job(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text("- a")
    with pytest.raises(UsageError, match="must be a table"):
        rest_job(tmp_path / "a.yaml")


def test_the_command_line_names_file_and_key(words: Any) -> None:
    path = words.describe(changes={"base_url": "base_uri"})
    airside = Path(sys.executable).parent / "airside"
    done = subprocess.run([airside, "agents", "--modules", path], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f"{path}: base_uri: unknown key" in done.stderr
    assert "Traceback" not in done.stderr
    done = subprocess.run(
        [airside, "agents", "--modules", words.describe()], capture_output=True, text=True, check=True
    )
    assert "count_words" in done.stdout


def test_a_described_agent_is_listed_with_its_readiness(
    words: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = words.describe('\n[probe]\npath = "/jobs"\n')
    (tmp_path / "airside.toml").write_text(f'[serve]\nmodules = ["{path}"]\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("airside.cli.registry.installed_plugins", list)  # the others would ask their own backends

    def ask() -> dict[str, Any]:
        assert execute(["agents", "--probe", "--json"]) == 0
        [found] = json.loads(capsys.readouterr().out)["agents"]
        return dict(found)

    ready = ask()
    assert (ready["name"], ready["task_types"], ready["extra"]) == ("words", ["count_words"], "rest_job")
    assert (ready["source"], ready["once"], ready["ready"]) == (f"file {path}", "process", True)
    assert (ready["credentials"], ready["endpoint"]) == ("the secret words/token", f"{words_url(words)} answers 200")
    assert execute(["agents", "--all"]) == 0
    assert f"words ({path})" in capsys.readouterr().out
    monkeypatch.setenv("_FSEC_WORDS_TOKEN", "wrong-0123456789")
    assert ask()["problem"].startswith("its backend does not answer: words answered 401 UNAUTHORIZED: who are you?")
    monkeypatch.delenv("_FSEC_WORDS_TOKEN")
    assert "no credentials" in ask()["problem"]


async def test_a_probe_that_is_not_described_wants_any_answer(words: Any) -> None:
    agent = await made(words.describe())
    await agent.open(None)
    assert await agent.probe() == f"{words_url(words)} answers 401"
    await agent.close()
    gone = await made(words.describe(changes={f"127.0.0.1:{words.port}/v1": "127.0.0.1:9"}))
    await gone.open(None)
    with pytest.raises(Retry, match=r"^words: "):
        await gone.probe()
    await gone.close()


def words_url(words: Any) -> str:
    return f"http://127.0.0.1:{words.port}/v1"


def test_the_example_of_the_documentation_runs(words: Any, tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "agents" / "rest_job.md").read_text()
    description = page.partition("```toml\n")[2].partition("```")[0]
    assert "https://transcode.example.org/api/v2" in description
    description = description.replace("https://transcode.example.org", f"http://127.0.0.1:{words.port}")
    (tmp_path / "transcode.toml").write_text(description)
    (tmp_path / "tasks.py").write_text(page.partition("```python run\n")[2].partition("```")[0])
    flags = ["--modules", "transcode.toml", "--source", "s3://bucket/in.mov", "--height", "480"]
    argv = [str(Path(sys.executable).with_name("airside")), "run", "--json", "tasks.py", "shrink", *flags]
    env = {**os.environ, "AIRSIDE_STATE": str(tmp_path / "state"), "_FSEC_TRANSCODE_TOKEN": TOKEN}
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)["outputs"]
    assert told["seconds"] == 1.5
    assert "s3://bucket/web-480.mp4" in str(told["video"])

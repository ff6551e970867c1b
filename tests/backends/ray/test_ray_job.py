"""The ray_job agent against a real cluster that asks for a token."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from airside import Connection, Fail, NotFound, Phase, Retry, kwtypes
from airside.agents.ray_job import RayJob, RayJobAgent, RayJobTask
from airside.agents.ray_job_states import ERRORS, STATES
from airside.model import Call
from airside.testing import harness

Options = Mapping[str, Any]
pytestmark = [pytest.mark.backend, pytest.mark.may_block, pytest.mark.timeout(600)]
PATIENCE = 180.0


class Ray(RayJobAgent):
    """The same, asked more often than a cluster of many users should be."""

    poll_interval = 0.3


def shell(script: str, **more: Any) -> RayJobTask:
    return RayJobTask(name="test.job", entrypoint=["sh", "-c", script], **more)


async def opened(options: Options, **more: Any) -> RayJobAgent:
    agent = Ray()
    await agent.open(RayJobAgent.Options(**{**options, **more}))
    return agent


def task_of(task: RayJobTask, key: str) -> Any:
    from airside.model import Task

    return Task(type=task.type, config=task.config, key=key, interface=task.interface)


async def test_a_job_runs_to_its_outputs(options: Options, cluster: Any) -> None:
    words = """it's "$HOME"; $(touch /tmp/pwned) `id`"""
    script = 'import json, os, sys\nprint("hello")\nprint("AIRSIDE_OUTPUTS=" + json.dumps(' \
        '{"words": sys.argv[1], "n": int(os.environ["N"]) + 1}))'  # fmt: skip
    task = RayJobTask(
        name="test.job",
        entrypoint=["python", "-c", script, "{{.inputs.words}}"],
        runtime_env={"env_vars": {"N": "{{.inputs.n}}"}},
        metadata={"team": "{{.inputs.n}}"},
        entrypoint_num_cpus=0.5,
        inputs=kwtypes(words=str, n=int),
        outputs=kwtypes(words=str, n=int),
    )
    async with harness(Ray(), options=options) as h:
        job = await h.create(task=task, inputs={"words": words, "n": 3})
        first = await h.get(job)
        done = await h.finish(job, timeout=PATIENCE)
        lines = [line.message async for line in h.logs(job)]
    assert first.links[0].uri == f"{cluster.url}/#/jobs/airside-{job.task.key}"
    assert first.phase in (Phase.QUEUED, Phase.RUNNING)
    assert (done.phase, done.message) == (Phase.SUCCEEDED, "Job finished successfully.")
    assert dict(done.outputs or {}) == {"words": words, "n": 4}
    assert "hello" in lines
    told = json.loads(cluster.ask(f"/api/jobs/airside-{job.task.key}"))
    assert told["metadata"]["airside_key"] == job.task.key
    assert told["metadata"]["team"] == "3"
    assert done.info["driver_exit_code"] == 0


async def test_a_job_uses_the_cluster(options: Options, wire: Any) -> None:
    script = (
        "import ray; ray.init(); f = ray.remote(lambda n: n * n); "
        "print('AIRSIDE_OUTPUTS={\"total\": %d}' % sum(ray.get([f.remote(n) for n in range(4)])))"
    )
    task = RayJobTask(name="squares", entrypoint=["python", "-c", script], outputs=kwtypes(total=int))
    async with harness(Ray(), options=options, wire=wire) as h:
        done = await h.finish(await h.create(task=task), timeout=PATIENCE)
    assert (done.phase, dict(done.outputs or {})) == (Phase.SUCCEEDED, {"total": 14}), done.message


async def test_failures_are_told_with_the_last_words_of_the_log(options: Options) -> None:
    cases = {
        "JobFailed": shell("echo starting; echo 'no such table: trips' >&2; exit 3"),
        "CannotStart": shell("true", runtime_env={"working_dir": "/nope"}),
        "RuntimeEnvFailed": shell("true", runtime_env={"py_modules": ["file:///nope.zip"]}),
    }
    async with harness(Ray(), options=options) as h:
        jobs = {code: await h.create(task=task) for code, task in cases.items()}
        ends = {code: await h.finish(job, timeout=PATIENCE) for code, job in jobs.items()}
    assert {code: end.code for code, end in ends.items()} == {code: code for code in cases}, ends
    failed = ends["JobFailed"]
    assert failed.phase is Phase.RETRYABLE_FAILED
    said = "Job entrypoint command failed with exit code 3:\nstarting\nno such table: trips"
    assert failed.message.startswith(f"{said} (JobFailed, id ")
    assert ends["CannotStart"].phase is ends["RuntimeEnvFailed"].phase is Phase.FAILED
    assert "Traceback" not in ends["CannotStart"].message
    assert "/nope is not a valid path" in ends["CannotStart"].message


async def test_what_is_wrong_with_a_task_fails_it(options: Options) -> None:
    from airside.model import TaskTemplate

    wrong = {
        "config.entrypoint: an input in a text": {"entrypoint": "echo {{.inputs.n}}"},
        "config.entrypoint must be": {"entrypoint": 3},
        "config.entrypoints: a ray_job task knows no such key": {"entrypoints": "x"},
        "config.entrypoint_num_cpus must be a number": {"entrypoint": "x", "entrypoint_num_cpus": -1},
        "config.runtime_env must be an object": {"entrypoint": "x", "runtime_env": "x"},
        "Credentials are not sent to evil.example.org": {"entrypoint": "x", "address": "http://evil.example.org:8265"},
        "entrypoint_label_selector": {"entrypoint": "x", "entrypoint_label_selector": {"a b": 3}},
    }
    async with harness(Ray(), options=options) as h:
        for words, config in wrong.items():
            task = TaskTemplate(name="t", task_type="ray_job", config=config, inputs=kwtypes(n=int))
            done = await h.finish(await h.create(task=task, inputs={"n": 1}), timeout=PATIENCE)
            assert done.phase is Phase.FAILED, words
            assert words in done.message, done.message
            assert "Traceback" not in done.message


async def test_a_job_is_stopped_and_kept(options: Options, cluster: Any) -> None:
    async with harness(Ray(), options=options) as h:
        job = await h.create(task=shell("echo up; exec sleep 600"))
        while (await h.get(job)).phase is not Phase.RUNNING:
            await asyncio.sleep(0.2)
        following = asyncio.create_task(_until(h.logs(job), "up"))
        assert await asyncio.wait_for(following, PATIENCE)  # while it runs
        await h.delete(job)
        end = await h.finish(job, timeout=PATIENCE)
    assert end.phase in (Phase.ABORTED, Phase.FAILED)
    told: Mapping[str, Any] = {"status": "RUNNING"}
    while told["status"] == "RUNNING":
        told = json.loads(await asyncio.to_thread(cluster.ask, f"/api/jobs/airside-{job.task.key}"))
        await asyncio.sleep(0.1)
    assert told["status"] == "STOPPED"


async def _until(lines: Any, wanted: str) -> bool:
    async with aclosing(lines):
        async for line in lines:
            if line.message == wanted:
                return True
    return False


async def test_the_log_goes_on_where_a_page_ended(options: Options) -> None:
    async with harness(Ray(), options=options) as h:
        job = await h.create(task=shell("for i in 1 2 3 4 5; do echo line $i; done"))
        await h.finish(job, timeout=PATIENCE)
        whole = [line async for line in h.logs(job)]
        page = [line.message async for line in h.logs(job, limit=2)]
        rest = [line.message async for line in h.logs(job, after="2")]
        with pytest.raises(Exception, match="is no place in this log"):
            [line async for line in h.logs(job, after="x")]
    assert [line.message for line in whole if line.message.startswith("line")] == [f"line {i}" for i in range(1, 6)]
    assert page + rest == [line.message for line in whole]


async def test_one_list_answers_for_many_jobs(options: Options, cluster: Any, fault_proxy: Callable[..., Any]) -> None:
    proxy = fault_proxy(cluster.port, record=True)
    agent = await opened(options, address=proxy.url)
    jobs = [await agent.create(task_of(shell(f"exit {n}"), f"{n:032x}")) for n in range(4)]
    unknown = replace(jobs[0], submission_id="airside-unknown")
    before = len(proxy.recorded())
    answers = await agent.get_many([*jobs, unknown], Call())
    assert [one["target"] for one in proxy.recorded()[before:]] == ["/api/jobs/"]
    assert all(not isinstance(one, Exception) for one in answers[:-1])
    assert isinstance(answers[-1], NotFound)
    two = await agent.get_many([jobs[0], unknown], Call())
    assert isinstance(two[1], NotFound)
    with pytest.raises(NotFound):
        await agent.delete(unknown, Call())
    with pytest.raises(NotFound):
        [one async for one in agent.logs(unknown, after="", limit=10, call=Call())]
    await agent.close()


async def test_faults_refusals_and_hosts_are_told_apart(
    options: Options, cluster: Any, free_port: Callable[[], int], fault_proxy: Callable[..., Any]
) -> None:
    agent = await opened(options)
    job = RayJob(submission_id="airside-x", address=cluster.url)
    wrong = Connection(secrets={"token": "wrong-token-wrong-token-wrong-token"})
    with pytest.raises(Fail, match="Ray answered 403") as caught:
        await agent.create(replace(task_of(shell("true"), "ab" * 16), connection=wrong))
    assert caught.value.code == "Forbidden"
    with pytest.raises(Retry, match="Ray answered 403"):
        await agent.get(job, Call(connection=wrong))
    with pytest.raises(Fail, match="Credentials are not sent to"):
        await agent.get(replace(job, address="http://10.9.8.7:8265"), Call())
    proxy = fault_proxy(cluster.port, share=1.0, kinds=["429"])
    through = await opened(options, address=proxy.url)
    with pytest.raises(Retry) as busy:
        await through.get(replace(job, address=proxy.url), Call())
    assert busy.value.after == 1
    proxy.set(kinds=["malformed"])
    with pytest.raises(Retry, match="without JSON"):
        await through.get(replace(job, address=proxy.url), Call())
    nobody = await opened(options, address=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(Retry, match="cannot be reached"):
        await nobody.create(task_of(shell("true"), "cd" * 16))
    assert await agent.probe() == f"Ray 2.60.0 answers at {cluster.url}"
    assert await agent.check_credentials() == "the secret ray_auth_token"
    for one in (agent, through, nobody):
        await one.close()


async def test_a_job_of_somebody_else_is_not_taken(options: Options) -> None:
    agent = await opened(options)
    task = task_of(shell("true"), "ef" * 16)
    assert await agent.find(task, task.key) is None
    made = await agent.create(task)
    assert await agent.find(task, task.key) == made == await agent.create(task)
    theirs = replace(task, key="12" * 16)
    import airside.agents.ray_job as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "submission_id", lambda key: made.submission_id)
        with pytest.raises(Fail, match="that is not Airside's"):
            await agent.find(theirs, theirs.key)
    await agent.close()


def test_the_tables_know_every_status_and_error_of_ray(cluster: Any) -> None:
    script = (
        "import json; from ray.dashboard.modules.job.common import JobErrorType, JobStatus; "
        "print(json.dumps([{one.value: one.is_terminal() for one in JobStatus}, [one.value for one in JobErrorType]]))"
    )
    done = subprocess.run([cluster.bin / "python", "-c", script], capture_output=True, text=True, check=True)
    statuses, errors = json.loads(done.stdout.splitlines()[-1])
    assert {name: phase.is_terminal for name, phase in STATES.items()} == statuses
    assert set(ERRORS) == set(errors)
    assert all(phase.is_failure for phase, _ in ERRORS.values())

"""The slurm agent over slurmrestd, against a real cluster."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from airside import kwtypes
from airside.agents.slurm import SlurmAgent
from airside.model import Call, Connection, Fail, Phase, Retry
from airside.sdk.adapt import AsyncFace, adapt
from airside.sdk.options import read_options
from airside.testing import harness

Wire = Literal["v1", "v2"]
Options = Mapping[str, Any]
ShellTask = Callable[..., Any]

pytestmark = pytest.mark.may_block


class Slurm(SlurmAgent):
    """The same, asked more often than a cluster of many users should be."""

    poll_interval = 0.2


async def test_a_script_runs_and_its_failure_is_told(wire: Wire, rest_options: Options, shell_task: ShellTask) -> None:
    async with harness(Slurm(), wire=wire, options=rest_options) as h:
        job = await h.create(task=shell_task("true", sbatch={"time": "1:30", "job-name": "good"}))
        good = await h.finish(job, timeout=60)
        assert (good.phase, good.message) == (Phase.SUCCEEDED, "COMPLETED")
        assert good.info is not None
        assert (good.info["nodes"], good.info["cpus"]) == ("localhost", 1)
        bad = await h.create(
            task=shell_task('exit "{inputs.status}"', inputs=kwtypes(status=int)), inputs={"status": 7}
        )
        resource = await h.finish(bad, timeout=60)
        assert resource.phase is Phase.RETRYABLE_FAILED
        assert resource.message.startswith("FAILED: exited with 7 (JobFailed")


async def test_an_array_is_summed_up_and_cancelled(rest_options: Options, shell_task: ShellTask) -> None:
    async with harness(Slurm(), options=rest_options) as h:
        array = await h.create(task=shell_task('exit "$SLURM_ARRAY_TASK_ID"', sbatch={"array": "0-2"}))
        resource = await h.finish(array, timeout=90)
        said = "2 of 3 tasks failed: task 1 FAILED: exited with 1; task 2 FAILED: exited with 2 ("
        assert resource.message.startswith(said)
        long = await h.create(task=shell_task("sleep 600"))
        await h.delete(long)
        assert (await h.finish(long, timeout=60)).phase.is_failure


async def test_a_repeated_create_finds_the_job(
    rest_options: Options, shell_task: ShellTask, jobs_of: Callable[[str], list[str]]
) -> None:
    async with harness(SlurmAgent, process=True, options=rest_options) as h:
        job = await h.create(task=shell_task("sleep 1"))
        await h.restart(kill=True)
        again = await h.create(task=shell_task("sleep 1"), output_prefix=job.output_prefix)
        assert len(jobs_of(job.task.key)) == 1
        assert (await h.finish(again, timeout=60)).phase is Phase.SUCCEEDED


async def test_many_jobs_are_asked_for_at_once(rest_options: Options, shell_task: ShellTask) -> None:
    async with harness(Slurm(), options=rest_options) as h:
        jobs = [await h.create(task=shell_task(f"exit {number % 2}")) for number in range(5)]
        for job in jobs:
            await h.finish(job, timeout=60)
        author = Slurm()
        agent = adapt(author)
        await agent.open(read_options(agent.options_type, rest_options, "agents.slurm"))
        try:
            metas = [await agent.find(job.task, job.task.key, Call()) for job in jobs]
            asked: list[str] = []
            author._clusters._http.event_hooks = {"request": [_noting(asked)], "response": []}
            told = await agent.get_many(metas, Call())
        finally:
            await agent.close()
        assert [getattr(one, "phase", None) for one in told] == [
            Phase.SUCCEEDED, Phase.RETRYABLE_FAILED, Phase.SUCCEEDED, Phase.RETRYABLE_FAILED, Phase.SUCCEEDED,
        ]  # fmt: skip
        assert asked == ["/slurm/v0.0.38/jobs"]


@pytest.mark.parametrize(
    ("sbatch", "words"),
    [
        ({"partition": "nope"}, "Invalid partition name"),
        ({"gpu-bind": "none"}, "over slurmrestd there is no such option"),
        ({"time": "soon"}, "cannot be read"),
    ],
)
async def test_what_cannot_work_fails_for_good(
    sbatch: Mapping[str, str], words: str, rest_options: Options, shell_task: ShellTask
) -> None:
    async with harness(SlurmAgent(), options=rest_options) as h:
        resource = await h.finish(await h.create(task=shell_task("true", sbatch=sbatch)))
    assert resource.phase is Phase.FAILED
    assert words in resource.message


async def test_the_token_goes_nowhere_else_and_shows_nowhere(
    rest_options: Options, shell_task: ShellTask, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = {"rest_config": {"url": "https://slurm.example.net"}}
    async with harness(Slurm(), options=rest_options) as h:
        refused = await h.finish(await h.create(task=shell_task("true", config=stranger)))
        assert (refused.phase, refused.code) == (Phase.FAILED, "HostNotAllowed")
        job = await h.create(task=shell_task("true"))
        assert (await h.finish(job, timeout=60)).phase is Phase.SUCCEEDED
        token = cluster.token()
        mine = await h.create(task=shell_task("true"), connection=Connection("mine", {"jwt": token}))
        assert (await h.finish(mine, timeout=60)).phase is Phase.SUCCEEDED
        assert token not in h.log
        assert token.encode() not in mine.handle
    monkeypatch.delenv("_FSEC_SLURM_JWT")
    async with harness(Slurm(), options=rest_options) as h:
        without = await h.finish(await h.create(task=shell_task("true")))
        assert (without.code, without.phase) == ("Forbidden", Phase.FAILED)


async def test_a_token_that_is_refused_while_a_job_is_there_may_be_in_renewal(
    rest_options: Options, shell_task: ShellTask, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with harness(Slurm(), options=rest_options) as h:
        job = await h.create(task=shell_task("sleep 600"))
        agent = adapt(Slurm())
        await agent.open(read_options(agent.options_type, rest_options, "agents.slurm"))
        try:
            meta = await agent.find(job.task, job.task.key, Call())
            assert meta is not None
            good = os.environ["_FSEC_SLURM_JWT"]
            id_of = b'"job_id":"%s"'
            [known] = re.findall(rb'"job_id":"(\d+)"', meta)
            several = [meta.replace(id_of % known, id_of % str(number).encode()) for number in range(900, 905)]
            for token in (good[:-6] + "AAAAAA", ""):
                monkeypatch.setenv("_FSEC_SLURM_JWT", token)
                for ask in (agent.get, agent.delete):
                    with pytest.raises(Retry):  # not every slurmrestd says that it is the token
                        await ask(meta, Call())
                assert all(isinstance(one, Retry) for one in await agent.get_many([meta, *several], Call()))
            monkeypatch.setenv("_FSEC_SLURM_JWT", good)
            assert not (await agent.get(meta, Call())).phase.is_terminal
        finally:
            await agent.close()
        await h.delete(job)


async def test_an_error_of_a_proxy_says_nothing_of_jobs(
    rest_options: Options,
    shell_task: ShellTask,
    cluster: Any,
    fault_proxy: Callable[..., Any],
    jobs_of: Callable[[str], list[str]],
) -> None:
    proxy = fault_proxy(cluster.ports["rest"])
    options = {**rest_options, "allowed_hosts": [proxy.url], "rest_url": proxy.url}
    async with harness(Slurm(), options=options) as h, opened(options) as agent:
        job = await h.create(task=shell_task("sleep 600"))
        meta = await agent.find(job.task, job.task.key, Call())
        assert meta is not None
        several = [agent.codec.encode(replace(agent.codec.decode(meta), job_id=str(one))) for one in range(900, 905)]
        proxy.set(share=1.0, kinds=["503", "429"])  # with JSON in their bodies
        asked = (agent.find(job.task, job.task.key, Call()), agent.create(job.task, Call()), agent.get(meta, Call()))
        told = await asyncio.gather(*asked, agent.delete(meta, Call()), return_exceptions=True)
        told += await agent.get_many([meta, *several], Call())
        proxy.set(share=0.0)
        assert [type(one) for one in told] == [Retry] * 10, told
        assert len(jobs_of(job.task.key)) == 1
        await h.delete(job)


async def test_a_handle_reaches_only_the_job_of_its_key(
    rest_options: Options, shell_task: ShellTask, cluster: Any, work: Path
) -> None:
    wrapped = ("sbatch", "--parsable", f"--chdir={work}", "--wrap", "sleep 600")
    theirs = [cluster.run(*wrapped[:2], *more, *wrapped[2:]).strip() for more in ((), ("--comment=theirs",))]
    async with harness(Slurm(), options=rest_options) as h, opened(rest_options) as agent:
        job = await h.create(task=shell_task("sleep 600"))
        meta = await agent.find(job.task, job.task.key, Call())
        assert meta is not None
        for number in theirs:
            forged = agent.codec.encode(replace(agent.codec.decode(meta), job_id=number))
            with pytest.raises(Retry, match="not cancelled: its comment"):
                await agent.delete(forged, Call())
        await h.delete(job)
    queue = cluster.run("squeue", "-h", "-t", "all", "-o", "%A %T")
    assert not any(f"{number} CANCELLED" in queue for number in theirs)
    cluster.run("scancel", *theirs)


async def test_a_version_that_slurmrestd_does_not_speak_is_told(rest_options: Options, shell_task: ShellTask) -> None:
    async with harness(Slurm(), options={**rest_options, "rest_version": "v0.0.99"}) as h:
        resource = await h.finish(await h.create(task=shell_task("true")))
    assert (resource.phase, resource.code) == (Phase.FAILED, "InvalidRequest")
    assert "rest_version" in resource.message


async def test_there_is_no_log_over_rest(rest_options: Options, shell_task: ShellTask) -> None:
    async with harness(Slurm(), options=rest_options) as h:
        job = await h.create(task=shell_task("true"))
        with pytest.raises(Fail, match="no access to the files"):
            [line async for line in h.logs(job)]


@asynccontextmanager
async def opened(options: Options) -> AsyncIterator[AsyncFace]:
    """The agent as a service uses it, without the service."""
    agent = AsyncFace(Slurm())
    await agent.open(read_options(agent.options_type, options, "agents.slurm"))
    try:
        yield agent
    finally:
        await agent.close()


def _noting(asked: list[str]) -> Callable[[Any], Any]:
    async def note(request: Any) -> None:
        asked.append(request.url.path)

    return note

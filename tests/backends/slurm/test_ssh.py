"""The slurm agent over SSH, against a real cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from airside import Container, Directory, File, kwtypes
from airside.agents.slurm import (
    OutputLocation,
    SlurmAgent,
    SlurmFunctionConfig,
    SlurmFunctionTask,
    SlurmScriptConfig,
    SlurmTask,
)
from airside.model import Call, Connection, Fail, NotFound, Phase, Resource, Retry
from airside.sdk.adapt import AsyncFace, adapt
from airside.sdk.options import read_options
from airside.testing import harness

Wire = Literal["v1", "v2"]
Options = Mapping[str, Any]
ShellTask = Callable[..., Any]


class Slurm(SlurmAgent):
    """The same, asked more often than a cluster of many users should be."""

    poll_interval = 0.2


pytestmark = pytest.mark.may_block  # the tests read files and ask the cluster themselves; `test_the_loop` does not


async def test_a_script_runs_with_its_inputs_and_leaves_its_outputs(
    wire: Wire, options: Options, shell_task: ShellTask, work: Path
) -> None:
    words = """it's "$HOME"; $(touch /tmp/pwned) `id` {inputs.n}"""
    task = shell_task(
        'printf "%s|%s" "{inputs.words}" "{inputs.n}" > {outputs.copy}; mkdir -p {outputs.place}\n'
        'echo "{\\"total\\": $((AIRSIDE_INPUT_n + 1))}" > "$AIRSIDE_OUTPUT_DIR/outputs.json"; echo done',
        inputs=kwtypes(words=str, n=int),
        outputs=kwtypes(total=int),
        output_locs=[
            OutputLocation(var="copy", var_type=File, location=f"{work}/a copy-{{inputs.n}}.txt"),
            OutputLocation(var="place", var_type=Directory, location=f"{work}/place"),
        ],
    )
    async with harness(Slurm(), wire=wire, options={**options, "job_url": "https://hpc.example.org/{job_id}"}) as h:
        job = await h.create(task=task, inputs={"words": words, "n": 3})
        assert (await h.get(job)).links[0].name == "Slurm job"
        resource = await h.finish(job, timeout=60)
        assert (resource.phase, resource.message) == (Phase.SUCCEEDED, "COMPLETED")
        outputs = dict(resource.outputs or {})
        assert outputs["total"] == 4
        assert outputs["copy"].uri == f"{work}/a copy-3.txt"
        assert outputs["place"].uri == f"{work}/place"
        assert Path(outputs["copy"].uri).read_text() == f"{words}|3"
        assert resource.info is not None
        assert resource.info["exit_status"] == 0
        assert resource.info["cpus"] == 1
        assert resource.info["nodes"] == "localhost"
        assert [line.message async for line in h.logs(job)] == ["done"]


async def test_a_failure_is_told_with_the_last_words_of_its_log(
    wire: Wire, options: Options, shell_task: ShellTask
) -> None:
    async with harness(Slurm(), wire=wire, options=options) as h:
        job = await h.create(task=shell_task("echo starting; echo 'no such table: trips' >&2; echo; exit 3"))
        resource = await h.finish(job, timeout=60)
        assert (resource.phase, resource.code) == (Phase.RETRYABLE_FAILED, "JobFailed")
        assert resource.message.startswith("FAILED: exited with 3: no such table: trips (JobFailed")
        killed = await h.finish(await h.create(task=shell_task("kill -KILL $$")), timeout=60)
        assert "SIGKILL" in killed.message


async def test_a_script_on_the_cluster_runs_with_its_arguments(options: Options, work: Path) -> None:
    script = work / "my script.slurm"
    script.write_text('#!/bin/bash\n#SBATCH --output=out-%j.txt\nprintf "<%s>\\n" "$@"\n')
    config = SlurmScriptConfig(
        ssh_config={"host": "127.0.0.1", "username": "root"},
        sbatch_config={"chdir": str(work), "job-name": "a name; with $(words)", "time": 5, "requeue": True},
        batch_script_path=str(script),
        batch_script_args=["a b", "$HOME", "{{.inputs.n}}"],
    )
    async with harness(Slurm(), options=options) as h:
        job = await h.create(
            task=SlurmTask(name="on_cluster", task_config=config, inputs=kwtypes(n=int)), inputs={"n": 7}
        )
        assert (await h.finish(job, timeout=60)).phase is Phase.SUCCEEDED
        assert [line.message async for line in h.logs(job)] == ["<a b>", "<$HOME>", "<7>"]
        [written] = work.glob("out-*.txt")
        assert written.read_text().startswith("<a b>")


async def test_the_command_of_a_container_runs_as_a_function(options: Options, work: Path) -> None:
    command = Container(args=("printf", "%s\n", "a  b", "{{.inputs.n}}", "$HOME"))
    config = SlurmFunctionConfig(
        sbatch_config={"chdir": str(work)}, script="#!/bin/bash\necho before\n{task.fn}\necho after\n"
    )
    task = SlurmFunctionTask(name="fn", task_config=config, container=command, inputs=kwtypes(n=int))
    async with harness(Slurm(), options=options) as h:
        job = await h.create(task=task, inputs={"n": 7})
        assert (await h.finish(job, timeout=60)).phase is Phase.SUCCEEDED
        assert [line.message async for line in h.logs(job)] == ["before", "a  b", "7", "$HOME", "after"]


async def test_the_tasks_of_an_array_are_summed_up(options: Options, shell_task: ShellTask) -> None:
    task = shell_task(
        'echo "task $SLURM_ARRAY_TASK_ID"; [ "$SLURM_ARRAY_TASK_ID" != 11 ] || exit 5', sbatch={"array": "2,9-11"}
    )
    async with harness(Slurm(), options=options) as h:
        job = await h.create(task=task)
        resource = await h.finish(job, timeout=90)
        assert resource.phase is Phase.RETRYABLE_FAILED
        assert resource.message.startswith("1 of 4 tasks failed: task 11 FAILED: exited with 5: [11] task 11 (")
        assert resource.info is not None
        assert (resource.info["tasks"], resource.info["slurm_state"]) == (4, "3 COMPLETED, 1 FAILED")
        lines = [line async for line in h.logs(job)]
        assert [line.message for line in lines] == ["[2] task 2", "[9] task 9", "[10] task 10", "[11] task 11"]
        page = [line async for line in h.logs(job, limit=2)]
        rest = [line.message async for line in h.logs(job, after=page[-1].cursor)]
        assert rest == ["[10] task 10", "[11] task 11"]


async def test_a_log_is_followed_and_read_page_by_page(options: Options, shell_task: ShellTask, work: Path) -> None:
    gate = work / "gate"
    task = shell_task(f'for i in 1 2 3; do echo "line $i"; done; until [ -e {gate} ]; do sleep 0.1; done; printf end')
    async with harness(Slurm(), options=options) as h:
        job = await h.create(task=task)
        first = [line async for line in h.logs(job, limit=2)]
        assert [line.message for line in first] == ["line 1", "line 2"]
        following = h.logs(job, after=first[-1].cursor)
        assert (await anext(following)).message == "line 3"
        gate.touch()
        assert [line.message async for line in following] == ["end"]


async def test_only_the_end_of_a_large_log_is_fetched(options: Options, shell_task: ShellTask) -> None:
    script = "head -c 30000000 /dev/zero | tr '\\0' 'x'; echo; echo 'the end'; exit 1"
    async with harness(Slurm(), options=options) as h, opened(options) as agent:
        job = await h.create(task=shell_task(script))
        assert (await h.finish(job, timeout=60)).message.startswith("FAILED: exited with 1: the end (")
        meta = await agent.find(job.task, job.task.key, Call())
        assert meta is not None
        pool, fetched = agent.author._clusters._pool, 0
        run = pool.run

        async def weighed(login: Any, script: str) -> Any:
            nonlocal fetched
            answer = await run(login, script)
            fetched += len(answer.out)
            return answer

        pool.run = weighed
        assert (await agent.get(meta, Call())).message == "FAILED: exited with 1: the end"
        assert fetched < 20_000  # bytes of 30 MB
        piece = [line async for line in agent.logs(meta, after="", limit=3, call=Call())]
        assert [len(line.message) for line in piece] == [65536] * 3
        rest = [line async for line in agent.logs(meta, after=":30000001", limit=9, call=Call())]
        assert [line.message for line in rest] == ["the end"]
        assert fetched < 1_000_000


async def test_a_cancelled_job_ends(
    wire: Wire, options: Options, shell_task: ShellTask, cluster: Any, jobs_of: Any, eventually: Any
) -> None:
    async with harness(Slurm(), wire=wire, options=options) as h:
        job = await h.create(task=shell_task("sleep 600"))
        await _until(lambda: h.get(job), lambda resource: resource.phase is Phase.RUNNING)
        await h.delete(job)
        assert (await h.finish(job, timeout=60)).phase.is_failure
        [number] = jobs_of(job.task.key)
        eventually(lambda: "JobState=CANCELLED" in cluster.run("scontrol", "show", "job", number))
        held = await h.create(task=shell_task("true", sbatch={"array": "0-3", "hold": True}))
        await h.delete(held)
        assert (await h.finish(held, timeout=60)).phase.is_failure


async def test_a_job_that_waits_says_what_for(options: Options, shell_task: ShellTask) -> None:
    async with harness(Slurm(), options=options) as h:
        job = await h.create(task=shell_task("true", sbatch={"hold": True}))
        resource = await _until(lambda: h.get(job), lambda resource: "PENDING" in resource.message)
        assert (resource.phase, resource.message) == (Phase.QUEUED, "PENDING: a user holds it: scontrol release")
        await h.delete(job)


@pytest.mark.backend  # Slurm looks at the time of its jobs twice a minute
async def test_a_time_limit_is_told_apart(options: Options, shell_task: ShellTask, cluster: Any) -> None:
    async with harness(Slurm(), options=options) as h:
        job = await h.create(task=shell_task("sleep 600"))
        await _until(lambda: h.get(job), lambda resource: resource.phase is Phase.RUNNING)
        [number] = [
            line for line in cluster.run("squeue", "-h", "-t", "R", "-o", "%A %j").splitlines() if "job" in line
        ]
        cluster.run("scontrol", "update", f"jobid={number.split()[0]}", "EndTime=now+1")
        resource = await h.finish(job, timeout=100)
        assert (resource.phase, resource.code) == (Phase.FAILED, "TimeLimit")


@pytest.mark.parametrize(
    ("config", "code", "words"),
    [
        ({"sbatch_config": {"partition": "nope"}}, "InvalidRequest", "Invalid partition name"),
        ({"sbatch_config": {"no-such-option": "1"}}, "InvalidRequest", "unrecognized option"),
        ({"sbatch_config": {"mem": "9T"}}, "InvalidRequest", "Requested node configuration is not available"),
        ({"sbatch_config": {"wrap": "rm -rf /"}}, "UserError", "leave it out"),
        ({"sbatch_config": {"--partition": "main"}}, "UserError", "no long option"),
        ({"sbatch_config": {"-p main; touch /tmp/pwned": "x"}}, "UserError", "no long option"),
        ({"script": "echo hello"}, "UserError", "must name an interpreter"),
        ({"script": ""}, "UserError", "either config.script"),
        ({"script": "", "batch_script_path": "/no/such/file"}, "InvalidRequest", "Unable to open file /no/such/file"),
        ({"ssh_config": {"host": "evil.example.net"}}, "HostNotAllowed", "evil.example.net"),
        ({"ssh_config": {"username": "root", "client_keys": "/etc/ssh/key"}}, "Forbidden", "operator may list it"),
        ({"ssh_config": {"password": "x"}}, "UserError", "unknown key"),
        ({"ssh_config": {"username": "somebody"}}, "Forbidden", "may not run as 'somebody'"),
    ],
)
async def test_what_cannot_work_fails_for_good_and_says_why(
    config: Mapping[str, Any], code: str, words: str, options: Options, work: Path
) -> None:
    whole = {"script": "#!/bin/bash\ntrue\n", **config}
    whole["sbatch_config"] = {"chdir": str(work), **whole.get("sbatch_config", {})}
    async with harness(Slurm(), options={**options, "usernames": ["root"]}) as h:
        resource = await h.finish(await h.create(task_type="slurm", config=whole))
    assert (resource.phase, resource.code) == (Phase.FAILED, code)
    assert words in resource.message
    assert not Path("/tmp/pwned").exists()


@pytest.mark.parametrize(
    ("word", "words"), [("a\0b", "inputs.word has a NUL"), ("ü" * 70_000, "inputs.word is over 120000 bytes")]
)
async def test_an_input_that_no_variable_can_hold_is_refused(
    word: str, words: str, options: Options, shell_task: ShellTask
) -> None:
    async with harness(Slurm(), options=options) as h:
        task = shell_task('echo "{inputs.word}"', inputs=kwtypes(word=str))
        resource = await h.finish(await h.create(task=task, inputs={"word": word}))
    assert (resource.phase, resource.code) == (Phase.FAILED, "UserError")
    assert words in resource.message


async def test_an_unverified_host_and_a_wrong_key_are_refused(
    options: Options, shell_task: ShellTask, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = {**options, "known_hosts": str(cluster.folder / "wrong_hosts")}
    async with harness(Slurm(), options=stranger) as h:
        resource = await h.finish(await h.create(task=shell_task("true")))
        assert (resource.phase, resource.code) == (Phase.FAILED, "HostKeyNotVerified")
    refused = {**options, "client_keys": [str(cluster.folder / "wrong_key")]}
    async with harness(Slurm(), options=refused) as h:
        resource = await h.finish(await h.create(task=shell_task("true")))
        assert (resource.phase, resource.code) == (Phase.FAILED, "Forbidden")
    monkeypatch.setenv("_FSEC_FLYTE_SLURM_PRIVATE_KEY", (cluster.folder / "client_key").read_text())
    by_secret = {name: value for name, value in options.items() if name != "client_keys"}
    async with harness(Slurm(), options=by_secret) as h:
        job = await h.create(task=shell_task("true"))
        assert (await h.finish(job, timeout=60)).phase is Phase.SUCCEEDED
        assert "PRIVATE KEY" not in h.log
        assert b"PRIVATE" not in job.handle


async def test_a_connection_brings_its_own_key(options: Options, shell_task: ShellTask, cluster: Any) -> None:
    key = (cluster.folder / "client_key").read_text()
    bare = {**options, "client_keys": [str(cluster.folder / "wrong_key")], "username": ""}
    async with harness(Slurm(), options=bare) as h:
        mine = Connection("mine", {"private_key": key}, {"host": "127.0.0.1", "username": "root"})
        job = await h.create(task=shell_task("true"), connection=mine)
        assert (await h.finish(job, timeout=60)).phase is Phase.SUCCEEDED


async def test_a_connection_that_breaks_is_made_anew(options: Options, shell_task: ShellTask, cluster: Any) -> None:
    async with harness(Slurm(), options=options) as h:
        job = await h.create(task=shell_task("sleep 600"))
        await _until(lambda: h.get(job), lambda resource: resource.message == "RUNNING")
        cluster.stop_ssh()
        resource = await _until(lambda: h.get(job), lambda resource: "cannot be reached" in resource.message)
        assert not resource.phase.is_terminal
        cluster.start_ssh()
        await _until(lambda: h.get(job), lambda resource: resource.message == "RUNNING")
        await h.delete(job)
        assert (await h.finish(job, timeout=60)).phase.is_failure


async def test_many_jobs_are_asked_for_with_one_command(options: Options, shell_task: ShellTask) -> None:
    async with harness(Slurm(), options=options) as h:
        jobs = [await h.create(task=shell_task(f"exit {number % 2}")) for number in range(6)]
        for job in jobs:
            await h.finish(job, timeout=60)
        author = Slurm()
        agent = adapt(author)
        await agent.open(read_options(agent.options_type, options, "agents.slurm"))
        try:
            metas = [await agent.find(job.task, job.task.key, Call()) for job in jobs]
            asked: list[str] = []
            run = author._clusters._pool.run

            async def counted(login: Any, script: str) -> Any:
                asked.append(script)
                return await run(login, script)

            author._clusters._pool.run = counted  # type: ignore[method-assign]  # counted for the test
            unknown = metas[0].replace(b'"job_id":"', b'"job_id":"99999')
            told = await agent.get_many([*metas, unknown], Call())
            bad = metas[0].replace(b'"job_id":"', b'"job_id":"0; id #')
            mixed = await agent.get_many([bad, *metas[:2]], Call())
        finally:
            await agent.close()
        assert [getattr(one, "phase", None) for one in mixed] == [None, Phase.SUCCEEDED, Phase.RETRYABLE_FAILED]
        assert [getattr(one, "phase", None) for one in told[:6]] == [Phase.SUCCEEDED, Phase.RETRYABLE_FAILED] * 3
        assert "does not know" in str(told[6])
        assert sum("squeue" in script for script in asked) == 2  # one for each batch
        assert sum("sacct" in script for script in asked) == 1


async def test_whatever_is_refused_while_a_job_is_there_may_pass(
    options: Options, shell_task: ShellTask, cluster: Any
) -> None:
    async with harness(Slurm(), options=options) as h, opened(options) as agent:
        job = await h.create(task=shell_task("sleep 600"))
        meta = await agent.find(job.task, job.task.key, Call())
        assert meta is not None
        refusals = (
            ({**options, "client_keys": [str(cluster.folder / "wrong_key")]}, "refuses the service's key"),
            ({**options, "known_hosts": str(cluster.folder / "wrong_hosts")}, "host key"),
            ({**options, "allowed_hosts": []}, "is not used for"),
            ({**options, "usernames": ["me"], "username": "me"}, "may not run as 'root'"),
        )
        for others, words in refusals:
            async with opened(others) as refused:
                for ask in (refused.get, refused.delete):
                    with pytest.raises(Retry, match=words):
                        await ask(meta, Call())
        await h.delete(job)


async def test_what_one_job_has_left_costs_the_others_nothing(options: Options, shell_task: ShellTask) -> None:
    async with harness(Slurm(), options=options) as h, opened(options) as agent:
        line = 'echo "{\\"n\\": $AIRSIDE_INPUT_n}" > "$AIRSIDE_OUTPUT_DIR/outputs.json"'
        task = shell_task(line, inputs=kwtypes(n=int), outputs=kwtypes(n=int))
        jobs = [await h.create(task=task, inputs={"n": number}) for number in range(3)]
        for job in jobs:
            await h.finish(job, timeout=60)
        metas = [await agent.find(job.task, job.task.key, Call()) for job in jobs]
        pool = agent.author._clusters._pool
        run = pool.run

        async def broken(login: Any, script: str) -> Any:
            if jobs[0].task.key in script and "outputs.json" in script:
                raise Fail("The key is refused.", code="Forbidden")
            if jobs[1].task.key in script and "outputs.json" in script:
                raise TimeoutError  # as when the time for the batch is over
            return await run(login, script)

        pool.run = broken
        told = await agent.get_many([one for one in metas if one is not None], Call())
    assert [type(one) for one in told] == [Retry, Retry, Resource]
    assert "no time left" in str(told[1])
    assert isinstance(told[2], Resource)
    assert dict(told[2].outputs or {}) == {"n": 2}


async def test_a_handle_reaches_only_the_job_of_its_key(
    options: Options, shell_task: ShellTask, cluster: Any, work: Path, eventually: Any
) -> None:
    theirs = cluster.run("sbatch", "--parsable", f"--chdir={work}", "--wrap", "echo private; sleep 600").strip()
    eventually(lambda: "private" in "".join(one.read_text() for one in work.glob("slurm-*.out")))
    async with harness(Slurm(), options=options) as h, opened(options) as agent:
        job = await h.create(task=shell_task("true"))
        meta = await agent.find(job.task, job.task.key, Call())
        assert meta is not None
        forged = agent.codec.encode(replace(agent.codec.decode(meta), job_id=theirs))
        with pytest.raises(Retry, match="not cancelled: its comment"):
            await agent.delete(forged, Call())
        with pytest.raises(Fail, match="not shown: its comment"):
            [line async for line in agent.logs(forged, after="", limit=9, call=Call())]
        assert f"{theirs} RUNNING" in cluster.run("squeue", "-h", "-t", "all", "-o", "%A %T")
        cluster.run("scancel", theirs)
        eventually(lambda: f"{theirs} CANCELLED" in cluster.run("squeue", "-h", "-t", "all", "-o", "%A %T"))
        with pytest.raises(NotFound, match="not that of this task"):
            await agent.get(forged, Call())
        await h.finish(job, timeout=60)
        elsewhere = agent.codec.encode(replace(agent.codec.decode(meta), key="../../../etc"))
        with pytest.raises(NotFound):
            await agent.get(elsewhere, Call())


async def test_one_connection_serves_many_polls(options: Options, shell_task: ShellTask, cluster: Any) -> None:
    async with harness(Slurm(), options=options) as h, opened(options) as agent:
        job = await h.create(task=shell_task("true"))
        await h.finish(job, timeout=60)
        pool, made = agent.author._clusters._pool, 0
        connect = pool._connect

        async def counted(login: Any) -> Any:
            nonlocal made
            made += 1
            return await connect(login)

        pool._connect = counted
        meta = await agent.find(job.task, job.task.key, Call())
        assert meta is not None
        cluster.stop_ssh()
        cluster.start_ssh("-o", "MaxSessions=3")  # fewer commands at once than the agent thinks
        try:
            await asyncio.gather(*(agent.get(meta, Call()) for _ in range(20)))
        finally:
            cluster.stop_ssh()
            cluster.start_ssh()
        assert made == 2


@pytest.mark.backend  # Slurm's programs wait for their controller
async def test_a_controller_that_is_away_costs_no_job(
    options: Options, shell_task: ShellTask, cluster: Any, jobs_of: Callable[[str], list[str]]
) -> None:
    async with harness(Slurm(), options=options) as h, opened(options) as agent:
        job = await h.create(task=shell_task("sleep 600"))
        meta, fresh = await agent.find(job.task, job.task.key, Call()), h.task(task=shell_task("true"))
        assert meta is not None
        cluster.stop("slurmctld")
        try:
            asked = (agent.get(meta, Call()), agent.delete(meta, Call()), agent.create(fresh, Call()))
            told = await asyncio.gather(*asked, agent.find(fresh, fresh.key, Call()), return_exceptions=True)
        finally:
            cluster.start_controller()
        assert [type(one) for one in told] == [Retry] * 4, told
        assert not (await agent.get(meta, Call())).phase.is_terminal
        assert jobs_of(fresh.key) == []
        await h.delete(job)


async def test_a_limit_of_jobs_that_is_reached_may_pass(
    options: Options, rest_options: Options, shell_task: ShellTask, cluster: Any, eventually: Any
) -> None:
    def limit(number: int) -> None:
        cluster.run("sacctmgr", "-i", "modify", "user", "root", "set", f"MaxSubmitJobs={number}")
        show = ("scontrol", "show", "assoc_mgr", "flags=assoc", "users=root")
        eventually(lambda: ("MaxSubmitJobs=1(" in cluster.run(*show)) == (number == 1))

    async with (
        harness(Slurm(), options=options) as h,
        opened(options) as by_ssh,
        opened(rest_options) as by_rest,
    ):
        held = await h.create(task=shell_task("true", sbatch={"hold": True}))
        fresh = h.task(task=shell_task("true", sbatch={"time": 5}))
        limit(1)
        try:
            for agent in (by_ssh, by_rest):
                with pytest.raises(Retry, match=r"job submit limit|accounting/QOS policy") as caught:
                    await agent.create(fresh, Call())
                assert caught.value.after == 60
        finally:
            limit(-1)
        assert await by_ssh.create(fresh, Call())
        await h.delete(held)


async def test_outputs_that_cannot_be_read_now_are_asked_for_again(
    options: Options, shell_task: ShellTask, work: Path
) -> None:
    programs = work / "bin"
    programs.mkdir()
    broken = programs / "head"
    broken.write_text("#!/bin/sh\necho 'head: error reading: Input/output error' >&2\nexit 1\n")
    broken.chmod(0o755)
    task = shell_task('echo "{\\"n\\": 3}" > "$AIRSIDE_OUTPUT_DIR/outputs.json"', outputs=kwtypes(n=int))
    async with harness(Slurm(), options=options) as h, opened({**options, "bin_dir": str(programs)}) as agent:
        job = await h.create(task=task)
        assert dict((await h.finish(job, timeout=60)).outputs or {}) == {"n": 3}
        meta = await agent.find(job.task, job.task.key, Call())
        assert meta is not None
        with pytest.raises(Retry, match="Input/output error"):
            await agent.get(meta, Call())
        broken.unlink()
        assert dict((await agent.get(meta, Call())).outputs or {}) == {"n": 3}


async def test_a_script_that_was_cut_off_on_its_way_makes_no_job(
    options: Options, shell_task: ShellTask, jobs_of: Callable[[str], list[str]]
) -> None:
    async with harness(Slurm(), options=options) as h, opened(options) as agent:
        task = h.task(task=shell_task("sleep 600"))
        pool = agent.author._clusters._pool
        run = pool.run
        for missing in range(2, 12):

            async def cut(login: Any, script: str, missing: int = missing) -> Any:
                return await run(login, script[:-missing])

            pool.run = cut
            with pytest.raises((Retry, Fail)):
                await agent.create(task, Call())
        assert jobs_of(task.key) == []


@asynccontextmanager
async def opened(options: Options) -> AsyncIterator[AsyncFace]:
    """The agent as a service uses it, without the service."""
    agent = AsyncFace(Slurm())
    await agent.open(read_options(agent.options_type, options, "agents.slurm"))
    try:
        yield agent
    finally:
        await agent.close()


async def _until(ask: Callable[[], Any], so: Callable[[Any], bool], within: float = 60.0) -> Any:
    async with asyncio.timeout(within):
        while not so(resource := await ask()):
            await asyncio.sleep(0.1)
    return resource

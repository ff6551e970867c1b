"""The local_process agent: real processes, real files, real kills."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from airside import kwtypes
from airside.agents import supervisor
from airside.agents.jobs import Job, Jobs, Launch
from airside.agents.local_process import LocalProcessAgent, ProcessTask
from airside.model import (
    Container,
    Directory,
    Execution,
    Fail,
    File,
    NotFound,
    OutputsAt,
    Phase,
    Retry,
    StructuredDataset,
    UsageError,
)

Open = Callable[..., Awaitable[Any]]


@pytest.fixture
async def local(open_agent: Open, tmp_path: Path) -> Any:
    return await open_agent(LocalProcessAgent(), state_dir=str(tmp_path / "jobs"), grace=0.3)


def sh(line: str) -> dict[str, Any]:
    return {"command": ["sh", "-c", line]}


def python(code: str) -> dict[str, Any]:
    return {"command": [sys.executable, "-c", textwrap.dedent(code)]}


def gone(pid: int) -> bool:
    """True if the process is no more; a zombie that nobody reaped is no more either."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    except FileNotFoundError:
        return True


async def until(condition: Callable[[], bool]) -> None:
    last = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < last
        await asyncio.sleep(0.01)


def folder_of(tmp_path: Path, meta: bytes) -> Path:
    return tmp_path / "jobs" / json.loads(meta)["id"]


# -- outputs and inputs


async def test_outputs_json_gives_values_of_the_declared_types(local: Any, tmp_path: Path) -> None:
    code = """
        import json, os
        inputs = json.load(open(os.environ["AIRSIDE_INPUTS"]))
        open(os.path.join(os.environ["AIRSIDE_OUTPUT_DIR"], "report.csv"), "w").write("a")
        with open(os.path.join(os.environ["AIRSIDE_OUTPUT_DIR"], "outputs.json"), "w") as file:
            json.dump({"n": inputs["x"] + 1, "report": "report.csv", "at": inputs["at"], "took": inputs["took"],
                       "table": {"uri": "s3://b/t.parquet", "columns": {"a": "int"}}, "all": [inputs["f"]]}, file)
    """
    resource = await local.run(
        python(code),
        inputs={"x": 3, "at": datetime(2024, 1, 2, tzinfo=UTC), "took": timedelta(seconds=1.5), "f": File("s3://b/f")},
        outputs=kwtypes(n=int, report=File, at=datetime, took=timedelta, table=StructuredDataset, all=list[File]),
        output_prefix=f"file://{tmp_path}/out%20put",
    )
    assert resource.phase is Phase.SUCCEEDED
    assert resource.outputs == {
        "n": 4,
        "report": File(f"{tmp_path}/out put/report.csv"),
        "at": datetime(2024, 1, 2, tzinfo=UTC),
        "took": timedelta(seconds=1.5),
        "table": StructuredDataset("s3://b/t.parquet", columns={"a": int}),
        "all": [File("s3://b/f")],
    }


async def test_each_output_may_be_a_file_of_its_own(local: Any, tmp_path: Path) -> None:
    line = """cd "$AIRSIDE_OUTPUT_DIR"; echo 7 > n; echo 0.5 > share; echo hello > text; echo true > ok
              echo '{"a": [1]}' > more; echo a,b > table; mkdir folder; echo 2 > count"""
    declared = kwtypes(
        n=int,
        share=float,
        text=str,
        ok=bool,
        more=dict,
        table=StructuredDataset,
        folder=Directory,
        raw=bytes,
        note=str | None,
        count=int | None,
    )
    resource = await local.run(
        sh(line + "; printf xy > raw"), outputs=declared, output_prefix=str(tmp_path / "deep" / "out")
    )
    out = tmp_path / "deep" / "out"
    assert resource.outputs == {
        "n": 7,
        "share": 0.5,
        "text": "hello",
        "ok": True,
        "more": {"a": [1]},
        "table": StructuredDataset(str(out / "table")),
        "folder": Directory(str(out / "folder")),
        "raw": b"xy",
        "note": None,
        "count": 2,
    }


async def test_outputs_in_flytes_own_format_are_left_to_the_service(local: Any, tmp_path: Path) -> None:
    written = await local.run(
        sh("touch {{.outputPrefix}}/outputs.pb"), outputs=kwtypes(n=int), output_prefix=str(tmp_path / "o")
    )
    assert written.outputs == OutputsAt(str(tmp_path / "o"))
    elsewhere = await local.run(sh("true"), outputs=kwtypes(n=int), output_prefix="s3://bucket/run/0")
    assert elsewhere.outputs == OutputsAt("s3://bucket/run/0")


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("true", "OutputsNotFound", "left no output 'n'"),
        (
            "cd $AIRSIDE_OUTPUT_DIR; touch at; echo x > n",
            "OutputConversionError",
            "outputs.n: the file n holds 'x', which is no int",
        ),
        ("echo '[]' > $AIRSIDE_OUTPUT_DIR/outputs.json", "OutputConversionError", "must be an object"),
        ("echo '{' > $AIRSIDE_OUTPUT_DIR/outputs.json", "OutputConversionError", "is not JSON"),
        (
            """echo '{"at": [5]}' > $AIRSIDE_OUTPUT_DIR/outputs.json""",
            "OutputConversionError",
            "outputs.at: expected a time in ISO 8601, got [5]",
        ),
        ("head -c 4000000 /dev/zero > $AIRSIDE_OUTPUT_DIR/outputs.json", "OutputTooLarge", "over 3 MiB"),
    ],
)
async def test_missing_and_wrong_outputs_fail_with_a_reason(local: Any, line: str, code: str, message: str) -> None:
    resource = await local.run(sh(line), outputs=kwtypes(n=int, at=datetime))
    assert (resource.phase, resource.code) == (Phase.FAILED, code)
    assert message in resource.message


async def test_a_process_without_declared_outputs_succeeds_with_none(local: Any) -> None:
    resource = await local.run(sh("echo '{\"n\": 1}' > $AIRSIDE_OUTPUT_DIR/outputs.json"))
    assert (resource.phase, resource.outputs) == (Phase.SUCCEEDED, {})
    assert resource.info["max_rss_bytes"] > 100_000


async def test_arguments_are_filled_in(local: Any) -> None:
    config = {"command": ["printf", "%s|", "{{.inputs.n}}", "x={{ $.Inputs.Name }}", "{{.Names}}", "{{.inputs.files}}"]}
    meta = await local.create(config, inputs={"n": 3, "name": "a b", "files": [File("s3://b/1"), File("s3://b/2")]})
    await local.finish(meta)
    assert [line.message for line in await local.logs(meta)] == ["3|x=a b|{{.Names}}|[s3://b/1,s3://b/2]|"]
    with pytest.raises(Fail, match=r"asks for the input 'm', which is not there \(inputs: n\)"):
        await local.create({"command": ["echo", "{{.inputs.m}}"]}, inputs={"n": 1})


async def test_no_input_is_run_as_a_command_in_a_shell(local: Any, tmp_path: Path) -> None:
    evil = f"'; touch {tmp_path}/evil; echo $(touch {tmp_path}/evil) \"`touch {tmp_path}/evil`\" '"
    line = """printf '%s\\n' "{{.inputs.x}}" {{.inputs.x}} '{{.inputs.x}}' > /dev/null; printf %s "{{.inputs.x}}" """
    meta = await local.create({"command": line, "shell": True}, inputs={"x": evil})
    assert (await local.finish(meta)).phase is Phase.SUCCEEDED
    assert [line.message for line in await local.logs(meta)] == [evil]
    assert not (tmp_path / "evil").exists()


async def test_a_container_of_flytekit_that_fails_is_heard(local: Any) -> None:
    """Flytekit's entry point writes `error.pb` and ends well, unless it is told to end with an error."""
    container = Container(image="ignored", command=("sh", "-c"), args=('test "$FLYTE_FAIL_ON_ERROR" != true',))
    assert (await local.run({}, container=container)).phase is Phase.RETRYABLE_FAILED


async def test_a_container_runs_as_a_process_with_its_own_variables(local: Any) -> None:
    container = Container(
        image="ignored", command=("sh", "-c"), args=('echo "$A $B"; pwd',), env={"A": "container", "B": "container"}
    )
    meta = await local.create({"cwd": "/", "env": {"B": "config"}}, container=container)
    await local.finish(meta)
    assert [line.message for line in await local.logs(meta)] == ["container config", "/"]


async def test_the_environment_is_an_allow_list(
    open_agent: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_FSEC_BANK_TOKEN", "t0p-s3cr3t")
    monkeypatch.setenv("MY_LICENCE", "a-licence-key")
    monkeypatch.setenv("LC_TIME", "C")
    local = await open_agent(LocalProcessAgent(), state_dir=str(tmp_path / "jobs"), env_allow=["MY_LICENCE"])
    execution = Execution(env={"RUN_NAME": "r1"})
    meta = await local.create({"command": ["/usr/bin/env"], "env": {"OWN": "1"}}, execution=execution)
    assert (await local.finish(meta)).phase is Phase.SUCCEEDED
    names = {line.message.partition("=")[0] for line in await local.logs(meta)}
    told = {"AIRSIDE_INPUTS", "AIRSIDE_OUTPUT_DIR", "AIRSIDE_KEY", "RUN_NAME", "OWN", "MY_LICENCE"}
    assert told | {"PATH", "LC_TIME"} <= names
    assert names <= told | {"PATH", "HOME", "LANG", "TZ", "TMPDIR"} | {name for name in names if name[:3] == "LC_"}
    for file in folder_of(tmp_path, meta).rglob("*"):
        assert (
            file.name == "log" or not file.is_file() or b"a-licence-key" not in file.read_bytes()
        )  # no variable's value


# -- how it ends


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("echo all is lost >&2; echo; exit 3", "ProcessFailed", "exited with 3: all is lost"),
        ("kill -KILL $$", "ProcessFailed", "killed by SIGKILL"),
        ("kill -SEGV $$", "ProcessFailed", "killed by SIGSEGV"),
        ("exit 137", "ProcessFailed", "exited with 137 (a process that it ran was killed by SIGKILL)"),
    ],
)
async def test_exit_code_and_signal_are_named(local: Any, line: str, code: str, message: str) -> None:
    resource = await local.run(sh(line))
    assert (resource.phase, resource.code, resource.message) == (Phase.RETRYABLE_FAILED, code, message)


async def test_a_process_may_say_itself_why_it_failed(local: Any, tmp_path: Path) -> None:
    line = """echo '{"message": "no such day", "code": "BadDay"}' > $AIRSIDE_OUTPUT_DIR/error.json; exit 1"""
    resource = await local.run(sh(line))
    assert (resource.phase, resource.code, resource.message) == (Phase.FAILED, "BadDay", "no such day")
    again = await local.run(sh("""echo '{"retryable": true}' > $AIRSIDE_OUTPUT_DIR/error.json; exit 75"""))
    assert (again.phase, again.code, again.message) == (Phase.RETRYABLE_FAILED, "ProcessFailed", "exited with 75")
    flyte = await local.run(sh("touch $AIRSIDE_OUTPUT_DIR/error.pb; exit 1"), output_prefix=str(tmp_path / "o"))
    assert (flyte.phase, flyte.outputs) == (Phase.RETRYABLE_FAILED, OutputsAt(str(tmp_path / "o")))


async def test_what_cannot_be_started_fails_for_good(local: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF nonsense")
    broken.chmod(0o755)
    resource = await local.run({"command": [str(broken)]})
    assert (resource.phase, resource.code) == (Phase.FAILED, "CannotStart")
    assert resource.message == f"cannot start {broken}: Exec format error"
    with pytest.raises(Fail, match="The program 'no-such-program' is in no directory of PATH"):
        await local.create({"command": ["no-such-program"]})
    with pytest.raises(Fail, match="is not there or not executable"):
        await local.create({"command": ["./no-such-program"]})
    with pytest.raises(Fail, match="The working directory /no/such is not there"):
        await local.create({"command": ["true"], "cwd": "/no/such"})
    with pytest.raises(Fail, match="The output directory /proc/none cannot be made"):
        await local.create({"command": ["true"]}, output_prefix="/proc/none")


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({}, "needs config.command, a list of texts, or a container"),
        ({"command": "echo hi"}, "a list of texts"),
        ({"command": ["sleep", 3]}, "a list of texts"),
        ({"command": ["true"], "shell": True}, "one text, a line for /bin/sh"),
        ({"command": ["true"], "comand": 1}, r"config.comand: .* no such key \(known: command, shell, cwd, env\)"),
        ({"command": ["true"], "env": {"A": 1}}, "config.env must map names to texts"),
    ],
)
async def test_a_wrong_config_fails_with_a_sentence(local: Any, config: dict[str, Any], problem: str) -> None:
    with pytest.raises(Fail, match=problem):
        await local.create(config)


async def test_what_a_job_leaves_in_its_group_ends_with_it(local: Any) -> None:
    meta = await local.create(sh("(trap '' TERM; while :; do sleep 0.05; done) & echo $!; exit 0"))
    assert (await local.finish(meta)).phase is Phase.SUCCEEDED
    assert gone(int((await local.logs(meta))[0].message))


# -- cancelling


async def test_cancel_ends_the_whole_group_and_is_idempotent(local: Any) -> None:
    line = "trap '' TERM; (trap '' TERM; echo $BASHPID $PPID; while :; do sleep 0.05; done) & wait; sleep 60"
    meta = await local.create({"command": ["bash", "-c", "echo $$; " + line]})
    pid = await local.running(meta)
    while not (lines := await local.logs(meta, limit=2))[1:]:
        pass
    child = int(lines[1].message.split()[0])
    await local.delete(meta)
    await local.delete(meta)
    resource = await local.finish(meta, within=5)
    assert (resource.phase, resource.message) == (Phase.ABORTED, "cancelled")
    assert gone(pid)
    assert gone(child)
    await local.delete(meta)
    assert (await local.get(meta)).phase is Phase.ABORTED


async def test_a_job_may_tidy_up_when_it_is_cancelled(local: Any) -> None:
    meta = await local.create(sh("trap 'echo tidy; exit 0' TERM; echo up; sleep 60 & wait"))
    assert [line.message for line in await local.logs(meta, limit=1)] == ["up"]
    await local.delete(meta)
    assert (await local.finish(meta)).phase is Phase.ABORTED
    assert [line.message for line in await local.logs(meta)] == ["up", "tidy"]


async def test_cancel_of_a_finished_or_unknown_job_changes_nothing(local: Any) -> None:
    meta = await local.create(sh("true"))
    await local.finish(meta)
    await local.delete(meta)
    assert (await local.get(meta)).phase is Phase.SUCCEEDED
    await local.delete(b'{"id": "%s"}' % (b"0" * 32))


def test_a_job_cancelled_before_its_start_is_never_started(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path / "jobs", grace=0.1, retention=60)
    jobs.open()
    job, folder = jobs.place("k")
    folder.mkdir()
    supervisor.write_record(folder, supervisor.JOB, {"command": ["touch", f"{tmp_path}/ran"], "cwd": "/"})
    assert jobs.report(job).stage == "starting"
    jobs.cancel(job)
    jobs.start(job, Launch(command=["touch", f"{tmp_path}/ran"], cwd="/", env={}, output_dir=tmp_path))
    subprocess.run([sys.executable, supervisor.__file__, str(folder)], check=True)  # one that was on its way all along
    last = time.monotonic() + 10
    while jobs.report(job).stage != "cancelled":
        assert time.monotonic() < last
        time.sleep(0.01)
    assert not supervisor.read_record(folder, supervisor.STARTED)
    assert not (tmp_path / "ran").exists()


# -- surviving


async def test_one_job_for_one_key_whoever_asks(open_agent: Open, tmp_path: Path) -> None:
    agents = [await open_agent(LocalProcessAgent(), state_dir=str(tmp_path / "jobs")) for _ in range(2)]
    config, key = sh(f"echo run >> {tmp_path}/runs; sleep 0.2"), "0123456789abcdef" * 2
    assert await agents[0].agent.find(agents[0]._task(config, None, None, {}), key, None) is None
    metas = await asyncio.gather(*(agents[index % 2].create(config, key=key) for index in range(6)))
    assert set(metas) == {b'{"id":"%s"}' % key.encode()}
    assert (await agents[1].finish(metas[0])).phase is Phase.SUCCEEDED
    assert await agents[0].create(config, key=key) == metas[0]
    assert await agents[0].agent.find(agents[0]._task(config, None, None, {}), key, None) == metas[0]
    await asyncio.sleep(0.1)
    assert (tmp_path / "runs").read_text() == "run\n"


async def test_a_job_outlives_the_service_that_started_it(local: Any, tmp_path: Path) -> None:
    service = f"""
        import asyncio, time
        from airside.agents.local_process import LocalProcessAgent
        from airside.model import Call, Interface, Task, TaskType
        from airside.sdk.adapt import adapt

        async def main():
            agent = adapt(LocalProcessAgent())
            await agent.open(LocalProcessAgent.Options(state_dir={str(tmp_path / "jobs")!r}))
            config = {{"command": ["sh", "-c", "sleep 0.5; echo 42 > $AIRSIDE_OUTPUT_DIR/n"]}}
            task = Task(type=TaskType("local_process"), config=config, interface=Interface(outputs={{"n": int}}))
            print((await agent.create(task, Call())).decode(), flush=True)
            time.sleep(60)

        asyncio.run(main())
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(service), stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    meta = (await process.stdout.readline()).strip()
    os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
    await local.running(meta)
    assert (await local.finish(meta)).outputs == {"n": 42}
    await process.stdout.read()


async def test_a_job_whose_supervisor_is_killed_is_lost_and_ends(local: Any, tmp_path: Path) -> None:
    meta = await local.create(sh("sleep 60 & echo $!; wait"))
    pid = await local.running(meta)
    child = int((await local.logs(meta, limit=1))[0].message)
    os.kill(int((folder_of(tmp_path, meta) / "lock").read_text()), signal.SIGKILL)
    resource = await local.finish(meta)
    assert (resource.phase, resource.code) == (Phase.RETRYABLE_FAILED, "JobLost")
    assert "supervisor was killed" in resource.message
    assert gone(pid)
    await until(lambda: gone(child))
    assert (await local.get(meta)).code == "JobLost"


def test_the_record_of_the_end_goes_into_space_put_aside(tmp_path: Path) -> None:
    place = supervisor.reserve(tmp_path, "exit.json")
    before = place.stat()
    supervisor.write_reserved(place, tmp_path, "exit.json", {"code": 3})
    after = (tmp_path / "exit.json").stat()
    assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)
    assert supervisor.read_record(tmp_path, "exit.json") == {"code": 3}
    assert [entry.name for entry in tmp_path.iterdir()] == ["exit.json"]
    large = {"problem": "x" * 10_000}
    supervisor.write_reserved(supervisor.reserve(tmp_path, "large.json"), tmp_path, "large.json", large)
    assert supervisor.read_record(tmp_path, "large.json") == large


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    mounted = (
        os.getuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place], check=False, capture_output=True
        ).returncode
    )
    if not mounted:
        pytest.skip("mounting is not allowed here")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.mark.parametrize("status", [0, 3])
async def test_how_a_job_ended_is_known_though_its_log_filled_the_disk(
    open_agent: Open, small_disk: Path, tmp_path: Path, status: int
) -> None:
    agent = await open_agent(LocalProcessAgent(), state_dir=str(small_disk / "jobs"))
    meta = await agent.create(sh(f"yes | head -c 1000000; exit {status}"))
    resource = await agent.finish(meta)
    assert (resource.phase, resource.code) == (
        (Phase.SUCCEEDED, "") if status == 0 else (Phase.RETRYABLE_FAILED, "ProcessFailed")
    )
    with pytest.raises(Retry, match="cannot be written: No space left on device"):
        await agent.create(sh("true"))


async def test_a_job_killed_by_somebody_else_is_a_failure(local: Any) -> None:
    meta = await local.create({"command": ["sleep", "60"]})
    os.kill(await local.running(meta), signal.SIGTERM)
    resource = await local.finish(meta)
    assert (resource.phase, resource.message) == (Phase.RETRYABLE_FAILED, "killed by SIGTERM")


async def test_a_reused_process_id_is_not_taken_for_the_job(local: Any, tmp_path: Path) -> None:
    meta = await local.create(sh("sleep 60"))
    pid = await local.running(meta)
    folder = folder_of(tmp_path, meta)
    os.kill(int((folder / "lock").read_text()), signal.SIGKILL)
    await until(lambda: gone(pid))
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as innocent:
        record = json.loads((folder / "started.json").read_text())
        for change in ({"start_time": "1"}, {"boot_id": "another"}):
            truth = {**await asyncio.to_thread(supervisor.identity, innocent.pid), "started_at": 0}
            (folder / "started.json").write_text(json.dumps({**record, **truth, **change}))
            assert (await local.get(meta)).code == "JobLost"
        await local.delete(meta)
        assert innocent.poll() is None
        (folder / "started.json").write_text(json.dumps(truth))
        assert "its end will not be known" in (await local.get(meta)).message
        innocent.kill()


async def test_a_job_that_never_came_up_is_lost_after_a_while(local: Any, tmp_path: Path) -> None:
    folder = tmp_path / "jobs" / ("1" * 32)
    folder.mkdir()
    (folder / supervisor.JOB).write_text('{"command": ["true"], "cwd": "/"}')
    meta = b'{"id": "%s"}' % (b"1" * 32)
    assert (await local.get(meta)).phase is Phase.QUEUED
    os.utime(folder / supervisor.JOB, (0, 0))
    assert (await local.get(meta)).code == "JobLost"


# -- logs


async def test_logs_follow_a_running_job_to_its_end(local: Any) -> None:
    meta = await local.create(sh("echo one; sleep 0.3; echo two >&2; printf three"))
    started = time.monotonic()
    arrived = [
        (line.message, time.monotonic() - started)
        async for line in local.agent.logs(meta, after="", limit=100, call=None)
    ]
    assert [message for message, _ in arrived] == ["one", "two", "three"]
    assert arrived[1][1] - arrived[0][1] > 0.1


async def test_logs_come_in_pages(local: Any) -> None:
    meta = await local.create(sh("for i in 1 2 3 4 5; do echo line $i; done"))
    await local.finish(meta)
    first = await local.logs(meta, limit=2)
    second = await local.logs(meta, after=first[-1].cursor, limit=2)
    last = await local.logs(meta, after=second[-1].cursor, limit=2)
    assert [line.message for line in first + second + last] == [f"line {i}" for i in range(1, 6)]
    assert await local.logs(meta, after=last[-1].cursor) == []
    with pytest.raises(Fail, match="'nonsense' is no place in this log"):
        await local.logs(meta, after="nonsense")


async def test_a_very_long_line_comes_in_pieces_that_tear_no_character(local: Any) -> None:
    code = "import sys; sys.stdout.buffer.write(('x' + 'é€' * 60000 + '\\nend\\n').encode() + b'\\xff\\n')"
    meta = await local.create(python(code))
    await local.finish(meta)
    lines = [line.message for line in await local.logs(meta)]
    assert "".join(lines[:-2]) == "x" + "é€" * 60000
    assert all(len(line.encode()) <= 65536 for line in lines)
    assert lines[-2:] == ["end", "�"]


# -- keeping


async def test_old_jobs_are_removed_and_then_unknown(open_agent: Open, tmp_path: Path) -> None:
    options = {"state_dir": str(tmp_path / "jobs"), "retention": 100.0}
    local = await open_agent(LocalProcessAgent(), **options)
    done, runs = await local.create(sh("true")), await local.create({"command": ["sleep", "60"]})
    await local.finish(done)
    await local.running(runs)
    await until(lambda: gone(int((folder_of(tmp_path, done) / "lock").read_text())))
    for meta in (done, runs):
        for file in (*folder_of(tmp_path, meta).iterdir(), folder_of(tmp_path, meta)):
            os.utime(file, (time.time() - 1000,) * 2)
    again = await open_agent(LocalProcessAgent(), **options)
    with pytest.raises(NotFound, match="is not on this machine"):
        await again.get(done)
    assert (await again.get(runs)).phase is Phase.RUNNING
    await again.delete(runs)
    assert (await again.finish(runs)).phase is Phase.ABORTED


@pytest.mark.parametrize("name", ["../../etc", "", "x" * 32, "0" * 32 + "\\n"])
async def test_a_handle_from_outside_leads_nowhere_else(local: Any, name: str) -> None:
    for call in (local.get, local.delete):
        with pytest.raises(NotFound):
            await call(json.dumps({"id": name}).encode())


async def test_a_state_directory_that_cannot_be_is_a_clear_mistake(open_agent: Open) -> None:
    with pytest.raises(UsageError, match="The state directory /proc/nowhere cannot be made"):
        await open_agent(LocalProcessAgent(), state_dir="/proc/nowhere")
    with pytest.raises(UsageError, match=r"agents\.local_process: retention and grace are numbers of seconds from 0"):
        await open_agent(LocalProcessAgent(), grace=-1)


async def test_the_state_directory_is_for_this_user_alone(
    open_agent: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    local = await open_agent(LocalProcessAgent())
    meta = await local.create(sh("true"))
    await local.finish(meta)
    folder = tmp_path / "airside" / "jobs" / "local_process"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / json.loads(meta)["id"]).stat().st_mode & 0o777 == 0o700
    assert (await local.get(meta)).links[0].uri == (folder / json.loads(meta)["id"] / "log").as_uri()


# -- writing tasks


async def test_a_task_in_a_few_lines(local: Any) -> None:
    task = ProcessTask(  # noqa: S604 - a task's own shell line
        name="total",
        command="echo $(({{.inputs.a}} + {{.inputs.b}})) > $AIRSIDE_OUTPUT_DIR/total",
        shell=True,
        inputs=kwtypes(a=int, b=int),
        outputs=kwtypes(total=int),
        defaults={"b": 2},
        retries=2,
    )
    assert dataclasses.replace(task, version="2").config == task.config
    assert (await local.run_template(task, a=40)).outputs == {"total": 42}
    with pytest.raises(UsageError, match="give the command as a list of words, or set shell=True"):
        ProcessTask(name="total", command="echo 1")


def test_writing_tasks_loads_no_library_of_an_agent() -> None:
    code = """
        import sys, airside.agents.local_process, airside.agents.duckdb_query, airside.agents.webhook
        import airside.agents.sleep, airside.agents.echo
        print(sorted(sys.modules.keys() & {"duckdb", "pyarrow", "httpx2", "grpc", "google.protobuf", "click"}))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_job_is_found_by_its_key_alone(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path, grace=1, retention=1)
    assert jobs.place("a" * 32)[0] == Job("a" * 32)
    assert re.fullmatch("[0-9a-f]{32}", jobs.place("any text")[0].id)
    assert jobs.place("any text") == jobs.place("any text")
    assert jobs.place("") != jobs.place("")

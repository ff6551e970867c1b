"""Detached jobs as a person runs them: `run --detach`, `jobs`, `engine`, with real processes and kills."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airside.engine.ownership import owner_of

AIRSIDE = str(Path(sys.executable).with_name("airside"))
FILE = '''
from dataclasses import dataclass
from pathlib import Path
from airside import AsyncAgent, LogLine, Phase, Resource, Task, TaskTemplate, kwtypes

HERE = Path(__file__).parent

@dataclass
class Job:
    name: str

class Nap(AsyncAgent[Job]):
    """Its jobs are files: they end when a file says so."""

    task_type = "nap"
    poll_interval = 0.05
    create_is_idempotent = True

    def create(self, task: Task) -> Job:
        with (HERE / "creates").open("a") as file:
            file.write(task.key + "\\n")
        return Job(task.key)

    def get(self, job: Job) -> Resource:
        if (HERE / "deleted").exists():
            return Resource(Phase.ABORTED)
        if (HERE / "done").exists():
            return Resource(Phase.SUCCEEDED, outputs={"o0": 3})
        return Resource(Phase.RUNNING, message="asleep")

    def delete(self, job: Job) -> None:
        (HERE / "deleted").touch()

    async def logs(self, job: Job, *, after, limit, call):
        yield LogLine("zzz")

nap = TaskTemplate(name="nap", task_type="nap", outputs=kwtypes(o0=int))
hello = TaskTemplate(name="hello", task_type="echo", inputs=kwtypes(x=int), outputs=kwtypes(x=int))
wrong = TaskTemplate(name="wrong", task_type="nobody")
'''


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("AIRSIDE_STATE", str(tmp_path / "state"))
    (tmp_path / "wf.py").write_text(FILE)
    yield tmp_path
    engine = owner_of(str(tmp_path / "state" / "engine.db"))
    if engine is not None:  # the one that this test had started behind its back
        end(engine["pid"], signal.SIGTERM)


def end(pid: int, number: signal.Signals) -> None:
    os.kill(pid, number)
    until = time.monotonic() + 10
    while Path(f"/proc/{pid}/status").exists() and "zombie" not in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture
def run(folder: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def call(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [AIRSIDE, *arguments], cwd=cwd or folder, text=True, capture_output=True, timeout=60, check=False
        )

    return call


@pytest.fixture
def ask(run: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., Any]:
    """The JSON that a command prints."""

    def call(*arguments: str, code: int = 0) -> Any:
        done = run(*arguments, "--json")
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    return call


@pytest.fixture
def engine(folder: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `airside engine` and wait until it drives the store; killed after the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(*flags: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [AIRSIDE, "engine", *flags], cwd="/", text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        started.append(process)
        until = time.monotonic() + 20
        while (owner_of(str(folder / "state" / "engine.db")) or {}).get("pid") != process.pid:
            assert time.monotonic() < until
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def until_phase(ask: Callable[..., Any], job: str, phase: str) -> None:
    until = time.monotonic() + 20
    while ask("jobs", "show", job)["phase"] != phase:
        assert time.monotonic() < until


def test_a_detached_task_is_carried_out_by_an_engine_that_starts_by_itself(
    run: Callable[..., subprocess.CompletedProcess[str]], ask: Callable[..., Any]
) -> None:
    done = run("run", "--detach", "wf.py", "hello", "--x", "3")
    job = done.stdout.strip()
    assert (done.returncode, len(job)) == (0, 16)
    assert done.stderr == f"Submitted hello. Its outcome: airside jobs wait {job}\n"
    waited = run("jobs", "wait", job[:10], "--timeout", "20s")
    assert (waited.returncode, waited.stdout) == (0, "x: 3\n"), waited.stderr
    shown = ask("jobs", "show", job)
    assert (shown["phase"], shown["outputs"], shown["attempt"]) == ("SUCCEEDED", {"x": 3}, 1)
    assert [event["stage"] for event in shown["events"]] == ["waiting", "creating", "over"]  # a sync agent
    listed = run("jobs", "list")
    assert listed.stdout.startswith(f"{job}  hello  SUCCEEDED")


def test_an_engine_is_killed_and_another_one_goes_on(
    folder: Path, ask: Callable[..., Any], engine: Callable[..., subprocess.Popen[str]]
) -> None:
    first = engine()
    job = ask("run", "--detach", "wf.py", "nap")["job"]
    until_phase(ask, job, "RUNNING")
    first.kill()
    first.wait()
    second = engine()
    (folder / "done").touch()
    assert ask("jobs", "wait", job, "--timeout", "20s")["outputs"] == {"o0": 3}
    assert len((folder / "creates").read_text().split()) == 1
    second.send_signal(signal.SIGTERM)
    _, log = second.communicate(timeout=20)
    assert second.returncode == 0
    assert "0 unfinished jobs stay in the store" in log


def test_a_job_is_cancelled_retried_and_pruned(
    folder: Path,
    run: Callable[..., subprocess.CompletedProcess[str]],
    ask: Callable[..., Any],
    engine: Callable[..., subprocess.Popen[str]],
) -> None:
    engine()
    job = ask("run", "--detach", "wf.py", "nap")["job"]
    until_phase(ask, job, "RUNNING")
    assert run("jobs", "logs", job).stdout == "zzz\n"
    assert ask("jobs", "logs", job) == {"at": None, "message": "zzz"}
    assert run("jobs", "retry", job).returncode == 2
    assert run("jobs", "cancel", job).stdout == f"{job} is being cancelled\n"
    assert ask("jobs", "wait", job, "--timeout", "20s", code=1)["phase"] == "ABORTED"
    assert run("jobs", "cancel", job).stdout == f"{job} is over already: ABORTED\n"
    assert ask("jobs", "cancel", job) == [{"job": job, "phase": "ABORTED", "cancelling": False}]
    (folder / "deleted").unlink()
    (folder / "done").touch()
    again = ask("jobs", "retry", job)["job"]
    assert ask("jobs", "wait", again, "--timeout", "20s")["outputs"] == {"o0": 3}
    assert [one["job"] for one in ask("jobs", "list")] == [again, job]
    assert [one["job"] for one in ask("jobs", "list", "--phase", "aborted")] == [job]
    assert ask("jobs", "list", "--unfinished") == []
    assert len(ask("jobs", "list", "--since", "1h")) == 2
    assert ask("jobs", "list", "--since", "1ms") == []
    assert run("jobs", "prune").stdout == "Deleted 0 jobs.\n"
    runs = folder / "state" / "runs"
    stray, foreign = runs / ("f" * 16), runs / "notes"
    for one in (stray / "0", foreign):
        one.mkdir(parents=True)
    soon = ("jobs", "prune", "--older-than", "1ms")
    also = "2 jobs and 1 folder of runs that it does not know"
    assert run(*soon, "--dry-run").stdout == f"Would delete {also}.\n"
    assert ask(*soon, "--dry-run") == {"jobs": [job, again], "folders": [str(stray)], "dry_run": True}
    assert run(*soon).stdout == f"Deleted {also}.\n"
    assert list(runs.iterdir()) == [foreign]
    assert run("jobs", "show", job).returncode == 2


def test_a_job_is_watched(
    folder: Path,
    run: Callable[..., subprocess.CompletedProcess[str]],
    ask: Callable[..., Any],
    engine: Callable[..., subprocess.Popen[str]],
) -> None:
    engine()
    job = ask("run", "--detach", "wf.py", "nap")["job"]
    until_phase(ask, job, "RUNNING")
    main, child = pty.openpty()
    watching = subprocess.Popen([AIRSIDE, "jobs", "show", "--watch", job], cwd=folder, stdout=child, stderr=child)
    listing = subprocess.Popen([AIRSIDE, "jobs", "list", "--watch"], cwd=folder, text=True, stdout=subprocess.PIPE)
    telling = subprocess.Popen([AIRSIDE, "jobs", "show", "--watch", "--json", job], cwd=folder, stdout=subprocess.PIPE)
    os.close(child)
    try:
        seen = read_until(main, lambda text: text.count(b"\x1b[J") > 2)  # drawn in place, again and again
        assert b"RUNNING" in seen
        (folder / "done").touch()
        seen = read_until(main, lambda text: text.endswith(b"o0: 3\r\n"))
        assert b"(submitted)" in seen
        assert b" running (" in seen
        assert watching.wait(timeout=20) == 0
        assert listing.stdout is not None
        lines = iter(listing.stdout.readline, "")
        assert f"{job}  nap  RUNNING" in next(lines)
        assert f"{job}  nap  SUCCEEDED" in next(lines)  # only what changed, where it is no terminal
        told = [json.loads(line) for line in telling.communicate(timeout=20)[0].splitlines()]
        assert (told[0]["phase"], told[-1]["phase"]) == ("RUNNING", "SUCCEEDED")
        assert told[-1]["outputs"] == {"o0": 3}
        listing.send_signal(signal.SIGINT)
        assert listing.wait(timeout=20) == 0
    finally:
        os.close(main)
        for process in (watching, listing, telling):
            process.kill()
            process.communicate()


def read_until(terminal: int, condition: Callable[[bytes], bool]) -> bytes:
    seen = b""
    until = time.monotonic() + 20
    while not condition(seen):
        assert time.monotonic() < until, seen
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                seen += os.read(terminal, 65536)
            except OSError:  # the other side is closed
                assert condition(seen), seen
    return seen


def test_a_second_engine_is_told_of_the_first(
    run: Callable[..., subprocess.CompletedProcess[str]], engine: Callable[..., subprocess.Popen[str]]
) -> None:
    first = engine()
    second = run("engine")
    assert second.returncode == 2
    assert f"Error: Another engine drives the jobs of this store: process {first.pid} on " in second.stderr
    assert "Traceback" not in second.stderr


def test_an_engine_ends_when_there_is_nothing_to_do(engine: Callable[..., subprocess.Popen[str]]) -> None:
    process = engine("--idle-exit", "100ms")
    assert process.wait(10) == 0


def test_mistakes_are_told_in_a_sentence(
    folder: Path,
    run: Callable[..., subprocess.CompletedProcess[str]],
    ask: Callable[..., Any],
    engine: Callable[..., subprocess.Popen[str]],
) -> None:
    assert run("jobs", "list").stdout == "No job yet: airside run FILE TASK\n"
    missing = run("jobs", "wait", "abc")
    assert (missing.returncode, missing.stderr) == (
        2,
        f"Error: There is no job 'abc' in {folder}/state/engine.db; see `airside jobs list`.\n",
    )
    memory = ("--state", ":memory:")
    for nowhere in (("engine", *memory), ("jobs", *memory, "list"), ("jobs", "list", *memory)):
        assert run(*nowhere).stderr.startswith("Error: :memory: keeps no job, so there must be a folder here: --state")
    assert not (folder / ":memory:").exists()
    bad = run("run", "--detach", "wf.py", "hello", "--x", "three")
    assert bad.returncode == 2
    assert ask("jobs", "list") == []
    engine()
    job = ask("run", "--detach", "wf.py", "wrong")["job"]
    outcome = ask("jobs", "wait", job, "--timeout", "20s", code=1)
    assert (outcome["code"], outcome["message"].startswith("No agent here runs task type nobody")) == ("NoAgent", True)

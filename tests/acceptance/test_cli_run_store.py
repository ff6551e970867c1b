"""`airside run` keeps its job in the store: beside others, beside an engine, and when it is left or killed."""

from __future__ import annotations

import json
import os
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
from airside import AsyncAgent, Phase, Resource, SyncAgent, Task, TaskTemplate, kwtypes

HERE = Path(__file__).parent

@dataclass
class Job:
    key: str

class Nap(AsyncAgent[Job]):
    """Its jobs end when there is a file `done`; those that were deleted have a file of their own."""

    task_type = "nap"
    poll_interval = 0.05
    create_is_idempotent = True

    def create(self, task: Task) -> Job:
        with (HERE / "creates").open("a") as file:
            file.write(task.key + "\\n")
        return Job(task.key)

    def get(self, job: Job) -> Resource:
        if (HERE / f"{job.key}.deleted").exists():
            return Resource(Phase.ABORTED)
        if (HERE / "done").exists():
            return Resource(Phase.SUCCEEDED, outputs={"o0": 3})
        return Resource(Phase.RUNNING)

    def delete(self, job: Job) -> None:
        (HERE / f"{job.key}.deleted").touch()

class Count(SyncAgent):
    task_type = "count"

    def do(self, task: Task) -> Resource:
        with (HERE / "counted").open("a") as file:
            file.write("x")
        return Resource(Phase.SUCCEEDED, outputs={"n": task.inputs["n"] + 1})

nap = TaskTemplate(name="nap", task_type="nap", outputs=kwtypes(o0=int))
count = TaskTemplate(
    name="count", task_type="count", inputs=kwtypes(n=int), outputs=kwtypes(n=int), cache=True, cache_version="1"
)
unversioned = TaskTemplate(name="unversioned", task_type="count", inputs=kwtypes(n=int), cache=True)
'''


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("AIRSIDE_STATE", str(tmp_path / "state"))
    (tmp_path / "wf.py").write_text(FILE)
    yield tmp_path
    engine = owner_of(str(tmp_path / "state" / "engine.db"))
    if engine:  # the one that this test had started behind its back
        os.kill(engine["pid"], signal.SIGTERM)
        until(lambda: owner_of(str(tmp_path / "state" / "engine.db")) is None)


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a command in the folder; it is killed after the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [AIRSIDE, *arguments],
            cwd=folder,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def call(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        process = start(*arguments)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    return run


@pytest.fixture
def listed(call: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[[], list[Any]]:
    """What `jobs list` tells, the newest first."""

    def ask() -> list[Any]:
        done = call("jobs", "list", "--json")
        assert done.returncode == 0, done.stderr
        found: list[Any] = json.loads(done.stdout)
        return found

    return ask


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def drives(folder: Path, engine: subprocess.Popen[str]) -> Callable[[], bool]:
    return lambda: (owner_of(str(folder / "state" / "engine.db")) or {}).get("pid") == engine.pid


def test_runs_in_parallel_share_a_store_with_an_engine_that_leaves_them_alone(
    folder: Path, start: Callable[..., subprocess.Popen[str]], listed: Callable[[], list[Any]]
) -> None:
    engine = start("engine")
    until(drives(folder, engine))
    runs = [start("run", "wf.py", "nap") for _ in range(2)]
    until(lambda: len(lines(folder / "creates")) == 2)
    assert {one["phase"] for one in listed()} <= {"QUEUED", "RUNNING"}
    (folder / "done").touch()
    for run in runs:
        out, err = run.communicate(timeout=30)
        assert (run.returncode, out) == (0, "o0: 3\n"), err
    assert [(one["task"], one["phase"]) for one in listed()] == [("nap", "SUCCEEDED")] * 2
    engine.send_signal(signal.SIGTERM)
    _, log = engine.communicate(timeout=30)
    assert "nap" not in log
    assert len(lines(folder / "creates")) == 2


def test_a_run_that_is_left_is_taken_up_by_the_line_that_it_prints(
    folder: Path,
    start: Callable[..., subprocess.Popen[str]],
    call: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    run = start("run", "--on-interrupt", "detach", "wf.py", "nap")
    until(lambda: lines(folder / "creates"))
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=30)
    assert run.returncode == 130
    line = err.splitlines()[-1] if "take it up again" in err.splitlines()[-1] else err.splitlines()[-2]
    command = line.partition("take it up again: airside ")[2].split()
    (folder / "done").touch()
    waited = call(*command)
    assert (waited.returncode, waited.stdout) == (0, "o0: 3\n"), waited.stderr
    assert len(set(lines(folder / "creates"))) == 1  # a create that was cut off may be asked for once more, by its key


def test_a_run_that_is_killed_is_taken_up_by_the_engine(
    folder: Path, start: Callable[..., subprocess.Popen[str]], listed: Callable[[], list[Any]]
) -> None:
    engine = start("engine")
    until(drives(folder, engine))
    run = start("run", "wf.py", "nap")
    until(lambda: lines(folder / "creates"))
    run.kill()
    run.communicate()
    (folder / "done").touch()
    until(lambda: listed()[0]["phase"] == "SUCCEEDED")
    assert len(set(lines(folder / "creates"))) == 1  # once more, by the same key, if its answer was not kept


def test_a_run_that_is_killed_may_be_cancelled(
    folder: Path,
    start: Callable[..., subprocess.Popen[str]],
    call: Callable[..., subprocess.CompletedProcess[str]],
    listed: Callable[[], list[Any]],
) -> None:
    run = start("run", "wf.py", "nap")
    until(lambda: lines(folder / "creates"))
    run.kill()
    run.communicate()
    job = listed()[0]["job"]
    assert call("jobs", "cancel", job).stdout == f"{job} is being cancelled\n"  # by an engine that this starts
    assert call("jobs", "wait", job).returncode == 1
    assert listed()[0]["phase"] == "ABORTED"
    assert list(folder.glob("*.deleted"))
    assert not list((folder / "state" / "attended").iterdir())


@pytest.mark.parametrize("with_engine", [False, True])
def test_a_run_may_be_cancelled_from_elsewhere(
    with_engine: bool,
    folder: Path,
    start: Callable[..., subprocess.Popen[str]],
    call: Callable[..., subprocess.CompletedProcess[str]],
    listed: Callable[[], list[Any]],
) -> None:
    if with_engine:
        until(drives(folder, start("engine")))
    run = start("run", "--json", "wf.py", "nap")
    until(lambda: lines(folder / "creates"))
    done = call("jobs", "cancel", listed()[0]["job"])
    assert done.returncode == 0, done.stderr
    out, _ = run.communicate(timeout=30)
    assert (run.returncode, json.loads(out)["phase"]) == (1, "ABORTED")
    assert (owner_of(str(folder / "state" / "engine.db")) is not None) is with_engine  # none was needed


def test_a_run_may_keep_its_job_to_itself(folder: Path, call: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    (folder / "done").touch()
    done = call("run", "--state", ":memory:", "wf.py", "nap")
    assert (done.returncode, done.stdout) == (0, "o0: 3\n")
    assert not (folder / "state" / "engine.db").exists()
    other = call("run", "--state", "elsewhere", "wf.py", "nap")
    assert other.returncode == 0, other.stderr
    assert (folder / "elsewhere" / "engine.db").exists()
    for spelling in (("--state", "elsewhere", "list"), ("list", "--state", "elsewhere")):
        assert len(json.loads(call("jobs", *spelling, "--json").stdout)) == 1


def test_a_cached_task_runs_once(
    folder: Path, call: Callable[..., subprocess.CompletedProcess[str]], listed: Callable[[], list[Any]]
) -> None:
    def counted() -> int:
        return len((folder / "counted").read_text())

    run = ("run", "wf.py", "count", "--n")
    assert (call(*run, "1").stdout, counted()) == ("n: 2\n", 1)
    first = listed()[0]["job"]
    again = call(*run, "1")
    assert (again.stdout, counted()) == ("n: 2\n", 1)
    assert again.stderr.endswith(f"  The outputs of {first}, from the cache.\n")
    assert listed()[0]["message"] == f"The outputs of {first}, from the cache."
    assert listed()[0]["cached"] is True
    assert (call(*run, "2").stdout, counted()) == ("n: 3\n", 2)  # another input
    assert (call(*run, "1", "--no-cache").stdout, counted()) == ("n: 2\n", 3)
    waited = call("jobs", "wait", call("run", "--detach", "wf.py", "count", "--n", "1").stdout.strip())
    assert (waited.stdout, counted()) == ("n: 2\n", 3)
    for path in (folder / "state" / "runs").glob("*/0/outputs.pb"):
        path.unlink()
    assert (call(*run, "1").stdout, counted()) == ("n: 2\n", 4)  # what was cached is gone
    wf = folder / "wf.py"
    wf.write_text(wf.read_text().replace('cache_version="1"', 'cache_version="2"'))
    assert (call(*run, "1").stdout, counted()) == ("n: 2\n", 5)
    refused = call("run", "wf.py", "unversioned", "--n", "1")
    assert (refused.returncode, refused.stderr) == (
        2,
        "Error: Task 'unversioned' has cache=True; give it a cache_version, too.\n",
    )


def test_a_store_that_cannot_be_used_is_told_in_a_sentence(
    folder: Path, call: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (folder / "state").mkdir()
    (folder / "state" / "engine.db").write_bytes(b"no database" * 1000)
    done = call("run", "wf.py", "nap")
    assert done.returncode == 2
    assert done.stderr.startswith(f"Error: The store {folder}/state/engine.db is no store of Airside's: move it away")
    assert done.stderr.count("\n") == 1

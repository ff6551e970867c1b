"""`airside run` keeps its job in the store: beside others, beside an engine, and when it is left or killed."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.commands import NAP, PATIENCE, Ask, Call, Start, driver_of, lines, until

FILE = (
    NAP
    + """
class Count(SyncAgent):
    task_type = "count"

    def do(self, task: Task) -> Resource:
        with (HERE / "counted").open("a") as file:
            file.write("x")
        return Resource(Phase.SUCCEEDED, outputs={"n": task.inputs["n"] + 1})

count = TaskTemplate(
    name="count", task_type="count", inputs=kwtypes(n=int), outputs=kwtypes(n=int), cache=True, cache_version="1"
)
unversioned = TaskTemplate(name="unversioned", task_type="count", inputs=kwtypes(n=int), cache=True)
"""
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, state: Path) -> Path:
    (tmp_path / "wf.py").write_text(FILE)
    return tmp_path


@pytest.fixture
def listed(ask: Ask) -> Callable[[], list[Any]]:
    """What `jobs list` tells, the newest first."""
    return lambda: ask("jobs", "list")


def test_runs_in_parallel_share_a_store_with_an_engine_that_leaves_them_alone(
    folder: Path, start: Start, engine: Start, listed: Callable[[], list[Any]]
) -> None:
    driver = engine()
    runs = [start("run", "wf.py", "nap") for _ in range(2)]
    until(lambda: len(lines(folder / "creates")) == 2)
    assert {one["phase"] for one in listed()} <= {"QUEUED", "RUNNING"}
    (folder / "done").touch()
    for run in runs:
        out, err = run.communicate(timeout=PATIENCE)
        assert (run.returncode, out) == (0, "o0: 3\n"), err
    assert [(one["task"], one["phase"]) for one in listed()] == [("nap", "SUCCEEDED")] * 2
    driver.send_signal(signal.SIGTERM)
    _, log = driver.communicate(timeout=PATIENCE)
    assert "nap" not in log
    assert len(lines(folder / "creates")) == 2


def test_a_run_that_is_left_is_taken_up_by_the_line_that_it_prints(
    folder: Path,
    start: Start,
    call: Call,
) -> None:
    run = start("run", "--on-interrupt", "detach", "wf.py", "nap")
    until(lambda: lines(folder / "creates"))
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=PATIENCE)
    assert run.returncode == 130
    line = err.splitlines()[-1] if "take it up again" in err.splitlines()[-1] else err.splitlines()[-2]
    command = line.partition("take it up again: airside ")[2].split()
    (folder / "done").touch()
    waited = call(*command)
    assert (waited.returncode, waited.stdout) == (0, "o0: 3\n"), waited.stderr
    assert len(set(lines(folder / "creates"))) == 1  # a create that was cut off may be asked for once more, by its key


def test_a_run_that_is_killed_is_taken_up_by_the_engine(
    folder: Path, start: Start, engine: Start, listed: Callable[[], list[Any]]
) -> None:
    engine()
    run = start("run", "wf.py", "nap")
    until(lambda: lines(folder / "creates"))
    run.kill()
    run.communicate()
    (folder / "done").touch()
    until(lambda: listed()[0]["phase"] == "SUCCEEDED")
    assert len(set(lines(folder / "creates"))) == 1  # once more, by the same key, if its answer was not kept


def test_a_run_that_is_killed_may_be_cancelled(
    folder: Path,
    start: Start,
    call: Call,
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
    state: Path,
    start: Start,
    call: Call,
    engine: Start,
    listed: Callable[[], list[Any]],
) -> None:
    if with_engine:
        engine()
    run = start("run", "--json", "wf.py", "nap")
    until(lambda: lines(folder / "creates"))
    done = call("jobs", "cancel", listed()[0]["job"])
    assert done.returncode == 0, done.stderr
    out, _ = run.communicate(timeout=PATIENCE)
    assert (run.returncode, json.loads(out)["phase"]) == (1, "ABORTED")
    assert (driver_of(state) is not None) is with_engine  # none was needed


def test_a_run_may_keep_its_job_to_itself(folder: Path, call: Call) -> None:
    (folder / "done").touch()
    done = call("run", "--state", ":memory:", "wf.py", "nap")
    assert (done.returncode, done.stdout) == (0, "o0: 3\n")
    assert not (folder / "state" / "engine.db").exists()
    other = call("run", "--state", "elsewhere", "wf.py", "nap")
    assert other.returncode == 0, other.stderr
    assert (folder / "elsewhere" / "engine.db").exists()
    for spelling in (("--state", "elsewhere", "list"), ("list", "--state", "elsewhere")):
        assert len(json.loads(call("jobs", *spelling, "--json").stdout)) == 1


def test_a_cached_task_runs_once(folder: Path, call: Call, listed: Callable[[], list[Any]]) -> None:
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


def test_a_store_that_cannot_be_used_is_told_in_a_sentence(folder: Path, call: Call) -> None:
    (folder / "state").mkdir()
    (folder / "state" / "engine.db").write_bytes(b"no database" * 1000)
    done = call("run", "wf.py", "nap")
    assert done.returncode == 2
    assert done.stderr.startswith(f"Error: The store {folder}/state/engine.db is no store of Airside's: move it away")
    assert done.stderr.count("\n") == 1

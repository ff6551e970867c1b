"""Detached jobs as a person runs them: `run --detach`, `jobs`, `engine`, with real processes and kills."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.acceptance.commands import AIRSIDE, NAP, PATIENCE, Ask, Call, Start, until

FILE = f"""{NAP}
hello = TaskTemplate(name="hello", task_type="echo", inputs=kwtypes(x=int), outputs=kwtypes(x=int))
wrong = TaskTemplate(name="wrong", task_type="nobody")
late = TaskTemplate(name="late", task_type="nap", timeout=0.1)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, state: Path) -> Path:
    (tmp_path / "wf.py").write_text(FILE)
    return tmp_path


def until_phase(ask: Ask, job: str, phase: str) -> None:
    until(lambda: ask("jobs", "show", job)["phase"] == phase)


def test_a_detached_task_is_carried_out_by_an_engine_that_starts_by_itself(call: Call, ask: Ask) -> None:
    done = call("run", "--detach", "wf.py", "hello", "--x", "3")
    job = done.stdout.strip()
    assert (done.returncode, len(job)) == (0, 16)
    assert done.stderr == f"Submitted hello. Its outcome: airside jobs wait {job}\n"
    waited = call("jobs", "wait", job[:10], "--timeout", "60s")
    assert (waited.returncode, waited.stdout) == (0, "x: 3\n"), waited.stderr
    shown = ask("jobs", "show", job)
    assert (shown["phase"], shown["outputs"], shown["attempt"]) == ("SUCCEEDED", {"x": 3}, 1)
    assert [event["stage"] for event in shown["events"]] == ["waiting", "creating", "over"]  # a sync agent
    listed = call("jobs", "list")
    assert listed.stdout.startswith(f"{job}  hello  SUCCEEDED")


def test_an_engine_is_killed_and_another_one_goes_on(folder: Path, ask: Ask, engine: Start) -> None:
    first = engine()
    job = ask("run", "--detach", "wf.py", "nap")["job"]
    until_phase(ask, job, "RUNNING")
    first.kill()
    first.wait()
    second = engine()
    (folder / "done").touch()
    assert ask("jobs", "wait", job, "--timeout", "60s")["outputs"] == {"o0": 3}
    assert len((folder / "creates").read_text().split()) == 1
    second.send_signal(signal.SIGTERM)
    _, log = second.communicate(timeout=PATIENCE)
    assert second.returncode == 0
    assert "0 unfinished jobs stay in the store" in log


def test_a_job_is_cancelled_and_retried(folder: Path, call: Call, ask: Ask, engine: Start) -> None:
    engine()
    job = ask("run", "--detach", "wf.py", "nap")["job"]
    until_phase(ask, job, "RUNNING")
    assert call("jobs", "logs", job).stdout == "zzz\n"
    assert ask("jobs", "logs", job) == {"at": None, "message": "zzz"}
    assert call("jobs", "retry", job).returncode == 2
    assert call("jobs", "cancel", job).stdout == f"{job} is being cancelled\n"
    assert ask("jobs", "wait", job, "--timeout", "60s", code=1)["phase"] == "ABORTED"
    assert call("jobs", "cancel", job).stdout == f"{job} is over already: ABORTED\n"
    assert ask("jobs", "cancel", job) == [{"job": job, "phase": "ABORTED", "cancelling": False}]
    (folder / "done").touch()
    again = ask("jobs", "retry", job)["job"]
    assert ask("jobs", "wait", again, "--timeout", "60s")["outputs"] == {"o0": 3}


def test_jobs_are_chosen_and_pruned(folder: Path, state: Path, call: Call, ask: Ask) -> None:
    failed, job = ask("run", "wf.py", "late", code=1)["job"], ask("run", "wf.py", "hello", "--x", "3")["job"]
    assert [one["job"] for one in ask("jobs", "list")] == [job, failed]
    assert [one["job"] for one in ask("jobs", "list", "--phase", "failed")] == [failed]
    assert [one["job"] for one in ask("jobs", "list", "--task", "echo")] == [job]
    assert ask("jobs", "list", "--unfinished") == []
    assert len(ask("jobs", "list", "--since", "1h")) == 2
    assert ask("jobs", "list", "--since", "1ms") == []
    assert call("jobs", "prune").stdout == "Deleted 0 jobs.\n"
    runs = state / "runs"
    stray, foreign = runs / ("f" * 16), runs / "notes"
    for one in (stray / "0", foreign):
        one.mkdir(parents=True)
    soon = ("jobs", "prune", "--older-than", "1ms")
    also = "2 jobs and 1 folder of runs that it does not know"
    assert call(*soon, "--dry-run").stdout == f"Would delete {also}.\n"
    assert ask(*soon, "--dry-run") == {"jobs": [failed, job], "folders": [str(stray)], "dry_run": True}
    assert call(*soon).stdout == f"Deleted {also}.\n"
    assert list(runs.iterdir()) == [foreign]
    assert call("jobs", "show", job).returncode == 2


def test_a_job_is_watched(
    folder: Path,
    call: Call,
    ask: Ask,
    engine: Start,
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
        assert watching.wait(timeout=PATIENCE) == 0
        assert listing.stdout is not None
        lines = iter(listing.stdout.readline, "")
        assert f"{job}  nap  RUNNING" in next(lines)
        assert f"{job}  nap  SUCCEEDED" in next(lines)  # only what changed, where it is no terminal
        told = [json.loads(line) for line in telling.communicate(timeout=PATIENCE)[0].splitlines()]
        assert (told[0]["phase"], told[-1]["phase"]) == ("RUNNING", "SUCCEEDED")
        assert told[-1]["outputs"] == {"o0": 3}
        listing.send_signal(signal.SIGINT)
        assert listing.wait(timeout=PATIENCE) == 0
    finally:
        os.close(main)
        for process in (watching, listing, telling):
            process.kill()
            process.communicate()


def read_until(terminal: int, condition: Callable[[bytes], bool]) -> bytes:
    seen = b""
    until = time.monotonic() + PATIENCE
    while not condition(seen):
        assert time.monotonic() < until, seen
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                seen += os.read(terminal, 65536)
            except OSError:  # the other side is closed
                assert condition(seen), seen
    return seen


def test_a_second_engine_is_told_of_the_first(call: Call, engine: Start) -> None:
    first = engine()
    second = call("engine")
    assert second.returncode == 2
    assert f"Error: Another engine drives the jobs of this store: process {first.pid} on " in second.stderr
    assert "Traceback" not in second.stderr


def test_an_engine_ends_when_there_is_nothing_to_do(engine: Start) -> None:
    process = engine("--idle-exit", "100ms")
    assert process.wait(PATIENCE) == 0


def test_mistakes_are_told_in_a_sentence(
    folder: Path,
    call: Call,
    ask: Ask,
    engine: Start,
) -> None:
    assert call("jobs", "list").stdout == "No job yet: airside run FILE TASK\n"
    missing = call("jobs", "wait", "abc")
    assert (missing.returncode, missing.stderr) == (
        2,
        f"Error: There is no job 'abc' in {folder}/state/engine.db; see `airside jobs list`.\n",
    )
    memory = ("--state", ":memory:")
    for nowhere in (("engine", *memory), ("jobs", *memory, "list"), ("jobs", "list", *memory)):
        assert call(*nowhere).stderr.startswith("Error: :memory: keeps no job, so there must be a folder here: --state")
    assert not (folder / ":memory:").exists()
    bad = call("run", "--detach", "wf.py", "hello", "--x", "three")
    assert bad.returncode == 2
    assert ask("jobs", "list") == []
    engine()
    job = ask("run", "--detach", "wf.py", "wrong")["job"]
    outcome = ask("jobs", "wait", job, "--timeout", "60s", code=1)
    assert (outcome["code"], outcome["message"].startswith("No agent here runs task type nobody")) == ("NoAgent", True)

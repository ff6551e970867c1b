"""`airside demo`: what a newcomer sees first."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def running(pattern: str) -> list[str]:
    """The command lines of the running processes that contain `pattern`."""
    lines = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if pattern in line:
                lines.append(line)
    return lines


def test_the_demo_answers_its_questions_and_leaves_nothing_running(tmp_path: Path) -> None:
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "airside", "demo"], env=env, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "336,776 flights" in done.stdout
    for task_type in ("duckdb_query", "local_process", "webhook"):
        assert re.search(rf"{task_type}: .*SUCCEEDED in \d+\.\d\d s", done.stdout)
    assert "status: 201" in done.stdout
    assert "AirTran Airways Corporation   20.1 min late,  3,175 flights" in done.stdout
    assert not list(tmp_path.iterdir())
    assert not running(str(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_interrupted_leaves_nothing_running(tmp_path: Path, number: int) -> None:
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "airside", "demo"], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "arrived latest" in line:
            process.send_signal(number)
            break
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number, said
    assert "Traceback" not in said
    assert not running(str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_demo_that_is_killed_leaves_nothing_running(tmp_path: Path) -> None:
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-m", "airside", "demo"], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "arrived latest" in line:
                break
        assert running(str(tmp_path))
        process.kill()
    until = time.monotonic() + 60.0
    while running(str(tmp_path)) or list(tmp_path.iterdir()):
        assert time.monotonic() < until, (running(str(tmp_path)), list(tmp_path.iterdir()))
        time.sleep(0.1)

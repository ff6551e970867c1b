"""Commands in the folder of a test: each module says by a fixture `folder` what is in it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.commands import AIRSIDE, PATIENCE, Ask, Call, Start, driver_of, until


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The state folder of the test; an engine that was started behind its back ends with it."""
    folder = tmp_path / "state"
    monkeypatch.setenv("AIRSIDE_STATE", str(folder))
    yield folder
    until(lambda: driver_of(folder) != 0)
    engine = driver_of(folder)
    if engine:
        with suppress(ProcessLookupError):
            os.kill(engine, signal.SIGTERM)
        until(lambda: driver_of(folder) is None)


@pytest.fixture
def start(folder: Path, state: Path) -> Iterator[Start]:
    """Start a command in the folder; it is killed after the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str, cwd: str | Path = folder, **env: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [AIRSIDE, *arguments],
            cwd=cwd,
            env={**os.environ, **env},
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
def call(start: Start) -> Call:
    """What a command printed, and how it ended."""

    def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        process = start(*arguments, **env)
        out, err = process.communicate(timeout=PATIENCE)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    return run


@pytest.fixture
def ask(call: Call) -> Ask:
    """The JSON that a command prints."""

    def run(*arguments: str, code: int = 0) -> Any:
        done = call(*arguments, "--json")
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture
def engine(start: Start, state: Path) -> Start:
    """Start `airside engine` in no folder of ours, and wait until it drives the store."""

    def begin(*flags: str, **env: str) -> subprocess.Popen[str]:
        process = start("engine", *flags, cwd="/", **env)

        def drives() -> bool:
            assert process.poll() is None, process.communicate()
            return driver_of(state) == process.pid

        until(drives)
        return process

    return begin

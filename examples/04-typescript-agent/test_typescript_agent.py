"""The agent service in TypeScript keeps the protocol, and the engine drives it, also when it is killed in between."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from airside import Engine, Phase, TaskTemplate, kwtypes
from airside.testing import Status, check_endpoint

HERE = Path(__file__).parent
STAMP = TaskTemplate(
    name="stamp", task_type="stamp", inputs=kwtypes(text=str, zeros=int), outputs=kwtypes(stamp=int, digest=str)
)
UNREACHABLE = re.compile(r"ENOTFOUND|ETIMEDOUT|ECONNREFUSED|EAI_AGAIN|ECONNRESET|E403", re.IGNORECASE)
# What a service with one async agent, without logs and metrics, can show, and five minutes of pings.
NEVER = {"S10", "S11", "S26", "S37", "S38", "S39", "S40", "S42", "S43", "S45", "S50"}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built service, in a copy of this folder. Skips, and says why, where it cannot be built."""
    version = (
        shutil.which("node")
        and subprocess.run(["node", "--version"], check=True, capture_output=True, text=True).stdout.strip()
    )
    if shutil.which("npm") is None or not version or int(version[1:].split(".")[0]) < 20:
        pytest.skip(f"building it needs Node 20 or newer and npm (node: {version or 'not there'})")
    folder = tmp_path_factory.mktemp("typescript") / "agent"
    shutil.copytree(HERE, folder, ignore=shutil.ignore_patterns("node_modules", "build", "__pycache__"))
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(["./build.sh"], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode and UNREACHABLE.search(done.stderr):
        pytest.skip(f"npm's registry cannot be reached: {done.stderr.strip()[-300:]}")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "build" / "main.js"


def test_it_keeps_the_protocol_for_both_generations_of_flyte(program: Path, free_port: int, tmp_path: Path) -> None:
    report = check_endpoint(
        f"localhost:{free_port}",
        command=["node", str(program), "--port", str(free_port), "--state", str(tmp_path / "jobs")],
        task=STAMP,
        inputs={"text": "hello", "zeros": 5},
        bad_inputs={"zeros": -1},
    )
    assert [str(result) for result in report.failed] == []
    assert {result.wire for result in report.results} == {"v1", "v2"}
    passed = {(result.case, result.wire) for result in report.results if result.status is Status.PASSED}
    for result in report.results:
        assert (result.case, result.wire) in passed or result.case in NEVER, result.why


async def test_the_engine_drives_it_across_a_kill(
    program: Path, free_port: int, tmp_path: Path, start_service: Callable[..., subprocess.Popen[bytes]]
) -> None:
    command = ["node", str(program), "--port", str(free_port), "--state", str(tmp_path / "jobs")]
    service = start_service(command, free_port)
    async with Engine(tmp_path / "engine.db", endpoint=f"localhost:{free_port}") as engine:
        bad = await engine.wait(await engine.submit(STAMP, {"text": "hello", "zeros": -1}))
        assert (bad.phase, bad.message) == (Phase.FAILED, "no digest begins with -1 zeros")

        job = await engine.submit(STAMP, {"text": "airside", "zeros": 5})
        until = time.monotonic() + 60
        while not re.fullmatch(r"tried [1-9]\d* numbers", (await engine.job(job)).job.message):
            assert time.monotonic() < until
            await asyncio.sleep(0.02)
        service.kill()
        service.wait()
        start_service(command, free_port)
        outcome = await engine.wait(job)
    assert (outcome.phase, outcome.attempts) == (Phase.SUCCEEDED, 1)
    stamp, digest = outcome.outputs["stamp"], outcome.outputs["digest"]
    assert digest == hashlib.sha256(f"airside{stamp}".encode()).hexdigest()
    assert digest.startswith("00000")

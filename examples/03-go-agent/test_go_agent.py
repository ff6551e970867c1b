"""The agent service in Go keeps the protocol, and the engine drives it, also when it is killed in between."""

from __future__ import annotations

import asyncio
import os
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
LIBRARIES = Path("/usr/share/gocode/src")
PROGRAMS = {"go": "golang-go", "protoc": "protobuf-compiler", "protoc-gen-go": "protoc-gen-go"}
FOLDERS = {
    "google.golang.org/grpc/server.go": "golang-google-grpc-dev",
    "google.golang.org/protobuf/proto/proto.go": "golang-google-protobuf-dev",
    "github.com/golang/protobuf/ptypes/any.go": "golang-github-golang-protobuf-1-5-dev",
}
PRIMES = TaskTemplate(
    name="primes", task_type="count_primes", inputs=kwtypes(limit=int), outputs=kwtypes(count=int, largest=int)
)
# What a service with one async agent, without logs and metrics, can show, and five minutes of pings.
NEVER = {"S10", "S11", "S26", "S37", "S38", "S39", "S40", "S42", "S43", "S45", "S49", "S50"}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built service. Skips, and says what to install, where it cannot be built."""
    missing = [package for name, package in PROGRAMS.items() if shutil.which(name) is None]
    missing += [package for file, package in FOLDERS.items() if not (LIBRARIES / file).exists()]
    if missing:
        pytest.skip(f"building it needs Debian's packages: apt-get install {' '.join(missing)}")
    build = tmp_path_factory.mktemp("go")
    environment = {**os.environ, "PYTHON": sys.executable, "BUILD": str(build)}
    done = subprocess.run(["./build.sh"], cwd=HERE, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return build / "agent"


def test_it_keeps_the_protocol_for_both_generations_of_flyte(program: Path, free_port: int, tmp_path: Path) -> None:
    report = check_endpoint(
        f"localhost:{free_port}",
        command=[str(program), "-port", str(free_port), "-state", str(tmp_path / "jobs")],
        task=PRIMES,
        inputs={"limit": 50_000_000},
        bad_inputs={"limit": -1},
    )
    assert [str(result) for result in report.failed] == []
    assert {result.wire for result in report.results} == {"v1", "v2"}
    passed = {(result.case, result.wire) for result in report.results if result.status is Status.PASSED}
    for result in report.results:
        assert (result.case, result.wire) in passed or result.case in NEVER, result.why


async def test_the_engine_drives_it_across_a_kill(
    program: Path, free_port: int, tmp_path: Path, start_service: Callable[..., subprocess.Popen[bytes]]
) -> None:
    command = [str(program), "-port", str(free_port), "-state", str(tmp_path / "jobs")]
    service = start_service(command, free_port)
    async with Engine(tmp_path / "engine.db", endpoint=f"localhost:{free_port}") as engine:
        small = await engine.wait(await engine.submit(PRIMES, {"limit": 100}))
        assert (small.phase, small.outputs) == (Phase.SUCCEEDED, {"count": 25, "largest": 97})
        bad = await engine.wait(await engine.submit(PRIMES, {"limit": -1}))
        assert (bad.phase, bad.message) == (Phase.FAILED, "there are no numbers below -1 to count")

        job = await engine.submit(PRIMES, {"limit": 400_000_000})
        until = time.monotonic() + 60
        while "counted up to" not in (await engine.job(job)).job.message:
            assert time.monotonic() < until
            await asyncio.sleep(0.02)
        service.kill()
        service.wait()
        start_service(command, free_port)
        long = await engine.wait(job)
    assert (long.phase, long.outputs, long.attempts) == (
        Phase.SUCCEEDED,
        {"count": 21_336_326, "largest": 399_999_959},
        1,
    )

"""Two plugins with conflicting requirements, served by one service from two venvs."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from airside import Call, Fail, Phase, Task, TaskType
from airside.engine.remote import RemoteAgent
from airside.model import Interface

HERE = Path(__file__).parent
OURS = HERE.parent.parent
UNREACHABLE = re.compile(r"Failed to fetch|error sending request|unreachable|dns error|timed out", re.IGNORECASE)
BIN = Path(sys.executable).parent


def uv(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "uv"), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def install(folder: Path, venv: str, *packages: Path) -> subprocess.CompletedProcess[str]:
    """Make a venv in `folder` with packages, and with this Airside."""
    made = uv("venv", "--python", sys.executable, folder / "venvs" / venv, cwd=folder)
    assert made.returncode == 0, made.stderr
    done = uv("pip", "install", "--python", folder / "venvs" / venv / "bin" / "python", OURS, *packages, cwd=folder)
    if done.returncode and UNREACHABLE.search(done.stderr):
        pytest.skip(f"the package registry cannot be reached: {done.stderr.strip().splitlines()[-1]}")
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this example with its two venvs made."""
    folder = tmp_path_factory.mktemp("example") / "two-venvs"
    shutil.copytree(HERE, folder)
    for name in ("pinned", "modern"):
        done = install(folder, name, folder / "plugins" / name)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def port(folder: Path) -> Iterator[int]:
    """The port of the running service, whose own environment has neither plugin."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRSIDE_")}
    flags = ["--port", "0", "--metrics-port", "-1", "--drain-delay", "0", "--strict"]
    service = subprocess.Popen(
        [BIN / "airside", "serve", *flags], cwd=folder, env=environment, text=True, stderr=subprocess.PIPE
    )
    assert service.stderr is not None
    said = []
    try:
        for line in service.stderr:
            said.append(line)
            if found := re.search(r"serving on port (\d+): is_release, fits_release", line):
                yield int(found[1])
                break
        else:
            pytest.fail("".join(said))
        service.send_signal(signal.SIGTERM)
        assert service.wait(timeout=20) == 0
    finally:
        service.kill()
        service.wait()
        service.stderr.close()


def test_one_environment_cannot_hold_both(folder: Path) -> None:
    both = install(folder, "both", folder / "plugins" / "pinned", folder / "plugins" / "modern")
    assert both.returncode != 0
    assert "semver" in both.stderr


async def test_one_service_runs_both(port: int) -> None:
    versions = {}
    for kind, inputs, output, expected in (
        ("is_release", {"text": "1.2.3"}, "valid", True),
        ("is_release", {"text": "one.two"}, "valid", False),
        ("fits_release", {"old": "1.2.3", "new": "1.4.0"}, "fits", True),
        ("fits_release", {"old": "1.2.3", "new": "2.0.0"}, "fits", False),
    ):
        agent = RemoteAgent(f"localhost:{port}", family="v1", task_types=[TaskType(kind)])
        await agent.open()
        interface = Interface(dict.fromkeys(inputs, str), {output: bool, "semver": str})
        task = Task(type=TaskType(kind), inputs=inputs, interface=interface)
        resource = await agent.do(task, Call())
        await agent.close()
        assert resource.phase is Phase.SUCCEEDED
        assert resource.outputs is not None
        assert resource.outputs[output] is expected
        versions[kind] = resource.outputs["semver"]
    assert [version.split(".")[0] for version in versions.values()] == ["2", "3"]


async def test_a_failure_crosses_with_its_code(port: int) -> None:
    agent = RemoteAgent(f"localhost:{port}", family="v1", task_types=[TaskType("fits_release")])
    await agent.open()
    inputs = {"old": "1.2.3", "new": "newest"}
    task = Task(type=TaskType("fits_release"), inputs=inputs, interface=Interface(dict.fromkeys(inputs, str), {}))
    try:
        resource = await agent.do(task, Call())
    except Fail as exc:
        pytest.fail(f"a permanent failure is an answer, not an error: {exc}")
    await agent.close()
    assert (resource.phase, resource.code) == (Phase.FAILED, "NotAVersion")
    assert "newest is not valid SemVer string" in resource.message

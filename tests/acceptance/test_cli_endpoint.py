"""`airside run --endpoint` and `airside agents --endpoint`, against `airside serve` in a process of its own."""

from __future__ import annotations

import json
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.acceptance.commands import PATIENCE, Call, Start, serving, until

MODULE = """
import time
from dataclasses import dataclass
from pathlib import Path
from airside import AgentRegistry, AsyncAgent, Fail, LogLink, Phase, Resource, Task, TaskTemplate, kwtypes

HERE = Path(__file__).parent

@dataclass
class Job:
    ends_at: float
    kind: str

class Nap(AsyncAgent[Job]):
    task_type = "nap"
    poll_interval = 0.1
    max_age = 0.05

    def create(self, task: Task) -> Job:
        if task.inputs["kind"] == "refused":
            raise Fail("no such warehouse", code="NoWarehouse")
        (HERE / "started").touch()
        return Job(time.time() + task.inputs["seconds"], task.inputs["kind"])

    def get(self, job: Job) -> Resource:
        if (HERE / "deleted").exists():
            return Resource(Phase.ABORTED)
        if time.time() < job.ends_at:
            return Resource(Phase.RUNNING, message="asleep", links=[LogLink("https://example.org/1", "console")])
        return Resource(Phase.SUCCEEDED, outputs={"o0": "three" if job.kind == "wrong" else 3})

    def delete(self, job: Job) -> None:
        (HERE / "deleted").touch()

AgentRegistry.register(Nap())
nap = TaskTemplate(
    name="nap", task_type="nap", inputs=kwtypes(seconds=float, kind=str), defaults={"kind": ""},
    outputs=kwtypes(o0=float),
)
hello = TaskTemplate(name="hello", task_type="echo", inputs=kwtypes(x=list[int]), outputs=kwtypes(x=list[int]))
nobodys = TaskTemplate(name="nobodys", task_type="nobodys")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("endpoint")
    (folder / "wf.py").write_text(MODULE)
    return folder


@pytest.fixture(scope="module")
def endpoint(folder: Path) -> Iterator[str]:
    """A running service, and its address."""
    with serving(folder, "--modules", "wf") as address:
        yield address


@pytest.fixture(autouse=True)
def fresh(state: Path, folder: Path) -> None:
    for name in ("started", "deleted"):
        (folder / name).unlink(missing_ok=True)


def test_a_task_runs_on_a_served_agent(call: Call, endpoint: str) -> None:
    done = call("run", "--endpoint", endpoint, "--json", "wf.py", "nap", "--seconds", "0.2")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["phase"], found["outputs"]) == ("SUCCEEDED", {"o0": 3.0})
    assert "RUNNING" in done.stderr
    done = call("run", "--endpoint", endpoint, "wf.py", "hello", "--x", "[1, 2]")
    assert (done.returncode, done.stdout) == (0, "x: [1, 2]\n")


@pytest.mark.parametrize(
    ("kind", "code"), [("refused", "NoWarehouse: no such warehouse"), ("wrong", "OutputConversionError: ")]
)
def test_a_failure_on_a_served_agent_is_told(kind: str, code: str, call: Call, endpoint: str) -> None:
    done = call("run", "--endpoint", endpoint, "wf.py", "nap", "--seconds", "0", "--kind", kind)
    assert done.returncode == 1
    assert code in done.stderr
    assert done.stdout == ""


def test_ctrl_c_cancels_a_job_on_a_served_agent(folder: Path, start: Start, endpoint: str) -> None:
    process = start("run", "--endpoint", endpoint, "wf.py", "nap", "--seconds", "600")
    until((folder / "started").exists)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "nap was cancelled after" in err
    assert (folder / "deleted").exists()


def test_what_the_service_does_not_serve_is_a_usage_error(call: Call, endpoint: str) -> None:
    done = call("run", "--endpoint", endpoint, "wf.py", "nobodys")
    assert done.returncode == 2
    assert re.search(r"^Error: localhost:\d+ serves no task type nobodys \(it serves: .*nap", done.stderr)


def test_the_agents_of_a_service_are_listed(call: Call, endpoint: str) -> None:
    done = call("agents", "--endpoint", endpoint)
    assert done.returncode == 0
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["NAME", "TASK", "TYPES", "KIND", "ONCE", "HOST", "SOURCE"]
    assert ["Nap", "nap", "async", "-", "-", endpoint] in lines
    listed = json.loads(call("agents", "--endpoint", endpoint, "--json").stdout)
    assert {"nap"} in [set(one["task_types"]) for one in listed["agents"]]


@pytest.mark.parametrize("command", [["run", "wf.py", "hello", "--x", "[]"], ["agents"]])
def test_an_endpoint_where_nothing_answers_is_exit_code_3(command: list[str], call: Call) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        done = call(*command, "--endpoint", address)
    assert done.returncode == 3
    assert done.stderr == f"Error: No agent service answers at {address}: Connection refused.\n"
    done = call(*command, "--endpoint", "nowhere")
    assert (done.returncode, done.stderr) == (
        2,
        "Error: 'nowhere' is no endpoint: write HOST:PORT, as in localhost:8000.\n",
    )

"""`airside check`: real cases against agents that keep the protocol and agents that do not."""

from __future__ import annotations

import json
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from airside import AgentRegistry
from airside.cli.main import execute

FILE = """
from dataclasses import dataclass
from airside import AsyncAgent, Phase, Resource, Task, TaskTemplate, kwtypes

@dataclass
class Job:
    id: str

class Greeter(AsyncAgent[Job]):
    task_type = "greet"

    @dataclass
    class Options:
        word: str = ""

    def open(self, options: Options) -> None:
        self.word = options.word

    def create(self, task: Task) -> Job:
        return Job(task.inputs["name"])

    def get(self, job: Job) -> Resource:
        if not self.word:
            return Resource(Phase.FAILED, message="no word was set")
        return Resource(Phase.SUCCEEDED, outputs={"o0": f"{self.word} {job.id}"})

    def delete(self, job: Job) -> None: ...

class Broken(Greeter):
    def create(self, task: Task) -> Job:
        raise ValueError("boom")

greet = TaskTemplate(name="greet", task_type="greet", inputs=kwtypes(name=str), outputs=kwtypes(o0=str))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "greeter.py").write_text(FILE)
    (tmp_path / "airside.toml").write_text("[agents.greet]\nword = 'hello'\n")
    yield tmp_path
    AgentRegistry.clear()


def test_an_agent_that_keeps_the_protocol_passes(capsys: pytest.CaptureFixture[str]) -> None:
    only = ("--only", "S13", "--only", "S24", "--only", "S37")
    task = ("--task", "greeter.py:greet", "--input", "name=Ada")
    assert execute(["check", "greeter.py:Greeter", *task, *only]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:11].strip() for line in lines[:-1]] == [
        "✓ S13 [v1]",
        "✓ S24 [v1]",
        "· S37 [v1]",
        "✓ S13 [v2]",
        "✓ S24 [v2]",
    ]
    assert lines[-1] == "4 passed, 0 failed, 1 skipped"


def test_an_agent_that_breaks_it_fails_with_what_was_said(capsys: pytest.CaptureFixture[str]) -> None:
    task = ("--task", "greeter.py:greet", "--input", "name=Ada", "--family", "v2", "--only", "S07", "--timeout", "1")
    assert execute(["check", "--json", "greeter.py:Broken", *task]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], [result["status"] for result in report["results"]]) == (False, ["failed"])
    assert execute(["check", "greeter.py:Broken", *task]) == 1
    said = capsys.readouterr().out
    assert said.startswith("✗ S07 [v2] ")
    assert "    CreateTask\n      sent " in said


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_a_service_is_started_checked_on_both_families_and_stopped(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    airside = Path(sys.executable).parent / "airside"
    start = f"{airside} serve agent --port {port} --metrics-port -1 --drain-delay 0 --modules registered"
    (folder / "registered.py").write_text(
        FILE + "\nfrom airside import AgentRegistry\nAgentRegistry.register(Greeter())"
    )
    task = ("--task", "greeter.py:greet", "--input", "name=Ada", "--start", start, "--junit", "report.xml")
    only = ("--only", "S13", "--only", "S24", "--only", "S30")
    assert execute(["check", f"localhost:{port}", *task, *only]) == 0
    lines = capsys.readouterr().out.splitlines()
    marks = [line[:11].strip() for line in lines[:-1]]
    assert marks == ["✓ S13 [v1]", "✓ S24 [v1]", "✓ S30 [v1]", "✓ S13 [v2]", "✓ S24 [v2]", "✓ S30 [v2]"]
    assert lines[-1] == "6 passed, 0 failed, 0 skipped"
    root = ET.parse("report.xml").getroot()  # noqa: S314 - our own
    assert (root.attrib["tests"], root.attrib["failures"]) == ("6", "0")
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_nothing_at_the_address_is_told_with_its_own_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    assert execute(["check", f"localhost:{port}"]) == 3
    assert capsys.readouterr().err == f"Error: No agent service answers at localhost:{port}: Connection refused.\n"


@pytest.mark.parametrize("task", [("--task", "greeter.py:greet", "--input", "name=Ada"), ()])
def test_an_agent_whose_every_job_fails_has_not_passed(
    task: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("airside.toml").unlink()
    given = [*task, *([] if task else ["--input", "name=Ada"])]
    assert execute(["check", "greeter.py:Greeter", *given, "--only", "S24", "--only", "S28"]) == 1
    said = capsys.readouterr().out
    assert re.search(r"the task ended FAILED: no word was set \((UserError, )?id \w{8}\); try one that succeeds", said)
    assert "1 passed, 2 failed, 0 skipped" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["greeter.py:Nobody"], "Error: greeter.py has no 'Nobody' (agents there: Greeter, Broken)."),
        (["greeter"], "Error: 'greeter' does not name an agent; write module:Class or path/file.py:Class."),
        (["gone.py:X"], "Error: There is no file gone.py."),
        (["greeter.py:Greeter", "--only", "S99"], "Error: There is no case S99 (cases: S02"),
        (["greeter.py:Greeter", "--task", "greet"], "Error: --task greet: write FILE:TASK, as in tasks.py:my_task"),
        (["greeter.py:Greeter", "--task", "greeter.py:x"], "Error: greeter.py has no task 'x' (tasks there: greet)."),
        (["greeter.py:Greeter", "--input", "x"], "Error: --input x: write NAME=VALUE, as in x=3"),
        (
            ["greeter.py:Greeter", "--task", "greeter.py:greet", "--input", "x=3"],
            "Error: inputs.x: not an input of greet",
        ),
        (["greeter.py:Greeter", "--task", "greeter.py:greet"], "Error: inputs.name: missing"),
        (["greeter.py:greet"], "Error: "),
        (
            ["greeter.py:Greeter", "--start", "x"],
            "Error: --start is for a service at HOST:PORT, but greeter.py:Greeter",
        ),
        (["greeter.py:Greeter", "--task-type", "x"], "Error: --task-type is for a service at HOST:PORT, but"),
        (["greeter.py:Greeter", "--inputs-file", "s.pb"], "Error: Inputs file s.pb cannot be read: No such file"),
        (["greeter.py:Greeter", "--junit", "gone/r.xml"], "Error: --junit gone/r.xml cannot be written: No such file"),
        (["localhost:1", "--settings", "s.toml"], "Error: --settings is for an agent's class, but localhost:1 is a"),
        (["localhost:1", "--task-type", "x:y"], "Error: --task-type x:y: write NAME or NAME:VERSION, as in my_type:1"),
        (["localhost:1", "--template", "gone.pb"], "Error: Template file gone.pb cannot be read: No such file"),
        (["localhost:1", "--template", "x", "--task", "greeter.py:greet"], "Error: Give --task or --template, not"),
        (["localhost:1", "--start", "'"], "Error: --start ': no closing quotation"),
        (["localhost:1", "--start", ""], "Error: --start needs a command."),
        (["localhost:0"], "Error: 'localhost:0' is no endpoint: write HOST:PORT, as in localhost:8000."),
        (["localhost:1", "--task", "greeter.py:greet", "--bad-input", "z=1"], "Error: inputs.z: not an input of greet"),
        (["greeter.py:Greeter", "--settings", "s.toml"], "Error: agents.Greeter.wrod: unknown key (known: word)"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("s.toml").write_text("[agents.greet]\nwrod = 'hello'\n")
    assert execute(["check", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(said)
    assert len(captured.err.splitlines()) == 1

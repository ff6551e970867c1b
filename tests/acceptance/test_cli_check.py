"""`airside check`: real cases against agents that keep the protocol and agents that do not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

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
    assert lines[-1] == "4 passed, 0 failed, 1 not applicable"


def test_an_agent_that_breaks_it_fails_with_what_was_said(capsys: pytest.CaptureFixture[str]) -> None:
    task = ("--task", "greeter.py:greet", "--input", "name=Ada", "--wire", "v2", "--only", "S07", "--timeout", "1")
    assert execute(["check", "--json", "greeter.py:Broken", *task]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], [result["status"] for result in report["results"]]) == (False, ["failed"])
    assert execute(["check", "greeter.py:Broken", *task]) == 1
    said = capsys.readouterr().out
    assert said.startswith("✗ S07 [v2] ")
    assert "    CreateTask  sent " in said


@pytest.mark.parametrize("task", [("--task", "greeter.py:greet", "--input", "name=Ada"), ()])
def test_an_agent_whose_every_job_fails_has_not_passed(
    task: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("airside.toml").unlink()
    given = [*task, *([] if task else ["--input", "name=Ada"])]
    assert execute(["check", "greeter.py:Greeter", *given, "--only", "S24", "--only", "S28"]) == 1
    said = capsys.readouterr().out
    assert "the task ended FAILED: no word was set; try one that succeeds here" in said
    assert "1 passed, 2 failed, 0 not applicable" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["greeter.py:Nobody"], "Error: greeter.py has no 'Nobody' (agents there: Greeter, Broken)."),
        (["greeter"], "Error: 'greeter' does not name an agent; write module:Class or path/file.py:Class."),
        (["localhost:8000"], "Error: localhost:8000 is an address; TARGET is an agent's class: module:Class"),
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
        (["greeter.py:Greeter", "--settings", "s.toml"], "Error: agents.Greeter.wrod: unknown key (known: word)"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("s.toml").write_text("[agents.greet]\nwrod = 'hello'\n")
    assert execute(["check", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(said)
    assert len(captured.err.splitlines()) == 1

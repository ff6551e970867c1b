"""`airside run`: flags made from a task's interface, options at every place, and what is said of mistakes."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airside import AgentRegistry
from airside.cli.main import execute
from airside.engine.database import Database, StoreError

FILE = """
import enum
from dataclasses import dataclass
from datetime import datetime, timedelta
from airside import File, Phase, Resource, SyncAgent, Task, TaskTemplate, kwtypes

@dataclass
class Plan:
    rows: int
    tags: list[str]

class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"

TYPES = kwtypes(
    x=int, name=str, dry_run=bool, plan=Plan | None, colour=Colour, when=datetime, wait=timedelta, data=File,
    parts=list[float],
)
everything = TaskTemplate(
    name="everything",
    task_type="show",
    inputs=TYPES,
    outputs=kwtypes(seen=dict),
    defaults=dict(
        name="n", dry_run=True, plan=None, colour=Colour.RED, when=datetime(2026, 1, 1), wait=timedelta(minutes=1),
        data=File("s3://b/x"), parts=[],
    ),
    doc="Show every input.\\n\\nIt changes nothing.",
)
shadowed = TaskTemplate(
    name="team.shadowed", task_type="show", inputs=kwtypes(timeout=int, json=str), outputs=kwtypes(seen=dict)
)
failing = TaskTemplate(name="failing", task_type="show", inputs=kwtypes(fail=str), outputs=kwtypes(seen=dict))
nobodys = TaskTemplate(name="nobodys", task_type="nobodys")

class Show(SyncAgent):
    task_type = "show"

    def do(self, task: Task) -> Resource:
        if "fail" in task.inputs:
            raise ValueError(task.inputs["fail"])
        return Resource(Phase.SUCCEEDED, outputs={"seen": {name: str(value) for name, value in task.inputs.items()}})
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AIRSIDE_STATE", str(tmp_path / "state"))
    (tmp_path / "wf.py").write_text(FILE)
    path, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    AgentRegistry.clear()


def outcome(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    """The outcome of a run that succeeds, from its JSON."""
    assert execute(["run", "--json", *arguments]) == 0, capsys.readouterr().err
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """What a run says that is refused or fails."""
    assert execute(["run", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err


def test_flags_are_typed_by_the_interface(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "data.csv").write_text("a\n")
    flags = ["--x", "-3", "--name", "n", "--no-dry-run", "--plan", '{"rows": 1, "tags": ["a"]}', "--colour", "blue"]
    flags += ["--when", "2026-01-31T12:00:00Z", "--wait", "1h30m", "--data", "data.csv", "--parts", "[1, 2.5]"]
    seen = outcome(capsys, "wf.py", "everything", *flags)["outputs"]
    assert seen == {
        "seen": {
            "x": "-3",
            "name": "n",
            "dry_run": "False",
            "plan": "{'rows': 1, 'tags': ['a']}",
            "colour": "blue",
            "when": "2026-01-31 12:00:00+00:00",
            "wait": "1:30:00",
            "data": f"File(uri='{folder}/data.csv', format='')",
            "parts": "[1.0, 2.5]",
        }
    }


@pytest.mark.parametrize(
    ("flags", "value"),
    [
        (["--dry-run"], True),
        (["--dry_run", "true"], True),
        (["--dry-run", "False"], False),
        (["--dry-run=no"], False),
        (["--no-dry-run"], False),
        (["--dry-run", "--x", "4"], True),
    ],
)
def test_a_bool_may_be_given_either_way(flags: list[str], value: bool, capsys: pytest.CaptureFixture[str]) -> None:
    outputs: Any = outcome(capsys, "wf.py", "everything", "--x", "3", *flags)["outputs"]
    assert outputs["seen"]["dry_run"] == str(value)


def test_an_inputs_file_gives_inputs_and_flags_override_them(capsys: pytest.CaptureFixture[str]) -> None:
    Path("in.json").write_text('{"x": 1, "name": "from file", "wait": 90}')
    seen = outcome(capsys, "wf.py", "everything", "--inputs-file", "in.json", "--x", "2")["outputs"]
    assert isinstance(seen, dict)
    assert (seen["seen"]["x"], seen["seen"]["name"], seen["seen"]["wait"]) == ("2", "from file", "0:01:30")


@pytest.mark.parametrize("place", [0, 1, 2, 4])
def test_options_of_the_run_may_stand_anywhere(place: int, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["wf.py", "everything", "--x", "1"]
    words[place:place] = ["--retries", "2", "--json"]
    assert execute(["run", *words]) == 0
    assert json.loads(capsys.readouterr().out)["phase"] == "SUCCEEDED"


def test_an_input_wins_over_an_option_of_the_same_name(capsys: pytest.CaptureFixture[str]) -> None:
    found = outcome(capsys, "--timeout", "30s", "wf.py", "shadowed", "--timeout", "5", "--json", "text")
    assert found["outputs"] == {"seen": {"timeout": "5", "json": "text"}}
    assert found["task"] == "team.shadowed"


def test_outputs_are_printed_readably_and_nothing_else_is_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["run", "wf.py", "team.shadowed", "--timeout", "5", "--json", "t"]) == 0
    captured = capsys.readouterr()
    assert captured.out == 'seen: {"timeout": "5", "json": "t"}\n'
    assert "team.shadowed succeeded in " in captured.err


def test_help_shows_inputs_types_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["run", "wf.py", "everything", "--help"]) == 0
    text = capsys.readouterr().out
    for line in ("Show every input.", "Outputs: seen (dict)", "--x int", "required", "--plan Plan | None", "Example:"):
        assert line in text
    assert "--dry_run, --dry-run / --no-dry_run, --no-dry-run" in text
    assert "--colour red | blue" in text
    assert 'default: "red"' in text
    assert text.index("Inputs:") < text.index("Options:")


def test_without_a_task_the_tasks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["run", "wf.py"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Tasks in wf.py:"
    assert "  failing --fail str" in lines
    assert "      Show every input. (task type show)" in lines
    assert execute(["run", "--json", "wf.py"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [task["variable"] for task in listed] == ["everything", "shadowed", "failing", "nobodys"]
    assert listed[0]["inputs"]["parts"] == "list[float]"


def test_a_task_that_fails_says_why_and_exits_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    said = complaint(capsys, "wf.py", "failing", "--fail", "boom", "--retries", "1", code=1)
    assert "note: attempt 1 failed (ValueError: boom); the next begins in" in said
    assert "failing failed after" in said
    assert "(2 attempts)" in said
    assert "  UnexpectedError: ValueError: boom" in said
    assert execute(["run", "--json", "wf.py", "failing", "--fail", "boom"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["phase"], found["code"], found["outputs"]) == ("RETRYABLE_FAILED", "UnexpectedError", {})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["wf.py", "nothing"],
            "Error: wf.py has no task 'nothing' (tasks there: everything, shadowed, failing, nobodys).",
        ),
        (["wf.py", "everything"], "Error: inputs.x: missing; give --x int"),
        (["wf.py", "everything", "--x", "abc"], "Error: inputs.x: expected int, got 'abc'"),
        (
            ["wf.py", "everything", "--x", "1", "--plan", '{"rows": "z", "tags": []}'],
            "Error: inputs.plan.rows: expected int, got 'z'",
        ),
        (["wf.py", "everything", "--x", "1", "--data", "gone"], "Error: inputs.data: no such file: gone"),
        (
            ["wf.py", "everything", "--x", "1", "--dry-run", "maybe"],
            "Error: inputs.dry_run: expected bool, got 'maybe'",
        ),
        (["wf.py", "everything", "--y", "1"], "Error: No such option '--y'"),
        (["wf.py", "everything", "--inputs-file", "gone.json"], "Error: Inputs file gone.json cannot be read: No such"),
        (["wf.py", "everything", "--inputs-file", "wf.py"], "Error: Inputs file wf.py is not JSON: "),
        (
            ["wf.py", "everything", "--inputs-file", "list.json"],
            "Error: Inputs file list.json must hold one JSON object",
        ),
        (
            ["wf.py", "everything", "--inputs-file", "more.json"],
            "Error: inputs.z: not an input of everything (inputs: x, name",
        ),
        (["wf.py", "nobodys"], "Error: No agent here runs task type nobodys (task types here: "),
        (["gone.py", "t"], "Error: gone.py does not exist."),
        (["gone.module", "t"], "Error: gone.module is neither a file nor a module that can be found from here."),
        (
            ["broken.py", "t"],
            "Error: broken.py cannot be imported: ZeroDivisionError: division by zero (broken.py, line 2)",
        ),
        (["wrong.py", "t"], "subclass AsyncAgent, SyncAgent or AgentBase. (wrong.py, line 2)"),
        (["syntax.py", "t"], "Error: syntax.py cannot be imported: SyntaxError: invalid syntax (syntax.py, line 1)"),
        (
            ["lacks.py", "t"],
            "Error: lacks.py cannot be imported: Agent Lacks (SyncAgent) has no method do. (lacks.py, line 4)",
        ),
        (["leaves.py", "t"], "Error: leaves.py cannot be imported: SystemExit: 3"),
        (["empty.py", "t"], "Error: empty.py has no task 't' (it defines no task at all)."),
        (["empty.py"], "Error: empty.py defines no task; a task is a TaskTemplate in a variable of the file."),
        (["twins.py", "same"], "Error: twins.py has several tasks named 'same': say which by a, b."),
        (["--modules", "gone", "wf.py", "nobodys"], "Error: Module 'gone' cannot be imported: ModuleNotFoundError"),
        (["--settings", "gone.toml", "wf.py", "nobodys"], "Error: Settings file gone.toml does not exist."),
        (
            ["--settings", "s.toml", "wf.py", "failing", "--fail", "x"],
            "Error: s.toml: agents.show: this agent has no options",
        ),
        (["--timeout", "0", "wf.py"], "'--timeout': it must be longer than 0"),
        (["needy.py", "t"], "Error: Needy in needy.py cannot be made without arguments (TypeError: "),
    ],
)
def test_a_mistake_is_told_in_one_sentence(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("list.json").write_text("[1]")
    Path("more.json").write_text('{"z": 1}')
    Path("broken.py").write_text("x = 1\ny = x / 0\n")
    Path("syntax.py").write_text("x = = 1\n")
    Path("wrong.py").write_text("import airside\nairside.AgentRegistry.register(3)\n")
    Path("leaves.py").write_text("raise SystemExit(3)\n")
    Path("empty.py").write_text("")
    Path("lacks.py").write_text(
        "from airside import AgentRegistry, SyncAgent\nclass Lacks(SyncAgent):\n    task_type = 'lacks'\n"
        "AgentRegistry.register(Lacks())\n"
    )
    Path("s.toml").write_text("[agents.show]\nhost = 'x'\n")
    task = "from airside import SyncAgent, TaskTemplate\n"
    Path("twins.py").write_text(
        f"{task}a = TaskTemplate(name='same', task_type='echo')\nb = TaskTemplate(name='same', task_type='x')\n"
    )
    Path("needy.py").write_text(
        f"{task}t = TaskTemplate(name='t', task_type='needy')\n"
        "class Needy(SyncAgent):\n    task_type = 'needy'\n"
        "    def __init__(self, url): ...\n    def do(self, task): ...\n"
    )
    assert message in complaint(capsys, *arguments)


def test_inputs_may_come_from_stdin(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"x": 5}'))
    seen = outcome(capsys, "wf.py", "everything", "--inputs-file", "-")["outputs"]
    assert isinstance(seen, dict)
    assert seen["seen"]["x"] == "5"


def test_flags_that_would_be_the_same_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    Path("t.py").write_text(
        "from airside import TaskTemplate\n"
        "types = {'a_b': int, 'a-b': int, 'x': bool, 'no_x': bool, 'help': str}\n"
        "t = TaskTemplate(name='t', task_type='echo', inputs=types, outputs=types)\n"
    )
    flags = ["--a_b", "1", "--a-b", "2", "--x", "true", "--no-no-x", "--help", "me"]
    assert outcome(capsys, "t.py", "t", *flags)["outputs"] == {
        "a_b": 1,
        "a-b": 2,
        "x": True,
        "no_x": False,
        "help": "me",
    }


def test_a_registered_agent_wins_over_an_installed_one(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.py").write_text(
        "from airside import AgentRegistry, Phase, Resource, SyncAgent, TaskTemplate, kwtypes\n"
        "class Mine(SyncAgent):\n    task_type = 'echo'\n"
        "    def do(self, task):\n        return Resource(Phase.SUCCEEDED, outputs={'x': 42})\n"
        "AgentRegistry.register(Mine())\n"
    )
    Path("t.py").write_text(
        "from airside import TaskTemplate, kwtypes\n"
        "t = TaskTemplate(name='t', task_type='echo', inputs=kwtypes(x=int), outputs=kwtypes(x=int))\n"
    )
    assert outcome(capsys, "t.py", "t", "--x", "1")["outputs"] == {"x": 1}
    assert outcome(capsys, "-m", "mine", "t.py", "t", "--x", "1")["outputs"] == {"x": 42}


def test_a_file_in_a_package_may_import_its_siblings_and_a_module_may_be_named(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    (folder / "pkg").mkdir()
    (folder / "pkg" / "__init__.py").touch()
    (folder / "pkg" / "names.py").write_text("NAME = 't'\n")
    (folder / "pkg" / "flow.py").write_text(
        "from airside import TaskTemplate, kwtypes\nfrom .names import NAME\n"
        "t = TaskTemplate(name=NAME, task_type='echo', inputs=kwtypes(x=int), outputs=kwtypes(x=int))\n"
    )
    for target in ("pkg/flow.py", "pkg.flow"):
        assert outcome(capsys, target, "t", "--x", "1")["outputs"] == {"x": 1}


def test_a_file_may_have_the_name_of_a_module_that_is_loaded(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "json.py").write_text(
        "from airside import TaskTemplate, kwtypes\n"
        "t = TaskTemplate(name='t', task_type='echo', inputs=kwtypes(x=int), outputs=kwtypes(x=int))\n"
    )
    assert outcome(capsys, "json.py", "t", "--x", "1")["outputs"] == {"x": 1}


def test_a_store_that_fails_in_the_middle_names_the_job(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise StoreError("The store cannot grow: the disk is full; make room, then start again.")

    with monkeypatch.context() as broken:
        broken.setattr(Database, "save", full)  # what was handed in is kept; no more is
        assert execute(["run", "wf.py", "failing", "--fail", "boom"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    beginning = "Error: The store cannot grow: the disk is full; make room, then start again. The job is not lost; "
    assert said.startswith(beginning)
    job = said.removeprefix(beginning).removeprefix("take it up again: airside jobs wait ")
    assert execute(["jobs", "show", "--json", job]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["task"], shown["stage"]) == ("failing", "waiting")

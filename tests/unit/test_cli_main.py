"""The group `airside`: what it lists, what it says of errors, what it exits with."""

from __future__ import annotations

import sys

import click
import pytest

from airside import ConversionError, Fail, TaskError, UsageError, __version__
from airside.cli.main import COMMANDS, airside, execute


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_and_the_line_that_is_listed(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Example" in text
    assert f"airside {name}" in text
    assert "\b" not in text
    assert COMMANDS[name][1].endswith(".")
    command = airside.get_command(click.Context(airside), name)
    assert command is not None
    assert command.name == name


def test_the_group_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(line in text for _, line in COMMANDS.values())
    assert execute(["--version"]) == 0
    assert capsys.readouterr().out == f"airside {__version__}\n"


def test_an_unknown_command_lists_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["rnu"]) == 2
    assert "There is no command 'rnu' (commands: run, serve, agents" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UsageError("Give a name."), 2, "Error: Give a name.\n"),
        (ConversionError("inputs.x", "missing"), 2, "Error: inputs.x: missing\n"),
        (TaskError("no", code="Bad"), 1, "Error: Bad: no\n"),
        (Fail("no"), 1, "Error: no\n"),
        (KeyboardInterrupt(), 130, "\nInterrupted.\n"),
        (KeyError("x"), 70, "Error: unexpected KeyError: 'x'; run with `airside --debug ...` for the traceback.\n"),
    ],
)
def test_errors_are_one_sentence_and_the_code_says_what_kind(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @click.command()
    def fail() -> None:
        raise error

    monkeypatch.setattr(sys.modules["airside.cli.main"], "fail", fail, raising=False)
    monkeypatch.setitem(COMMANDS, "fail", ("airside.cli.main:fail", "Fail."))
    assert execute(["fail"]) == code
    assert capsys.readouterr().err == said


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert execute(["--debug", "run", "gone.py", "t"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.endswith("Error: gone.py does not exist.\n")

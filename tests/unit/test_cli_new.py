"""`airside new`: what it writes and what it refuses. That the package works is an acceptance test."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

from airside.cli.main import execute


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_file_is_filled_in_and_python_parses(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["new", "my-warehouse"]) == 0
    assert "cd my-warehouse && pip install --editable '.[test]' && pytest" in capsys.readouterr().out
    written = [path for path in (folder / "my-warehouse").rglob("*") if path.is_file()]
    names = {str(path.relative_to(folder / "my-warehouse")) for path in written}
    assert {"pyproject.toml", "README.md", "Makefile", "tasks.py", "src/my_warehouse/agent.py"} <= names
    assert not [name for name in names if "MODULE" in name or name.endswith(".tmpl")]
    for path in written:
        text = path.read_text()
        assert "{{" not in text, path
        if path.suffix == ".py":
            ast.parse(text)
    project = tomllib.loads((folder / "my-warehouse" / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["airside.agents"] == {"my_warehouse": "my_warehouse:MyWarehouseAgent"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Foo", "is no name for a package"),
        ("a--b", "is no name for a package"),
        ("1st", "is no name for a package"),
        ("../up", "is no name for a package"),
        ("", "is no name for a package"),
        ("json", "Python has a module 'json' already"),
        ("airside", "Python has a module 'airside' already"),
        ("lambda", "will not do as a package name"),
    ],
)
def test_a_name_that_will_not_do_is_refused(
    name: str, said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["new", name]) == 2
    assert said in capsys.readouterr().err
    assert list(folder.iterdir()) == []


def test_nothing_is_overwritten(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "mine").mkdir()
    (folder / "mine" / "precious.txt").write_text("keep")
    assert execute(["new", "mine"]) == 2
    assert "mine is there already" in capsys.readouterr().err
    assert [path.name for path in (folder / "mine").iterdir()] == ["precious.txt"]
    assert execute(["new", "mine", "--directory", "sub/other"]) == 0
    assert (folder / "sub" / "other" / "README.md").is_file()
    (folder / "empty").mkdir()
    assert execute(["new", "empty"]) == 0
    (folder / "file").write_text("")
    assert execute(["new", "x", "--directory", "file/below"]) == 2
    assert "cannot be written" in capsys.readouterr().err

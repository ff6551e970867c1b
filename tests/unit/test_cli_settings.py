"""airside.toml: what is read, and what is said when it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from airside import UsageError
from airside.cli.settings import load_settings

GOOD = "[serve]\nport = 9000\n[agents.my_query]\nhost = 'example.org'\n"


def test_no_file_is_no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings(env={})
    assert (settings.serve, settings.agents, settings.source) == ({}, {}, None)


def test_the_working_directory_then_the_variable_then_the_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("airside.toml").write_text(GOOD)
    Path("other.toml").write_text("[serve]\nport = 1\n")
    Path("third.toml").write_text("[serve]\nport = 2\n")
    env = {"AIRSIDE_SETTINGS": "other.toml"}
    assert load_settings(env={}).agents == {"my_query": {"host": "example.org"}}
    assert load_settings(env=env).serve == {"port": 1}
    assert load_settings("third.toml", env=env).serve == {"port": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[server]", "x.toml: server: unknown table (known: serve, agents, connections, isolate)"),
        ("serve = 3", "x.toml: serve: expected a table, got 3; write [serve]"),
        ("[agents]\necho = 'a'", "x.toml: agents.echo: expected a table, got 'a'; write [agents.echo]"),
        ("[serve", "x.toml: not valid TOML: "),
    ],
)
def test_a_wrong_file_is_named_with_its_key(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        load_settings("x.toml")
    assert str(caught.value).startswith(message)


def test_a_named_file_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"^Settings file gone\.toml does not exist\.$"):
        load_settings(env={"AIRSIDE_SETTINGS": "gone.toml"})
    with pytest.raises(UsageError, match="cannot be read"):
        load_settings(tmp_path)

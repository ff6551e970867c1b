"""`airside agents`: what is listed, and what is said of plugins that do not load."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from airside import AgentRegistry, AsyncAgent, MissingExtra, Registry, Resource, SyncAgent, UsageError
from airside.agents.duckdb_query import DuckDBAgent
from airside.cli.agents import once_of
from airside.cli.main import execute
from airside.cli.registry import options_table
from airside.cli.settings import Settings
from airside.sdk import declare
from airside.sdk.adapt import adapt

MODULE = """
from airside import AgentRegistry, AsyncAgent

class Query(AsyncAgent[str]):
    task_types = ("query", ("query", 1))
    create_is_idempotent = True
    host_access = True
    def create(self, task): ...
    def get(self, job): ...
    def delete(self, job): ...

AgentRegistry.register(Query())
"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two installed plugins: one that works, one whose library is missing."""
    info = tmp_path / "fake_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[airside.agents]\nzz_query = fake_query:Query\nzz_broken = fake_broken:Broken\n"
    )
    (tmp_path / "fake_query.py").write_text(MODULE.replace("AgentRegistry.register(Query())", ""))
    (tmp_path / "fake_broken.py").write_text("import library_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_installed_agents_are_listed_and_a_broken_plugin_hurts_only_itself(
    plugins: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["agents"]) == 0
    captured = capsys.readouterr()
    rows = [line.split() for line in captured.out.splitlines()]
    assert rows[0] == ["NAME", "TASK", "TYPES", "KIND", "ONCE", "HOST", "SOURCE"]
    assert ["Query", "query,", "query", "v1", "async", "token", "yes"] in [row[:7] for row in rows]
    assert "broken: entry point zz_broken = fake_broken:Broken: ModuleNotFoundError: No module named" in captured.err
    assert execute(["agents", "--strict"]) == 1


def test_a_program_may_read_the_list(plugins: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["agents", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    query = next(agent for agent in listed["agents"] if agent["name"] == "Query")
    assert query == {
        "name": "Query",
        "task_types": ["query", "query v1"],
        "kind": "async",
        "once": "token",
        "host_access": True,
        "source": "entry point zz_query = fake_query:Query",
        "missing": "",
    }
    assert [plugin["source"] for plugin in listed["broken"] if "zz_" in plugin["source"]] == [
        "entry point zz_broken = fake_broken:Broken"
    ]


def test_an_agent_whose_library_is_not_installed_is_listed_as_not_usable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = declare.find_spec
    monkeypatch.setattr(declare, "find_spec", lambda name: None if name in ("httpx2", "pyarrow") else there(name))
    assert execute(["agents"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert {line.split(": ")[0] for line in lines} == {"not usable"}
    assert {
        "not usable: duckdb_query: The duckdb_query agent needs an optional library: pip install 'airside[duckdb]'",
        "not usable: webhook: The webhook agent needs an optional library: pip install 'airside[webhook]'",
    } <= set(lines)
    assert not any("echo" in line for line in lines)
    execute(["agents", "--json"])
    missing = {agent["name"]: agent["missing"] for agent in json.loads(capsys.readouterr().out)["agents"]}
    assert missing["webhook"].startswith("The webhook agent needs")
    assert missing["echo"] == ""
    with pytest.raises(MissingExtra):
        asyncio.run(adapt(DuckDBAgent()).open(DuckDBAgent.Options()))


def test_agents_of_a_module_are_listed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "mine_listed.py").write_text(MODULE)
    try:
        assert execute(["agents", "--modules", "mine_listed"]) == 0
        assert "mine_listed:Query" in capsys.readouterr().out
    finally:
        AgentRegistry.clear()
    assert execute(["agents", "-m", "not_there"]) == 2
    assert "Error: Module 'not_there' cannot be imported: ModuleNotFoundError" in capsys.readouterr().err


def test_a_run_that_needs_a_broken_plugin_says_what_is_wrong_with_it(
    plugins: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (plugins / "wf_broken.py").write_text(
        "from airside import TaskTemplate\nt = TaskTemplate(name='t', task_type='zz_broken')\n"
    )
    assert execute(["run", "wf_broken.py", "t"]) == 2
    assert capsys.readouterr().err == (
        "Error: No agent here runs task type zz_broken. "
        "Its plugin cannot be loaded: ModuleNotFoundError: No module named 'library_that_is_not_there'\n"
    )


class Plain(AsyncAgent[str]):
    task_type = "plain"

    def create(self, task: object) -> str: ...
    def get(self, job: str) -> Resource: ...
    def delete(self, job: str) -> None: ...


class Finding(Plain):
    def find(self, task: object, key: str) -> str | None: ...


class Token(Finding):
    create_is_idempotent = True


class Sync(SyncAgent):
    task_type = "sync"

    def do(self, task: object) -> Resource: ...


@pytest.mark.parametrize(
    ("agent", "once"), [(Plain(), "process"), (Finding(), "find"), (Token(), "token"), (Sync(), "process")]
)
def test_how_an_agent_keeps_to_one_job(agent: object, once: str) -> None:
    assert once_of(agent) == once
    assert once_of(adapt(agent)) == once


def test_options_are_found_by_name_or_task_type() -> None:
    registry = Registry()
    registry.register(Plain())
    (entry,) = registry
    for name in ("Plain", "plain"):
        settings = Settings(agents={name: {"a": 1}}, source=Path("airside.toml"))
        assert options_table(settings, entry) == ({"a": 1}, f"airside.toml: agents.{name}")
    assert options_table(Settings(), entry) == ({}, "airside.toml: agents.Plain")
    both = Settings(agents={"Plain": {}, "plain": {}}, source=Path("x.toml"))
    with pytest.raises(UsageError, match=r"x\.toml: \[agents\.Plain\] and \[agents\.plain\] are for the same agent"):
        options_table(both, entry)

"""`airside agents --all`: which of Airside's own agents are ready here."""

from __future__ import annotations

import asyncio
import importlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airside import Fail, Phase, Resource, SyncAgent, Task
from airside.agents.bigquery import BigQueryAgent
from airside.agents.echo import EchoAgent
from airside.cli import readiness
from airside.cli.main import execute
from airside.cli.readiness import look
from airside.cli.settings import Settings
from airside.sdk.registry import Registration, Registry


class Near(SyncAgent):
    task_type = "near"

    def do(self, task: Task) -> Resource:
        return Resource(Phase.SUCCEEDED)


class Account(Near):
    closed = 0

    async def open(self, options: None) -> None:
        self.name_of_account = "ops"

    async def close(self) -> None:
        type(self).closed += 1

    def check_credentials(self) -> str:
        return self.name_of_account

    async def probe(self) -> str:
        return "it answers"


class Silent(Account):
    async def probe(self) -> str:
        raise Fail("the warehouse is not there")


class NoKey(Account):
    def check_credentials(self) -> str:
        raise Fail("set WAREHOUSE_TOKEN")


class NoLibrary(Near):
    requires = {"far_away_sdk.inner": "far"}  # noqa: RUF012 - as agents declare it


class Broken(Near):
    def open(self, options: None) -> None:
        raise ValueError("a mistake")


def entry(agent: Any) -> Registration:
    registry = Registry()
    registry.register(agent)
    [made] = registry
    return made


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.delenv("BIGQUERY_EMULATOR_HOST", raising=False)
    yield
    Account.closed = 0


def test_an_agent_without_needs_is_ready() -> None:
    [found] = look([entry(Near())], Settings(), probe=True)
    assert found.is_ready
    assert (found.extra, found.credentials, found.endpoint) == ("", "", "")


def test_credentials_are_told_and_the_backend_is_asked_only_if_wished() -> None:
    [quiet] = look([entry(Account())], Settings(), probe=False)
    [asked] = look([entry(Account())], Settings(), probe=True)
    assert (quiet.credentials, quiet.endpoint) == ("ops", "")
    assert asked.endpoint == "it answers"
    assert Account.closed == 2


@pytest.mark.parametrize(
    ("agent", "problem"),
    [
        (Silent(), "its backend does not answer: the warehouse is not there"),
        (NoKey(), "no credentials: set WAREHOUSE_TOKEN"),
        (NoLibrary(), "The NoLibrary agent needs an optional library: pip install 'airside[far]'"),
        (Broken(), "it cannot be opened: ValueError: a mistake"),
    ],
)
def test_what_is_missing_is_said(agent: Any, problem: str) -> None:
    [found] = look([entry(agent)], Settings(), probe=True)
    assert not found.is_ready
    assert found.problem == problem


def test_wrong_settings_are_a_reason_too() -> None:
    [found] = look([entry(Near())], Settings(agents={"near": {"host": "x"}}), probe=False)
    assert found.problem.startswith("it cannot be opened: airside.toml: agents.near")


@pytest.mark.parametrize("is_async", [True, False])
def test_an_agent_that_hangs_holds_up_no_list(is_async: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    class Hung(Account):
        def probe(self) -> Any:
            if is_async:
                return asyncio.Event().wait()
            return released.wait(3600)

    monkeypatch.setattr(readiness, "_PATIENCE", 0.1)
    [found] = look([entry(Hung())], Settings(), probe=True)
    released.set()
    assert "no answer within" in found.problem  # on a busy machine its `open` may be late, too


@pytest.fixture
def two_agents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of the built-in agents: what the others find depends on the machine."""
    registry = Registry()
    registry.register(BigQueryAgent())
    registry.register(EchoAgent())
    module = importlib.import_module("airside.cli.agents")  # the name in the package is that of the command
    monkeypatch.setattr(module, "load_registry", lambda modules: registry)


def test_the_built_in_agents_are_listed_with_their_extras(two_agents: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["agents", "--all", "--json"]) == 0
    listed = {agent["name"]: agent for agent in json.loads(capsys.readouterr().out)["agents"]}
    assert listed["echo"]["ready"] is True
    assert (listed["bigquery"]["extra"], listed["bigquery"]["once"]) == ("bigquery", "token")
    assert listed["bigquery"]["ready"] is False
    assert "no credentials" in listed["bigquery"]["problem"]
    assert execute(["agents", "--all", "--strict"]) == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0].split() == ["NAME", "TASK", "TYPES", "EXTRA", "ONCE", "READY", "CREDENTIALS"]
    assert "not ready: bigquery: no credentials: There are no credentials for BigQuery" in captured.err


def test_an_emulator_needs_no_credentials(
    two_agents: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", "http://127.0.0.1:9")
    assert execute(["agents", "--probe", "--json"]) == 0
    listed = {agent["name"]: agent for agent in json.loads(capsys.readouterr().out)["agents"]}
    assert listed["bigquery"]["credentials"] == "none, for an emulator"
    assert listed["bigquery"]["problem"].startswith("its backend does not answer: BigQuery could not be asked")


def test_a_service_cannot_be_asked_for_its_readiness(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["agents", "--all", "--endpoint", "localhost:1"]) == 2
    assert "leave out --endpoint" in capsys.readouterr().err

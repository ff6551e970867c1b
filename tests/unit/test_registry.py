"""The registry and what it refuses."""

from __future__ import annotations

import pytest

from airside import AsyncAgent, PluginError, Registry, Resource, SyncAgent, Task
from airside.model import Phase
from airside.sdk.discovery import load_modules


class Adder(SyncAgent):
    task_types = ("add", ("add", 2))

    def do(self, task: Task) -> Resource:
        return Resource(Phase.SUCCEEDED)


class Other(Adder):
    task_types = ("add",)


def test_duplicate_is_refused_and_both_owners_are_named() -> None:
    registry = Registry()
    registry.register(Adder())
    with pytest.raises(PluginError, match=r"add is already served by Adder .*Other .*override=True"):
        registry.register(Other())


def test_override_takes_the_type_only() -> None:
    registry = Registry()
    first, second = Adder(), Other()
    registry.register(first)
    registry.register(second, override=True)
    assert registry.get("add") is second
    assert registry.get("add", 2) is first
    assert [entry.name for entry in registry] == ["Adder", "Other"]


def test_agent_without_do_is_refused_in_one_sentence() -> None:
    class Broken(SyncAgent):
        task_type = "x"

    with pytest.raises(PluginError, match=r"^Agent Broken \(SyncAgent\) has no method do\.$"):
        Registry().register(Broken())


def test_metadata_that_is_not_json_is_refused_when_it_is_registered() -> None:
    class Broken(AsyncAgent[complex]):
        task_type = "x"

        def create(self, task: Task) -> complex:
            return 1j

        def get(self, job: complex) -> Resource:
            return Resource(Phase.RUNNING)

        def delete(self, job: complex) -> None: ...

    with pytest.raises(PluginError, match=r"^Agent Broken: Job metadata complex must be a dataclass"):
        Registry().register(Broken())


def test_a_file_is_no_module() -> None:
    with pytest.raises(PluginError, match=r"^'agents/mine\.py' is a file; name the module, as in 'mine'\.$"):
        load_modules(Registry(), ["agents/mine.py"])

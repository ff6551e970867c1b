"""The registry and what it refuses."""

from __future__ import annotations

import pytest

from airside import PluginError, Registry, Resource, SyncAgent, Task
from airside.model import Phase


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

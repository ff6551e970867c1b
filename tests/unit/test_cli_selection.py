"""Which of the installed agents a service serves, and which broken plugins it cares about."""

from __future__ import annotations

import pytest

from airside import SyncAgent, UsageError
from airside.cli.selection import selected
from airside.model import Resource, Task
from airside.sdk.registry import Registry


class One(SyncAgent):
    name = "first"
    task_types = ("one", "uno")

    def do(self, task: Task) -> Resource:
        raise NotImplementedError


class Two(One):
    name = "second"
    task_types = ("two",)


@pytest.fixture
def registry() -> Registry:
    registry = Registry()
    registry.register(One())
    registry.register(Two())
    return registry


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (None, ["first", "second"]),
        (["first"], ["first"]),
        (["uno"], ["first"]),
        (["two", "one", "uno"], ["first", "second"]),
    ],
)
def test_agents_are_chosen_by_name_or_task_type(registry: Registry, names: list[str] | None, chosen: list[str]) -> None:
    assert [entry.name for entry in selected(registry, names)[0]] == chosen


def test_a_name_that_nobody_has_is_refused(registry: Registry) -> None:
    with pytest.raises(
        UsageError, match=r"^There is no agent 'three' to serve \(installed: first, one, second, two, uno\)\.$"
    ):
        selected(registry, ["one", "three"])
    with pytest.raises(UsageError, match="names no agent; leave the key out"):
        selected(registry, [])


def test_a_broken_plugin_matters_as_long_as_a_chosen_name_is_missing(registry: Registry) -> None:
    registry.add_broken("entry point three = x:Y", "ImportError: no x")
    assert [plugin.source for plugin in selected(registry, None)[1]] == ["entry point three = x:Y"]
    assert selected(registry, ["one"])[1] == ()
    entries, broken = selected(registry, ["one", "three"])
    assert [entry.name for entry in entries] == ["first"]
    assert [plugin.source for plugin in broken] == ["entry point three = x:Y", "three"]

"""What an agent declares: what is taken, and what is refused in one sentence before it is served."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from airside import AsyncAgent, PluginError, Registry, Resource, SyncAgent, Task
from airside.model import Phase
from airside.sdk.adapt import adapt_all
from airside.sdk.declare import check, task_types_of


class Plain(AsyncAgent[str]):
    task_type = "plain"

    def create(self, task: Task) -> str:
        return ""

    def get(self, job: str) -> Resource:
        return Resource(Phase.RUNNING)

    def delete(self, job: str) -> None: ...


class Odd(Plain):
    """Methods of every legitimate kind."""

    @classmethod
    def get(cls, job: str, call: object) -> Resource:
        return Resource(Phase.RUNNING)

    @staticmethod
    async def delete(job: str, **kwargs: object) -> None: ...

    find = functools.partialmethod(lambda self, extra, task, key: None, 1)
    logs = staticmethod(functools.partial(lambda extra, job, *, after, limit, call: iter(()), 1))  # type: ignore[assignment]

    def metrics(self, *args: object, **kwargs: object) -> Sequence[Any]:
        return ()

    def get_many(self, jobs: Sequence[str], *, call: object = None) -> Sequence[Resource | Exception]:
        return ()


def test_methods_of_every_kind_are_taken() -> None:
    check(Odd())


@pytest.mark.parametrize(
    ("name", "method", "sentence"),
    [
        ("create", lambda self: "", r"Agent Plain: create must take \(task\) or \(task, call\), not \(\)\."),
        ("get", lambda self, job, c: None, r"Agent Plain: get must take \(job\) or \(job, call\), not \(job, c\)\."),
        ("delete", lambda self, job, force: None, r"delete must take .*, not \(job, force\)\."),
        ("find", lambda self, task: None, r"find must take \(task, key\) or \(task, key, call\), not \(task\)\."),
        ("logs", lambda self, job: (), r"logs must take \(job, \*, after, limit\) or .*, not \(job\)\."),
    ],
)
def test_a_method_that_could_never_be_called_is_refused(name: str, method: Callable[..., Any], sentence: str) -> None:
    agent = type("Plain", (Plain,), {name: method})()
    with pytest.raises(PluginError, match=sentence):
        check(agent)


def test_a_sync_agent_s_method_is_checked_too() -> None:
    class Sync(SyncAgent):
        task_type = "sync"
        do = lambda self, a, b: Resource(Phase.SUCCEEDED)  # type: ignore[assignment]  # noqa: E731

    with pytest.raises(PluginError, match=r"^Agent Sync: do must take \(task\) or \(task, call\), not \(a, b\)\.$"):
        check(Sync())


@pytest.mark.parametrize(
    ("declared", "found"),
    [
        ({"task_types": ("a", ("a", 1))}, ["a", "a v1"]),
        ({"task_types": [["a", 2]]}, ["a v2"]),
        ({"task_type": ("a", 1)}, ["a v1"]),
        ({"task_type": "a", "task_types": ["b", "a"]}, ["a", "b"]),
        ({"task_type": "", "task_types": "abc"}, ["abc"]),
    ],
)
def test_task_types_are_read(declared: dict[str, Any], found: list[str]) -> None:
    agent = type("Some", (Plain,), {"task_type": "", **declared})()
    assert [str(one) for one in task_types_of(agent)] == found


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), "10", True, None])
def test_a_time_that_is_no_number_of_seconds_is_refused(seconds: object) -> None:
    with pytest.raises(PluginError, match="poll_interval must be a number of seconds above 0"):
        check(type("Some", (Plain,), {"poll_interval": seconds})())


def test_an_agent_that_cannot_be_adapted_leaves_the_others() -> None:
    class Broken(Plain):
        task_type = "broken"

        @property
        def Options(self) -> type:
            raise RuntimeError("no settings server")

    registry = Registry()
    registry.register(Broken(), source="entry point broken")
    registry.register(Plain())
    assert [agent.name for agent in adapt_all(registry, registry)] == ["Plain"]
    [broken] = registry.broken
    assert (broken.source, broken.error) == ("entry point broken", "RuntimeError: no settings server")


@pytest.mark.parametrize("name", ["links", "read_handle"])
def test_what_asks_no_backend_is_a_plain_def(name: str) -> None:
    async def method(self: object, _: object) -> None: ...

    with pytest.raises(PluginError, match=f"^Agent Plain: {name} must be a plain def, since it asks no backend\\.$"):
        check(type("Plain", (Plain,), {name: method})())

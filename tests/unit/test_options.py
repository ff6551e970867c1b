"""An agent's options: what TOML may hold, and what is refused with the key."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NewType

import msgspec
import pydantic
import pytest

from airside import AsyncAgent, PluginError, Resource, Task, UsageError
from airside.model import Call, Phase
from airside.sdk.adapt import adapt
from airside.sdk.options import read_options

if TYPE_CHECKING:
    from decimal import Decimal

Region = NewType("Region", str)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Server:
    host: str
    port: int = 80


@dataclass(frozen=True)
class Options:
    mode: Literal["quick", "safe"] = "safe"
    colour: Colour = Colour.RED
    folder: Path = Path()
    pair: tuple[str, int] = ("", 0)
    many: tuple[str, ...] = ()
    sequence: Sequence[str] = ()
    mapping: Mapping[str, int] = field(default_factory=dict)
    server: Server | None = None
    servers: list[Server] = field(default_factory=list)
    named: dict[str, Server] = field(default_factory=dict)
    anything: tuple = ()  # type: ignore[type-arg]  # what authors may write
    unique: set = field(default_factory=set)  # type: ignore[type-arg]  # what authors may write
    region: Region = Region("")
    wait: timedelta = timedelta(0)
    since: date = date.min
    limit: float | None = None


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        ("mode", "quick", "quick"),
        ("colour", "blue", Colour.BLUE),
        ("folder", "/tmp", Path("/tmp")),
        ("pair", ["a", 1], ("a", 1)),
        ("many", ["a", "b"], ("a", "b")),
        ("sequence", ["a"], ["a"]),
        ("mapping", {"a": 1}, {"a": 1}),
        ("server", {"host": "a"}, Server("a")),
        ("servers", [{"host": "a", "port": 1}], [Server("a", 1)]),
        ("named", {"x": {"host": "a"}}, {"x": Server("a")}),
        ("anything", [1, "a"], (1, "a")),
        ("unique", ["a", "a"], {"a"}),
        ("region", "eu", "eu"),
        ("wait", 1.5, timedelta(seconds=1.5)),
        ("since", date(2024, 1, 2), date(2024, 1, 2)),
        ("limit", 3, 3.0),
    ],
)
def test_what_toml_can_say_is_read(key: str, given: object, expected: object) -> None:
    value = getattr(read_options(Options, {key: given}, "agents.x"), key)
    assert (value, type(value)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"mode": "fast"}, "agents.x.mode: expected 'quick' or 'safe', got 'fast'"),
        ({"colour": "green"}, "agents.x.colour: expected 'red' or 'blue', got 'green'"),
        ({"folder": 3}, "agents.x.folder: expected a path, got 3"),
        ({"pair": ["a"]}, "agents.x.pair: expected a list of 2, got ['a']"),
        ({"pair": ["a", "b"]}, "agents.x.pair[1]: expected int, got 'b'"),
        ({"server": {"hots": "a"}}, "agents.x.server.hots: unknown key (known: host, port)"),
        ({"server": {}}, "agents.x.server.host: missing"),
        ({"servers": [{"host": "a"}, {"host": 3}]}, "agents.x.servers[1].host: expected str, got 3"),
        ({"mapping": {"a": "b"}}, "agents.x.mapping.a: expected int, got 'b'"),
        ({"wait": "1 s"}, "agents.x.wait: expected a number of seconds, got '1 s'"),
        ({"limit": "3"}, "agents.x.limit: expected float, got '3'"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_key(table: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_options(Options, table, "agents.x")
    assert str(caught.value) == sentence


class Model(pydantic.BaseModel):
    host: str
    port: int = 80


class Struct(msgspec.Struct):
    host: str
    port: int = 80


@pytest.mark.parametrize("kind", [Model, Struct])
@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"host": "a", "prot": 1}, r"^agents\.x\.prot: unknown key \(known: host, port\)$"),
        ({"host": 3}, r"^agents\.x\.host: .*"),
        ({"host": "a", "port": "x"}, r"^agents\.x\.port: .*"),
        ({}, r"^agents\.x.*host"),
    ],
)
def test_models_are_checked_too(kind: Any, table: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        read_options(kind, table, "agents.x")
    assert "\n" not in str(caught.value)
    assert read_options(kind, {"host": "a"}, "agents.x").port == 80


class HiddenOptions(AsyncAgent[str]):
    task_type = "hidden"

    @dataclass
    class Options:
        price: Decimal | None = None

    def create(self, task: Task) -> str:
        return ""

    def get(self, job: str) -> Resource:
        return Resource(Phase.RUNNING)

    def delete(self, job: str) -> None: ...


def test_options_whose_types_cannot_be_read_break_their_agent_alone() -> None:
    with pytest.raises(PluginError, match=r"^Agent HiddenOptions: .*'Decimal'.*TYPE_CHECKING"):
        adapt(HiddenOptions())


def test_a_run_of_ones_own_has_its_own_defaults() -> None:
    @dataclass(frozen=True)
    class Folders:
        allowed: tuple[str, ...] = field(default=(), metadata={"local": ("/",)})

    assert read_options(Folders, {}, "agents.x").allowed == ()
    assert read_options(Folders, {}, "agents.x", local=True).allowed == ("/",)
    assert read_options(Folders, {"allowed": ["/a"]}, "agents.x", local=True).allowed == ("/a",)


async def test_an_agent_that_asks_for_many_jobs_is_told_how_long_it_has() -> None:
    class Patient(AsyncAgent[Server]):
        task_type = "patient"
        call_timeout = 20.0

        def create(self, task: Task) -> Server:
            raise NotImplementedError

        def get(self, job: Server) -> Resource:
            raise NotImplementedError

        def delete(self, job: Server) -> None: ...

        def get_many(self, jobs: Sequence[Server], call: Call) -> Sequence[Resource]:
            assert call.remaining is not None
            assert 10 < call.remaining <= 20
            return [Resource(Phase.RUNNING) for _ in jobs]

    agent = adapt(Patient())
    meta = agent.codec.encode(Server("a"))  # type: ignore[attr-defined]  # a face has one
    assert [one.phase for one in await agent.get_many([meta], Call())] == [Phase.RUNNING]  # type: ignore[union-attr]
    await agent.close()

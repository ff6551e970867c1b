"""Job metadata: which classes travel, and which are refused in one sentence."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, NewType, TypedDict, TypeVar

import msgspec
import pydantic
import pytest

from airside import AsyncAgent, PluginError, Resource, Task
from airside.model import Phase
from airside.sdk.declare import metadata_type_of
from airside.sdk.metadata import codec_for

if TYPE_CHECKING:
    from decimal import Decimal

T = TypeVar("T")
U = TypeVar("U")


class Size(enum.Enum):
    SMALL = "small"


@dataclass(frozen=True)
class Place:
    region: str
    zone: str = "a"


@dataclass(frozen=True)
class Job:
    id: str
    place: Place
    made: datetime
    day: date
    size: Size = Size.SMALL
    tags: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    maybe: float | None = None


class Named(NamedTuple):
    id: str
    place: Place
    tries: int = 0


class Typed(TypedDict):
    id: str
    day: date


class Pydantic(pydantic.BaseModel):
    id: str
    day: date


class Struct(msgspec.Struct):
    id: str
    day: date


JobId = NewType("JobId", str)
_DAY = date(2024, 1, 2)
_MADE = datetime(2024, 1, 2, 3, tzinfo=UTC)

TRAVELLERS: list[tuple[Any, Any]] = [
    (Job, Job("j", Place("eu"), _MADE, _DAY, tags=["a"], labels={"a": "b"})),
    (Named, Named("j", Place("eu", "b"), 3)),
    (Typed, Typed(id="j", day=_DAY)),
    (Pydantic, Pydantic(id="j", day=_DAY)),
    (Struct, Struct("j", _DAY)),
    (JobId, JobId("j")),
    (str, "j"),
    (int, 4711),
    (dict, {"a": [1, None]}),
    (dict[str, int], {"a": 1}),
    (list[str], ["a", "b"]),
    (bytes, b"\x00\xff"),
]


@pytest.mark.parametrize(("kind", "job"), TRAVELLERS, ids=lambda one: getattr(one, "__name__", ""))
def test_metadata_comes_back_as_it_was(kind: Any, job: Any) -> None:
    codec = codec_for(kind)
    assert codec.decode(codec.encode(job)) == job


@pytest.mark.parametrize("kind", [kind for kind, _ in TRAVELLERS], ids=lambda one: getattr(one, "__name__", ""))
@pytest.mark.parametrize("job", [None, object(), Place("eu")], ids=["None", "object", "another dataclass"])
def test_what_is_no_metadata_is_refused_when_it_is_written(kind: Any, job: Any) -> None:
    """A create that forgets its `return` must not start a job that nobody finds again."""
    with pytest.raises(TypeError, match=r"^expected "):
        codec_for(kind).encode(job)


def test_a_field_of_a_newer_version_is_ignored_and_an_older_one_takes_its_default() -> None:
    later = b'{"id":"j","place":{"region":"eu","added":1},"tries":2,"added":1}'
    assert codec_for(Named).decode(later) == Named("j", Place("eu"), 2)
    assert codec_for(Named).decode(b'{"id":"j","place":{"region":"eu"}}').tries == 0


@dataclass
class Node:
    child: Node | None = None


@dataclass
class Hidden:
    price: Decimal


@dataclass
class Bad:
    when: complex


REFUSED: list[tuple[Any, str]] = [
    (Node, r"Job metadata Node .*itself"),
    (Hidden, r"Job metadata Hidden .*'Decimal'.*TYPE_CHECKING"),
    (Bad, r"Job metadata Bad\.when has type complex, which is not a JSON value"),
    (set, r"Job metadata set must be a dataclass"),
    (object, r"Job metadata object must be a dataclass"),
]


@pytest.mark.parametrize(("kind", "sentence"), REFUSED)
def test_a_class_that_is_not_json_is_refused_in_one_sentence(kind: Any, sentence: str) -> None:
    with pytest.raises(PluginError, match=sentence) as caught:
        codec_for(kind)
    assert "\n" not in str(caught.value)


# -- which class it is ------------------------------------------------------------------------------------------------


class Base(AsyncAgent[T], Generic[T]):
    task_type = "x"

    def create(self, task: Task) -> T:
        raise NotImplementedError

    def get(self, job: T) -> Resource:
        return Resource(Phase.RUNNING)

    def delete(self, job: T) -> None: ...


class Middle(Base[U], Generic[T, U]):
    """Two parameters, of which the second is the metadata."""


class Of(Base[Place]): ...


class Under(Of): ...


class Deep(Middle[int, Place]): ...


class Later(AsyncAgent["After"]):
    task_type = "later"
    create = get = delete = Base.create


@dataclass
class After:
    id: str


class Mixed(Base[Place], Sequence[int]):  # type: ignore[type-arg,misc]  # what authors may write
    """A second generic base."""

    def __getitem__(self, index: Any) -> Any: ...

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize(
    ("agent", "kind"), [(Of, Place), (Under, Place), (Deep, Place), (Later, After), (Mixed, Place)]
)
def test_the_metadata_class_is_found_through_generic_bases(agent: type, kind: type) -> None:
    assert metadata_type_of(agent()) is kind


def test_an_agent_that_does_not_say_its_metadata_is_refused() -> None:
    with pytest.raises(PluginError, match=r"^Agent Base does not say what its job metadata is"):
        metadata_type_of(Base())

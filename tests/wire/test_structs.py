"""Structs in msgpack: what Python values look like inside."""

from __future__ import annotations

import decimal
import enum
import pathlib
import struct
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from types import MappingProxyType
from typing import Any, TypedDict

import msgpack
import msgspec
import pydantic
import pytest

from airside import ConversionError, Directory, File, StructuredDataset
from airside.wire.literals import from_literal, to_literal
from airside.wire.msgpack_values import decode, encode
from airside.wire.types import to_literal_type


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Name(str, enum.Enum):  # noqa: UP042 - the older spelling, in wide use
    ANNA = "anna"


@dataclass(frozen=True, slots=True)
class Inner:
    z: float


@dataclass
class Outer:
    when: datetime
    took: timedelta
    color: Color
    inner: Inner
    file: File
    folder: Directory
    table: StructuredDataset
    names: list[str] = field(default_factory=list)
    maybe: int | None = None


class Model(pydantic.BaseModel):
    a: int
    b: int | None = None
    when: datetime = datetime(2024, 1, 2, tzinfo=UTC)


class Record(msgspec.Struct):
    a: int
    inner: Inner


class Typed(TypedDict):
    a: int


def test_golden_bytes() -> None:
    assert encode({"a": 1, "b": [1, None]}).hex() == "82a16101a1629201c0"
    assert encode(Model(a=1, b=None).model_copy(), None).startswith(bytes.fromhex("83a16101a162c0"))
    assert encode({"x": 2.0}).hex() == "81a178cb4000000000000000"
    assert encode(Inner(2.0)).hex() == "81a17acb4000000000000000"


def test_a_dataclass_as_flyte_sees_it() -> None:
    outer = Outer(
        datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC),
        timedelta(seconds=90.5),
        Color.RED,
        Inner(1.0),
        File("s3://b/f", "csv"),
        Directory("s3://b/d"),
        StructuredDataset("s3://b/t"),
    )
    expected = {
        "when": "2024-01-02T03:04:05+00:00",
        "took": 90.5,
        "color": "red",
        "inner": {"z": 1.0},
        "file": {"path": "s3://b/f"},
        "folder": {"path": "s3://b/d"},
        "table": {"uri": "s3://b/t", "file_format": "parquet"},
        "names": [],
        "maybe": None,
    }
    for literal_type in (None, to_literal_type(Outer)):
        literal = to_literal(outer, literal_type)
        assert literal.scalar.binary.tag == "msgpack"
        read = msgpack.unpackb(literal.scalar.binary.value)
        assert read == expected
        assert list(read) == list(expected)
        assert from_literal(literal, literal_type) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (date(2024, 1, 2), "2024-01-02"),
        (time(3, 4), "03:04:00"),
        (Level.HIGH, 3),
        (Name.ANNA, "anna"),
        ((1, 2), [1, 2]),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (decimal.Decimal("1.50"), "1.50"),
        (pathlib.PurePosixPath("/a/b"), "/a/b"),
        (b"\x00\xff", b"\x00\xff"),
        (bytearray(b"a"), b"a"),
        (OrderedDict(b=1), {"b": 1}),
        (MappingProxyType({"b": 1}), {"b": 1}),
        ({1: "a", 2.5: "b", None: "c", Color.RED: "d"}, {1: "a", 2.5: "b", None: "c", "red": "d"}),
    ],
)
def test_values_inside(value: Any, expected: Any) -> None:
    read = decode(encode({"x": value}))["x"]
    assert repr(read) == repr(expected)


def test_other_record_classes() -> None:
    for value, expected in (
        (Model(a=1), {"a": 1, "b": None, "when": "2024-01-02T00:00:00Z"}),
        (Record(1, Inner(2)), {"a": 1, "inner": {"z": 2}}),
        (Typed(a=1), {"a": 1}),
    ):
        for literal_type in (None, to_literal_type(dict), to_literal_type(type(value))):
            assert from_literal(to_literal(value, literal_type)) == expected
        fields = to_literal_type(type(value)).structure.dataclass_type
        assert fields["a"] == to_literal_type(int) if type(value) is not dict else not fields
    assert to_literal_type(Typed).structure.dataclass_type["a"] == to_literal_type(int)


def test_a_model_that_cannot_be_dumped() -> None:
    class Odd(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
        thing: object

    with pytest.raises(ConversionError, match=r"^x: Odd cannot be written as JSON: "):
        to_literal(Odd(thing=object()), path="x")


def test_fields_are_checked_as_far_as_their_types_are_told() -> None:
    declared = to_literal_type(Outer)
    plain = {"when": "2024-01-02", "took": 1, "file": {"path": "p"}, "inner": {"z": 1}, "unknown": [1]}
    assert from_literal(to_literal(plain, declared)) == plain
    for broken, path in (
        ({"inner": {"z": "a"}}, r"x\.inner\.z: expected float, got 'a'"),
        ({"names": ["a", 1]}, r"x\.names\[1\]: expected str, got 1"),
        ({"maybe": "a"}, r"x\.maybe: expected int \| None, got 'a'"),
    ):
        with pytest.raises(ConversionError, match=rf"^{path}$"):
            to_literal(broken, declared, "x")


def test_a_recursive_dataclass() -> None:
    tree = Tree(1, [Tree(2), Tree(3, [Tree(4)])])
    literal = to_literal(tree, to_literal_type(Tree))
    assert from_literal(literal) == {
        "value": 1,
        "kids": [{"value": 2, "kids": []}, {"value": 3, "kids": [{"value": 4, "kids": []}]}],
    }


@dataclass
class Tree:
    value: int
    kids: list[Tree] = field(default_factory=list)


def test_msgpack_timestamps_are_read() -> None:
    moment = datetime(2024, 1, 2, tzinfo=UTC)
    assert decode(msgpack.packb({"t": moment}, datetime=True)) == {"t": moment}
    late = b"\xc7\x0c\xff" + struct.pack("!Iq", 0, 2**60)
    with pytest.raises(ConversionError, match="not valid msgpack"):
        from_literal(_binary(late))


def _binary(data: bytes) -> Any:
    literal = to_literal({})
    literal.scalar.binary.value = data
    return literal


def test_keys_that_msgpack_readers_cannot_hold_are_refused() -> None:
    with pytest.raises(ConversionError, match=r"^x\[\(1, 2\)\]: a dict key must be str or a number, got \(1, 2\)$"):
        to_literal({(1, 2): 3}, path="x")
